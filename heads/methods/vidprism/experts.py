"""The experts, one transformer layer per stream, and their combination into one vector per clip."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Activation = Literal["quick-gelu", "gelu"]
Way = Literal["avg", "linear", "mlp", "local", "global"]


class Expert(nn.Module):
    """One post-norm transformer layer: `x = LN(x + A(x))`, then `LN(x + FFN(x))`; no dropout, no positions."""

    def __init__(self, width: int, heads: int, activation: Activation) -> None:
        super().__init__()
        self._quick = activation == "quick-gelu"
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.attention_norm = nn.LayerNorm(width)
        self.wide = nn.Linear(width, 2 * width)
        self.narrow = nn.Linear(2 * width, width)
        self.feed_norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        """`[B, L, D]` to `[B, L, D]`."""
        read, _ = self.attention(tokens, tokens, tokens, need_weights=False)
        tokens = self.attention_norm(tokens + read)
        wide = self.wide(tokens)
        activated = wide * torch.sigmoid(1.702 * wide) if self._quick else functional.gelu(wide)
        normed: Tensor = self.feed_norm(tokens + self.narrow(activated))
        return normed


class Combination(nn.Module):
    """Combines the experts' tokens into one vector per clip, with a share per expert.

    `global`: a learned query attends to the tokens of all experts; an expert's share is the attention to its tokens,
    mean over heads. `local`: the query attends within each expert; all experts have the same share. `avg`: mean over
    time, then over experts. `linear`, `mlp`: a softmax gate over the experts, one linear layer (or two, with D / 4 in
    between) on their concatenated means. The paper names the last four in Table 5 and describes none of them.
    """

    def __init__(self, width: int, experts: int, heads: int, way: Way, *, norm: bool = True) -> None:
        super().__init__()
        self._way = way
        if way in ("local", "global"):
            self.query = nn.Parameter(torch.randn(1, 1, width) * 0.02)
            self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        elif way == "linear":
            self.gate: nn.Module = nn.Linear(experts * width, experts)
        elif way == "mlp":
            hidden = nn.Linear(experts * width, width // 4)
            self.gate = nn.Sequential(hidden, nn.ReLU(), nn.Linear(width // 4, experts))
        self.norm = nn.LayerNorm(width) if norm else nn.Identity()

    @property
    def learned(self) -> bool:
        """Whether the shares depend on the clip."""
        return self._way not in ("avg", "local")

    def forward(self, tokens: Sequence[Tensor], means: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens `[B, L_i, D]` and their means `[B, N, D]` to `[B, D]` and shares `[B, N]` that sum to 1."""
        if self._way == "global":
            fused, weights = self._read(torch.cat(list(tokens), dim=1))
            parts = weights.split([expert.shape[1] for expert in tokens], dim=1)
            return self.norm(fused), torch.stack([part.sum(dim=1) for part in parts], dim=1)
        even = means.new_full(means.shape[:2], 1 / means.shape[1])
        if self._way == "local":
            read = [self._read(expert)[0] for expert in tokens]
            return self.norm(torch.stack(read, dim=1).mean(dim=1)), even
        shares = self.gate(means.flatten(1)).softmax(dim=-1) if self.learned else even
        return self.norm((shares[..., None] * means).sum(dim=1)), shares

    def _read(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        fused, weights = self.attention(self.query.expand(len(tokens), -1, -1), tokens, tokens)
        return fused.squeeze(1), weights.squeeze(1)
