"""Action tuning: a bottleneck adapter between the frozen norm and the frozen attention of every layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from vfc.cache_schema.values.errors import BadInput
from vfc.heads.layers.gradient_scaling import gradient_times


class Halves(nn.Module):
    """A 1x1 convolution of two groups with bias: each half of the output reads one half of the input; starts at 0."""

    def __init__(self, narrow: int, wide: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(wide, narrow // 2))
        self.bias = nn.Parameter(torch.zeros(wide))

    def forward(self, x: Tensor) -> Tensor:
        """`[..., narrow]` to `[..., wide]`."""
        parts = zip(x.chunk(2, dim=-1), self.weight.chunk(2), self.bias.chunk(2), strict=True)
        return torch.cat([functional.linear(part, weight, bias) for part, weight, bias in parts], dim=-1)


class ActionTuning(nn.Module):
    """`x + D(dropout(A(x)))`: A is a full 1x1 convolution to H channels, D one of two groups back, initially 0.

    `spare` adds the unused parts of the released code: a second D and a router. `boost` is the factor of gradients
    within the trunk; the adapter's own gradients are not scaled.
    """

    def __init__(self, width: int, hidden: int, dropout: float, *, spare: bool, boost: float = 1.0) -> None:
        super().__init__()
        self._boost = boost
        self.narrow = nn.Linear(width, hidden)
        nn.init.xavier_uniform_(self.narrow.weight)
        nn.init.zeros_(self.narrow.bias)
        self.dropout = nn.Dropout(dropout)
        self.widen = Halves(hidden, width)
        if spare:
            self.spare_widen = Halves(hidden, width)
            self.spare_router = nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, L, E]` to the same, in the dtype of the trunk."""
        scaled = gradient_times(x.float(), self._boost)
        change = self.widen(self.dropout(self.narrow(scaled)))
        return x + gradient_times(change, 1 / self._boost).to(x.dtype)


class TunedNorm(nn.Module):
    """A frozen norm followed by an adapter; replaces the norm."""

    def __init__(self, norm: nn.Module, tuning: ActionTuning) -> None:
        super().__init__()
        self.norm = norm
        self.tuning = tuning

    def forward(self, x: Tensor) -> Tensor:
        """`[B, L, E]` to the same."""
        tuned: Tensor = self.tuning(self.norm(x))
        return tuned


def check_width(hidden: int, width: int) -> None:
    """Raises BadInput if an adapter of `hidden` channels does not fit a trunk of `width`."""
    if hidden < 2 or hidden % 2:
        raise BadInput(
            f"--tuning-width {hidden} is odd or below 2; the adapter's second convolution has two groups.",
            "Choose 2, 4, 6 or 8.",
        )
    if width % 2:
        raise BadInput(
            f"The LLM is {width} wide, an odd number; the adapter's second convolution has two groups.",
            "Choose an LLM of even width.",
        )
