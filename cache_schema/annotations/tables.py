"""Labels as tables: CSV (comma, semicolon or tab, with or without a byte order mark) and JSONL with columns by name."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Final

from vfc.cache_schema.values.errors import BadInput, MissingPath

from .names import require_split
from .rows import Annotation, Annotations, read_annotations

COLUMNS: Final[Mapping[str, tuple[str, ...]]] = {
    "name": ("name", "path", "video", "file", "filename", "video_id", "id"),
    "label": ("label", "class", "action"),
    "split": ("split", "subset"),
    "fold": ("fold",),
    "start_seconds": ("start_seconds", "start"),
    "end_seconds": ("end_seconds", "end"),
    "group": ("group",),
}
_TABLES: Final = (".csv", ".tsv", ".jsonl", ".ndjson")


def is_table(path: Path) -> bool:
    """Whether a path is called as a table of labels is."""
    return path.suffix.lower() in _TABLES


def read_table(path: Path) -> tuple[Annotation, ...]:
    """The rows of a CSV with a header (`name,label,split,fold,...`), or of a JSONL with these fields.

    Raises:
        MissingPath: no such file.
        BadInput: no column of names, or a row that cannot be used; file and line are named.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except (FileNotFoundError, IsADirectoryError):
        raise MissingPath(f"There is no file of labels {path}.", "Give a CSV or JSONL.") from None
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is not UTF-8 text (byte {error.start}).", "Save it as UTF-8.") from None
    if path.suffix.lower() in (".jsonl", ".ndjson"):
        first = next((line for line in text.split("\n") if line.strip()), "{}")
        if '"name"' in first:
            return read_annotations(path, any_split=False).rows
        lines = _jsonl(path, text)
    else:
        lines = _csv(path, text)
    return tuple(_row(values, where) for where, values in lines)


def _csv(path: Path, text: str) -> Iterator[tuple[str, dict[str, str]]]:
    """(file and line, value by field) of every row."""
    separator = max(",;\t", key=text.split("\n", 1)[0].count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True)
    header = [column.strip().lower() for column in next(reader, [])]
    chosen = _chosen(path, header)
    for values in reader:
        if any(value.strip() for value in values):
            row = dict(zip(header, values, strict=False))
            yield f"{path}, line {reader.line_num}", {field: row.get(column, "") for field, column in chosen.items()}


def _jsonl(path: Path, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(text.split("\n"), start=1):
        where = f"{path}, line {number}"
        try:
            row = json.loads(line) if line.strip() else {}
        except json.JSONDecodeError as error:
            raise BadInput(f"{where}: not JSON ({error.msg}, column {error.colno}).", "One object per line.") from None
        if not isinstance(row, dict):
            raise BadInput(f"{where}: not a JSON object.", "One object per line, with name and label.")
        if row:
            lowered = {str(key).lower(): value for key, value in row.items()}
            chosen = _chosen(path, list(lowered))
            yield where, {field: lowered[column] for field, column in chosen.items()}


def _chosen(path: Path, header: Sequence[str]) -> dict[str, str]:
    """Field -> the column that holds it."""
    chosen = {
        field: column
        for field, titles in COLUMNS.items()
        if (column := next((title for title in titles if title in header), ""))
    }
    if "name" not in chosen:
        raise BadInput(
            f"{path} has the columns {', '.join(header) or 'none'}, and none of names.",
            "Give it a header: name,label,split (name is the record's, as `vfc store inspect` shows).",
        )
    return chosen


def _row(values: Mapping[str, Any], where: str) -> Annotation:
    texts = {field: "" if values.get(field) is None else str(values[field]).strip() for field in COLUMNS}
    try:
        start, end = (float(texts[f]) if texts[f] else None for f in ("start_seconds", "end_seconds"))
        split = require_split(texts["split"])
        return Annotation(texts["name"], texts["label"], split, texts["fold"], start, end, texts["group"])
    except BadInput as error:
        raise BadInput(f"{where}: {error.problem}", error.remedy) from None
    except ValueError as error:
        raise BadInput(f"{where}: {error}.", "Times are seconds, as 1.5.") from None


def matched(rows: Iterable[Annotation], names: Iterable[str]) -> tuple[dict[str, Annotation], list[str]]:
    r"""Rows by the name of the record that each speaks of; and the names of rows that speak of none.

    A row's name is a record's, or that with a suffix on either side (`clip.mp4` and `clip`), or the last part of it
    where only one record has it; behind a folder of any machine (`/home/x/clip.npy`, `G:\x\clip.npy`), with or without
    the `v_` of ActivityNet, and as archives of features call the file (`clip_i3d.npy`).

    Raises:
        BadInput: two rows for one record.
    """
    records = set(names)
    by_last: dict[str, list[str]] = {}
    for name in records:
        last = PurePosixPath(name).name
        for form in {last, PurePosixPath(last).stem}:
            by_last.setdefault(form, []).append(name)
    row_of, strange = dict[str, Annotation](), []
    for row in rows:
        forms = _forms(row.name)
        exact = (form for form in forms if form in records)
        by_last_name = (by_last[form][0] for form in map(_last, forms) if len(by_last.get(form, [])) == 1)
        name = next(exact, "") or next(by_last_name, "")
        if not name:
            strange.append(row.name)
        elif name in row_of:
            raise BadInput(f"{name!r} has two rows of labels.", "Every record has one row.")
        else:
            row_of[name] = dataclasses.replace(row, name=name)
    return row_of, strange


def matched_to(rows: Iterable[Annotation], names: Iterable[str]) -> Annotations:
    """Rows under the names of the records they speak of; those that speak of none keep their own."""
    rows = tuple(rows)
    row_of, strange = matched(rows, names)
    own = [row for row in rows if row.name in set(strange)]
    return Annotations((*row_of.values(), *own))


def _forms(name: str) -> list[str]:
    """The name as it is, then as the record may be called."""
    path = name.replace("\\", "/") if "/" not in name else name
    stem = str(PurePosixPath(path).with_suffix("")) if PurePosixPath(path).name else path
    forms = [name, path, stem]
    if stem.endswith("_i3d"):
        forms.append(stem.removesuffix("_i3d"))
    folder, slash, last = stem.rpartition("/")
    forms.append(folder + slash + (last[2:] if last.startswith("v_") else f"v_{last}"))
    return list(dict.fromkeys(forms))


def _last(name: str) -> str:
    return PurePosixPath(name).name
