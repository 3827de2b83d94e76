"""Names of numbered classes, in every form that data sets publish them."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from vfc.cache_schema.values.errors import BadInput, MissingPath

_FORM: Final = (
    "A class list has one name per line (numbers from 0), lines of 'number name' or 'name,number', CSV with the "
    "columns id and key or name, or JSON of names."
)
_NUMBER: Final = r"[A-Za-z]?\d+"
_NUMBER_FIRST: Final = re.compile(rf"(?P<number>{_NUMBER})(?:\s*[;,:]\s*|\s+)(?P<name>\S.*)")
_NUMBER_LAST: Final = re.compile(r"(?P<name>.*\S)\s*[;,]\s*(?P<number>\d+)")
_IDS: Final = ("id", "class_id", "label_id", "index")
_NAMES: Final = ("key", "name", "label", "class", "class_name")


def read_class_names(path: Path) -> Mapping[str, str]:
    """Class number, as written without leading zeros -> name.

    Raises:
        MissingPath: there is no such file.
        BadInput: a file in no known form.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (FileNotFoundError, IsADirectoryError):
        raise MissingPath(f"There is no class list {path}.", _FORM) from None
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is not UTF-8 text (byte {error.start}).", "Save it as UTF-8.") from None
    if text.lstrip().startswith(("{", "[")):
        try:
            pairs = _of_json(json.loads(text))
        except ValueError:
            pairs = []
    else:
        pairs = _of_lines([line.strip() for line in text.splitlines() if line.strip()])
    names = {plain(number): name.strip() for number, name in pairs}
    if not names or len(names) < len(pairs) or not all(names.values()):
        raise BadInput(f"{path} is no class list: {'a number twice' if names else 'no names'}.", _FORM)
    return names


def plain(number: str) -> str:
    """A class number without leading zeros (`007` is `7`); a code such as `c015` as it is."""
    text = number.strip()
    return str(int(text)) if text.isascii() and text.isdigit() else text


def named_numbers(numbers: Iterable[str], names: Mapping[str, str]) -> Mapping[str, str]:
    """Number as written -> name, for those that have one.

    A class list without numbers counts from 0; where the numbers of the list run from 1 to its length, from 1.
    """
    numbers = list(numbers)
    counts = [int(number) for number in numbers if number.isascii() and number.isdigit()]
    in_order = list(names) == [str(i) for i in range(len(names))]
    shift = int(bool(counts) and in_order and min(counts) >= 1 and max(counts) == len(names))
    found_names = {number: names.get(_less(number, shift)) for number in numbers}
    return {number: name for number, name in found_names.items() if name is not None}


def _less(number: str, shift: int) -> str:
    return str(int(number) - shift) if shift else plain(number)


def _of_json(content: Any) -> list[tuple[str, str]]:
    if isinstance(content, dict):
        if all(_is_number(value) for value in content.values()):  # something-something-v2-labels.json
            return [(str(number), name) for name, number in content.items()]
        if all(_is_number(key) for key in content):
            return [(number, str(name)) for number, name in content.items()]
    if isinstance(content, list):  # Diving48_vocab.json lists the four parts of a name
        return [(str(i), "+".join(map(str, n)) if isinstance(n, list) else str(n)) for i, n in enumerate(content)]
    return []


def _of_lines(lines: list[str]) -> list[tuple[str, str]]:
    if not lines:
        return []
    header = [column.strip().lower() for column in lines[0].split(",")]
    number, name = (next((c for c in columns if c in header), None) for columns in (_IDS, _NAMES))
    if number is not None and name is not None:
        return [(row[number], row[name]) for row in csv.DictReader(lines[1:], header, restval="")]
    for pattern in (_NUMBER_LAST, _NUMBER_FIRST):
        matches = [pattern.fullmatch(line) for line in lines]
        pairs = [(match["number"], match["name"]) for match in matches if match]
        if len(pairs) == len(lines):
            return pairs
    return [(str(i), line) for i, line in enumerate(lines)]


def _is_number(value: Any) -> bool:
    return str(value).strip().isdigit()
