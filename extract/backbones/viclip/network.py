"""The network: two stacks of pre-norm blocks, all weights by published names. For inference: nothing is dropped.

Training masked nine tenths of the patches; features are made of all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Final, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from .architecture import EPS, Architecture, Tower

NORM: Final = "norm"

Kept = TypeVar("Kept")
Keep = Callable[[Tensor], Kept]


class Attention(nn.Module):
    """Self-attention of all rows; queries, keys and values lie in one matrix, in this order."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, *, causal: bool = False, rows: int | None = None) -> Tensor:
        """`[B, S, D]` to `[B, S, D]`; with `rows`, the first so many rows only, which still see all."""
        if rows is None:
            query, key, value = functional.linear(x, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1)
        else:
            width = x.shape[-1]
            query = functional.linear(x[:, :rows], self.in_proj_weight[:width], self.in_proj_bias[:width])
            rest = functional.linear(x, self.in_proj_weight[width:], self.in_proj_bias[width:])
            key, value = rest.chunk(2, dim=-1)
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (query, key, value))
        seen = functional.scaled_dot_product_attention(query, key, value, is_causal=causal)
        mixed: Tensor = self.out_proj(seen.transpose(1, 2).flatten(2))
        return mixed


class Mlp(nn.Module):
    """Four times as wide within, QuickGELU between."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width)
        self.c_proj = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., D]` to `[..., D]`."""
        within = self.c_fc(x)
        out: Tensor = self.c_proj(within * torch.sigmoid(1.702 * within))
        return out


class Block(nn.Module):
    """`x + attention(ln_1 x)`, then `x + mlp(ln_2 x)`."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = Attention(width, heads)
        self.ln_1 = nn.LayerNorm(width, EPS)
        self.mlp = Mlp(width)
        self.ln_2 = nn.LayerNorm(width, EPS)

    def forward(self, x: Tensor, *, causal: bool = False, rows: int | None = None) -> Tensor:
        """`[B, S, D]` to the same; with `rows`, the first so many rows of it."""
        x = x[:, :rows] + self.attn(self.ln_1(x), causal=causal, rows=rows)
        out: Tensor = x + self.mlp(self.ln_2(x))
        return out


class Transformer(nn.Module):
    """The blocks; fewer than the architecture has where nothing above is wanted."""

    def __init__(self, tower: Tower, depth: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(Block(tower.width, tower.heads) for _ in range(depth))

    def forward(
        self, x: Tensor, wanted: Collection[str], keep: Keep[Any], *, causal: bool = False, last: int | None = None
    ) -> tuple[dict[str, Any], Tensor]:
        """`keep` of what enters block 1 ("0") and of what each block l hands on, as wanted; and the last state.

        `last`: how many rows of the last block are needed, where not all.
        """
        found = {"0": keep(x)} if "0" in wanted else {}
        for number, block in enumerate(self.resblocks, 1):
            top = number == len(self.resblocks)
            x = block(x, causal=causal, rows=last if top else None)
            if str(number) in wanted:
                found[str(number)] = keep(x)
        return found, x


class VisionTower(nn.Module):
    """Patches of all frames, and one class token for the video."""

    def __init__(self, architecture: Architecture, depth: int | None = None, *, head: bool = True) -> None:
        """`depth`: only so many blocks; `head`: whether the final norm and the projection are there."""
        super().__init__()
        tower, patch = architecture.vision, architecture.patch
        width = tower.width
        self.layers = tower.layers
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty(1 + architecture.grid**2, width))
        self.temporal_positional_embedding = nn.Parameter(torch.empty(1, architecture.frames, width))
        self.conv1 = nn.Conv3d(3, width, (1, patch, patch), (1, patch, patch), bias=False)
        self.ln_pre = nn.LayerNorm(width, EPS)
        self.transformer = Transformer(tower, tower.layers if depth is None else depth)
        if head:
            self.ln_post = nn.LayerNorm(width, EPS)
            self.proj = nn.Parameter(torch.empty(width, architecture.embedding))

    def tokens(self, clips: Tensor) -> Tensor:
        """Layer 0 of clips `[B, T, 3, h, w]`: `[B, 1 + N*T, D]`, row 1 + n*T + t is patch n of frame t."""
        patches = self.conv1(clips.transpose(1, 2)).flatten(3)
        width, frames = patches.shape[1:3]
        space, time = self.positional_embedding[1:], resized_time(self.temporal_positional_embedding, frames)
        patches = patches.permute(0, 3, 2, 1) + space[:, None] + time[0]
        first = (self.class_embedding + self.positional_embedding[0]).expand(len(clips), 1, width)
        normed: Tensor = self.ln_pre(torch.cat([first, patches.flatten(1, 2)], dim=1))
        return normed

    def forward(
        self, clips: Tensor, wanted: Collection[str] = (), keep: Keep[Any] = Tensor.clone, *, embed: bool = True
    ) -> tuple[dict[str, Any], Tensor | None]:
        """States by layer, as `keep` leaves them, and the projected class token `[B, E]` where it is wanted.

        Where no state of the last block is wanted, it is computed for the class token alone: its other rows would
        only be thrown away, and are the most of its work.
        """
        whole = str(self.layers) in wanted or NORM in wanted
        found, x = self.transformer(self.tokens(clips), wanted, keep, last=1 if embed and not whole else None)
        if NORM in wanted:
            found[NORM] = keep(self.ln_post(x))
        return found, self.ln_post(x[:, 0]) @ self.proj if embed else None


class TextTower(nn.Module):
    """CLIP's text tower with a shorter context; a row sees itself and those before."""

    def __init__(self, architecture: Architecture, depth: int | None = None, *, head: bool = True) -> None:
        """See `VisionTower`."""
        super().__init__()
        tower = architecture.text
        self.token_embedding = nn.Embedding(architecture.vocabulary, tower.width)
        self.positional_embedding = nn.Parameter(torch.empty(architecture.context, tower.width))
        self.transformer = Transformer(tower, tower.layers if depth is None else depth)
        if head:
            self.ln_final = nn.LayerNorm(tower.width, EPS)
            self.text_projection = nn.Parameter(torch.empty(tower.width, architecture.embedding))

    def forward(
        self, ids: Tensor, wanted: Collection[str] = (), keep: Keep[Any] = Tensor.clone, *, embed: bool = True
    ) -> tuple[dict[str, Any], Tensor | None]:
        """States by layer, and the projected end of text `[B, E]`, which is the largest of the ids `[B, L]`."""
        x = self.token_embedding(ids) + self.positional_embedding
        found, x = self.transformer(x, wanted, keep, causal=True)
        if NORM in wanted:
            found[NORM] = keep(self.ln_final(x))
        ends = x[torch.arange(len(ids), device=x.device), ids.argmax(dim=-1)]
        return found, self.ln_final(ends) @ self.text_projection if embed else None


class ViCLIP(nn.Module):
    """Both towers and the temperature: all that a published file holds."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.vision_encoder = VisionTower(architecture)
        self.text_encoder = TextTower(architecture)
        self.temp = nn.Parameter(torch.empty([]))


def resized_time(table: Tensor, frames: int) -> Tensor:
    """Places in time `[1, F, D]` for so many frames `[1, T, D]`.

    Fewer take the first rows, one takes the mean of all, more are interpolated linearly: what the published code does
    on loading. Rows beyond the table left at zero could not be told apart.
    """
    there = table.shape[1]
    if frames == 1:
        return table.mean(dim=1, keepdim=True)
    if frames <= there:
        return table[:, :frames]
    rows = table.float().transpose(1, 2)
    return functional.interpolate(rows, frames, mode="linear", align_corners=False).transpose(1, 2).to(table.dtype)
