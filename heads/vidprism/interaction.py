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
        self._settings, self._count = settings, len(rates)
        self._ups = settings.interaction != "fast-to-slow"
        self._downs = settings.interaction != "slow-to-fast"
        between = [
            (i, j)
            for i in range(len(rates))
            for j in range(len(rates))
            if i != j and (settings.pairs == "all" or (rates[i] >= SLOW) != (rates[j] >= SLOW))
        ]
        self._pairs = [(i, j) for i, j in between if (self._ups if rates[i] > rates[j] else self._downs)]
        self.gates = nn.ModuleList(
            nn.Sequential(
                nn.Linear(2 * width, width // 4), nn.ReLU(inplace=True), nn.Linear(width // 4, 1), nn.Sigmoid()
            )
            for _ in range(len(rates) ** 2)
        )
        if self._ups:
            self.up = nn.Conv1d(width, width, 1)
        self.down = nn.ModuleDict(
            {
                f"{i}-{j}": nn.Conv1d(width, width, 5, stride=rates[j] // rates[i], padding=2, bias=False)
                for i, j in self._pairs
                if rates[i] < rates[j]
            }
        )

    @property
    def idle(self) -> bool:
        """Whether no stream acts on another."""
        return not self._pairs

    def forward(self, streams: Sequence[Tensor]) -> list[Tensor]:
        """Streams `[B, T_i, D]` to the same with what the others add; all sources are streams as they came in."""
        means = [stream.mean(dim=1) for stream in streams]
        turned = [stream.transpose(1, 2) for stream in streams]
        found = list(turned)
        for i, j in self._pairs:
            score = self._score(means, i, j)
            decides = score.mean() if self._settings.threshold_on == "batch" else score
            through = (decides >= self._settings.threshold).expand_as(score)[:, None, None]
            added = score[:, None, None] * self._moved(turned, i, j)
            if self._settings.sources == "overwrite":
                found[j] = torch.where(through, turned[j] + added, found[j])
            else:
                found[j] = found[j] + added * through
        return [stream.transpose(1, 2) for stream in found]

    def _score(self, means: Sequence[Tensor], i: int, j: int) -> Tensor:
        if self._settings.gates == "symmetric":
            i, j = min(i, j), max(i, j)
        gate: Tensor = self.gates[i * self._count + j](torch.cat([means[i], means[j]], dim=-1))
        return gate.squeeze(-1)

    def _moved(self, turned: Sequence[Tensor], i: int, j: int) -> Tensor:
        """Stream `i` at the length of stream `j`: `[B, D, T_i]` to `[B, D, T_j]`."""
        length = turned[j].shape[-1]
        if f"{i}-{j}" not in self.down:
            risen: Tensor = self.up(functional.interpolate(turned[i], size=length, mode="linear", align_corners=False))
            return risen
        sunk: Tensor = self.down[f"{i}-{j}"](turned[i])
        if sunk.shape[-1] != length:
            # Rates that are no multiples of each other: the stride is rounded down, and the rest interpolated.
            sunk = functional.interpolate(sunk, size=length, mode="linear", align_corners=False)
        return sunk
