"""Prototypical network with one trained layer; with sequence metrics also one attention layer over time.

Snell, Swersky and Zemel, "Prototypical Networks for Few-shot Learning" (NeurIPS 2017): a class is the mean of its
embedded shots. The embedding is one linear layer on every frame, then a clip representation of the frames. A query's
score is its cosine to each class times a learned scale; the squared Euclidean distance of that paper was 8 to 17
points worse on the demo's clips.

With a sequence metric (otam, bi-mhm, mpmm, hausdorff) the embedded frames go through one transformer layer over time
before they are compared, as in CLIP-FSAR (arXiv 2303.02982) without its texts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from vfc.cache_schema.values.record import ArraySpec
from vfc.cache_schema.values.settings import setting
from vfc.heads.contract.head import require
from vfc.heads.contract.ranges import AT_LEAST_ONE, BELOW_ONE, check_range
from vfc.heads.layers.attention import Layer
from vfc.heads.similarity.matching import METRICS, REPRESENTATIONS, comparable
from vfc.heads.tasks.fewshot import EpisodeBatch, EpisodicHead

TASK = "fewshot"


@dataclass(frozen=True)
class Config:
    """The embedding and the metric."""

    metric: Literal["mean-cosine", "hausdorff", "bi-mhm", "otam", "mpmm"] = setting(
        "mean-cosine", "Metric between embedded clips.", "Model"
    )
    representation: Literal["mean", "ordered", "difference"] | None = setting(
        None,
        "Clip representation; default: difference for mean-cosine (mean for one vector per clip), else ordered.",
        "Model",
        choices=tuple(REPRESENTATIONS),
    )
    width: int = setting(128, "Width of a frame's embedding.", "Model")
    attention_heads: int = setting(8, "Attention heads of the layer over time (sequence metrics).", "Model")
    ffn_dim: int = setting(2048, "Hidden width of its feed-forward network.", "Model")
    dropout: float = setting(0.2, "Dropout after its attention.", "Model")

    def __post_init__(self) -> None:
        check_range(self, AT_LEAST_ONE, "width", "attention_heads", "ffn_dim")
        check_range(self, BELOW_ONE, "dropout")


class Head(EpisodicHead):
    """Frames `[M, T, D]` to embeddings `[M, T, width]` to clips `[M, R]` to logits `[B, Q, W]`."""

    def __init__(self, config: Config, specs: Mapping[str, ArraySpec]) -> None:
        super().__init__(config, specs)
        frames, width = (int(size or 0) for size in require(specs, "visual", "prototype").shape)
        self._config, sequence = config, config.metric != "mean-cosine"
        default = "ordered" if sequence else "difference" if frames > 1 else "mean"
        self._representation = config.representation or default
        if config.representation is None and default == "mean":
            self.notes = ("The array holds one vector per clip, so clips are compared without any order of frames.",)
        comparable(torch.zeros(1, frames, 1), config.metric, self._representation)  # raises BadInput
        self.project = nn.Linear(width, config.width, bias=False)
        # Orthogonal weights keep angles (exactly if width >= D): training starts at the training-free metric.
        nn.init.orthogonal_(self.project.weight)
        self.over_time = (
            Layer(config.width, config.attention_heads, config.ffn_dim, config.dropout) if sequence else None
        )
        # Sequence distances are sums over frames and large enough as logits; a cosine is not.
        self.log_scale = nn.Parameter(torch.tensor(0.0 if sequence else math.log(10.0)))

    def encode(self, videos: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Clips `[M, R]`, or embedded frames `[M, T, width]` for a sequence metric.

        The layer is applied before the clip representation: the same function (both are linear) with fewer weights.
        """
        frames = self.project(videos["visual"])
        if self.over_time is None:
            return {"clip": REPRESENTATIONS[self._representation](frames)}
        return {"clip": comparable(self.over_time(frames), self._config.metric, self._representation)}

    def match(self, batch: EpisodeBatch) -> Tensor:
        """Cosine to the class means, or minus the sequence distance, times the learned scale; in float32."""
        clips = batch.videos["clip"].float()
        with torch.autocast(clips.device.type, enabled=False):
            if self.over_time is not None:
                similarity: Tensor = METRICS[self._config.metric](clips[batch.query], clips[batch.support])
            else:
                prototypes = functional.normalize(clips[batch.support].mean(dim=2), dim=-1)
                similarity = functional.normalize(clips[batch.query], dim=-1) @ prototypes.mT
            return self.log_scale.exp() * similarity
