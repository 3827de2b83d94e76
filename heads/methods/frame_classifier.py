"""Classifies single frames (linear, or one hidden layer); gives anticipation heads the classes of the past.

ActionLLM's text comes from such a classifier, trained per split. That paper's script splits frames, not videos, so
neighbouring frames of one video are in both parts; here each video is in one part only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from vfc.cache_schema.values.record import ArraySpec
from vfc.cache_schema.values.settings import setting
from vfc.heads.contract.head import require
from vfc.heads.contract.ranges import BELOW_ONE, NOT_NEGATIVE, check_range
from vfc.heads.tasks.frame_labels import GROUPS, FrameBatch, FrameHead

TASK = "frame-labels"


@dataclass(frozen=True)
class Config:
    """The classifier."""

    hidden: int = setting(0, "Width of the hidden layer; 0: linear classifier.", "Model")
    dropout: float = setting(0.0, "Dropout of the features.", "Model")

    def __post_init__(self) -> None:
        check_range(self, NOT_NEGATIVE, "hidden")
        check_range(self, BELOW_ONE, "dropout")


class Head(FrameHead):
    """Frames `[B, D]` to logits `[B, K]`, from one classifier for all videos and one per training part."""

    def __init__(self, config: Config, specs: Mapping[str, ArraySpec]) -> None:
        super().__init__(config, specs)
        width = int(require(specs, "visual", "frame-classifier").shape[-1] or 0)
        classes = int(require(specs, "classes", "frame-classifier").shape[0] or 0)
        self.classifiers = nn.ModuleList(_classifier(width, classes, config) for _ in range(1 + GROUPS))

    def loss(self, batch: FrameBatch) -> dict[str, Tensor]:
        """Cross-entropy of each classifier over its own training frames; the sum trains each independently."""
        terms = {}
        for i, classifier in enumerate(self.classifiers):
            in_training = (batch.group != i - 1).float()
            each = functional.cross_entropy(classifier(batch.frames).float(), batch.labels, reduction="none")
            terms["all" if not i else f"without part {i}"] = (each * in_training).sum() / in_training.sum().clamp(min=1)
        return terms

    def scores(self, batch: FrameBatch) -> Tensor:
        """Logits of the classifier that was not trained on the frame's video."""
        logits = torch.stack([classifier(batch.frames) for classifier in self.classifiers], dim=1)
        return logits[torch.arange(len(logits), device=logits.device), batch.group + 1]


def _classifier(width: int, classes: int, config: Config) -> nn.Module:
    if not config.hidden:
        return nn.Sequential(nn.Dropout(config.dropout), nn.Linear(width, classes))
    return nn.Sequential(
        nn.Dropout(config.dropout), nn.Linear(width, config.hidden), nn.ReLU(), nn.Linear(config.hidden, classes)
    )
