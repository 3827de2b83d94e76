"""A row of a paper's efficiency table, with the head of that row at its true size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from .head import Head


@dataclass(frozen=True)
class PublishedCost:
    """What a paper prints about the cost of its method, and how the same head is built here.

    A method lists its rows as `PUBLISHED`. Numbers are as printed: None where the paper has none.

    Attributes:
        row: Table and setting in the paper.
        unit: What is scored at once: `task (10 clips)`, `clip`, `video`.
        build: The head and a batch of one unit. Called with torch's default device set to `meta`: shapes, no memory.
        parameters: Trained parameters.
        flops: Operations of the head for one unit.
        backbone: Name of the model in `vfc.extract.models.true_size`; empty: the row has none.
        backbone_flops: Operations of the backbone for one clip.
        counts: Whether the paper counts a multiply-add as one operation or as two; of the head.
        backbone_counts: The same of its backbone.
        without: Modules of the head that the paper's FLOPs leave out.
        differs: Where and why the numbers differ, for the reader.
    """

    row: str
    unit: str
    build: Callable[[], tuple[Head, Any]]
    parameters: int | None = None
    flops: float | None = None
    backbone: str = ""
    backbone_flops: float | None = None
    counts: Literal[1, 2] = 2
    backbone_counts: Literal[1, 2] = 2
    without: tuple[str, ...] = ()
    differs: str = ""
