"""DBI, the dynamic bilateral interaction: streams of different speed add to each other what gates let through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

SLOW: Final = 8
"""A stream is slow from this rate on: one token per 8 frames or more."""


@dataclass(frozen=True)
class Exchange:
    """Which streams act on which, and how it adds up; the fields are those of the head's settings."""

    interaction: Literal["dbi", "slow-to-fast", "fast-to-slow"] = "dbi"
    pairs: Literal["slow-fast", "all"] = "slow-fast"
    gates: Literal["directed", "symmetric"] = "directed"
    threshold: float = 0.3
    threshold_on: Literal["sample", "batch"] = "sample"
    sources: Literal["accumulate", "overwrite"] = "accumulate"


class Interaction(nn.Module):
    """A gate per ordered pair of streams, one projection from slow to fast, a convolution per pair from fast to slow.

    There is a gate for every pair, the useless ones included, because the released weights hold them.
    """

    def __init__(self, width: int, rates: Sequence[int], settings: Exchange) -> None:
        super().__init__()
        self._settings, self._rates = settings, tuple(rates)
        ups, downs = settings.interaction != "fast-to-slow", settings.interaction != "slow-to-fast"
        between = [
            (i, j)
            for i in range(len(rates))
            for j in range(len(rates))
            if i != j and (settings.pairs == "all" or (rates[i] >= SLOW) != (rates[j] >= SLOW))
        ]
        self._pairs = [(i, j) for i, j in between if (ups if self._rises(i, j) else downs)]
        self.gates = nn.ModuleList(
            nn.Sequential(
                nn.Linear(2 * width, width // 4), nn.ReLU(inplace=True), nn.Linear(width // 4, 1), nn.Sigmoid()
            )
            for _ in range(len(rates) ** 2)
        )
        if ups:
            self.up = nn.Conv1d(width, width, 1)
        self.down = nn.ModuleDict(
            {
                f"{i}-{j}": nn.Conv1d(width, width, 5, stride=rates[j] // rates[i], padding=2, bias=False)
                for i, j in self._pairs
                if not self._rises(i, j)
            }
        )

    @property
    def idle(self) -> bool:
        """Whether no stream acts on another."""
        return not self._pairs

    def forward(self, streams: Sequence[Tensor]) -> list[Tensor]:
        """Streams `[B, T_i, D]` to the same with what the others add; all sources are streams as they came in."""
        means = [stream.mean(dim=1) for stream in streams]
        # Projecting commutes with interpolating, and slow streams are short: each is projected once, then stretched.
        risen = {i: _convolved(self.up, streams[i]) for i in {i for i, j in self._pairs if self._rises(i, j)}}
        found = list(streams)
        for i, j in self._pairs:
            score = self._score(means, i, j)
            decides = score.mean() if self._settings.threshold_on == "batch" else score
            through = (decides >= self._settings.threshold).expand_as(score)[:, None, None]
            moved = risen[i] if self._rises(i, j) else _convolved(self.down[f"{i}-{j}"], streams[i])
            added = score[:, None, None] * _stretched(moved, streams[j].shape[1])
            if self._settings.sources == "overwrite":
                found[j] = torch.where(through, streams[j] + added, found[j])
            else:
                found[j] = found[j] + added * through
        return found

    def _rises(self, i: int, j: int) -> bool:
        return self._rates[i] > self._rates[j]

    def _score(self, means: Sequence[Tensor], i: int, j: int) -> Tensor:
        if self._settings.gates == "symmetric":
            i, j = min(i, j), max(i, j)
        gate: Tensor = self.gates[i * len(self._rates) + j](torch.cat([means[i], means[j]], dim=-1))
        return gate.squeeze(-1)


def _convolved(layer: nn.Module, tokens: Tensor) -> Tensor:
    """A convolution along time of `[B, L, D]` as one matrix product, which on streams this short is much faster."""
    assert isinstance(layer, nn.Conv1d)
    taps, stride, padding = layer.kernel_size[0], layer.stride[0], int(layer.padding[0])
    seen = functional.pad(tokens, (0, 0, padding, padding)).unfold(1, taps, stride).flatten(2)
    return functional.linear(seen, layer.weight.flatten(1), layer.bias)


def _stretched(tokens: Tensor, length: int) -> Tensor:
    """`[B, L, D]` at another length, by linear interpolation; rates that divide each other need none downwards."""
    if tokens.shape[1] == length:
        return tokens
    return functional.interpolate(tokens.transpose(1, 2), size=length, mode="linear", align_corners=False).transpose(
        1, 2
    )
