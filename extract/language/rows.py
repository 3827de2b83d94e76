"""A row of tokens divided into its streams: the runs of visual tokens, and the text around them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Split:
    """The two streams of a row as runs (start, stop) in order; together they cover the row."""

    visual: tuple[tuple[int, int], ...]
    text: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, ids: Tensor, video_token: int) -> Split:
        """The streams of a row of ids `[L]`: visual where the id is the video token, text elsewhere."""
        marks = (ids == video_token).tolist()
        runs: dict[bool, list[tuple[int, int]]] = {True: [], False: []}
        start = 0
        for i in range(1, len(marks) + 1):
            if i == len(marks) or marks[i] != marks[start]:
                runs[marks[start]].append((start, i))
                start = i
        return cls(tuple(runs[True]), tuple(runs[False]))

    @property
    def tokens(self) -> int:
        """The number of visual tokens."""
        return sum(stop - start for start, stop in self.visual)


def picked(row: Tensor, runs: Sequence[tuple[int, int]]) -> Tensor:
    """The rows of `[L, D]` (or `[L]`) in these runs; a view where there is one run."""
    if len(runs) == 1:
        return row[runs[0][0] : runs[0][1]]
    return torch.cat([row[start:stop] for start, stop in runs]) if runs else row[:0]


def scattered(row: Tensor, runs: Sequence[tuple[int, int]], values: Tensor) -> None:
    """Write `values` `[N, D]` into the rows of `[L, D]` in these runs, in order, in place."""
    first = 0
    for start, stop in runs:
        row[start:stop] = values[first : first + stop - start]
        first += stop - start
