"""Predictions as tables, JSON and files."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from vfc.cache_schema.parts.atomic_files import replace_file
from vfc.cache_schema.values.record import Json
from vfc.heads.results.facts import fact_rows, facts_table
from vfc.heads.results.tables import Table, lines_of, percent

from .page import Card, Pictures, bars, page


class Predictions(Protocol):
    """What was predicted for the videos of a call: `Prediction` of classes, `Timelines` of segments."""

    @property
    def queries(self) -> tuple[str, ...]:
        """The videos, as they are shown."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user must know besides."""

    def to_json(self) -> dict[str, Json]:
        """All of it, and the data that the head was trained on."""

    def tables(self) -> list[Table]:
        """The same for the command line."""

    def rows(self) -> list[dict[str, Json]]:
        """Lines of a .jsonl file."""

    def csv_rows(self) -> Iterable[Sequence[Any]]:
        """Lines of a .csv file, its heading first."""

    def cards(self) -> Iterable[Card]:
        """One card per video for the page."""


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

    def csv_rows(self) -> Iterable[Sequence[Any]]:
        """The heading, then one line per query."""
        ranked = self.ranked()
        count = len(ranked[0][1]) if ranked else 0
        yield "video", *(f"{word}_{place + 1}" for place in range(count) for word in ("class", "probability"))
        for name, classes in ranked:
            yield name, *(value for pair in classes for value in pair)

    def cards(self) -> Iterable[Card]:
        """One card per query with a bar per class."""
        for name, classes in self.ranked():
            yield Card(name, *classes[0], bars(classes))

    def ranked(self) -> list[tuple[str, list[tuple[str, float]]]]:
        """Every query with its likeliest classes and their probabilities, the likeliest first."""
        return [
            (name, sorted(zip(self.classes, shares, strict=True), key=lambda pair: -pair[1])[: self.top])
            for name, shares in zip(self.queries, self.shares, strict=True)
        ]


def write(predictions: Predictions, path: Path, title: str, pictures: Pictures | None = None) -> None:
    """Write predictions as a table (.csv), as rows of JSON (.jsonl) or as a page (.html) with `pictures` of videos."""
    suffix = path.suffix.lower()
    if suffix == ".html":
        content = page(title, predictions.cards(), predictions.notes, pictures)
    elif suffix == ".csv":
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(predictions.csv_rows())
        content = text.getvalue()
    else:
        content = lines_of(predictions.rows())
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, content.encode())
