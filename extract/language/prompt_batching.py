"""Prompt batching: prompts of a video one by one, packed in a row, or as rows of a batch; and batches of videos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

PADDING: Final = 1 / 8
"""The largest share of padding in a batch of videos."""

TOKENS_PER_BATCH: Final = 4096
ROWS_PER_BATCH: Final = 16


@dataclass(frozen=True)
class Suffix:
    """A prompt after its video: `video` and `place` number both within the call, `ids` `[n]`, positions from `start`.

    `columns`: tokens of the video's prefix.
    """

    video: int
    place: int
    ids: Tensor
    start: int
    columns: int


@dataclass(frozen=True)
class Span:
    """The row and the columns of a suffix in its batch."""

    video: int
    place: int
    row: int
    start: int
    stop: int


@dataclass(frozen=True)
class SuffixBatch:
    """Suffixes that run together: ids `[R, n]`, positions `[R, n]`, mask, spans, and the prefix that they attend to.

    `rows`, `columns`: that part of the prefix, see `SuffixRows`.
    """

    ids: Tensor
    positions: Tensor
    mask: Tensor | None
    rows: slice
    columns: int
    spans: tuple[Span, ...]


def length_buckets(lengths: Sequence[int]) -> list[list[int]]:
    """Numbers of the rows that run together, in order of length; at most PADDING of each batch is padding."""
    buckets: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if buckets:
            larger = [*buckets[-1], i]
            if sum(lengths[j] for j in larger) >= (1 - PADDING) * lengths[i] * len(larger):
                buckets[-1] = larger
                continue
        buckets.append([i])
    return buckets


def suffix_batches(prompt_batching: str, suffixes: Sequence[Suffix], *, masked: bool) -> list[SuffixBatch]:
    """The suffixes of a batch of videos in batches. `masked`: whether the attention implementation takes a mask."""
    if not suffixes:
        return []
    if prompt_batching == "packed":
        return _packed(suffixes)
    batches: list[SuffixBatch] = []
    for group in _groups(suffixes, 1 if prompt_batching == "serial" else ROWS_PER_BATCH):
        longest, columns = max(len(s.ids) for s in group), group[0].columns
        ids = torch.stack([_padded(s.ids, longest) for s in group])
        positions = torch.stack([s.start + torch.arange(longest) for s in group])
        mask = _causal(longest, columns) if masked else None
        spans = tuple(Span(s.video, s.place, row, 0, len(s.ids)) for row, s in enumerate(group))
        rows = slice(group[0].video, group[0].video + 1)
        batches.append(SuffixBatch(ids, positions, mask, rows, columns, spans))
    return batches


def _groups(suffixes: Sequence[Suffix], size: int) -> list[list[Suffix]]:
    """Suffixes of one video, `size` at a time."""
    groups: list[list[Suffix]] = []
    for suffix in suffixes:
        if groups and len(groups[-1]) < size and groups[-1][0].video == suffix.video:
            groups[-1].append(suffix)
        else:
            groups.append([suffix])
    return groups


def _packed(suffixes: Sequence[Suffix]) -> list[SuffixBatch]:
    """One row per video with its suffixes side by side; as many batches as TOKENS_PER_BATCH requires."""
    videos = max(s.video for s in suffixes) + 1
    batches: list[list[list[Suffix]]] = []
    for video in range(videos):
        number, tokens = 0, 0
        for suffix in (s for s in suffixes if s.video == video):
            if tokens and (tokens + len(suffix.ids)) * videos > TOKENS_PER_BATCH:
                number, tokens = number + 1, 0
            if number == len(batches):
                batches.append([[] for _ in range(videos)])
            batches[number][video].append(suffix)
            tokens += len(suffix.ids)
    columns = max(s.columns for s in suffixes)
    return [_side_by_side(rows, columns) for rows in batches]


def _side_by_side(rows: Sequence[Sequence[Suffix]], columns: int) -> SuffixBatch:
    """One batch whose row r holds suffixes of video r. Padding attends to the prefix, so that it stays finite."""
    longest = max(sum(len(s.ids) for s in row) for row in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.int64)
    positions = torch.zeros_like(ids)
    # Tokens of one suffix share a number; every token of the padding has its own.
    owner = -1 - torch.arange(longest).repeat(len(rows), 1)
    prefix = torch.zeros(len(rows), columns, dtype=torch.bool)
    spans = []
    for r, row in enumerate(rows):
        start = 0
        for suffix in row:
            stop = start + len(suffix.ids)
            ids[r, start:stop] = suffix.ids
            positions[r, start:stop] = suffix.start + torch.arange(len(suffix.ids))
            owner[r, start:stop] = suffix.place
            spans.append(Span(suffix.video, suffix.place, r, start, stop))
            start = stop
        prefix[r, : row[0].columns if row else columns] = True
    place = torch.arange(longest)
    own = (owner[:, :, None] == owner[:, None, :]) & (place[:, None] >= place)
    mask = torch.cat([prefix[:, None].expand(-1, longest, -1), own], dim=2)[:, None]
    return SuffixBatch(ids, positions, mask, slice(0, len(rows)), columns, tuple(spans))


def _causal(n: int, columns: int) -> Tensor:
    place = torch.arange(n)
    return torch.cat([torch.ones(n, columns, dtype=torch.bool), place[:, None] >= place], dim=1)[None, None]


def _padded(ids: Tensor, length: int) -> Tensor:
    return torch.nn.functional.pad(ids, (0, length - len(ids)))
