"""How often a rule calls two few-shot methods of equal expected accuracy different: it should in 5 % of trials.

Each trial draws a data set of C classes with n clips and two methods, each with features of its own of these clips:
class centres and clips around them. Both methods (nearest mean of the support clips) are scored on the same tasks:
5-way, one query per class, K shots. Then the paired difference gets its interval over tasks (1.96 standard errors),
and over test classes (`heads.runs.intervals`). Three nulls, in all of which no method is better on average:

- `clips`: class centres are shared, only the clips fall differently in the features of the two methods;
- `difficulty`: besides, each class is easier or harder for a method, independently of the other classes;
- `geometry`: half of the variance of the class centres is the method's own, so that two classes that lie close for one
  method are both hard for it. The classes then are not independent, and an interval over classes is too narrow.

    python tests/benchmarks/null_simulation.py --trials 400 --table tests/benchmarks/null_simulation.md

The small version of it is a test: tests/heads/runs/test_null_simulation.py.
"""

from __future__ import annotations

import argparse
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vfc.cache_schema.parts.atomic_files import replace_file
from vfc.heads.runs.intervals import over_units

Numbers = npt.NDArray[np.float64]
SIZES = ((6, 10), (10, 120), (24, 100))
SHOTS = (1, 5)
WAY, WIDTH = 5, 8
"""Classes per task, width of the features."""
NULLS = {"clips": (0.0, 0.0), "difficulty": (0.0, 0.15), "geometry": (0.5, 0.0)}
"""Share of the centres' variance that is the method's own; deviation of the logarithm of a class's spread."""


@dataclass(frozen=True)
class Case:
    """Classes, clips per class, shots and tasks of a test, and what differs between the methods."""

    classes: int
    clips: int
    shot: int
    tasks: int
    null: str = "difficulty"


def tasks_of(case: Case, generator: np.random.Generator) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Classes `[E, W]` and clips `[E, W, K + 1]` (the last is the query) of all tasks."""
    classes = generator.random((case.tasks, case.classes)).argsort(axis=1)[:, :WAY]
    draws = generator.random((case.tasks, WAY, case.clips))
    return classes, np.argpartition(draws, case.shot, axis=2)[:, :, : case.shot + 1]


def right_queries(
    case: Case, tasks: tuple[npt.NDArray[Any], npt.NDArray[Any]], shared: Numbers, generator: np.random.Generator
) -> npt.NDArray[Any]:
    """Whether each query `[E, W]` is named by a method with features drawn anew around `shared` centres `[C, 1, D]`."""
    own, deviation = NULLS[case.null]
    centres = np.sqrt(1 - own) * shared + np.sqrt(own) * generator.normal(size=shared.shape)
    spread = np.exp(deviation * generator.normal(size=(case.classes, 1, 1)))
    features = centres + spread * generator.normal(size=(case.classes, case.clips, WIDTH))
    chosen = features[tasks[0][:, :, None], tasks[1]]
    prototypes, queries = chosen[:, :, :-1].mean(axis=2), chosen[:, :, -1]
    distances = ((queries[:, :, None] - prototypes[:, None]) ** 2).sum(axis=-1)
    return np.asarray(distances.argmin(axis=2) == np.arange(WAY))


def errors(case: Case, trials: int, seed: int = 0) -> tuple[float, float]:
    """The share of trials in which the interval over tasks, and that over classes, leaves 0 out."""
    generator = np.random.default_rng([seed, case.classes, case.clips, case.shot])
    outside = np.zeros(2)
    for _ in range(trials):
        tasks = tasks_of(case, generator)
        shared = generator.normal(size=(case.classes, 1, WIDTH))
        first, second = (right_queries(case, tasks, shared, generator).astype(float) for _ in range(2))
        per_query: Numbers = first - second
        per_task = per_query.mean(axis=1)
        over_tasks = 1.96 * per_task.std() / np.sqrt(case.tasks)
        sums = np.bincount(tasks[0].ravel(), per_query.ravel(), minlength=case.classes)
        counts = np.bincount(tasks[0].ravel(), minlength=case.classes).astype(float)
        mean, over_classes = over_units(sums, counts)
        outside += (abs(mean) > over_tasks, abs(mean) > over_classes)
    return float(outside[0] / trials), float(outside[1] / trials)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=400)
    parser.add_argument("--tasks", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--table", type=Path)
    given = parser.parse_args()
    lines = [
        "# How often each interval calls equal methods different",
        "",
        f"`python tests/benchmarks/null_simulation.py --trials {given.trials}`. Two methods of equal expected "
        "accuracy, 5-way tasks, one query per class; the script says how the three nulls are drawn. Nominal: 5 %. "
        f"{given.trials} trials per row: where the rate is 5 %, a row has a standard error of "
        f"{100 * np.sqrt(0.05 * 0.95 / given.trials):.1f} points.",
        "",
        "| methods differ in | classes x clips | shots | tasks "
        "| over tasks of these clips | over test classes (the rule) |",
        "|---|---|---|---|---|---|",
    ]
    for null, tasks, shot, (classes, clips) in itertools.product(NULLS, given.tasks, SHOTS, SIZES):
        over_tasks, over_classes = errors(Case(classes, clips, shot, tasks, null), given.trials)
        figures = f"{100 * over_tasks:.0f} % | {100 * over_classes:.1f} %"
        lines.append(f"| {null} | {classes} x {clips} | {shot} | {tasks:,} | {figures} |")
        print(lines[-1], flush=True)
    if given.table:
        replace_file(given.table, ("\n".join(lines) + "\n").encode())


if __name__ == "__main__":
    main()
