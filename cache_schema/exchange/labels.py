"""Labels of imported records: from a table or the JSON of action detection, else from the folders in their names."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from vfc.cache_schema.annotations import (
    Annotation,
    Annotations,
    read_annotations,
    update_rows,
    write_annotations,
)
from vfc.cache_schema.annotations.names import require_split
from vfc.cache_schema.annotations.tables import matched, read_table
from vfc.cache_schema.values.errors import BadInput, MissingPath

__all__ = ["by_folder", "frame_rates", "matched", "rate_of", "read_labels", "update_annotations"]


def read_labels(path: Path) -> tuple[Annotation, ...]:
    """The rows of a table (see `read_table`), or one per video of a JSON of action detection.

    Raises:
        MissingPath: no such file.
        BadInput: no column of names, or a row that cannot be used; file and line are named.
    """
    if path.suffix.lower() != ".json":
        return read_table(path)
    return tuple(
        Annotation(name, _only_label(video), require_split(str(video.get("subset") or "")))
        for name, video in _database(path).items()
    )


def frame_rates(path: Path) -> Mapping[str, float]:
    """Frames per second of every video that a JSON of action detection says; none for other files."""
    if path.suffix.lower() != ".json":
        return {}
    videos = _database(path)
    return {name: float(video["fps"]) for name, video in videos.items() if float(video.get("fps") or 0) > 0}


def rate_of(name: str, rates: Mapping[str, float]) -> float | None:
    """The rate of a record, whose name may have a folder and the `v_` of ActivityNet before its id."""
    last = PurePosixPath(name).name
    return next((rates[each] for each in (name, last, last.removeprefix("v_")) if each in rates), None)


def _database(path: Path) -> Mapping[str, Mapping[str, Any]]:
    """Id -> entry of a JSON `database.<id>.{subset,duration,fps,annotations[{label,segment}]}`."""
    try:
        content = json.loads(path.read_text("utf-8-sig"))
    except FileNotFoundError:
        raise MissingPath(f"There is no file of labels {path}.", "Give a CSV or JSONL.") from None
    except ValueError as error:
        raise BadInput(f"{path} is not JSON: {error}.", "Fetch it again.") from None
    videos = content.get("database") if isinstance(content, dict) else None
    if not isinstance(videos, dict) or not all(isinstance(video, dict) for video in videos.values()):
        raise BadInput(
            f"{path} is JSON without a `database` of videos.",
            "Give a CSV or JSONL with name,label,split, or the JSON of ActionFormer, OpenTAD or ActivityNet.",
        )
    return videos


def _only_label(video: Mapping[str, Any]) -> str:
    """The class of all segments of a video; nothing where there are several."""
    labels = {str(segment.get("label", "")).strip() for segment in video.get("annotations") or ()}
    return labels.pop() if len(labels) == 1 else ""


def by_folder(names: Sequence[str]) -> dict[str, Annotation]:
    """The folder as label, if every name has one."""
    if not names or not all("/" in name for name in names):
        return {}
    return {name: Annotation(name, name.split("/", 1)[0]) for name in names}


def update_annotations(
    store: Path, name: str, rows: Mapping[str, Annotation], otherwise: Mapping[str, Annotation]
) -> tuple[str, ...]:
    """Write a set of annotations: the given rows, else those that were there, else `otherwise`.

    The names of rows that are not given and lost their split, because another one was given to others; see
    `update_rows`.
    """
    path = store / "annotations" / f"{name}.jsonl"
    before = read_annotations(path) if path.is_file() else None
    rows_before = {row.name: row for row in before.rows} if before else {}
    others = Annotations(tuple({**otherwise, **rows_before}.values()))
    update = update_rows(others, Annotations(tuple(rows.values())), lambda _: True)
    if update.annotations != before:
        write_annotations(store, name, update.annotations)
    return update.unsplit
