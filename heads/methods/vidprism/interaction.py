"""DBI, the dynamic bilateral interaction: gated exchange between streams of different frame rate."""

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
    """Which streams add to which, and how; the fields are those of the head's settings."""

    interaction: Literal["dbi", "slow-to-fast", "fast-to-slow"] = "dbi"
    pairs: Literal["slow-fast", "all"] = "slow-fast"
    gates: Literal["directed", "symmetric"] = "directed"
    threshold: float = 0.3
    threshold_on: Literal["sample", "batch"] = "sample"
    sources: Literal["accumulate", "overwrite"] = "accumulate"


class Interaction(nn.Module):
    """A gate per ordered pair of streams, one projection from slow to fast, a convolution per pair from fast to slow.

    There is a gate for every pair, also the unused ones, because the released weights hold them.
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
        self._pairs = [(i, j) for i, j in between if (ups if self._is_slow_to_fast(i, j) else downs)]
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
                if not self._is_slow_to_fast(i, j)
            }
        )

    @property
    def idle(self) -> bool:
        """Whether no streams interact."""
        return not self._pairs

    def forward(self, streams: Sequence[Tensor]) -> list[Tensor]:
        """Streams `[B, T_i, D]` to the same plus what the others add; all sources are the input streams."""
        means = [stream.mean(dim=1) for stream in streams]
        # A projection commutes with interpolation, and slow streams are short: project once, then interpolate.
        projected = {
            i: _convolved(self.up, streams[i]) for i in {i for i, j in self._pairs if self._is_slow_to_fast(i, j)}
        }
        outputs = list(streams)
        for i, j in self._pairs:
            score = self._score(means, i, j)
            deciding = score.mean() if self._settings.threshold_on == "batch" else score
            passes = (deciding >= self._settings.threshold).expand_as(score)[:, None, None]
            message = projected[i] if self._is_slow_to_fast(i, j) else _convolved(self.down[f"{i}-{j}"], streams[i])
            added = score[:, None, None] * _interpolated(message, streams[j].shape[1])
            if self._settings.sources == "overwrite":
                outputs[j] = torch.where(passes, streams[j] + added, outputs[j])
            else:
                outputs[j] = outputs[j] + added * passes
        return outputs

    def _is_slow_to_fast(self, i: int, j: int) -> bool:
        return self._rates[i] > self._rates[j]

    def _score(self, means: Sequence[Tensor], i: int, j: int) -> Tensor:
        if self._settings.gates == "symmetric":
            i, j = min(i, j), max(i, j)
        gate: Tensor = self.gates[i * len(self._rates) + j](torch.cat([means[i], means[j]], dim=-1))
        return gate.squeeze(-1)


def _convolved(layer: nn.Module, tokens: Tensor) -> Tensor:
    """A convolution along time of `[B, L, D]` as one matrix product, which is much faster on such short streams."""
    assert isinstance(layer, nn.Conv1d)
    taps, stride, padding = layer.kernel_size[0], layer.stride[0], int(layer.padding[0])
    patches = functional.pad(tokens, (0, 0, padding, padding)).unfold(1, taps, stride).flatten(2)
    return functional.linear(patches, layer.weight.flatten(1), layer.bias)


def _interpolated(tokens: Tensor, length: int) -> Tensor:
    """`[B, L, D]` resampled to `length` tokens by linear interpolation."""
    if tokens.shape[1] == length:
        return tokens
    return functional.interpolate(tokens.transpose(1, 2), size=length, mode="linear", align_corners=False).transpose(
        1, 2
    )
