"""The rows of a list of videos, each with file and line number, before any video is looked up on disk."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

_WORD_END: Final = r"(?=list|split|set|s?(?![a-z]))"
SPLIT_PATTERNS: Final = {
    "train": r"(?<![a-z])train(ing)?",
    "val": rf"(?<![a-z])(val(id(ation|ate)?)?|dev(elopment)?){_WORD_END}",
    "test": rf"(?<![a-z])(test(ing)?|eval(uation)?{_WORD_END})",
}
"""Split -> how the name of a list file says it: as a word of its own, or before `list` or `split`."""


Search = Literal["nowhere", "suffix", "stem", "id"]


@dataclass(frozen=True)
class Row:
    """One line of a list. `path` is as written, with forward slashes. `where` is its file and line, for messages.

    `search`: where else to look for the file: `nowhere` (a table names files), `suffix` (the same folder, another
    suffix), `stem` (the list names stems, not files) or `id` (the stem is that of one video of the data set, wherever
    it lies). `number` is the label where the list numbers its classes. `other_stems`: how else the file may be called.
    """

    path: str
    label: str
    split: str
    where: str
    search: Search
    number: str = ""
    start_seconds: float | None = None
    end_seconds: float | None = None
    group: str = ""
    other_stems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Listing:
    """The rows of one file. `kind`: the format it was read as. `is_table`: whether its name says no split.

    `names_split`: whether its name may say one beside other lists. `labels`: those that --label chooses from, where
    there are several. `folder`: where its paths start from, if not in the folder of the file.
    """

    file: Path
    kind: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    is_table: bool = False
    names_split: bool = True
    labels: tuple[str, ...] = ()
    folder: Path | None = None

    @property
    def is_unlabelled(self) -> bool:
        """Whether no row has a label."""
        return not any(row.label for row in self.rows)

    def summary(self) -> str:
        """How the file was read, in one line."""
        counts = sorted(Counter(row.split for row in self.rows).items())
        parts = ", ".join(f"{split} {count}" if split else str(count) for split, count in counts)
        return f"{self.file.name} read as {self.kind!r}: {parts} videos."

    def with_split_of_file_name(self) -> Listing:
        """Rows without a split get the one that the name of the file says."""
        split = split_in_name(self.file.stem) if self.names_split else ""
        return replace(self, rows=tuple(replace(row, split=row.split or split) for row in self.rows))


def split_in_name(stem: str) -> str:
    """`train`, `val` or `test`, where the name of a list file says exactly one of them; else empty."""
    splits = [split for split, pattern in SPLIT_PATTERNS.items() if re.search(pattern, stem.lower())]
    return splits[0] if len(splits) == 1 else ""


def forward_slashes(path: str) -> str:
    """`path` with forward slashes, where it has only backward ones."""
    return path.replace("\\", "/") if "/" not in path else path


def name_numbered_classes(rows: Iterable[Row]) -> tuple[tuple[Row, ...], tuple[str, ...]]:
    """Rows whose numbered classes have names, and a note about it.

    The names are the folders, where numbers and folders match one to one, else the numbers.
    """
    rows = tuple(rows)
    pairs = sorted({(int(row.number), row.label) for row in rows if row.number})
    if not pairs:
        return rows, ()
    numbers, folders = ({pair[i] for pair in pairs} for i in (0, 1))
    if len(pairs) == len(numbers) == len(folders) and all(folders):
        number, folder = pairs[0]
        return rows, (f"The numbers behind the paths stand for the folders: {number} is {folder!r}.",)
    note = "The numbers behind the paths are the class names: they do not match the folders one to one."
    return tuple(replace(row, label=row.number) if row.number else row for row in rows), (note,)
