"""Euclidean distances without cancellation, whose backward pass needs little memory on a GPU.

`torch.cdist` has two forms. The one by matrix products, its default above 25 rows, is off by up to 0.06 for identical
rows. The other one is exact, but its backward pass on a GPU fills a buffer `[B, R, C, D]` (5 GB for the texts of four
tasks of 100 rows each). Here that pass goes through some rows at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

BUFFER_BYTES: Final = 256 << 20
"""The largest buffer of one backward call."""


def distances(rows: Tensor, columns: Tensor, *, buffer_bytes: int = BUFFER_BYTES) -> Tensor:
    """Euclidean distances of `rows [B, R, D]` to `columns [B, C, D]`: `[B, R, C]`, in their dtype.

    Value and gradient at distance 0 are 0. Where the buffer of the backward pass would be larger than `buffer_bytes`,
    the distances are computed again in that pass, for as many rows at a time as fit: the same numbers.
    """
    needs_gradient = torch.is_grad_enabled() and (rows.requires_grad or columns.requires_grad)
    at_once = max(1, buffer_bytes // max(1, 4 * columns.numel())), max(1, buffer_bytes // max(1, 4 * rows.numel()))
    if not needs_gradient or rows.device.type == "cpu" or at_once[0] >= rows.shape[1]:  # the CPU has no buffer
        return _exact(rows, columns)
    return in_parts(rows, columns, at_once)


class _InParts(torch.autograd.Function):
    """The pass of `in_parts`."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, columns: Tensor, at_once: tuple[int, int]) -> Tensor:
        """Distances `[B, R, C]`; they are not kept for the backward pass."""
        ctx.save_for_backward(rows, columns)
        ctx.at_once = at_once
        return _exact(rows, columns)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        """The gradients of both sides, each in parts of its own: no sum is taken in another order."""
        rows, columns = ctx.saved_tensors
        of_rows = _gradient(rows, columns, gradient, ctx.at_once[0]) if ctx.needs_input_grad[0] else None
        of_columns = _gradient(columns, rows, gradient.mT, ctx.at_once[1]) if ctx.needs_input_grad[1] else None
        return of_rows, of_columns, None


in_parts: Final[Callable[[Tensor, Tensor, tuple[int, int]], Tensor]] = _InParts.apply
"""`distances` with a backward pass in parts of so many rows, and of so many columns."""


def _gradient(rows: Tensor, columns: Tensor, gradient: Tensor, at_once: int) -> Tensor:
    """Gradient of `rows [B, R, D]` from that of the distances `[B, R, C]`."""
    parts = []
    for part, of_distances in zip(rows.split(at_once, dim=1), gradient.split(at_once, dim=1), strict=True):
        with torch.enable_grad():
            leaf = part.detach().requires_grad_()
            again = _exact(leaf, columns.detach())
        parts += torch.autograd.grad(again, leaf, of_distances)
    return torch.cat(parts, dim=1)


def _exact(rows: Tensor, columns: Tensor) -> Tensor:
    return torch.cdist(rows, columns, compute_mode="donot_use_mm_for_euclid_dist")
