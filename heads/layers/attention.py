"""The transformer layer that several methods use."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from vfc.cache_schema.values.errors import BadInput


class Layer(nn.Module):
    """One pre-norm transformer layer: `h = q + A(LN q, LN kv)`, then `h + FFN(h)`.

    One LayerNorm serves queries and keys, the feed-forward part has none of its own; queries, keys and values have no
    bias. This is the layer of CLIP-FSAR's public code. Its size, `4 D^2 + 2 D ffn + 4 D + ffn` parameters, explains
    every parameter count in the FSAR-LLaVA paper (Table 9).
    """

    def __init__(self, width: int, heads: int = 8, ffn: int = 2048, dropout: float = 0.2, ffn_dropout: float = 0.05):
        super().__init__()
        if width % heads:
            raise BadInput(
                f"A width of {width} cannot be divided among {heads} attention heads.",
                "Choose a width that is a multiple of the number of heads.",
            )
        self._heads = heads
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.out = nn.Sequential(nn.Linear(width, width), nn.Dropout(dropout))
        self.ffn = nn.Sequential(
            nn.Linear(width, ffn), nn.GELU(), nn.Dropout(ffn_dropout), nn.Linear(ffn, width), nn.Dropout(ffn_dropout)
        )

    def forward(self, query: Tensor, context: Tensor | None = None, valid: Tensor | None = None) -> Tensor:
        """`[M, L, D]` attends to `context [M, S, D]` (to itself if None); `valid [M, S]` is False at padding."""
        normed = self.norm(query)
        keys = normed if context is None else self.norm(context)
        mask = None if valid is None else valid[:, None, None, :]
        attended = functional.scaled_dot_product_attention(
            self._split(self.query(normed)),
            self._split(self.key(keys)),
            self._split(self.value(keys)),
            attn_mask=mask,
        )
        hidden: Tensor = query + self.out(attended.transpose(1, 2).flatten(2))
        added: Tensor = self.ffn(hidden)
        return hidden + added

    def _split(self, tokens: Tensor) -> Tensor:
        count, length, width = tokens.shape
        return tokens.view(count, length, self._heads, width // self._heads).transpose(1, 2)
