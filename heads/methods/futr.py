"""FUTR: a transformer encodes the observed steps; N queries decode the following segments in parallel.

Gong, Lee, Kim, Ha and Cho, "Future Transformer for Long-term Action Anticipation" (CVPR 2022), checked against its
public code: post-norm layers, learned positions added to queries, keys and values of every encoder layer, no norm
after the encoder. The learning rate changes every update, not every epoch. An error in that code's conversion of
queries to frames is corrected; `--decoding futr` keeps it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from vfc.cache_schema.values.errors import BadInput
from vfc.cache_schema.values.record import ArraySpec
from vfc.cache_schema.values.settings import setting
from vfc.heads.contract.head import require
from vfc.heads.contract.ranges import AT_LEAST_ONE, BELOW_ONE, NOT_NEGATIVE, check_range
from vfc.heads.contract.train_config import TrainConfig
from vfc.heads.tasks.anticipation import AnticipationHead, Prediction, Sampling, WindowBatch, future_losses, past_loss

TASK = "anticipation"
TRAIN = TrainConfig(
    epochs=70,
    batch=8,
    lr=1e-3,
    weight_decay=5e-3,
    decay_all=True,
    warmup_epochs=10,
    clip=0.0,
    validate_every=0,
    select="last",
)
"""For the preset 50salads; for breakfast add --epochs 60 --batch 16."""

_SIZES: Final = {
    "50salads": {"width": 512, "encoder_layers": 2, "decoder_layers": 2, "queries": 20, "positions": 3100},
    "breakfast": {"width": 128, "encoder_layers": 2, "decoder_layers": 1, "queries": 8, "positions": 2000},
}
_STRIDES: Final = {"50salads": 6, "breakfast": 3}


@dataclass(frozen=True)
class Config:
    """The model. Settings that are None take the preset's value."""

    preset: Literal["50salads", "breakfast"] = setting(
        "50salads", "Published sizes and stride for this data set.", "Model"
    )
    width: int | None = setting(None, "Width of all layers; default 512 or 128.", "Model")
    encoder_layers: int | None = setting(None, "Encoder layers; default 2.", "Model")
    decoder_layers: int | None = setting(None, "Decoder layers; default 2 or 1.", "Model")
    queries: int | None = setting(None, "Number of predicted segments N; default 20 or 8.", "Model")
    positions: int | None = setting(None, "Largest number of observed steps; default 3100 or 2000.", "Model")
    attention_heads: int = setting(8, "Attention heads of every layer.", "Model")
    dropout: float = setting(0.1, "Dropout in every layer.", "Model")

    def __post_init__(self) -> None:
        check_range(self, AT_LEAST_ONE, "width", "decoder_layers", "queries", "positions", "attention_heads")
        check_range(self, NOT_NEGATIVE, "encoder_layers")
        check_range(self, BELOW_ONE, "dropout")

    def resolved(self) -> Config:
        """These settings with the preset's values instead of None."""
        own: dict[str, Any] = {name: n for name, n in _SIZES[self.preset].items() if getattr(self, name) is None}
        return replace(self, **own)


class Head(AnticipationHead):
    """Observed steps `[B, S, D]` to past classes `[B, S, K]` and to N segments."""

    def __init__(self, config: Config, specs: Mapping[str, ArraySpec]) -> None:
        super().__init__(config, specs)
        features = int(require(specs, "visual", "futr").shape[-1] or 0)
        classes = int(require(specs, "classes", "futr").shape[0] or 0)
        sizes = config.resolved()
        width, self.queries = sizes.width or 0, sizes.queries or 0
        if width % config.attention_heads:
            raise BadInput(
                f"A --width of {width} cannot be divided among {config.attention_heads} heads.",
                "Give a --width that --attention-heads divides.",
            )
        self.read = nn.Linear(features, width)
        self.positions = nn.Parameter(torch.empty(sizes.positions or 0, width))
        self.encoder = nn.ModuleList(_EncoderLayer(width, sizes) for _ in range(sizes.encoder_layers or 0))
        self.decoder = nn.ModuleList(_DecoderLayer(width, sizes) for _ in range(sizes.decoder_layers or 0))
        self.norm = nn.LayerNorm(width)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)
        self.query = nn.Parameter(torch.randn(self.queries, width))
        self.segment, self.action = nn.Linear(width, classes), nn.Linear(width, classes + 1)
        self.duration = nn.Linear(width, 1)
        for layer in (self.segment, self.action, self.duration):
            nn.init.xavier_uniform_(layer.weight)

    @classmethod
    def sampling(cls, settings: Any) -> Sampling:
        """The published stride; the first 20, 30 and 50 % of every video."""
        return Sampling(_STRIDES[settings.preset], (0.2, 0.3, 0.5), 1)

    def loss(self, batch: WindowBatch) -> dict[str, Tensor]:
        """Loss of the observed steps' classes, and of the classes and durations of the following segments."""
        memory = self._encode(batch)
        prediction = self._decode(memory, batch)
        return {"past": past_loss(self.segment(memory), batch), **future_losses(prediction, batch)}

    def predict(self, batch: WindowBatch) -> Prediction:
        """See `AnticipationHead`."""
        return self._decode(self._encode(batch), batch)

    def _encode(self, batch: WindowBatch) -> Tensor:
        steps = batch.visual.shape[1]
        if steps > len(self.positions):
            raise BadInput(
                f"A window of {steps} observed steps does not fit into {len(self.positions)} learned positions.",
                f"Give a larger --stride, or --positions {steps}.",
            )
        # Attention gives padding the weight 0, and 0 times a number that is none is none.
        x = functional.relu(self.read(torch.where(batch.valid[..., None], batch.visual, 0)))
        for layer in self.encoder:
            x = layer(x, self.positions[:steps], ~batch.valid)
        return x

    def _decode(self, memory: Tensor, batch: WindowBatch) -> Prediction:
        x = torch.zeros(len(memory), *self.query.shape, dtype=memory.dtype, device=memory.device)
        placed = memory + self.positions[: memory.shape[1]]
        for layer in self.decoder:
            x = layer(x, self.query, placed, ~batch.valid)
        x = self.norm(x)
        return Prediction(self.action(x), self.duration(x)[..., 0])


class _Layer(nn.Module):
    """Shared by encoder and decoder layers: attention and a feed-forward network of four times the width."""

    def __init__(self, width: int, sizes: Config, norms: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, sizes.attention_heads, sizes.dropout, batch_first=True)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(norms))
        self.dropout = nn.Dropout(sizes.dropout)

    def feed_forward(self, x: Tensor) -> Tensor:
        inner = self.dropout(functional.relu(self.wide(x)))
        out: Tensor = self.norms[-1](x + self.dropout(self.narrow(inner)))
        return out


class _EncoderLayer(_Layer):
    def __init__(self, width: int, sizes: Config) -> None:
        super().__init__(width, sizes, norms=2)

    def forward(self, x: Tensor, positions: Tensor, padding: Tensor) -> Tensor:
        placed = x + positions
        attended = self.attention(placed, placed, placed, key_padding_mask=padding, need_weights=False)[0]
        return self.feed_forward(self.norms[0](x + self.dropout(attended)))


class _DecoderLayer(_Layer):
    def __init__(self, width: int, sizes: Config) -> None:
        super().__init__(width, sizes, norms=3)
        self.across = nn.MultiheadAttention(width, sizes.attention_heads, sizes.dropout, batch_first=True)

    def forward(self, x: Tensor, query: Tensor, memory: Tensor, padding: Tensor) -> Tensor:
        placed = x + query
        x = self.norms[0](x + self.dropout(self.attention(placed, placed, placed, need_weights=False)[0]))
        attended = self.across(x + query, memory, memory, key_padding_mask=padding, need_weights=False)[0]
        return self.feed_forward(self.norms[1](x + self.dropout(attended)))
