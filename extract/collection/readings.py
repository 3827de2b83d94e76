"""Lines of a list that can be read in two ways: they are refused, and both readings are named.

A label in quotation marks is one label, whatever it holds.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from vfc.cache_schema.annotations.names import SPLITS, split_name
from vfc.cache_schema.values.errors import BadInput

from .video import is_video

_NUMBER: Final = re.compile(r"\d+(\.\d+)?")
_REMEDY: Final = 'Quote a label ("..."), or write a CSV with a header such as path,label; other columns are not read.'
_STEM_COLUMNS: Final = re.compile(r"(.*\S)[ \t]+\d+[ \t]+\d+|(?P<file>.*\.\w{2,5})[;|].*")
_FEW: Final = 5
"""From so many lines on, their numbers are checked."""


@dataclass(frozen=True)
class Line:
    """One line: `where` is its file and number, `label` what follows its path, quoted or not."""

    where: str
    path: str
    label: str

    @property
    def columns(self) -> list[str]:
        """The label, taken apart at blanks and commas; one column where it is quoted."""
        return [self.label] if self.label != unquoted(self.label) else re.split(r"[\s,]+", self.label)


def unquoted(label: str) -> str:
    """`label` without the quotation marks around it."""
    return label[1:-1] if len(label) > 2 and label[0] == label[-1] == '"' else label


def refuse_two_readings(lines: Sequence[Line]) -> None:
    """Refuse lines of a path and a label whose label may be several columns, another path, a split or a frame count.

    Raises:
        BadInput: both readings of the first such line.
    """
    for line in lines:
        first, last = line.columns[0], line.columns[-1]
        if len(line.columns) > 1 and (
            _NUMBER.fullmatch(first) or _NUMBER.fullmatch(last) or "\t" in line.label or re.search(r",\S", line.label)
        ):
            raise _two(line, f"a path and {len(line.columns)} columns ({', '.join(map(repr, line.columns))})")
        if is_video(line.label):
            raise _two(line, f"one path with a blank, or two paths ({line.path!r} and {line.label!r})")
    labels = [line.columns[-1] for line in lines]
    if lines and all(split_name(label) in SPLITS for label in labels):
        raise _two(lines[0], f"a path, {'a label, ' if len(lines[0].columns) > 1 else ''}and the split {labels[0]!r}")
    _refuse_frame_counts(lines)


def refuse_stems_with_columns(lines: Sequence[tuple[str, str]]) -> None:
    """Refuse lines (where, text) of a class and a stem whose stem may be a path and columns.

    Raises:
        BadInput: both readings of the first such line.
    """
    for where, text in lines:
        folder, _, stem = text.rpartition("/")
        columns = _STEM_COLUMNS.fullmatch(stem)
        if columns:
            path = columns[1] or columns["file"]
            raise BadInput(
                f"{where}: {text} is the video {stem!r} of the class {folder!r}, or a path {path!r} and columns.",
                "Rename the video, or write a CSV with a header such as path,label; other columns are not read.",
            )


def _refuse_frame_counts(lines: Sequence[Line]) -> None:
    """Class numbers are dense or repeat; numbers that are neither may count the frames of each video."""
    numbers = Counter(int(line.label) for line in lines if line.label.isascii() and line.label.isdigit())
    single = sum(count == 1 for count in numbers.values())
    if len(lines) < _FEW or sum(numbers.values()) < len(lines) or 2 * single <= len(lines):
        return
    if max(numbers) - min(numbers) >= 2 * len(numbers):
        raise _two(lines[0], f"a path and the number of its frames ({lines[0].label})")


def _two(line: Line, other: str) -> BadInput:
    return BadInput(
        f"{line.where}: {line.path} {line.label} is a path with the class {line.label!r}, or {other}.", _REMEDY
    )
