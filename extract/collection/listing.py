"""What lists say about videos: a row with the place it stands in, before anything is looked up on disk."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

from vfc.cache_schema.values.errors import BadInput, suggestion

from .video import VIDEO_SUFFIXES, folder_label

COLUMNS: Final = ("path", "label", "split", "start_seconds", "end_seconds")
TABLES: Final = frozenset({".csv", ".tsv", ".jsonl", ".ndjson"})
SPLIT_PATTERNS: Final = {
    "train": r"(?<![a-z])train(ing)?",
    "val": r"(?<![a-z])val(id(ation)?)?(?=list|split|s?(?![a-z]))",
    "test": r"(?<![a-z])test(ing)?",
}
"""How the name of a list file tells its split: as a word of its own, or before `list` or `split`."""
_SPLIT_WORDS: Final = {"training": "train", "valid": "val", "validation": "val", "testing": "test"}


@dataclass(frozen=True)
class Row:
    """One line of a list. `path` is as written, with forward slashes.

    `search`: where else to look for it: `nowhere` (a table names files), `suffix` (the same folder, another suffix) or
    `stem` (the list names no files, only stems). `number` is the label where the list numbers its classes.
    """

    path: str
    label: str
    split: str
    where: str
    search: Literal["nowhere", "suffix", "stem"]
    number: str = ""
    start_seconds: float | None = None
    end_seconds: float | None = None


@dataclass(frozen=True)
class Listing:
    """The rows of one file and what kind of file it was taken for."""

    file: Path
    kind: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()

    @property
    def is_table(self) -> bool:
        """Whether it has columns, so that a split could be told in each row."""
        return self.file.suffix.lower() in TABLES


def read_listing(file: Path) -> Listing:
    """Read a CSV, JSONL or published list file; what it is shows from its suffix, its name and its lines.

    Raises:
        BadInput: a line that is malformed or of another kind than those before, with file and line number.
    """
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"{file} is not UTF-8 text (byte {error.start}).", "Save it as UTF-8.") from None
    except OSError as error:
        raise BadInput(f"{file} cannot be read: {error.strerror}.", "Give a readable list of videos.") from error
    suffix = file.suffix.lower()
    if suffix == ".json":
        raise BadInput(f"{file} is JSON.", "Give a JSONL file (one object per line), a CSV, or a list of lines.")
    if suffix in (".csv", ".tsv"):
        listing = _read_csv(file, text)
    elif suffix in TABLES:
        listing = _read_jsonl(file, text)
    else:
        listing = _read_lines(file, text)
    if not listing.rows:
        raise BadInput(f"{file} lists no video.", "Give a list with at least one line.")
    return listing


def with_split_of_name(listing: Listing) -> Listing:
    """The rows that tell no split get the one that the name of the file tells."""
    split = split_in_name(listing.file.stem)
    return replace(listing, rows=tuple(replace(row, split=row.split or split) for row in listing.rows))


def split_in_name(stem: str) -> str:
    """`train`, `val` or `test`, where the name of a list file tells exactly one of them."""
    told = [split for split, word in SPLIT_PATTERNS.items() if re.search(word, stem.lower())]
    return told[0] if len(told) == 1 else ""


# --- tables ----------------------------------------------------------------------------------------------------------


def _read_csv(file: Path, text: str) -> Listing:
    header = text.split("\n", 1)[0].strip("\r")
    separator = next((s for s in ",;\t" if "path" in [c.strip(' "').lower() for c in header.split(s)]), None)
    if separator is None:
        raise BadInput(
            f"{file}, line 1: the header {header!r} names no column 'path'.",
            f"Begin with the line {','.join(COLUMNS)} (only path is required), or rename a list of lines to .txt.",
        )
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    columns = [column.strip().lower() for column in next(reader)]
    if twice := [column for column in COLUMNS if columns.count(column) > 1]:
        raise BadInput(f"{file}, line 1: there are {columns.count(twice[0])} columns {twice[0]!r}.", _TABLE_RULE)
    notes = _strange_columns(f"{file}, line 1", columns)
    rows = []
    try:
        for values in reader:
            where = f"{file}, line {reader.line_num}"
            if not any(value.strip() for value in values):
                continue
            if len(values) != len(columns):
                raise BadInput(f"{where}: {len(values)} values for {len(columns)} columns.", _TABLE_RULE)
            rows.append(_table_row(dict(zip(columns, values, strict=True)), where))
    except csv.Error as error:
        raise BadInput(f"{file}, line {reader.line_num}: {error}.", _TABLE_RULE) from None
    return Listing(file, "CSV", tuple(rows), notes)


def _read_jsonl(file: Path, text: str) -> Listing:
    rows = []
    seen: dict[str, None] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        where = f"{file}, line {number}"
        if not line.strip():
            continue
        try:
            data = json.loads(line)
        except json.JSONDecodeError as error:
            raise BadInput(f"{where}: not JSON ({error.msg}, column {error.colno}).", _TABLE_RULE) from None
        if not isinstance(data, dict):
            raise BadInput(f"{where}: not a JSON object.", _TABLE_RULE)
        if not data.keys() <= seen.keys():
            _strange_columns(where, list(data))
            seen |= dict.fromkeys(data)
        rows.append(_table_row(data, where))
    return Listing(file, "JSONL", tuple(rows), _strange_columns(str(file), list(seen)))


_TABLE_RULE: Final = (
    "Columns: path, label, split, start_seconds, end_seconds; only path is required, quote values with commas."
)


_OTHER_WORDS: Final = {
    "class": "label", "category": "label", "action": "label", "subset": "split",
    "start": "start_seconds", "end": "end_seconds", "time_start": "start_seconds", "time_end": "end_seconds",
}  # fmt: skip


def _strange_columns(where: str, columns: list[str]) -> tuple[str, ...]:
    """A line about the columns that are not read; one that looks like a misspelt name is refused."""
    strange = [column for column in columns if column not in COLUMNS]
    for column in strange:
        free = [c for c in COLUMNS if c not in columns]
        meant = suggestion(_OTHER_WORDS.get(column, column), free)
        if meant:
            raise BadInput(f"{where}: there is no column {column!r}.{meant}", _TABLE_RULE)
    return (f"{where}: not read: {', '.join(strange)}.",) if strange else ()


def _table_row(data: dict[str, Any], where: str) -> Row:
    path, label, split = (_text(data, column, where) for column in COLUMNS[:3])
    if not path:
        raise BadInput(f"{where}: the path is empty.", _TABLE_RULE)
    start, end = (_seconds(data, column, where) for column in COLUMNS[3:])
    if end is not None and end <= (start or 0.0):
        raise BadInput(f"{where}: it ends at {end:g} s, not after its start at {start or 0:g} s.", _TABLE_RULE)
    split = _SPLIT_WORDS.get(split.lower(), split)
    return Row(_forward(path), label, split, where, "nowhere", start_seconds=start, end_seconds=end)


def _text(data: dict[str, Any], column: str, where: str) -> str:
    value = data.get(column)
    if value is not None and (not isinstance(value, str | int) or isinstance(value, bool)):
        raise BadInput(f"{where}: {column} is {value!r}, not text.", _TABLE_RULE)
    return "" if value is None else str(value).strip()


def _seconds(data: dict[str, Any], column: str, where: str) -> float | None:
    value = data.get(column)
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        seconds = float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        seconds = float("nan")
    if not (math.isfinite(seconds) and seconds >= 0):
        raise BadInput(f"{where}: {column} is {value!r}, not a number of seconds from 0 up.", _TABLE_RULE)
    return seconds


# --- lines -----------------------------------------------------------------------------------------------------------

_SUFFIXED: Final = rf"(?P<path>.+(?:{'|'.join(map(re.escape, sorted(VIDEO_SUFFIXES, reverse=True)))}))"
_KINDS: Final[dict[str, re.Pattern[str]]] = {
    "split//path": re.compile(r"(?P<token>(?P<split>train|val|test)\d+)//(?P<path>.+)"),
    "path label": re.compile(_SUFFIXED + r"(?:[ \t]+|,[ \t]*)(?P<label>[^\s,].*)", re.IGNORECASE),
    "path": re.compile(_SUFFIXED, re.IGNORECASE),
    "class/stem": re.compile(r"(?P<path>.*[^/]/[^/]+)"),
}
"""Kinds of lines, by the first pattern that fits a whole line. The last class name ends at the last slash, whatever
blanks, commas and parentheses it holds."""
_LINE_RULE: Final = (
    "A line is 'class/stem', 'path', 'path label' or 'split//path'; paths end in a video suffix such as .mp4."
)
_HMDB_FILE: Final = re.compile(r"(?P<label>.+)_test_split\d")
_HMDB_SPLITS: Final = {"1": "train", "2": "test"}


def _read_lines(file: Path, text: str) -> Listing:
    lines = [(f"{file}, line {n}", line.strip()) for n, line in enumerate(text.split("\n"), start=1) if line.strip()]
    official = _HMDB_FILE.fullmatch(file.stem)
    if official and all(re.fullmatch(r"[^/]+ [012]", line) for _, line in lines):
        return _read_hmdb(file, official["label"], lines)
    kind = _kind(lines[0][1]) if lines else ""
    rows = []
    for where, line in lines:
        if not kind or (found := _kind(line)) != kind:
            is_a = f"is a line '{found}'" if kind and found else "is no line of a list of videos"
            before = f", the lines before are '{kind}'" if kind else ""
            raise BadInput(f"{where}: {line!r} {is_a}{before}.", _LINE_RULE)
        rows.append(_line_row(kind, line, where))
    return Listing(file, kind, tuple(rows))


def _read_hmdb(file: Path, label: str, lines: list[tuple[str, str]]) -> Listing:
    rows = []
    for where, line in lines:
        name, _, used = line.rpartition(" ")
        if used in _HMDB_SPLITS:
            rows.append(Row(f"{label}/{name}", label, _HMDB_SPLITS[used], where, "suffix"))
    left = len(lines) - len(rows)
    notes = (f"{file.name}: {left} videos are in neither split and are left out.",) if left else ()
    return Listing(file, "HMDB51 official", tuple(rows), notes)


def _kind(line: str) -> str:
    return next((kind for kind, pattern in _KINDS.items() if pattern.fullmatch(_forward(line))), "")


def _line_row(kind: str, line: str, where: str) -> Row:
    match = _KINDS[kind].fullmatch(_forward(line))
    assert match is not None
    told = match.groupdict()
    path, label = told["path"], told.get("label") or ""
    folder = folder_label(path)
    search: Literal["suffix", "stem"] = "stem" if kind == "class/stem" else "suffix"
    if label.isascii() and label.isdigit():
        return Row(path, folder, "", where, search, number=label)
    return Row(path, label or folder or told.get("token", ""), told.get("split") or "", where, search)


def _forward(path: str) -> str:
    return path.replace("\\", "/") if "/" not in path else path


def name_classes(rows: Iterable[Row]) -> tuple[Row, ...]:
    """Settle what numbers mean: where numbers and folders go together one to one, the folders name the classes."""
    rows = tuple(rows)
    numbered = {(row.number, row.label) for row in rows if row.number}
    one_to_one = len(numbered) == len({n for n, _ in numbered}) == len({label for _, label in numbered})
    if one_to_one and all(label for _, label in numbered):
        return rows
    return tuple(replace(row, label=row.number) if row.number else row for row in rows)
