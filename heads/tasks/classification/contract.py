"""The batches of a classifier, and the methods that it defines."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor
from torch.nn import functional

from vfc.heads.contract.head import Head
from vfc.heads.data.store_view import Wants


@dataclass(frozen=True)
class ClipBatch:
    """Clips and the classes they may be of.

    `clips`: role -> `[B, ...]`, float32; `visual` is `[B, T, D]`, tokens averaged per frame, or as it is stored where
    the head says `tokens`. `labels [B]` int64: places in `names`, the classes in use in the order of the class list.
    `classes`: role -> `[C, ...]`, what is known of each class; arrays with rows are `[C, L, D]`, padded with 0, and
    `<role>.valid [C, L]` tells which rows are there.
    """

    clips: Mapping[str, Tensor]
    labels: Tensor
    names: tuple[str, ...]
    classes: Mapping[str, Tensor]


class ClassifierHead(Head):
    """A head of the classification task. `specs` has each clip role, `classes` (shape `(C,)`) and `class.<role>`."""

    open_classes: ClassVar[bool] = False
    """True where it scores classes it was not trained on: by what is known of them, not by a weight per class."""

    @classmethod
    def wants(cls, settings: Any) -> Wants:
        """What the head reads of a store, with these settings of its own."""
        return Wants()

    @classmethod
    def reads_of(cls, config: Any) -> Wants:
        """See `Head.reads_of`."""
        return cls.wants(config)

    @abstractmethod
    def scores(self, batch: ClipBatch) -> Tensor:
        """Logits `[B, C]`."""

    def loss(self, batch: ClipBatch) -> dict[str, Tensor]:
        """Cross-entropy over the classes."""
        return {"cross-entropy": functional.cross_entropy(self.scores(batch).float(), batch.labels)}

    def usage(self, batch: ClipBatch) -> Mapping[str, Tensor] | None:
        """Further figures per clip for the result: name -> `[B]`; reported by class and by right and wrong."""
        return None
