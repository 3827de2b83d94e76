"""A prototypical head with one trained linear layer: the simplest thing there is to train.

Snell, Swersky and Zemel, "Prototypical Networks for Few-shot Learning" (NeurIPS 2017): a class is the mean of its
embedded shots. The embedding is one linear layer that every frame goes through, then a clip representation of the
frames. A query is scored by its cosine to each class times a learned temperature; the squared Euclidean distance of
that paper proved weaker here, on features of random networks as on those of real ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from vfc.cache_schema.record import ArraySpec
from vfc.heads.head import require
from vfc.heads.matching import REPRESENTATIONS
from vfc.heads.tasks.fewshot import Batch, EpisodicHead

TASK = "fewshot"


@dataclass(frozen=True)
class Config:
    """The embedding."""

    representation: Literal["mean", "ordered", "difference"] = field(
        default="difference",
        metadata={"help": "What is made of a clip's frames.", "panel": "Model", "choices": tuple(REPRESENTATIONS)},
    )
    width: int = field(default=128, metadata={"help": "Width of a frame's embedding.", "panel": "Model"})


class Head(EpisodicHead):
    """Frames `[M, T, D]` to embeddings `[M, T, width]` to clips `[M, R]` to logits `[B, Q, W]`."""

    def __init__(self, config: Config, specs: Mapping[str, ArraySpec]) -> None:
        super().__init__(config, specs)
        _, width = (int(size or 0) for size in require(specs, "visual", "prototype").shape)
        self._represent = REPRESENTATIONS[config.representation]
        self.project = nn.Linear(width, config.width, bias=False)
        # An orthogonal start keeps angles (all of them where width >= D): training begins at the training-free metric.
        nn.init.orthogonal_(self.project.weight)
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0)))

    def encode(self, videos: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Clips `[M, R]`; the layer comes first, which is the same (all is linear) and has fewer weights to learn."""
        return {"clip": self._represent(self.project(videos["visual"]))}

    def match(self, batch: Batch) -> Tensor:
        """Cosine to the class means, times the learned scale, in float32 also under autocast."""
        clips = batch.videos["clip"].float()
        prototypes = functional.normalize(clips[batch.support].mean(dim=2), dim=-1)
        queries = functional.normalize(clips[batch.query], dim=-1)
        with torch.autocast(clips.device.type, enabled=False):
            logits: Tensor = self.log_scale.exp() * (queries @ prototypes.mT)
        return logits
