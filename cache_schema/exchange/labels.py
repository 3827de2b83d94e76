"""Labels of imported records: from a CSV or JSONL, else from the folders in their names."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Final

from vfc.cache_schema.annotations import (
    Annotation,
    Annotations,
    read_annotations,
    require_split,
    update_rows,
    write_annotations,
)
from vfc.cache_schema.values.errors import BadInput, MissingPath

_COLUMNS: Final[Mapping[str, tuple[str, ...]]] = {
    "name": ("name", "path", "video", "file", "filename", "video_id", "id"),
    "label": ("label", "class", "action"),
    "split": ("split", "subset"),
    "fold": ("fold",),
    "start_seconds": ("start_seconds", "start"),
    "end_seconds": ("end_seconds", "end"),
}


def read_labels(path: Path) -> tuple[Annotation, ...]:
    """The rows of a JSONL of annotations, or of a CSV with a header (`name,label,split,fold,...`).

    Raises:
        MissingPath: no such file.
        BadInput: no column of names, or a row that cannot be used; file and line are named.
    """
    if path.suffix == ".jsonl":
        return read_annotations(path, any_split=False).rows
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            header = {(field or "").strip().lower(): field for field in reader.fieldnames or ()}
            chosen = {
                field: next((header[name] for name in titles if name in header), None)
                for field, titles in _COLUMNS.items()
            }
            if chosen["name"] is None:
                raise BadInput(
                    f"{path} has the columns {', '.join(header) or 'none'}, and none of names.",
                    "Give it a header: name,label,split (name is the record's, as `vfc store inspect` shows).",
                )
            return tuple(_row(row, chosen, f"{path}, line {reader.line_num}") for row in reader)
    except FileNotFoundError:
        raise MissingPath(f"There is no file of labels {path}.", "Give --labels a CSV or JSONL.") from None
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is not UTF-8 text (byte {error.start}).", "Save it as UTF-8.") from None


def _row(row: Mapping[str, str | None], chosen: Mapping[str, str | None], where: str) -> Annotation:
    texts = {field: (row.get(column) or "").strip() if column else "" for field, column in chosen.items()}
    try:
        start, end = (float(texts[f]) if texts[f] else None for f in ("start_seconds", "end_seconds"))
        return Annotation(texts["name"], texts["label"], require_split(texts["split"]), texts["fold"], start, end)
    except BadInput as error:
        raise BadInput(f"{where}: {error.problem}", error.remedy) from None
    except ValueError as error:
        raise BadInput(f"{where}: {error}.", "Times are seconds, as 1.5.") from None


def matched(rows: Iterable[Annotation], names: Sequence[str]) -> tuple[dict[str, Annotation], list[str]]:
    """Rows by the name of the record that each speaks of; and the names of rows that speak of none.

    A row's name is a record's, or that with a suffix (`clip.mp4` of `clip`), or the last part of it where only one
    record has it.

    Raises:
        BadInput: two rows for one record.
    """
    by_last: dict[str, list[str]] = {}
    for name in names:
        by_last.setdefault(PurePosixPath(name).name, []).append(name)
    records, row_of, strange = set(names), dict[str, Annotation](), []
    for row in rows:
        path = PurePosixPath(row.name)
        shorter = path.with_suffix("") if path.name else path
        spoken = [n for n in (row.name, str(shorter)) if n in records]
        by_last_name = [each[0] for n in (path.name, shorter.name) if len(each := by_last.get(n, [])) == 1]
        name = next(iter(spoken + by_last_name), "")
        if not name:
            strange.append(row.name)
        elif name in row_of:
            raise BadInput(f"{name!r} has two rows of labels.", "Every record has one row.")
        else:
            row_of[name] = dataclasses.replace(row, name=name)
    return row_of, strange


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
