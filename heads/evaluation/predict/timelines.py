"""Predicted segments as tables, JSON and strips of colour."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from vfc.cache_schema.values.record import Json
from vfc.heads.results.facts import fact_rows, facts_table
from vfc.heads.results.tables import Table

from .page import Card


@dataclass(frozen=True)
class Segment:
    """Frames `start` to `stop` (not included) of one class; an empty label: no class was predicted."""

    label: str
    start: int
    stop: int


@dataclass(frozen=True)
class Timeline:
    """The segments of one video of `frames` frames, the first at frame `start`.

    `observed`: the share of the video that the head saw; None where it labels the video itself. `fps`: None where the
    rows of the features are not all frames of the video.
    """

    query: str
    frames: int
    observed: float | None
    start: int
    segments: tuple[Segment, ...]
    fps: float | None = None

    def row(self) -> dict[str, Json]:
        """As a line of predictions.jsonl."""
        segments: list[Json] = [{"class": s.label, "start": s.start, "stop": s.stop} for s in self.segments]
        share: dict[str, Json] = {} if self.observed is None else {"observed": self.observed}
        return {"query": self.query, "frames": self.frames, "fps": self.fps, **share, "segments": segments}


@dataclass(frozen=True)
class Timelines:
    """Segments of all videos of a call; see `result.Predictions`."""

    timelines: tuple[Timeline, ...]
    class_names: tuple[str, ...]
    training: Mapping[str, Any]
    notes: tuple[str, ...] = ()

    @property
    def queries(self) -> tuple[str, ...]:
        """The videos, as they are shown."""
        return tuple(dict.fromkeys(each.query for each in self.timelines))

    def to_json(self) -> dict[str, Json]:
        """One row per video and observed share, the notes, and the data that the head was trained on."""
        facts: dict[str, Json] = {**fact_rows(self.training)}
        return {"predictions": [*self.rows()], "notes": [*self.notes], "training": facts}

    def rows(self) -> list[dict[str, Json]]:
        """One row per video and observed share."""
        return [each.row() for each in self.timelines]

    def tables(self) -> list[Table]:
        """One line per segment, and the data that the head was trained on."""
        columns = ("video", "observed", "class", "frames", "seconds")
        lines = tuple(
            (name, share, label or "none", f"{start}-{stop}", f"{first}-{last}" if first else "")
            for name, share, label, start, stop, first, last in self._lines()
        )
        title = f"Predicted segments of {len(self.queries)} videos"
        return [Table(title, columns, lines), *facts_table({"": self.training}, "Data of the training")]

    def csv_rows(self) -> Iterable[tuple[str, ...]]:
        """The heading, then one line per segment; seconds are empty where they are not known."""
        yield "video", "observed", "class", "start_frame", "stop_frame", "start_seconds", "stop_seconds"
        yield from self._lines()

    def _lines(self) -> Iterable[tuple[str, ...]]:
        for each in self.timelines:
            share = "" if each.observed is None else f"{each.observed:g}"
            for part in each.segments:
                seconds = (f"{at / each.fps:.2f}" if each.fps else "" for at in (part.start, part.stop))
                yield each.query, share, part.label, str(part.start), str(part.stop), *seconds

    def cards(self) -> Iterable[Card]:
        """One card per video: a strip per observed share, and its segments in words."""
        by_query: dict[str, list[Timeline]] = {}
        for each in self.timelines:
            by_query.setdefault(each.query, []).append(each)
        for name, timelines in by_query.items():
            first = next((part.label for part in timelines[0].segments if part.label), "")
            yield Card(name, first, None, "".join(map(self._strips, timelines)))

    def _strips(self, each: Timeline) -> str:
        stop = each.segments[-1].stop if each.segments else each.start
        past = f'<i class="past" style="flex:{each.start}" title="observed"></i>' if each.start else ""
        parts = "".join(
            f'<i style="flex:{part.stop - part.start};background:{self._colour(part.label)}" '
            f'title="{html.escape(_words(part, each.fps))}"></i>'
            for part in each.segments
        )
        words = "".join(
            f'<span><b style="background:{self._colour(part.label)}"></b>{html.escape(_words(part, each.fps))}</span>'
            for part in each.segments
        )
        title = (
            f"{each.frames} frames"
            if each.observed is None
            else f"after {100 * each.observed:g} % of {each.frames} frames, up to frame {stop}"
        )
        return f'<h3>{title}</h3><div class="strip">{past}{parts}</div><div class="key">{words}</div>'

    def _colour(self, label: str) -> str:
        """A hue per class, those of neighbours in the list far apart; transparent for no class."""
        if not label:
            return "transparent"
        hue = self.class_names.index(label) * 137.508 % 360
        return f"hsl({hue:.0f} 60% 55%)"


def _words(part: Segment, fps: float | None) -> str:
    label = part.label or "no class"
    return f"{label} {part.start / fps:.1f}-{part.stop / fps:.1f} s" if fps else f"{label} {part.start}-{part.stop}"
