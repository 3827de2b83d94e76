"""Runs beside each other: mean and deviation over seeds, and differences paired item by item.

One run is beyond another where the 95 % bootstrap interval of the paired difference (seeds averaged first, items drawn
anew) lies above 0 and the difference has the same sign in every seed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from vfc.cache_schema.values.errors import BadInput
from vfc.cache_schema.values.record import Json
from vfc.heads.results.tables import read_rows

from .run_folder import read_items

DRAWS: Final = 10_000
_AT_ONCE: Final = 1 << 22

Items = dict[tuple[str, str], float]


@dataclass(frozen=True)
class Run:
    """A finished run: its settings, its seed, the list it was tested on, and what each item came to."""

    folder: Path
    settings: Mapping[str, Any]
    tested: str
    items: Mapping[str, float]

    @classmethod
    def read(cls, folder: Path) -> Run:
        """The run in a folder.

        Raises:
            MissingPath: no finished run, or one that kept no items.
        """
        items = read_items(folder)
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        (row, *_) = read_rows(folder / "results.jsonl")
        return cls(folder, settings, json.dumps(row.get("list_digest")), items)

    @property
    def seed(self) -> int:
        """The seed of weights and training draws."""
        return int(self.settings["config"]["train"]["seed"])

    @property
    def accuracy(self) -> float:
        """The mean over its items."""
        return float(np.mean(list(self.items.values())))


@dataclass(frozen=True)
class Group:
    """Runs of one kind: they differ in the seed, and in what is tested (folds, splits) where that varies."""

    runs: tuple[Run, ...]

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds there are."""
        return tuple(sorted({run.seed for run in self.runs}))

    def of_seed(self, seed: int) -> Items:
        """(list, item) -> how right the runs of one seed were."""
        return {(run.tested, item): value for run in self.runs if run.seed == seed for item, value in run.items.items()}

    def per_seed(self) -> npt.NDArray[np.float64]:
        """For each seed the mean over the lists that it was tested on."""
        found = [[run.accuracy for run in self.runs if run.seed == seed] for seed in self.seeds]
        return np.array([np.mean(shares) for shares in found])

    def per_list(self) -> npt.NDArray[np.float64]:
        """For each list (fold, split) that was tested the mean over seeds."""
        lists = sorted({run.tested for run in self.runs})
        return np.array([np.mean([run.accuracy for run in self.runs if run.tested == tested]) for tested in lists])

    def to_json(self) -> dict[str, Json]:
        """Mean; deviation over seeds where there are several; half width of the interval over lists likewise."""
        seeds, lists = self.per_seed(), self.per_list()
        return {
            "mean": float(seeds.mean()),
            "std": float(seeds.std(ddof=1)) if len(seeds) > 1 else None,
            "seeds": len(seeds),
            "lists": len(lists),
            "interval_over_lists": _half_width(lists) if len(lists) > 2 else None,
            "runs": [str(run.folder) for run in self.runs],
        }


@dataclass(frozen=True)
class Difference:
    """What some runs are better by than others, in shares: the mean, its 95 % interval, and the same seed by seed."""

    mean: float
    low: float
    high: float
    per_seed: tuple[float, ...]
    items: int

    @property
    def beyond(self) -> bool:
        """Whether the first are better beyond the interval, and in every seed."""
        return self.low > 0 and all(value > 0 for value in self.per_seed)

    def to_json(self) -> dict[str, Json]:
        """All of it."""
        return {
            "mean": self.mean,
            "low": self.low,
            "high": self.high,
            "per_seed": [*self.per_seed],
            "items": self.items,
            "beyond": self.beyond,
        }


def beyond(here: Sequence[Path], there: Sequence[Path], *, draws: int = DRAWS) -> Difference:
    """By how much the runs `here` are better than the runs `there`, item by item; see `difference`."""
    return difference(Group(tuple(map(Run.read, here))), Group(tuple(map(Run.read, there))), draws=draws)


def difference(here: Group, there: Group, *, draws: int = DRAWS) -> Difference:
    """By how much one group of runs is better than another on the same items, seeds averaged first.

    Seeds are paired by their number; where one side has a single one (a method that draws nothing), it stands beside
    every seed of the other. Items of several lists (folds, splits) are one pool.

    Raises:
        BadInput: other seeds, or other items.
    """
    if len(here.seeds) == 1 or len(there.seeds) == 1:
        count = max(len(here.seeds), len(there.seeds))
        pairs = list(
            zip(here.seeds * (count // len(here.seeds)), there.seeds * (count // len(there.seeds)), strict=True)
        )
    elif here.seeds == there.seeds:
        pairs = [(seed, seed) for seed in here.seeds]
    else:
        raise BadInput(
            f"The runs have other seeds: {_listed(here.seeds)} here, {_listed(there.seeds)} there.",
            "Train both with the same --seed numbers.",
        )
    parts = []
    for seed, other in pairs:
        ours, theirs = here.of_seed(seed), there.of_seed(other)
        if ours.keys() != theirs.keys():
            raise BadInput(
                f"The runs were not tested on the same items: {len(ours)} here, {len(theirs)} there, "
                f"{len(ours.keys() & theirs.keys())} of them the same.",
                "Give both the same store, annotations, splits, folds and test settings.",
            )
        parts.append([ours[item] - theirs[item] for item in sorted(ours)])
    apart = np.array(parts)
    low, high = bootstrap(apart.mean(axis=0), draws)
    return Difference(float(apart.mean()), low, high, tuple(map(float, apart.mean(axis=1))), apart.shape[1])


def bootstrap(values: npt.NDArray[np.float64], draws: int = DRAWS, seed: int = 0) -> tuple[float, float]:
    """The 2.5 and 97.5 % points of the mean of `values` over `draws` samples of them with replacement."""
    generator, count = np.random.default_rng(seed), len(values)
    at_once = max(1, _AT_ONCE // count)
    means = np.concatenate(
        [
            values[generator.integers(count, size=(min(at_once, draws - start), count))].mean(axis=1)
            for start in range(0, draws, at_once)
        ]
    )
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def _half_width(values: npt.NDArray[np.float64]) -> float:
    """Half of Student's 95 % interval of the mean of a few values."""
    return student(len(values) - 1) * float(values.std(ddof=1)) / math.sqrt(len(values))


def student(freedom: int) -> float:
    """The 97.5 % point of Student's t, from 2 degrees of freedom up, to 3 %; from 5 up to 0.3 %.

    By the expansion of Cornish and Fisher (Abramowitz and Stegun 26.7.5).
    """
    z = 1.959964
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return float(sum(term / freedom**i for i, term in enumerate(terms)))


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))
