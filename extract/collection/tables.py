"""CSV and JSONL lists: rows with named columns."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from vfc.cache_schema.annotations import require_split, source
from vfc.cache_schema.values.errors import BadInput, suggestion

from .document import label_error
from .formats import formats
from .listing import Listing, Row, forward_slashes

COLUMNS: Final = ("path", "label", "split", "start_seconds", "end_seconds", "group")
_PATHS: Final = {"path", "name"}
_SYNONYMS: Final = {
    "class": "label", "category": "label", "action": "label", "subset": "split",
    "start": "start_seconds", "end": "end_seconds", "time_start": "start_seconds", "time_end": "end_seconds",
}  # fmt: skip
_TABLE_RULE: Final = (
    "Columns: path, label, split, start_seconds, end_seconds, group; only path is required, quote values with commas."
)


def read_csv(file: Path, text: str, label: str = "") -> Listing:
    """Read a table whose first line names the columns, separated by comma, semicolon or tab.

    `label`: the column that holds the label, if not `label`.

    Raises:
        BadInput: a header without `path`, or a malformed line.
    """
    header = text.split("\n", 1)[0].strip("\r")
    separator = next((s for s in ",;\t" if _PATHS & {c.strip(' "').lower() for c in header.split(s)}), None)
    if separator is None:
        raise BadInput(
            f"{file}, line 1: the header {header!r} names no column 'path'.",
            f"Begin with the line {','.join(COLUMNS)} (only path is required), or rename a list of lines to .txt. "
            f"Lists of data sets are read as they are: {', '.join(each.name for each in formats())}.",
        )
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True, skipinitialspace=True)
    columns = [column.strip().lower() for column in next(reader)]
    if label and label.lower() not in columns:
        raise label_error(file, label, [column for column in columns if column not in COLUMNS or column == "label"])
    columns = _own_names(columns, label)
    if repeated := [column for column in COLUMNS if columns.count(column) > 1]:
        raise BadInput(f"{file}, line 1: there are {columns.count(repeated[0])} columns {repeated[0]!r}.", _TABLE_RULE)
    notes = _unread_columns(f"{file}, line 1", columns)
    rows = []
    try:
        for values in reader:
            if any(value.strip() for value in values):
                rows.append(_csv_row(columns, values, f"{file}, line {reader.line_num}"))
    except csv.Error as error:
        raise BadInput(f"{file}, line {reader.line_num}: {error}.", _TABLE_RULE) from None
    return Listing(file, "CSV", tuple(rows), notes, is_table=True, labels=(label,) if label else ())


def read_jsonl(file: Path, text: str, label: str = "") -> Listing:
    """Read a table of one JSON object per line. `label`: the field that holds the label, if not `label`.

    Raises:
        BadInput: a malformed line.
    """
    rows = []
    columns: dict[str, None] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        where = f"{file}, line {number}"
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except json.JSONDecodeError as error:
            raise BadInput(f"{where}: not JSON ({error.msg}, column {error.colno}).", _TABLE_RULE) from None
        if not isinstance(values, dict):
            raise BadInput(f"{where}: not a JSON object.", _TABLE_RULE)
        values = dict(zip(_own_names(list(values), label), values.values(), strict=True))
        if not values.keys() <= columns.keys():
            _unread_columns(where, list(values))
            columns |= dict.fromkeys(values)
        rows.append(_row(values, where))
    notes = _unread_columns(str(file), list(columns))
    if label and "label" not in columns:
        raise label_error(file, label, [column for column in columns if column not in COLUMNS])
    return Listing(file, "JSONL", tuple(rows), notes, is_table=True, labels=(label,) if label else ())


def _own_names(columns: Sequence[str], label: str) -> list[str]:
    """The columns as they are called here: `name` is the path where there is none; --label says which the label is."""
    path = next((name for name in ("path", "name") if name in columns), "path")
    renamed = {path: "path"}
    if label:
        renamed |= {"label": "another label", label.lower(): "label"}
    return [renamed.get(column, column) for column in columns]


def _unread_columns(where: str, columns: Sequence[str]) -> tuple[str, ...]:
    """A note about the columns that are not read; one that looks like a misspelt name is refused."""
    unread = [column for column in columns if column not in COLUMNS]
    for column in unread:
        hint = suggestion(_SYNONYMS.get(column, column), [name for name in COLUMNS if name not in columns])
        if hint:
            raise BadInput(f"{where}: there is no column {column!r}.{hint}", _TABLE_RULE)
    return (f"{where}: not read: {', '.join(unread)}.",) if unread else ()


def _csv_row(columns: Sequence[str], values: Sequence[str], where: str) -> Row:
    if len(values) != len(columns):
        raise BadInput(f"{where}: {len(values)} values for {len(columns)} columns.", _TABLE_RULE)
    return _row(dict(zip(columns, values, strict=True)), where)


def _row(values: Mapping[str, Any], where: str) -> Row:
    path, label, split, group = (_text(values, column, where) for column in ("path", "label", "split", "group"))
    if not path:
        raise BadInput(f"{where}: the path is empty.", _TABLE_RULE)
    start, end = (_seconds(values, column, where) for column in ("start_seconds", "end_seconds"))
    if end is not None and end <= (start or 0.0):
        raise BadInput(f"{where}: it ends at {end:g} s, not after its start at {start or 0:g} s.", _TABLE_RULE)
    try:
        split = require_split(split)
    except BadInput as error:
        raise BadInput(f"{where}: {error.problem}", error.remedy) from None
    path = forward_slashes(path)
    if start is not None or end is not None:
        path = source(path)
    return Row(path, label, split, where, "nowhere", start_seconds=start, end_seconds=end, group=group)


def _text(values: Mapping[str, Any], column: str, where: str) -> str:
    value = values.get(column)
    if value is not None and (not isinstance(value, str | int) or isinstance(value, bool)):
        raise BadInput(f"{where}: {column} is {value!r}, not text.", _TABLE_RULE)
    return "" if value is None else str(value).strip()


def _seconds(values: Mapping[str, Any], column: str, where: str) -> float | None:
    value = values.get(column)
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        seconds = float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        seconds = float("nan")
    if not (math.isfinite(seconds) and seconds >= 0):
        raise BadInput(f"{where}: {column} is {value!r}, not a number of seconds from 0 up.", _TABLE_RULE)
    return seconds
