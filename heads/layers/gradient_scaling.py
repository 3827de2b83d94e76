"""Scaling of gradients in the backward pass; the forward pass is the identity."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _Times(torch.autograd.Function):
    """The identity; its gradient is multiplied by a number."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.factor, None


def gradient_times(x: Tensor, factor: float) -> Tensor:
    """`x` itself; its gradient is multiplied by `factor`."""
    if factor == 1.0:
        return x
    scaled: Tensor = _Times.apply(x, factor)  # type: ignore[no-untyped-call]
    return scaled
