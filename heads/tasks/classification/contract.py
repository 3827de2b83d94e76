"""What a classifier is handed, what it may ask for, and what it fills in."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor
from torch.nn import functional

from vfc.heads.contract.head import Head


@dataclass(frozen=True)
class Wants:
    """What a head reads of a store.

    `clips`: role -> array of the `video` records (`layer7.visual`); None: as --array and --layer say. `classes`: role
    -> array of the `text` records of the class names (`embedding`, `layer7.text`, `text.eot`). An array of fixed shape
    is averaged over the templates of a class, each scaled to length 1 first; one with rows, and one of whole numbers,
    needs exactly one template. Roles in `optional` may be absent. `remedy`: the line to type where something is not
    there. `prefer`: arrays taken before all others where None is wanted and the user asks for none.
    """

    clips: Mapping[str, str | None] = field(default_factory=lambda: {"visual": None})
    classes: Mapping[str, str] = field(default_factory=dict)
    optional: frozenset[str] = frozenset()
    remedy: str = ""
    prefer: tuple[str, ...] = ()


@dataclass(frozen=True)
class Batch:
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
        """What the head reads, with these settings of its own."""
        return Wants()

    @abstractmethod
    def scores(self, batch: Batch) -> Tensor:
        """Logits `[B, C]`."""

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy over the classes."""
        return {"cross-entropy": functional.cross_entropy(self.scores(batch).float(), batch.labels)}

    def usage(self, batch: Batch) -> Mapping[str, Tensor] | None:
        """What else the result should tell, per clip: name -> `[B]`; reported by class and by right and wrong."""
        return None
