"""The ordered class list of a data set: the name of each class id, wherever ids are used."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Final

from vfc.cache_schema.values.errors import BadInput, MissingPath

_NUMBERED: Final = re.compile(r"(\d+)\s+(\S.*)")
_TABLE: Final = re.compile(r"\d+\s*[,;].*|.*[,;]\s*\d+")
_FORM: Final = "Give one class name per line in the order of the ids, lines of `id name`, or CSV with columns id,name."


def read_class_list(path: Path) -> tuple[str, ...]:
    """Class names in the order of their ids.

    Args:
        path: One name per line; lines of `id name`, as in classInd.txt and mapping.txt; or CSV with `id,name`. Ids
            count from 0 or from 1, in any order.

    Raises:
        MissingPath: there is no such file.
        BadInput: no names, a name or id twice, ids with a gap, or a table without its header.
    """
    try:
        lines = [line.strip() for line in path.read_text("utf-8-sig").splitlines() if line.strip()]
    except (FileNotFoundError, IsADirectoryError):
        raise MissingPath(f"There is no class list {path}.", _FORM) from None
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is not UTF-8 text (byte {error.start}).", "Save it as UTF-8.") from None
    if not _numbered(lines) and lines[1:] and all(map(_TABLE.fullmatch, lines[1:])):
        raise BadInput(f"The class list {path} is a table whose first line is {lines[0]!r}, not id,name.", _FORM)
    names = _ordered(path, _pairs(path, lines)) if _numbered(lines) else tuple(lines)
    doubled = sorted({name for name in names if names.count(name) > 1})
    if not names or doubled:
        what = f"the class {doubled[0]!r} twice" if doubled else "no class"
        raise BadInput(f"The class list {path} names {what}.", _FORM)
    return names


def _numbered(lines: list[str]) -> bool:
    return bool(lines) and (_is_csv(lines) or all(map(_NUMBERED.fullmatch, lines)))


def _is_csv(lines: list[str]) -> bool:
    return [column.strip().lower() for column in lines[0].split(",")][:2] == ["id", "name"]


def _pairs(path: Path, lines: list[str]) -> list[tuple[int, str]]:
    if not _is_csv(lines):
        return [(int(match[1]), match[2]) for match in filter(None, map(_NUMBERED.fullmatch, lines))]
    try:
        return [(int(row[0]), row[1].strip()) for row in csv.reader(lines[1:])]
    except (ValueError, IndexError):
        raise BadInput(f"The class list {path} has a line without an id and a name.", _FORM) from None


def _ordered(path: Path, pairs: list[tuple[int, str]]) -> tuple[str, ...]:
    ids = sorted(number for number, _ in pairs)
    start = ids[0] if ids else 0
    if start not in (0, 1) or ids != list(range(start, start + len(ids))):
        raise BadInput(f"The ids of the class list {path} do not count up from 0 or 1 without a gap.", _FORM)
    return tuple(name for _, name in sorted(pairs))
