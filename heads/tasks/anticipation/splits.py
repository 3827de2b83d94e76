"""Tables of several splits and seeds of one protocol: means over splits, per-split rows, paired differences."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from vfc.cache_schema.values.errors import BadInput
from vfc.heads.results.tables import Table
from vfc.heads.runs.intervals import mean_interval

from .tables import cells

Grids = Mapping[str, npt.NDArray[np.float64]]

_ALIKE: Final = ("store_digest", "observe", "predict", "rate")


def per_split(results: Sequence[Mapping[str, Any]]) -> dict[str, Grids]:
    """Predictor -> split -> MoC `[A, P]`, seeds averaged; heads first, then the trivial ones.

    Raises:
        BadInput: results of different stores or protocols; one head, split and seed twice; seeds missing in a split.
    """
    for name in _ALIKE:
        values = {str(result[name]) for result in results}
        if len(values) != 1:
            raise BadInput(
                f"These runs differ in {name}: {', '.join(sorted(values)) or 'there are none'}.",
                "Give runs of one store and one protocol: splits, seeds and heads may differ.",
            )
    by_head: dict[str, dict[str, dict[int, Any]]] = {}
    for result in results:
        seeds = by_head.setdefault(result["head"], {}).setdefault(result["split"], {})
        if result["seed"] in seeds:
            raise BadInput(
                f"{result['head']} on {result['split']} with seed {result['seed']} is there twice.",
                "Give one run of each; other settings of a head are compared in another report.",
            )
        seeds[result["seed"]] = result["moc"]
    grids: dict[str, Grids] = {}
    for head, splits in by_head.items():
        if len({tuple(sorted(seeds)) for seeds in splits.values()}) > 1:
            listed = "; ".join(f"{split}: {sorted(seeds)}" for split, seeds in sorted(splits.items()))
            raise BadInput(f"The splits of {head} have different seeds: {listed}.", "Run the seeds that are missing.")
        grids[head] = {split: np.mean(list(seeds.values()), axis=0) for split, seeds in sorted(splits.items())}
    trivial: dict[str, dict[str, Any]] = {}
    for result in results:
        for other in result["baselines"]:
            trivial.setdefault(other["name"], {})[result["split"]] = np.array(other["moc"])
    return {**grids, **{name: dict(sorted(splits.items())) for name, splits in trivial.items()}}


def over_runs(results: Sequence[Mapping[str, Any]]) -> list[Table]:
    """`over_splits` of each store and protocol by itself; one that is not complete is named with what it lacks."""
    parts: dict[str, list[Mapping[str, Any]]] = {}
    for result in results:
        parts.setdefault(str([result[name] for name in _ALIKE]), []).append(result)
    drawn: list[Table] = []
    for part in parts.values():
        try:
            drawn += over_splits(part)
        except BadInput as error:
            drawn.append(Table(error.problem, (error.remedy,), ()))
    return drawn


def over_splits(results: Sequence[Mapping[str, Any]]) -> list[Table]:
    """Means over splits of every predictor; every split of every head; each head less each trivial predictor."""
    grids, first = per_split(results), results[0]
    heads = list(dict.fromkeys(result["head"] for result in results))
    columns = [f"{a:g}→{p:g}" for a in first["observe"] for p in first["predict"]]
    seeds = {head: sorted({r["seed"] for r in results if r["head"] == head}) for head in heads}
    means = [
        cells(f"{name} ({len(splits)} splits)", np.mean(list(splits.values()), axis=0).tolist())
        for name, splits in grids.items()
    ]
    rows = [
        cells(f"{head}, {split}, {len(seeds[head])} seeds", grid.tolist())
        for head in heads
        for split, grid in grids[head].items()
    ]
    differences = [_difference(h, grids[h], name, grids[name]) for h in heads for name in grids if name not in heads]
    scored = "every label frame scored" if first["rate"] == "full" else "subsampled labels scored"
    return [
        Table(f"MoC in %, mean over splits, {scored}; observed→predicted", ("", *columns, "mean"), tuple(means)),
        Table("Every split, seeds averaged", ("", *columns, "mean"), tuple(rows)),
        Table(
            "Difference of the means over all columns, in points, paired over splits",
            ("", "mean ± 95 %", "splits above 0", "every split"),
            tuple(differences),
        ),
    ]


def _difference(head: str, of_head: Grids, name: str, of_name: Grids) -> tuple[str, ...]:
    points = [100 * float((of_head[split] - of_name[split]).mean()) for split in of_head]
    half = "" if len(points) < 3 else f" ± {mean_interval(np.array(points)):.2f}"
    above = sum(value > 0 for value in points)
    return (
        f"{head} - {name}",
        f"{statistics.mean(points):+.2f}{half}",
        f"{above} of {len(points)}",
        ", ".join(f"{value:+.2f}" for value in points),
    )
