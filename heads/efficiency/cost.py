"""What a head costs on a store, and beside it what the papers print."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import cast

from vfc.cache_schema.values.record import Json


@dataclass(frozen=True)
class Timing:
    """Seconds per unit: median, and the quarter of the rounds below `low` and above `high`."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Timing:
        """The timing of rounds, one number each."""
        if len(seconds) == 1:
            return cls(seconds[0], seconds[0], seconds[0])
        low, median, high = statistics.quantiles(seconds, n=4, method="inclusive")
        return cls(median, low, high)


@dataclass(frozen=True)
class Model:
    """The model that made the features. `parameters`: of what is loaded; `flops`: operations for one clip."""

    name: str
    parameters: int
    flops: int


@dataclass(frozen=True)
class HeadCost:
    """A head on a store, per unit (a task, clip, window or frame), which needs `clips` clips.

    `training`, `scoring`: read from the store, forward, and for training backward and the update. `reading`: the part
    that waited for the store. `online_*`: the same with the model in the loop (decode, pixels, forward) instead of the
    store; `no_online`: why these are None. Memory in bytes. `trained` is 0 and the training None for a head that has
    nothing to train. `flops_once`: operations of what a test does once for all units (class texts).
    """

    head: str
    store: str
    run: str
    unit: str
    clips: int
    batch: int
    trained: int
    parameters: int
    flops: int
    flops_once: int
    scoring: Timing
    reading: Timing
    scoring_memory: int
    training: Timing | None = None
    training_memory: int | None = None
    model: Model | None = None
    online_scoring: Timing | None = None
    online_training: Timing | None = None
    no_online: str = ""

    def to_json(self) -> dict[str, Json]:
        """Seconds, bytes and counts; `ratio`: online over offline, of the medians."""
        content = cast("dict[str, Json]", asdict(self))
        return {**content, "ratio_scoring": self.ratio_scoring, "ratio_training": self.ratio_training}

    @property
    def ratio_scoring(self) -> float | None:
        """How many times as long scoring takes with the model in the loop."""
        return None if self.online_scoring is None else self.online_scoring.median / self.scoring.median

    @property
    def ratio_training(self) -> float | None:
        """The same of a training step."""
        if self.online_training is None or self.training is None:
            return None
        return self.online_training.median / self.training.median


@dataclass(frozen=True)
class PaperCost:
    """A row of a paper beside the same head here. Operations are given as that paper counts them.

    `flops`: of the head without what the paper leaves out; `flops_of_all`: two per multiply-add, everything counted;
    `flops_once`: of what a test does once for all units (class texts), likewise.
    """

    row: str
    unit: str
    parameters: int
    parameters_printed: int | None
    flops_of_all: int
    flops_once: int
    flops: int
    flops_printed: float | None
    model: Model | None
    model_flops: int | None
    model_flops_printed: float | None
    differs: str

    def to_json(self) -> dict[str, Json]:
        """The fields."""
        return cast("dict[str, Json]", asdict(self))
