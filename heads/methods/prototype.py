"""Prototypical networks with one trained linear layer: the simplest head there is.

Snell, Swersky and Zemel, "Prototypical Networks for Few-shot Learning" (NeurIPS 2017): a class is the mean of its
embedded shots, a query is scored by minus its squared Euclidean distance to it. The embedding is one linear layer on
a clip representation of the stored frames; a learned temperature scales the distances.
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
        metadata={"help": "One vector of a clip's frames.", "panel": "Model", "choices": tuple(REPRESENTATIONS)},
    )
    width: int = field(default=128, metadata={"help": "Width of the embedding.", "panel": "Model"})


class Head(EpisodicHead):
    """`[M, T, D]` to embeddings `[M, width]` to logits."""

    def __init__(self, config: Config, specs: Mapping[str, ArraySpec]) -> None:
        super().__init__(config, specs)
        frames, width = (int(size or 0) for size in require(specs, "visual", "prototype").shape)
        self._represent = REPRESENTATIONS[config.representation]
        size = self._represent(torch.empty(frames, width)).numel()
        self.project = nn.Linear(size, config.width, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0)))

    def encode(self, videos: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Each clip is scaled to unit length first, so that one learning rate serves every backbone."""
        return {"embedding": self.project(functional.normalize(self._represent(videos["visual"]), dim=-1))}

    def match(self, batch: Batch) -> Tensor:
        """Minus the squared distance to the class means, times the learned scale."""
        clips = batch.videos["embedding"].float()
        prototypes = clips[batch.support].mean(dim=2)
        apart = (clips[batch.query][:, :, None] - prototypes[:, None]).square().sum(dim=-1)
        return -self.log_scale.exp() * apart
