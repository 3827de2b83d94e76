"""Predictions as tables, JSON and files."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from vfc.cache_schema.parts.atomic_files import replace_file
from vfc.cache_schema.values.errors import BadInput
from vfc.cache_schema.values.record import Json
from vfc.heads.results.facts import fact_rows, facts_table
from vfc.heads.results.tables import Table, lines_of, percent

from .page import page

SUFFIXES: Final = (".csv", ".jsonl", ".html")


@dataclass(frozen=True)
class Prediction:
    """Probabilities of every query: `shares [Q, W]` add up to 1 per query.

    `training`: the result row of the head. `top`: how many classes are shown; None: all.
    """

    classes: tuple[str, ...]
    queries: tuple[str, ...]
    shares: tuple[tuple[float, ...], ...]
    notes: tuple[str, ...]
    training: Mapping[str, Any]
    top: int | None = None

    def to_json(self) -> dict[str, Json]:
        """One row per query, the notes, and the data that the head was trained on."""
        facts: dict[str, Json] = {**fact_rows(self.training)}
        return {"predictions": [*self.rows()], "notes": [*self.notes], "training": facts}

    def rows(self) -> list[dict[str, Json]]:
        """One row per query, its likeliest class first."""
        return [{"query": name, "class": ranked[0][0], "shares": dict(ranked)} for name, ranked in self.ranked()]

    def tables(self) -> list[Table]:
        """The predictions, and the data that the head was trained on."""
        return [*self._predictions(), *facts_table({"": self.training}, "Data of the training")]

    def _predictions(self) -> list[Table]:
        """One table per query, or (of the likeliest classes) one table with a row per query."""
        if self.top is None:
            return [
                Table(name, ("class", "share"), tuple((label, percent(share)) for label, share in ranked))
                for name, ranked in self.ranked()
            ]
        rows = tuple(
            (name, *(f"{label} {percent(share)}" for label, share in ranked)) for name, ranked in self.ranked()
        )
        columns = ("video", *(f"class {place + 1}" for place in range(min(self.top, len(self.classes)))))
        return [Table(f"{len(self.queries)} videos, {len(self.classes)} classes", columns, rows)]

    def ranked(self) -> list[tuple[str, list[tuple[str, float]]]]:
        """Every query with its likeliest classes and their probabilities, the likeliest first."""
        return [
            (name, sorted(zip(self.classes, shares, strict=True), key=lambda pair: -pair[1])[: self.top])
            for name, shares in zip(self.queries, self.shares, strict=True)
        ]


def require_suffixes(paths: Sequence[Path]) -> None:
    """Check that files can be written as their names say.

    Raises:
        BadInput: another suffix.
    """
    for path in paths:
        if path.suffix.lower() not in SUFFIXES:
            raise BadInput(
                f"--save {path} has no suffix that says how it is written.", f"Files are: {', '.join(SUFFIXES)}."
            )


def write(prediction: Prediction, path: Path, title: str) -> None:
    """Write predictions as a table (.csv), as rows of JSON (.jsonl) or as a page (.html)."""
    suffix = path.suffix.lower()
    if suffix == ".html":
        content = page(title, prediction.ranked(), prediction.notes)
    else:
        content = _csv(prediction) if suffix == ".csv" else lines_of(prediction.rows())
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, content.encode())


def _csv(prediction: Prediction) -> str:
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    count = len(prediction.ranked()[0][1]) if prediction.queries else 0
    rows.writerow(("video", *(f"{word}_{place + 1}" for place in range(count) for word in ("class", "probability"))))
    for name, ranked in prediction.ranked():
        rows.writerow((name, *(value for pair in ranked for value in pair)))
    return text.getvalue()
