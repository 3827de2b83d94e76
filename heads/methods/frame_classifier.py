"""A classifier of single frames: linear, or with one hidden layer; it tells anticipation heads the past classes.

ActionLLM's text comes from such a classifier, trained per split. That paper's own script divides frames, not videos,
and so lets neighbouring frames of one video be on both sides; here a video is on one side only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from vfc.cache_schema.values.record import ArraySpec
from vfc.heads.contract.head import require
from vfc.heads.contract.ranges import BELOW_ONE, NOT_NEGATIVE, check_range
from vfc.heads.tasks.frame_labels import GROUPS, Batch, FrameHead

TASK = "frame-labels"


@dataclass(frozen=True)
class Config:
    """The classifier."""

    hidden: int = field(default=0, metadata={"help": "Width of a hidden layer; 0: linear.", "panel": "Model"})
    dropout: float = field(default=0.0, metadata={"help": "Dropout of the features.", "panel": "Model"})

    def __post_init__(self) -> None:
        check_range(self, NOT_NEGATIVE, "hidden")
        check_range(self, BELOW_ONE, "dropout")


class Head(FrameHead):
    """Frames `[B, D]` to logits `[B, K]`, by one classifier for all videos and one per part of the training videos."""

    def __init__(self, config: Config, specs: Mapping[str, ArraySpec]) -> None:
        super().__init__(config, specs)
        width = int(require(specs, "visual", "frame-classifier").shape[-1] or 0)
        classes = int(require(specs, "classes", "frame-classifier").shape[0] or 0)
        self.classifiers = nn.ModuleList(_classifier(width, classes, config) for _ in range(1 + GROUPS))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy of each classifier over the frames it may see; the sum trains each as if it were alone."""
        terms = {}
        for i, classifier in enumerate(self.classifiers):
            seen = (batch.group != i - 1).float()
            each = functional.cross_entropy(classifier(batch.frames).float(), batch.labels, reduction="none")
            terms["all" if not i else f"without part {i}"] = (each * seen).sum() / seen.sum().clamp(min=1)
        return terms

    def scores(self, batch: Batch) -> Tensor:
        """Logits of the classifier that has not seen the frame's video."""
        found = torch.stack([classifier(batch.frames) for classifier in self.classifiers], dim=1)
        return found[torch.arange(len(found), device=found.device), batch.group + 1]


def _classifier(width: int, classes: int, config: Config) -> nn.Module:
    if not config.hidden:
        return nn.Sequential(nn.Dropout(config.dropout), nn.Linear(width, classes))
    return nn.Sequential(
        nn.Dropout(config.dropout), nn.Linear(width, config.hidden), nn.ReLU(), nn.Linear(config.hidden, classes)
    )
