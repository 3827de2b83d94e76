"""Which prompts ride together: one by one, side by side in a row, or as rows of a batch; and which videos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

WASTE: Final = 1 / 8
"""How much of a padded batch of videos may be padding."""

TOKENS_PER_RIDER: Final = 4096
ROWS_PER_RIDER: Final = 16


@dataclass(frozen=True)
class Suffix:
    """A prompt behind its video: `video` and `place` number both within the call, `ids` `[n]`, positions from `start`.

    `columns`: tokens of the video's prefix.
    """

    video: int
    place: int
    ids: Tensor
    start: int
    columns: int


@dataclass(frozen=True)
class Piece:
    """Where a suffix lies in its rider: row and columns."""

    video: int
    place: int
    row: int
    start: int
    stop: int


@dataclass(frozen=True)
class Seats:
    """A rider without states: ids `[R, n]`, positions `[R, n]`, mask, the prefix it sees, and who sits where."""

    ids: Tensor
    positions: Tensor
    mask: Tensor | None
    rows: slice
    columns: int
    pieces: tuple[Piece, ...]


def buckets(lengths: Sequence[int]) -> list[list[int]]:
    """Numbers of the rows that are run together, in order of length: at most WASTE of each batch is padding."""
    found: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if found:
            together = [*found[-1], i]
            filled = sum(lengths[j] for j in together)
            if filled >= (1 - WASTE) * lengths[i] * len(together):
                found[-1] = together
                continue
        found.append([i])
    return found


def seated(plan: str, suffixes: Sequence[Suffix], *, masked: bool) -> list[Seats]:
    """The riders of a batch of videos under a plan. `masked`: whether the attention kernel takes a mask."""
    if not suffixes:
        return []
    if plan == "packed":
        return _packed(suffixes)
    made: list[Seats] = []
    for group in _groups(suffixes, 1 if plan == "serial" else ROWS_PER_RIDER):
        most, columns = max(len(s.ids) for s in group), group[0].columns
        ids = torch.stack([_padded(s.ids, most) for s in group])
        positions = torch.stack([s.start + torch.arange(most) for s in group])
        mask = _causal(most, columns) if masked else None
        pieces = tuple(Piece(s.video, s.place, row, 0, len(s.ids)) for row, s in enumerate(group))
        made.append(Seats(ids, positions, mask, slice(group[0].video, group[0].video + 1), columns, pieces))
    return made


def _groups(suffixes: Sequence[Suffix], size: int) -> list[list[Suffix]]:
    """Suffixes of one video, `size` at a time."""
    found: list[list[Suffix]] = []
    for suffix in suffixes:
        if found and len(found[-1]) < size and found[-1][0].video == suffix.video:
            found[-1].append(suffix)
        else:
            found.append([suffix])
    return found


def _packed(suffixes: Sequence[Suffix]) -> list[Seats]:
    """A row for every video, its suffixes side by side, as many riders as TOKENS_PER_RIDER asks for."""
    videos = max(s.video for s in suffixes) + 1
    rounds: list[list[list[Suffix]]] = []
    for video in range(videos):
        number, filled = 0, 0
        for suffix in (s for s in suffixes if s.video == video):
            if filled and (filled + len(suffix.ids)) * videos > TOKENS_PER_RIDER:
                number, filled = number + 1, 0
            if number == len(rounds):
                rounds.append([[] for _ in range(videos)])
            rounds[number][video].append(suffix)
            filled += len(suffix.ids)
    columns = max(s.columns for s in suffixes)
    return [_side_by_side(rows, columns) for rows in rounds]


def _side_by_side(rows: Sequence[Sequence[Suffix]], columns: int) -> Seats:
    """One rider whose row r holds suffixes of video r. A padded place sees the prefix, so that it stays a number."""
    most = max(sum(len(s.ids) for s in row) for row in rows)
    ids = torch.zeros(len(rows), most, dtype=torch.int64)
    positions = torch.zeros_like(ids)
    # Tokens of one suffix share a number; those of the padding have one of their own each.
    owner = -1 - torch.arange(most).repeat(len(rows), 1)
    seen = torch.zeros(len(rows), columns, dtype=torch.bool)
    pieces = []
    for r, row in enumerate(rows):
        at = 0
        for suffix in row:
            stop = at + len(suffix.ids)
            ids[r, at:stop] = suffix.ids
            positions[r, at:stop] = suffix.start + torch.arange(len(suffix.ids))
            owner[r, at:stop] = suffix.place
            pieces.append(Piece(suffix.video, suffix.place, r, at, stop))
            at = stop
        seen[r, : row[0].columns if row else columns] = True
    place = torch.arange(most)
    own = (owner[:, :, None] == owner[:, None, :]) & (place[:, None] >= place)
    mask = torch.cat([seen[:, None].expand(-1, most, -1), own], dim=2)[:, None]
    return Seats(ids, positions, mask, slice(0, len(rows)), columns, tuple(pieces))


def _causal(n: int, columns: int) -> Tensor:
    place = torch.arange(n)
    return torch.cat([torch.ones(n, columns, dtype=torch.bool), place[:, None] >= place], dim=1)[None, None]


def _padded(ids: Tensor, length: int) -> Tensor:
    return torch.nn.functional.pad(ids, (0, length - len(ids)))
