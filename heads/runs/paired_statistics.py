"""Statistics over runs: mean and deviation over seeds, and paired differences on the same test items.

One group of runs is better than another beyond the interval if the 95 % bootstrap interval of the paired difference
(seeds averaged first, items resampled) is above 0 and the difference has the same sign in every seed.
"""

from __future__ import annotations

import itertools
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
    """A finished run: its folder, settings, test list, `correct` of each item, and the row of its result."""

    folder: Path
    settings: Mapping[str, Any]
    tested: str
    items: Mapping[str, float]
    row: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path) -> Run:
        """The run in a folder.

        Raises:
            MissingPath: no finished run, or one without items.
        """
        items = read_items(folder)
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        (row, *_) = read_rows(folder / "results.jsonl")
        return cls(folder, settings, json.dumps(row.get("list_digest")), items, row)

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
    """Runs that differ only in the seed and in the test list (folds, splits)."""

    runs: tuple[Run, ...]

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of the runs."""
        return tuple(sorted({run.seed for run in self.runs}))

    def of_seed(self, seed: int) -> Items:
        """(list, item) -> `correct`, of the runs of one seed."""
        return {(run.tested, item): value for run in self.runs if run.seed == seed for item, value in run.items.items()}

    def per_seed(self) -> npt.NDArray[np.float64]:
        """For each seed, the mean over its test lists."""
        accuracies = [[run.accuracy for run in self.runs if run.seed == seed] for seed in self.seeds]
        return np.array([np.mean(of_seed) for of_seed in accuracies])

    def per_list(self) -> npt.NDArray[np.float64]:
        """For each test list (fold, split), the mean over seeds."""
        lists = sorted({run.tested for run in self.runs})
        return np.array([np.mean([run.accuracy for run in self.runs if run.tested == tested]) for tested in lists])

    def to_json(self) -> dict[str, Json]:
        """Mean; standard deviation over seeds (2 or more); half width of the interval over lists (3 or more)."""
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
    """The accuracy difference of two groups, from -1 to 1: mean, 95 % interval, and the mean of each seed."""

    mean: float
    low: float
    high: float
    per_seed: tuple[float, ...]
    items: int

    @property
    def beyond(self) -> bool:
        """Whether the first group is better beyond the interval, and in every seed."""
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


def beyond(first: Sequence[Path], second: Sequence[Path], *, draws: int = DRAWS) -> Difference:
    """The difference of the runs in folders `first` minus those in `second`; see `difference`."""
    return difference(Group(tuple(map(Run.read, first))), Group(tuple(map(Run.read, second))), draws=draws)


def difference(first: Group, second: Group, *, draws: int = DRAWS) -> Difference:
    """The accuracy of `first` minus that of `second` on the same items, seeds averaged first.

    Seeds are paired by their number; a group with a single seed (a method without random draws) is paired with every
    seed of the other. Items of several lists (folds, splits) are pooled.

    Raises:
        BadInput: the seeds or the items differ.
    """
    if 1 in (len(first.seeds), len(second.seeds)):
        pairs = list(itertools.product(first.seeds, second.seeds))
    elif first.seeds == second.seeds:
        pairs = [(seed, seed) for seed in first.seeds]
    else:
        raise BadInput(
            f"The runs have different seeds: {_listed(first.seeds)} and {_listed(second.seeds)}.",
            "Train both with the same --seed numbers.",
        )
    parts = []
    for seed, other in pairs:
        ours, theirs = first.of_seed(seed), second.of_seed(other)
        if ours.keys() != theirs.keys():
            raise BadInput(
                f"The runs were not tested on the same items: {len(ours)} and {len(theirs)} items, "
                f"{len(ours.keys() & theirs.keys())} in common.",
                "Use the same store, annotations, splits, folds and test settings for both.",
            )
        parts.append([ours[item] - theirs[item] for item in sorted(ours)])
    differences = np.array(parts)
    low, high = bootstrap(differences.mean(axis=0), draws)
    return Difference(
        float(differences.mean()), low, high, tuple(map(float, differences.mean(axis=1))), differences.shape[1]
    )


def bootstrap(values: npt.NDArray[np.float64], draws: int = DRAWS, seed: int = 0) -> tuple[float, float]:
    """Bootstrap interval: 2.5 and 97.5 % quantiles of the mean of `draws` resamples of `values`."""
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
    """The 97.5 % quantile of Student's t; accurate to 3 % from 2 degrees of freedom, to 0.3 % from 5.

    By the Cornish-Fisher expansion (Abramowitz and Stegun 26.7.5).
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
