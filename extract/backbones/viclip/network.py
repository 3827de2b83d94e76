"""The network: two stacks of pre-norm blocks, all weights by published names; for inference.

Training masked nine tenths of the patches; here no patch is masked.
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
    """Self-attention of all rows; one matrix holds the weights of queries, keys and values, in this order."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, *, causal: bool = False, rows: int | None = None) -> Tensor:
        """`[B, S, D]` to `[B, S, D]`; with `rows`, the first so many rows only, which still attend to all."""
        if rows is None:
            query, key, value = functional.linear(x, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1)
        else:
            width = x.shape[-1]
            query = functional.linear(x[:, :rows], self.in_proj_weight[:width], self.in_proj_bias[:width])
            rest = functional.linear(x, self.in_proj_weight[width:], self.in_proj_bias[width:])
            key, value = rest.chunk(2, dim=-1)
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (query, key, value))
        attended = functional.scaled_dot_product_attention(query, key, value, is_causal=causal)
        mixed: Tensor = self.out_proj(attended.transpose(1, 2).flatten(2))
        return mixed


class Mlp(nn.Module):
    """Two linear layers with QuickGELU between, four times as wide inside."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width)
        self.c_proj = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., D]` to `[..., D]`."""
        inner = self.c_fc(x)
        out: Tensor = self.c_proj(inner * torch.sigmoid(1.702 * inner))
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
    """The blocks; fewer than the architecture has where no layer above is kept."""

    def __init__(self, tower: Tower, depth: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(Block(tower.width, tower.heads) for _ in range(depth))

    def forward(
        self, x: Tensor, layers: Collection[str], keep: Keep[Any], *, causal: bool = False, last: int | None = None
    ) -> tuple[dict[str, Any], Tensor]:
        """`keep` of what enters block 1 ("0") and of the output of each block l in `layers`; and the last state.

        `last`: how many rows of the last block are needed, where not all.
        """
        states = {"0": keep(x)} if "0" in layers else {}
        for number, block in enumerate(self.resblocks, 1):
            top = number == len(self.resblocks)
            x = block(x, causal=causal, rows=last if top else None)
            if str(number) in layers:
                states[str(number)] = keep(x)
        return states, x


class VisionTower(nn.Module):
    """Patches of all frames, and one class token for the video."""

    def __init__(self, architecture: Architecture, depth: int | None = None, *, head: bool = True) -> None:
        """`depth`: only so many blocks; `head`: whether the final norm and the projection are learned."""
        super().__init__()
        tower, patch = architecture.vision, architecture.patch
        width = tower.width
        self.depth = tower.layers
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
        self, clips: Tensor, layers: Collection[str] = (), keep: Keep[Any] = Tensor.clone, *, embed: bool = True
    ) -> tuple[dict[str, Any], Tensor | None]:
        """`keep` of the states by layer, and with `embed` the projected class token `[B, E]`.

        Where no layer needs all rows of the last block, it is computed for the class token alone, a fraction of its
        work.
        """
        all_rows = str(self.depth) in layers or NORM in layers
        states, x = self.transformer(self.tokens(clips), layers, keep, last=1 if embed and not all_rows else None)
        if NORM in layers:
            states[NORM] = keep(self.ln_post(x))
        return states, self.ln_post(x[:, 0]) @ self.proj if embed else None


class TextTower(nn.Module):
    """CLIP's text tower with a shorter context, causal."""

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
        self, ids: Tensor, layers: Collection[str] = (), keep: Keep[Any] = Tensor.clone, *, embed: bool = True
    ) -> tuple[dict[str, Any], Tensor | None]:
        """States by layer, and the projected end of text `[B, E]`, which is the largest of the ids `[B, L]`."""
        x = self.token_embedding(ids) + self.positional_embedding
        states, x = self.transformer(x, layers, keep, causal=True)
        if NORM in layers:
            states[NORM] = keep(self.ln_final(x))
        ends = x[torch.arange(len(ids), device=x.device), ids.argmax(dim=-1)]
        return states, self.ln_final(ends) @ self.text_projection if embed else None


class ViCLIP(nn.Module):
    """Both towers and the temperature: all weights of a published file."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.vision_encoder = VisionTower(architecture)
        self.text_encoder = TextTower(architecture)
        self.temp = nn.Parameter(torch.empty([]))


def resized_time(table: Tensor, frames: int) -> Tensor:
    """The temporal position embedding `[1, F, D]` for another number of frames `[1, T, D]`.

    Fewer frames take the first rows, one frame the mean of all, more are interpolated linearly, as the published code
    does on loading. Zeros for the frames beyond F would give them all the same position.
    """
    learned = table.shape[1]
    if frames == 1:
        return table.mean(dim=1, keepdim=True)
    if frames <= learned:
        return table[:, :frames]
    rows = table.float().transpose(1, 2)
    return functional.interpolate(rows, frames, mode="linear", align_corners=False).transpose(1, 2).to(table.dtype)
