"""The blocks of the attentive probe, with the parameter names of V-JEPA 2's public code."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

_STD = 0.02


class _Mlp(nn.Module):
    """D to 4 D to D with GELU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., D]` to the same."""
        changed: Tensor = self.fc2(functional.gelu(self.fc1(x)))
        return changed


class _SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self._heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """`[B, L, D]` to the same; `valid [B, L]` is False at padding."""
        query, key, value = self.qkv(x).unflatten(-1, (3, self._heads, -1)).permute(2, 0, 3, 1, 4)
        mask = None if valid is None else valid[:, None, None, :]
        attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        projected: Tensor = self.proj(attended.transpose(1, 2).flatten(2))
        return projected


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width), _SelfAttention(width, heads)
        self.norm2, self.mlp = nn.LayerNorm(width), _Mlp(width)

    def forward(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """`[B, L, D]` to the same; `valid [B, L]` is False at padding."""
        x = x + self.attn(self.norm1(x), valid)
        changed: Tensor = x + self.mlp(self.norm2(x))
        return changed


class _CrossAttention(nn.Module):
    """Attention of a query that is the same for all clips; it has no output projection."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self._heads = heads
        self.q, self.kv = nn.Linear(width, width), nn.Linear(width, 2 * width)

    def forward(self, query: Tensor, x: Tensor, norm: nn.LayerNorm, valid: Tensor | None) -> Tensor:
        """Queries `[Q, D]` and tokens `[B, L, D]`, which `norm` normalises, to `[B, Q, D]`.

        The query does not depend on the tokens, so it is multiplied into the key weights, and the value weights are
        applied to the pooled tokens: 2 L D H Q multiplications instead of 2 L D^2. What the bias of the norm and of the
        keys adds to a score is the same for all tokens and drops out of the softmax.
        """
        key, value = self.kv.weight.unflatten(0, (2, self._heads, -1))
        queries = self.q(query).unflatten(-1, (self._heads, -1))
        folded = torch.einsum("qhe,hed->qhd", queries, key) * (norm.weight / math.sqrt(key.shape[1]))
        normed = functional.layer_norm(x, x.shape[-1:], eps=norm.eps)
        scores = torch.einsum("bld,qhd->bqhl", normed, folded)
        if valid is not None:
            scores = scores.masked_fill(~valid[:, None, None, :], -math.inf)
        pooled = torch.einsum("bqhl,bld->bqhd", scores.softmax(dim=-1), normed) * norm.weight + norm.bias
        attended = torch.einsum("bqhd,hed->bqhe", pooled, value).flatten(2)
        return attended + self.kv.bias.chunk(2)[1]


class CrossBlock(nn.Module):
    """`z = q + A(q, LN x)`, then `z + MLP(LN z)`. The query is not normalised."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.xattn = nn.LayerNorm(width), _CrossAttention(width, heads)
        self.norm2, self.mlp = nn.LayerNorm(width), _Mlp(width)

    def forward(self, query: Tensor, x: Tensor, valid: Tensor | None) -> Tensor:
        """Queries `[Q, D]` and tokens `[B, L, D]` to `[B, Q, D]`; `valid [B, L]` is False at padding."""
        pooled = query + self.xattn(query, x, self.norm1, valid)
        changed: Tensor = pooled + self.mlp(self.norm2(pooled))
        return changed


class Pooler(nn.Module):
    """Tokens `[B, L, D]` to one vector `[B, D]`: `depth - 1` blocks over the tokens, then a block with one query.

    Starts as in the public code: normal weights of std 0.02, biases 0; in block l the weights that add to the residual
    are divided by sqrt(2 l).
    """

    def __init__(self, width: int, depth: int, heads: int) -> None:
        super().__init__()
        blocks = [Block(width, heads) for _ in range(depth - 1)]
        self.query_tokens = nn.Parameter(torch.zeros(1, 1, width))
        self.cross_attention_block = CrossBlock(width, heads)
        self.blocks = nn.ModuleList(blocks)
        nn.init.trunc_normal_(self.query_tokens, std=_STD)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=_STD)
                nn.init.zeros_(module.bias)
        with torch.no_grad():
            for number, block in enumerate(blocks, 1):
                block.attn.proj.weight.div_(math.sqrt(2 * number))
                block.mlp.fc2.weight.div_(math.sqrt(2 * number))
            self.cross_attention_block.mlp.fc2.weight.div_(math.sqrt(2 * max(1, depth - 1)))

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """`valid [B, L]` is False at padding, which must be finite."""
        for block in self.blocks:
            x = block(x, valid)
        pooled: Tensor = self.cross_attention_block(self.query_tokens[0], x, valid)
        return pooled[:, 0]
