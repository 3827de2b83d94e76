"""LoRA and AdaptFormer on the same frozen blocks, for comparison.

Hu et al., "LoRA" (ICLR 2022), on the queries and values of attention; Chen et al., "AdaptFormer" (NeurIPS 2022),
parallel to the MLP of a block. Both start at the frozen model: the up-projection is zero at first.
"""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor, nn

from .blocks import Block

ADAPTFORMER_SCALE: Final = 0.1
"""The factor of its paper."""


class Lora(nn.Module):
    """Low-rank additions to the query and value rows of a block's packed `in_proj_weight`."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.down = nn.ParameterDict({part: torch.empty(rank, width) for part in ("query", "value")})
        self.up = nn.ParameterDict({part: torch.zeros(width, rank) for part in ("query", "value")})
        for low in self.down.values():
            nn.init.kaiming_uniform_(low, a=math.sqrt(5))

    def forward(self, block: Block, x: Tensor, *, mask: Tensor | None = None, rows: int | None = None) -> Tensor:
        """The adapted block on `x [M, S, D]`."""
        query, value = (self.up[part] @ self.down[part] for part in ("query", "value"))
        added = torch.cat([query, torch.zeros_like(query), value])
        hidden = block.attend(x, mask, rows, block.attn.in_proj_weight + added)
        return hidden + block.feed_forward(hidden)


class AdaptFormer(nn.Module):
    """Linear D -> m, ReLU, dropout, Linear m -> D, times 0.1, parallel to the MLP of a block."""

    def __init__(self, width: int, middle: int, dropout: float) -> None:
        super().__init__()
        self.down, self.drop, self.up = nn.Linear(width, middle), nn.Dropout(dropout), nn.Linear(middle, width)
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)

    def forward(self, block: Block, x: Tensor, *, mask: Tensor | None = None, rows: int | None = None) -> Tensor:
        """The adapted block on `x [M, S, D]`."""
        hidden = block.attend(x, mask, rows)
        added = self.up(self.drop(torch.relu(self.down(block.ln_2(hidden)))))
        adapted: Tensor = hidden + block.feed_forward(hidden) + ADAPTFORMER_SCALE * added
        return adapted
