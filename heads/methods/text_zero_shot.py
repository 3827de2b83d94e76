"""Zero-shot classification, no training: cosine of the mean frame and the class texts, as in CLIP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from vfc.cache_schema.values.record import ArraySpec
from vfc.heads.similarity.text_similarity import cosine_logits, shared_width
from vfc.heads.tasks.classification import ClassifierHead, ClipBatch, Wants

TASK = "classification"


@dataclass(frozen=True)
class Config:
    """No settings."""


class Head(ClassifierHead):
    """Frames `[B, T, D]` or one vector per clip, and class texts `[C, D]`, to logits `[B, C]`."""

    open_classes: ClassVar[bool] = True

    def __init__(self, config: Config, specs: Mapping[str, ArraySpec]) -> None:
        super().__init__(config, specs)
        shared_width(specs, "text-zero-shot")

    @classmethod
    def wants(cls, settings: Any) -> Wants:
        """Projected frames and projected class texts."""
        return Wants(classes={"text": "embedding"}, prefer=("frames", "embedding"))

    def scores(self, batch: ClipBatch) -> Tensor:
        """Logits `[B, C]`."""
        return cosine_logits(batch.clips["visual"].mean(dim=1), batch.classes["text"])
