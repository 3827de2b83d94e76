"""TRX: attention from the frame tuples of a query to those of the support, then distances per class.

Perrett et al., "Temporal-Relational CrossTransformers for Few-Shot Action Recognition" (CVPR 2021), as in its public
code: sinusoidal positions scaled by 0.1, all ordered tuples of 2 and of 3 frames, keys normed and values not, and
minus the squared distance divided by the number of tuples, averaged over the two sizes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vfc.cache_schema.values.errors import BadInput
from vfc.cache_schema.values.record import ArraySpec
from vfc.cache_schema.values.settings import setting
from vfc.heads.contract.head import require
from vfc.heads.contract.ranges import AT_LEAST_ONE, BELOW_ONE, check_range
from vfc.heads.contract.train_config import TrainConfig
from vfc.heads.tasks.fewshot import EpisodeBatch, EpisodicHead

TASK = "fewshot"
TRAIN = TrainConfig(
    steps=2500, batch=4, lr=1e-4, optimizer="adam", weight_decay=5e-5, schedule="multistep", validate_every=250
)
"""The same as for fsar, so that tables compare heads. The authors trained a whole network with SGD."""


@dataclass(frozen=True)
class Config:
    """Tuples and widths."""

    cardinalities: tuple[int, ...] = setting(
        (2, 3), "Frames per tuple; several sizes are averaged.", "Model", metavar="INT,..."
    )
    width: int = setting(1152, "Width of keys and values.", "Model")
    dropout: float = setting(0.1, "Dropout after the positions are added.", "Model")
    position_scale: float = setting(0.1, "Scale of the sinusoidal positions.", "Model")

    def __post_init__(self) -> None:
        check_range(self, AT_LEAST_ONE, "width")
        check_range(self, BELOW_ONE, "dropout")


class Head(EpisodicHead):
    """Frames `[M, T, D]` to keys and values of tuples `[M, P, width]` to logits `[B, Q, W]`."""

    positions: Tensor

    def __init__(self, config: Config, specs: Mapping[str, ArraySpec]) -> None:
        super().__init__(config, specs)
        frames, width = (int(size or 0) for size in require(specs, "visual", "trx").shape)
        if not config.cardinalities or min(config.cardinalities) < 1 or self.least_steps(config) > frames:
            raise BadInput(
                f"--cardinalities {','.join(map(str, config.cardinalities))} asks for tuples out of {frames} frames.",
                f"Give sizes from 1 to {frames}, or an array with more time steps (--array or --layer).",
            )
        self.dropout = nn.Dropout(config.dropout)
        self.register_buffer("positions", config.position_scale * _sinusoids(frames, width), persistent=False)
        self.parts = nn.ModuleList(Tuples(size, frames, width, config.width) for size in config.cardinalities)

    @classmethod
    def least_steps(cls, config: Config) -> int:
        """As many as the largest tuple has frames."""
        return max(config.cardinalities, default=1)

    def encode(self, videos: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Keys and values of every tuple of a clip."""
        frames = self.dropout(videos["visual"] + self.positions)
        encoded = {}
        for i, part in enumerate(self.parts):
            encoded[f"key{i}"], encoded[f"value{i}"] = part(frames)
        return encoded

    def match(self, batch: EpisodeBatch) -> Tensor:
        """Minus the squared distance between a query's values and the attended values of each class, per tuple."""
        logits = []
        with torch.autocast(batch.query.device.type, enabled=False):
            for i in range(len(self.parts)):
                keys, values = batch.videos[f"key{i}"].float(), batch.videos[f"value{i}"].float()
                logits.append(_compare(keys, values, batch.support, batch.query))
        return torch.stack(logits).mean(dim=0)


class Tuples(nn.Module):
    """Keys and values of all ordered tuples of `size` out of T frames: `[M, T, D]` to two of `[M, P, width]`.

    A linear layer on concatenated frames is the sum of one linear layer per place in the tuple; so each frame is
    multiplied `size` times instead of once per tuple.
    """

    order: Tensor

    def __init__(self, size: int, frames: int, depth: int, width: int) -> None:
        super().__init__()
        self.key = nn.Linear(size * depth, width)
        self.value = nn.Linear(size * depth, width)
        self.norm = nn.LayerNorm(width)
        self.register_buffer("order", torch.tensor(list(itertools.combinations(range(frames), size))), persistent=False)

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Keys (normalised) and values."""
        return self.norm(self._linear_of_tuples(frames, self.key)), self._linear_of_tuples(frames, self.value)

    def _linear_of_tuples(self, frames: Tensor, linear: nn.Linear) -> Tensor:
        count, size = self.order.shape
        per_place = linear.weight.view(len(linear.weight), size, -1)
        total = linear.bias.expand(len(frames), count, -1)
        for place in range(size):
            total = total + nn.functional.linear(frames, per_place[:, place])[:, self.order[:, place]]
        return total


def _compare(keys: Tensor, values: Tensor, support: Tensor, query: Tensor) -> Tensor:
    """`[B, Q, W]`; the attention runs over all tuples of all shots of a class."""
    queries, shots = keys[query], keys[support].flatten(2, 3)
    similarity = torch.einsum("bqpd,bwsd->bqwps", queries, shots) / math.sqrt(keys.shape[-1])
    attended = torch.einsum("bqwps,bwsd->bqwpd", similarity.softmax(dim=-1), values[support].flatten(2, 3))
    return -(values[query][:, :, None] - attended).square().sum(dim=(-1, -2)) / keys.shape[1]


def _sinusoids(frames: int, width: int) -> Tensor:
    """`[T, D]`: sines at even channels, cosines at odd ones, of wavelengths from 2 pi to 10000 * 2 pi."""
    channels = torch.arange(0, width, 2)
    angles = torch.arange(frames)[:, None] * torch.exp(channels * (-math.log(10_000.0) / width))
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :width]
