"""Kinetics-400, -600, -700: a CSV with `youtube_id,time_start,time_end`, or the JSON of the same download."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vfc.cache_schema.values.errors import BadInput
from vfc.extract.collection.document import Document
from vfc.extract.collection.listing import Listing, Row

from .format import Format, known_split, seconds


def _read(document: Document) -> Listing | None:
    if {"youtube_id", "time_start", "time_end"} <= set(document.columns):
        rows = tuple(_csv_rows(document))
    elif _is_json(document.json):
        rows = tuple(_json_rows(document))
    else:
        return None
    return Listing(document.path, FORMAT.name, rows)


def _csv_rows(document: Document) -> Iterator[Row]:
    for where, values in document.table():
        times = values["time_start"], values["time_end"]
        yield _row(document, where, values["youtube_id"], values.get("label", ""), times, values.get("split", ""))


def _is_json(content: Any) -> bool:
    if not isinstance(content, dict) or not content:
        return False
    first = next(iter(content.values()))
    annotations = first.get("annotations") if isinstance(first, dict) else None
    return isinstance(annotations, dict) and "segment" in annotations


def _json_rows(document: Document) -> Iterator[Row]:
    for video, values in document.json.items():
        where, annotations = f"{document.path}, {video}", values.get("annotations", {})
        segment = annotations.get("segment") or ["", ""]
        times = str(segment[0]), str(segment[1])
        yield _row(document, where, video, annotations.get("label", ""), times, values.get("subset", ""))


def _row(document: Document, where: str, video: str, label: str, times: tuple[str, str], split: str) -> Row:
    """A clip `<id>_<start>_<end>.mp4` with six digits each, in a folder of its split, as the archives have them."""
    video = video.strip()
    if not video:
        raise BadInput(f"{where}: it has no youtube_id.", "Download the list again.")
    start, end = (int(seconds(time, where)) for time in times)
    split = known_split(split) or document.split
    folder = f"{split}/" if split else ""
    # An id may begin with - and hold _: files are found by its 11 characters, see `lookup`.
    return Row(f"{folder}{video}_{start:06d}_{end:06d}.mp4", label.strip(), split, where, "id")


FORMAT = Format(
    "Kinetics",
    "a CSV with the columns `youtube_id`, `time_start`, `time_end` (and `label`, `split`)",
    "kinetics-400_train.csv",
    _read,
)
