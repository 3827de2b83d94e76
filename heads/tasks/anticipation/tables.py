"""A result of the anticipation task as tables and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vfc.heads.results.figures import segments_picture
from vfc.heads.results.tables import Table

Grid = Sequence[Sequence[float]]


def tables(result: Mapping[str, Any]) -> list[Table]:
    """MoC of the head, of the best epoch on the test videos if asked for, and of the trivial predictors."""
    columns = [f"{a:g}→{p:g}" for a in result["observe"] for p in result["predict"]]
    rows = [cells(f"{result.get('head', 'head')}, last epoch", result["moc"])]
    best = best_on_test(result)
    if best is not None:
        rows.append(cells(f"best on test (update {best['step']}; chosen on the test videos, no result)", best["moc"]))
    rows += [cells(other["name"], other["moc"]) for other in result["baselines"]]
    rows.append(("classes counted", *[str(n) for row in result["classes_counted"] for n in row], ""))
    rate = "every label frame" if result["rate"] == "full" else f"one label frame in {result['stride']}"
    title = f"MoC in %, {result['split']}, {result['videos']} test videos, {rate} scored; observed→predicted"
    return [Table(title, ("", *columns, "mean"), tuple(rows))]


def cells(name: str, moc: Grid) -> tuple[str, ...]:
    """One row: the grid in percent, and its mean."""
    flat = [value for row in moc for value in row]
    return (name, *[f"{100 * value:.2f}" for value in flat], f"{100 * sum(flat) / len(flat):.2f}")


def best_on_test(result: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The validation whose mean over the grid was highest: `step` and `moc`; None where test was not watched."""
    watched = result.get("watched") or ()
    return max(watched, key=lambda row: sum(map(sum, row["moc"])), default=None)


def pictures(result: Mapping[str, Any]) -> list[str]:
    """Segments of a few test videos, prediction below truth, as SVG."""
    by_ratio: dict[float, list[Mapping[str, Any]]] = {}
    for row in result["pictures"]:
        by_ratio.setdefault(row["observed"], []).append(row)
    return [
        segments_picture(
            f"{ratio:g} observed",
            [(f"{row['video']} {which}", row[which], row["start"]) for row in rows for which in ("truth", "predicted")],
            result["class_names"],
        )
        for ratio, rows in by_ratio.items()
    ]
