"""Published lists of one video per line, without columns."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from vfc.cache_schema.values.errors import BadInput

from .formats import formats
from .listing import Listing, Row, Search, forward_slashes
from .readings import Line, refuse_stems_with_columns, refuse_two_readings, unquoted
from .video import VIDEO_SUFFIXES, folder_label

_SUFFIX: Final = rf"(?:{'|'.join(map(re.escape, sorted(VIDEO_SUFFIXES, reverse=True)))})"
_SUFFIXED: Final = rf"(?P<path>.+{_SUFFIX})"
_KINDS: Final[dict[str, re.Pattern[str]]] = {
    "split//path": re.compile(r"(?P<token>(?P<split>train|val|test)\d+)//(?P<path>.+)"),
    "path label": re.compile(_SUFFIXED + r"(?:[ \t]+|,[ \t]*)(?P<label>[^\s,].*)", re.IGNORECASE),
    "path": re.compile(_SUFFIXED, re.IGNORECASE),
    "class/stem": re.compile(r"(?P<path>.*[^/]/[^/]+)"),
}
"""Kinds of lines, by the first pattern that fits a whole line. The class name of `class/stem` ends at the last slash
and may hold blanks, commas and parentheses."""
_QUOTED_PATH: Final = re.compile(rf'"(?P<path>[^"]+{_SUFFIX})"(?=[\s,]|$)', re.IGNORECASE)
_LINE_RULE: Final = (
    "A line is 'class/stem', 'path', 'path label' or 'split//path'; paths end in a video suffix such as .mp4. "
    f"Lists of data sets are read as they are: {', '.join(each.name for each in formats())}."
)
_HMDB_FILE: Final = re.compile(r"(?P<label>.+)_test_split\d")
_HMDB_LINE: Final = re.compile(r"[^/]+ [012]")
_HMDB_SPLITS: Final = {"1": "train", "2": "test"}


def read_lines(file: Path, text: str) -> Listing:
    """Read a list whose lines are all of one kind, or an official HMDB51 list.

    Raises:
        BadInput: a line of no kind, or of another kind than the lines before it.
    """
    lines = [(f"{file}, line {n}", line.strip()) for n, line in enumerate(text.split("\n"), start=1) if line.strip()]
    lines = [(where, _QUOTED_PATH.sub(r"\g<path>", line)) for where, line in lines]
    hmdb = _HMDB_FILE.fullmatch(file.stem)
    if hmdb and all(_HMDB_LINE.fullmatch(line) for _, line in lines):
        return _read_hmdb(file, hmdb["label"], lines)
    kinds = [_kind(line) for _, line in lines]
    for (where, line), kind in zip(lines, kinds, strict=True):
        if not kind or kind != kinds[0]:
            problem = f"is a line '{kind}'" if kind else "is no line of a list of videos"
            before = f", the lines before are '{kinds[0]}'" if kinds[0] else ""
            raise BadInput(f"{where}: {line!r} {problem}{before}.", _LINE_RULE)
    kind = kinds[0] if kinds else ""
    groups = [_groups(kind, line) for _, line in lines]
    if kind == "path label":
        refuse_two_readings(
            [Line(where, group["path"], group["label"]) for (where, _), group in zip(lines, groups, strict=True)]
        )
    elif kind == "class/stem":
        refuse_stems_with_columns(lines)
    rows = (_row(kind, group, where) for (where, _), group in zip(lines, groups, strict=True))
    return Listing(file, kind, tuple(rows))


def _read_hmdb(file: Path, label: str, lines: list[tuple[str, str]]) -> Listing:
    """HMDB51's own lists: a file per class, lines of `name 1` (train), `name 2` (test) and `name 0` (neither)."""
    rows = []
    for where, line in lines:
        name, _, number = line.rpartition(" ")
        rows.append(Row(f"{label}/{name.strip()}", label, _HMDB_SPLITS.get(number, ""), where, "suffix"))
    unused = sum(not row.split for row in rows)
    notes = (f"{file.name}: {unused} videos are in neither split of this fold.",) if unused else ()
    return Listing(file, "HMDB51 official", tuple(rows), notes, names_split=False)


def _kind(line: str) -> str:
    return next((kind for kind, pattern in _KINDS.items() if pattern.fullmatch(forward_slashes(line))), "")


def _groups(kind: str, line: str) -> dict[str, str]:
    match = _KINDS[kind].fullmatch(forward_slashes(line))
    assert match is not None
    return match.groupdict()


def _row(kind: str, groups: dict[str, str], where: str) -> Row:
    path, label = groups["path"], unquoted(groups.get("label", ""))
    folder = folder_label(path)
    search: Search = "stem" if kind == "class/stem" else "suffix"
    if label.isascii() and label.isdigit():
        return Row(path, folder, "", where, search, number=label)
    return Row(path, label or folder or groups.get("token", ""), groups.get("split", ""), where, search)
