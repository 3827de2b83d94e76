"""Distances between videos that consist of several token sequences (visual, text), with padding.

`TokenDistances` holds the distances of every query token to every token of every class prototype, for one sequence (a
"branch"). A metric takes all branches of a video and gives one distance per (query, class), without a loop over tasks,
classes or queries. Everything is computed in float32, also under autocast.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import torch
from torch import Tensor
from torch.nn import functional

from .exact_distances import distances

Distance = Literal["euclidean", "cosine"]


def pairwise(query: Tensor, support: Tensor, distance: Distance = "euclidean") -> Tensor:
    """Queries `[B, Q, L, D]` against prototypes `[B, G, W, S, D]`, G = 1 or Q: distances `[B, Q, W, L, S]`.

    Exact for identical rows: tokens before the video are identical in every video. Value and gradient at distance 0
    are 0, also for `cosine` (half the squared distance of unit vectors is 1 - cosine).
    """
    b, q, length, width = query.shape
    _, g, w, s, _ = support.shape
    with torch.autocast(query.device.type, enabled=False):
        rows = query.float().reshape(b * g, (q // g) * length, width)
        columns = support.float().reshape(b * g, w * s, width)
        if distance == "cosine":
            rows, columns = functional.normalize(rows, dim=-1), functional.normalize(columns, dim=-1)
        apart = distances(rows, columns)
        if distance == "cosine":
            apart = apart.square() / 2
    return apart.view(b, q, length, w, s).transpose(2, 3)


@dataclass(frozen=True)
class TokenDistances:
    """Distances `[B, Q, W, L, S]`; `query_valid [B, Q, W, L]` and `support_valid [B, Q, W, S]`, None: no padding."""

    distance: Tensor
    query_valid: Tensor | None = None
    support_valid: Tensor | None = None

    def nearest(self) -> tuple[Tensor, Tensor]:
        """Nearest-neighbour distances: of every support token `[B, Q, W, S]`, of every query token `[B, Q, W, L]`."""
        to_query, to_support = self.distance, self.distance
        if self.query_valid is not None:
            to_query = to_query.masked_fill(~self.query_valid[..., :, None], torch.inf)
        if self.support_valid is not None:
            to_support = to_support.masked_fill(~self.support_valid[..., None, :], torch.inf)
        return to_query.amin(dim=-2), to_support.amin(dim=-1)


def _mean_of_largest(values: Tensor, valid: Tensor | None, u: int) -> Tensor:
    """Mean of the `u` largest valid values, of all valid values if there are fewer."""
    count = min(u, values.shape[-1])
    if valid is None:
        return values.topk(count, sorted=False).values.mean(dim=-1)
    top = values.masked_fill(~valid, -torch.inf).topk(count, sorted=False).values
    return torch.where(top == -torch.inf, 0, top).sum(dim=-1) / valid.sum(dim=-1).clamp(max=u)


def _concatenated(masks: Sequence[Tensor | None], like: Sequence[Tensor]) -> Tensor | None:
    if all(mask is None for mask in masks):
        return None
    masks_or_ones = [
        torch.ones_like(values, dtype=torch.bool) if mask is None else mask.expand_as(values)
        for mask, values in zip(masks, like, strict=True)
    ]
    return torch.cat(masks_or_ones, dim=-1)


def mpmm(branches: Sequence[TokenDistances], u: int = 10) -> Tensor:
    """FSAR-LLaVA's metric (Eq. 8-10): `[B, Q, W]`.

    Each token has a distance to its nearest neighbour in the same branch of the other video. Per direction, the `u`
    largest of these distances over all branches are averaged; the two directions are summed.
    """
    to_query, to_support = zip(*(branch.nearest() for branch in branches), strict=True)
    support_valid = _concatenated([branch.support_valid for branch in branches], to_query)
    query_valid = _concatenated([branch.query_valid for branch in branches], to_support)
    return _mean_of_largest(torch.cat(to_query, -1), support_valid, u) + _mean_of_largest(
        torch.cat(to_support, -1), query_valid, u
    )


def hausdorff(branches: Sequence[TokenDistances]) -> Tensor:
    """The largest nearest-neighbour distance, summed over directions and branches: `[B, Q, W]`."""
    total = [mpmm([branch], u=1) for branch in branches]
    return torch.stack(total).sum(dim=0)


def bi_mhm(branches: Sequence[TokenDistances]) -> Tensor:
    """The mean nearest-neighbour distance, summed over directions and branches: `[B, Q, W]`.

    HyRSM's formula divides by the number of tokens, its code does not; here it does, so that a long text does not
    outweigh eight frames.
    """
    total = [mpmm([branch], u=max(branch.distance.shape[-2:])) for branch in branches]
    return torch.stack(total).sum(dim=0)


def otam(branches: Sequence[TokenDistances], smoothing: float = 0.1) -> Tensor:
    """Ordered temporal alignment in both directions, summed over the branches: `[B, Q, W]`."""
    total = [
        alignment(branch.distance, smoothing, branch.query_valid, branch.support_valid)
        + alignment(branch.distance.mT, smoothing, branch.support_valid, branch.query_valid)
        for branch in branches
    ]
    return torch.stack(total).sum(dim=0)


def alignment(
    distance: Tensor, smoothing: float, row_valid: Tensor | None = None, column_valid: Tensor | None = None
) -> Tensor:
    """Soft cost of the best monotonic path through `distance [..., T, S]`, with free ends along S; `[...]`.

    The recursion of OTAM (Cao et al., CVPR 2020) as in its public implementations. A zero column is added before and
    after the S axis. The first row is a running sum; in the first real column and in the closing one a path may
    also come from the row above in the same column; elsewhere a cell follows its left or upper-left neighbour.
    Cells of an inner column depend only on the previous column, so the loops run over T and over S, not over pairs. The
    last cell of the closing column is the soft minimum over all its predecessors, one logsumexp.

    `row_valid [..., T]` and `column_valid [..., S]` are True up to a length: the path then ends there.
    """
    first = torch.cumsum(distance[..., 0, :], dim=-1)
    zero = torch.zeros_like(first[..., 0])
    cells = [first[..., 0]]
    start = -smoothing * torch.log(torch.full_like(zero, 2.0))  # soft minimum of the two zero cells to the left
    for row in range(1, distance.shape[-2]):
        cells.append(distance[..., row, 0] + _softmin(start, cells[-1], smoothing))
    column = torch.stack(cells, dim=-1)
    columns = [column]
    for index in range(1, distance.shape[-1]):
        inner = distance[..., 1:, index] + _softmin(column[..., :-1], column[..., 1:], smoothing)
        column = torch.cat([first[..., index, None], inner], dim=-1)
        columns.append(column)
    if column_valid is not None:
        last = column_valid.sum(dim=-1).sub(1).clamp(min=0)[..., None, None].expand_as(distance[..., :1])
        column = torch.stack(columns, dim=-1).gather(-1, last)[..., 0]
    above, below = column[..., :-1], column[..., 1:]
    if row_valid is not None:
        # A path leaves from row r by the same row or the next one: the last real row can only leave by its own.
        above = above.masked_fill(~row_valid[..., 1:], torch.inf)
        below = below.masked_fill(~row_valid[..., 1:], torch.inf)
    exits = torch.cat([column[..., :1], above, below], dim=-1)
    return -smoothing * torch.logsumexp(-exits / smoothing, dim=-1)


def _softmin(a: Tensor, b: Tensor, smoothing: float) -> Tensor:
    return -smoothing * torch.logaddexp(-a / smoothing, -b / smoothing)


BranchMetric = Callable[..., Tensor]
METRICS: Final[dict[str, BranchMetric]] = {"mpmm": mpmm, "hausdorff": hausdorff, "bi-mhm": bi_mhm, "otam": otam}
"""Name to metric; all take the branches first and give distances `[B, Q, W]`, smaller is closer."""
