"""Statistics over runs: mean and deviation over seeds, and paired differences on the same test items.

One group of runs is better than another beyond the interval if the 95 % interval of the paired difference (seeds
averaged first, Student's t over test classes, files or videos) is above 0, there are two seeds or more, and the
difference has the same sign in every seed.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vfc.cache_schema.annotations.groups import group_of
from vfc.cache_schema.values.errors import BadInput
from vfc.cache_schema.values.record import Json
from vfc.heads.results.tables import read_rows

from .intervals import DRAWS, Units, bootstrap, mean_interval, over_units
from .run_folder import read_items

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

    @cached_property
    def units(self) -> Units:
        """What the interval of a difference is over: test classes (few-shot), videos, or files with several items."""
        task, confusion = self.row.get("task"), self.row.get("confusion")
        if task == "fewshot" and confusion:
            rows = zip(self.row["per_class"], np.array(confusion), strict=True)
            return Units("test classes", {n: (float(r[i]), float(r.sum())) for i, (n, r) in enumerate(rows) if r.sum()})
        if task == "anticipation":
            return self._by("videos", "videos", lambda item: item.rpartition(" after ")[0])
        if task == "classification":
            return self._by("videos", "files", group_of)
        return self._by("items", "items", str)

    def _by(self, alone: str, several: str, unit_of: Callable[[str], str]) -> Units:
        """Items by unit, named `alone` where every item is a unit of its own."""
        values: dict[str, list[float]] = {}
        for item, value in self.items.items():
            values.setdefault(unit_of(item), []).append(value)
        sums = {unit: (sum(of_unit), float(len(of_unit))) for unit, of_unit in values.items()}
        return Units(alone if len(sums) == len(self.items) else several, sums)


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

    def units(self, seed: int) -> Units:
        """The units of the runs of one seed, over all its lists."""
        return reduce(add, (run.units for run in self.runs if run.seed == seed))

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
            "interval_over_lists": mean_interval(lists) if len(lists) > 2 else None,
            "runs": [str(run.folder) for run in self.runs],
        }


@dataclass(frozen=True)
class Difference:
    """The accuracy difference of two groups, from -1 to 1: mean, 95 % interval, and the mean of each pair of seeds.

    The interval is over `units` units named `over`; `over_items` is the bootstrap interval over the `items` themselves.
    """

    mean: float
    low: float
    high: float
    per_seed: tuple[float, ...]
    items: int
    over: str = "items"
    units: int = 0
    over_items: tuple[float, float] = (-1.0, 1.0)

    @property
    def beyond(self) -> bool:
        """Whether the first group is better beyond the interval, and in every seed of two or more."""
        return self.low > 0 and len(self.per_seed) > 1 and all(value > 0 for value in self.per_seed)

    def to_json(self) -> dict[str, Json]:
        """All of it."""
        return {
            "mean": self.mean,
            "low": self.low,
            "high": self.high,
            "over": self.over,
            "units": self.units,
            "over_items": [*self.over_items],
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
    seed of the other. Items of several lists (folds, splits) are pooled; a class or file of several lists is one unit.

    Raises:
        BadInput: the seeds or the items differ.
    """
    pairs = _seed_pairs(first, second)
    parts, sums = [], []
    for seed, other in pairs:
        ours, theirs = first.of_seed(seed), second.of_seed(other)
        units, others = first.units(seed).sums, second.units(other).sums
        if ours.keys() != theirs.keys() or units.keys() != others.keys():
            raise BadInput(
                f"The runs were not tested on the same items: {len(ours)} and {len(theirs)} items, "
                f"{len(ours.keys() & theirs.keys())} in common.",
                "Use the same store, annotations, splits, folds and test settings for both.",
            )
        parts.append([ours[item] - theirs[item] for item in sorted(ours)])
        sums.append([units[unit][0] - others[unit][0] for unit in sorted(units)])
    differences = np.array(parts)
    over = first.units(first.seeds[0])
    counts = np.array([over.sums[unit][1] for unit in sorted(over.sums)])
    _, half = over_units(np.array(sums).mean(axis=0), counts)
    mean, half = float(differences.mean()), min(half, 2.0)
    return Difference(
        mean,
        max(-1.0, mean - half),
        min(1.0, mean + half),
        tuple(map(float, differences.mean(axis=1))),
        differences.shape[1],
        over.name,
        len(counts),
        bootstrap(differences.mean(axis=0), draws),
    )


def _seed_pairs(first: Group, second: Group) -> list[tuple[int, int]]:
    if 1 in (len(first.seeds), len(second.seeds)):
        return list(itertools.product(first.seeds, second.seeds))
    if first.seeds == second.seeds:
        return [(seed, seed) for seed in first.seeds]
    raise BadInput(
        f"The runs have different seeds: {_listed(first.seeds)} and {_listed(second.seeds)}.",
        "Train both with the same --seed numbers.",
    )


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))
