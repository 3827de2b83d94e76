"""Two-layer perceptron on the mean of the frames: more weights than linear-probe, also independent of frame order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from vfc.cache_schema.values.record import ArraySpec
from vfc.cache_schema.values.settings import setting
from vfc.heads.contract.head import require
from vfc.heads.contract.ranges import BELOW_ONE, NOT_NEGATIVE, check_range
from vfc.heads.tasks.classification import ClassifierHead, ClipBatch

TASK = "classification"


@dataclass(frozen=True)
class Config:
    """The perceptron."""

    hidden: int = setting(0, "Width of the hidden layer; 0: the width of the features.", "Model")
    dropout: float = setting(0.1, "Dropout before the last layer.", "Model")

    def __post_init__(self) -> None:
        check_range(self, NOT_NEGATIVE, "hidden")
        check_range(self, BELOW_ONE, "dropout")


class Head(ClassifierHead):
    """Frames `[B, T, D]` to their normalised mean to logits `[B, C]`."""

    def __init__(self, config: Config, specs: Mapping[str, ArraySpec]) -> None:
        super().__init__(config, specs)
        width = int(require(specs, "visual", "mean-pool").shape[-1] or 0)
        hidden = config.hidden or width
        self.layers = nn.Sequential(
            nn.Linear(width, hidden),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(hidden, int(specs["classes"].shape[0] or 0)),
        )

    def scores(self, batch: ClipBatch) -> Tensor:
        """Logits `[B, C]`."""
        mean = batch.clips["visual"].mean(dim=1)
        logits: Tensor = self.layers(functional.layer_norm(mean, mean.shape[-1:]))
        return logits
