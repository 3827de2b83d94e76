"""Linear classifier on the mean of the frames (independent of the order of the frames).

The mean is normalised over its channels first (LayerNorm without weights), so that one learning rate works for
features of any scale.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from vfc.cache_schema.values.record import ArraySpec
from vfc.heads.contract.head import require
from vfc.heads.tasks.classification import ClassifierHead, ClipBatch

TASK = "classification"


@dataclass(frozen=True)
class Config:
    """A linear layer has no settings."""


class Head(ClassifierHead):
    """Frames `[B, T, D]` to their mean to logits `[B, C]`; D C + C weights."""

    def __init__(self, config: Config, specs: Mapping[str, ArraySpec]) -> None:
        super().__init__(config, specs)
        width = int(require(specs, "visual", "linear-probe").shape[-1] or 0)
        self.classify = nn.Linear(width, int(specs["classes"].shape[0] or 0))

    def scores(self, batch: ClipBatch) -> Tensor:
        """Logits `[B, C]`."""
        mean = batch.clips["visual"].mean(dim=1)
        logits: Tensor = self.classify(functional.layer_norm(mean, mean.shape[-1:]))
        return logits
