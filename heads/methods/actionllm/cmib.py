"""ActionLLM's cross-modal block (CMIB) and the adapter from features to the width of the LLM.

Equations 1 to 8 of "Multimodal Large Models Are Effective Action Anticipators" as in its public code: each
stream has one projection each for queries, keys, values and output, and the contexts it reads are averaged.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from vfc.cache_schema.values.errors import BadInput

Reads = Literal["self", "cross", "both"]
FFN_MULTIPLE: Final = 256
"""LLaMA rounds the width of its feed-forward network up to a multiple of this."""


class FeatureAdapter(nn.Sequential):
    """`[..., D]` to `[..., E]` through a hidden SiLU layer; shared by features and queries."""

    def __init__(self, features: int, hidden: int, width: int) -> None:
        super().__init__(nn.Linear(features, hidden), nn.SiLU(), nn.Linear(hidden, width))
        for layer in self:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)


class SwiGlu(nn.Module):
    """LLaMA's feed-forward network: `w2(silu(w1 x) * w3 x)`, without biases."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = -(-(2 * 4 * width // 3) // FFN_MULTIPLE) * FFN_MULTIPLE
        self.gate = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., width]` to the same."""
        output: Tensor = self.down(functional.silu(self.gate(x)) * self.up(x))
        return output


class Projections(nn.Module):
    """Attention projections of one stream: query, key, value, output, each with a bias."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)


class Cmia(nn.Module):
    """Attention of every stream to itself and to the others: `out_m(mean over n of softmax(Q_m K_n' / sqrt d) V_n)`.

    The mean is over the streams that `reads` allows.
    """

    def __init__(self, streams: tuple[str, ...], width: int, heads: int, reads: Reads, dropout: float) -> None:
        super().__init__()
        if width % heads:
            raise BadInput(
                f"A CMIB width of {width} cannot be divided among {heads} attention heads, which the LLM has.",
                f"Choose --cmib-width as a multiple of {heads}.",
            )
        self._heads, self._reads, self._dropout = heads, reads, dropout
        self.streams = nn.ModuleDict({name: Projections(width) for name in streams})

    def forward(self, streams: Mapping[str, Tensor], valid: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Streams `[B, L, width]` to the same; `valid [B, L]` is False at padding."""
        own = {name: cast("Projections", self.streams[name]) for name in streams}
        queries = {name: self._split(own[name].query(x)) for name, x in streams.items()}
        keys = {name: self._split(own[name].key(x)) for name, x in streams.items()}
        values = {name: self._split(own[name].value(x)) for name, x in streams.items()}
        masks = {name: valid[name][:, None, None, :] for name in streams}
        rate = self._dropout if self.training else 0.0
        outputs = {}
        for target, query in queries.items():
            contexts = [
                functional.scaled_dot_product_attention(query, keys[n], values[n], attn_mask=masks[n], dropout_p=rate)
                for n in streams
                if self._reads == "both" or (n == target) == (self._reads == "self")
            ]
            mean = torch.stack(contexts).mean(dim=0).transpose(1, 2).flatten(2)
            outputs[target] = functional.dropout(own[target].out(mean), rate)
        return outputs

    def _split(self, x: Tensor) -> Tensor:
        count, length, width = x.shape
        return x.view(count, length, self._heads, width // self._heads).transpose(1, 2)


class Cmib(nn.Module):
    """`F_m + MU(block(MD(F_m) + PE))` for every stream; one block, narrow, with its own norms and FFN per stream.

    `timed` False: every row gets the sinusoid of position 0, as in the released code with its batch size of 1.
    """

    def __init__(
        self,
        streams: tuple[str, ...],
        llm_width: int,
        *,
        width: int,
        heads: int,
        eps: float,
        reads: Reads,
        dropout: float,
        timed: bool,
    ) -> None:
        super().__init__()
        self._timed = timed
        self.narrow = nn.Linear(llm_width, width, bias=False)
        self.widen = nn.Linear(width, llm_width, bias=False)
        self.attention = Cmia(streams, width, heads, reads, dropout)
        self.before_attention = nn.ModuleDict({name: nn.RMSNorm(width, eps) for name in streams})
        self.before_ffn = nn.ModuleDict({name: nn.RMSNorm(width, eps) for name in streams})
        self.ffn = nn.ModuleDict({name: SwiGlu(width) for name in streams})

    def forward(self, streams: Mapping[str, Tensor], valid: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Streams `[B, L, E]` to the same."""
        hidden = {name: self._placed(self.narrow(x)) for name, x in streams.items()}
        normed = {name: self.before_attention[name](x) for name, x in hidden.items()}
        attended = self.attention(normed, valid)
        outputs = {}
        for name, x in hidden.items():
            mixed = x + attended[name]
            mixed = mixed + self.ffn[name](self.before_ffn[name](mixed))
            outputs[name] = streams[name] + self.widen(mixed)
        return outputs

    def _placed(self, x: Tensor) -> Tensor:
        positions = torch.arange(x.shape[1], device=x.device) * self._timed
        return x + sinusoids(positions, x.shape[-1])


def sinusoids(positions: Tensor, width: int) -> Tensor:
    """Positions `[L]` to `[L, width]`: sines at even channels, cosines at odd ones, base 10000."""
    rates = 10000.0 ** (-torch.arange(0, width, 2, device=positions.device, dtype=torch.float32) / width)
    angles = positions[:, None].float() * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :width]
