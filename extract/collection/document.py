"""Document: the text of one list file as the formats look at it: lines, columns, JSON, and what lies beside."""

from __future__ import annotations

import csv
import fnmatch
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from vfc.cache_schema.values.errors import BadInput, UnknownName, unknown_name

from .class_names import named_numbers, read_class_names
from .listing import split_in_name


class NoVideoList(BadInput):
    """A file of a known kind that is no list of videos, or none to be read; in a folder of lists it is left out."""


@dataclass(frozen=True)
class ListOptions:
    """What a user adds to a list. `label`: which of several labels counts. `class_list`: names of numbered classes."""

    label: str = ""
    class_list: Path | None = None


NO_OPTIONS: Final = ListOptions()


@dataclass(frozen=True)
class Document:
    """A list file. `options`: what the user added to it."""

    path: Path
    text: str
    options: ListOptions = NO_OPTIONS

    @cached_property
    def lines(self) -> tuple[tuple[str, str], ...]:
        """(file and number of the line, its text without blanks around it) of every line that is not empty."""
        numbered = enumerate(self.text.splitlines(), start=1)
        return tuple((f"{self.path}, line {number}", line.strip()) for number, line in numbered if line.strip())

    @cached_property
    def json(self) -> Any:
        """The content of a JSON file; None for any other text."""
        if not self.text.lstrip().startswith(("{", "[")):
            return None
        try:
            return json.loads(self.text)
        except ValueError:
            return None

    @cached_property
    def objects(self) -> tuple[Mapping[str, Any], ...]:
        """The objects of a JSON list of objects; empty for anything else."""
        content = self.json
        are_objects = isinstance(content, list) and all(isinstance(item, dict) for item in content)
        return tuple(content) if are_objects else ()

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The values of the first line of a table, in lower case: the names of its columns where it has a header."""
        if self.json is not None or not self.lines:
            return ()
        header = next(csv.reader([self.lines[0][1]], delimiter=self._separator, skipinitialspace=True))
        return tuple(value.strip().lower() for value in header)

    @property
    def _separator(self) -> str:
        """Comma, or the semicolon or tab that a spreadsheet has put in its place."""
        return max(",;\t", key=self.lines[0][1].count)

    def table(self) -> Iterator[tuple[str, dict[str, str]]]:
        """(file and line, values by column) of every row below the header; raises BadInput for a row cut short."""
        reader = csv.reader(io.StringIO(self.text, newline=""), delimiter=self._separator, skipinitialspace=True)
        try:
            for number, values in enumerate(row for row in reader if any(value.strip() for value in row)):
                where = f"{self.path}, line {reader.line_num}"
                if not number:
                    continue
                if len(values) != len(self.columns):
                    raise BadInput(
                        f"{where}: {len(values)} values for {len(self.columns)} columns.", "Download the list again."
                    )
                yield where, dict(zip(self.columns, map(str.strip, values), strict=True))
        except csv.Error as error:
            raise BadInput(f"{self.path}, line {reader.line_num}: {error}.", "Download the list again.") from None

    @property
    def split(self) -> str:
        """The split that the name of the file says, or nothing."""
        return split_in_name(self.path.stem)

    def beside(self, *patterns: str) -> list[Path]:
        """The files in the folder of the list whose names match a pattern, whatever their case."""
        files = sorted(file for file in self.path.absolute().parent.iterdir() if file.is_file())
        lowered = [pattern.lower() for pattern in patterns]
        return [file for file in files if any(fnmatch.fnmatch(file.name.lower(), pattern) for pattern in lowered)]

    def class_names(self, numbers: Iterable[str], *patterns: str) -> tuple[Mapping[str, str], tuple[str, ...]]:
        """Class number -> its name, and notes about it.

        Args:
            numbers: as they stand in the list.
            patterns: of the file of names beside the list; the user's own comes first.

        Raises:
            BadInput, MissingPath: the user's list of names cannot be used, or has no name for a number.
        """
        numbers = sorted(set(numbers))
        if self.options.class_list is not None:
            file = self.options.class_list
            names = named_numbers(numbers, read_class_names(file))
            unnamed = [number for number in numbers if number not in names]
            if unnamed:
                raise BadInput(
                    f"{file} has no name for the class {unnamed[0]} ({len(unnamed)} of {len(numbers)} have none).",
                    "Give the class list of this data set.",
                )
            return names, (f"Classes are named by {file}.",)
        for file in self.beside(*patterns):
            names = named_numbers(numbers, read_class_names(file))
            unnamed = [number for number in numbers if number not in names]
            if not unnamed:
                return names, (f"Classes are named by {file.name} beside the list.",)
            return {}, (f"{file.name} has no name for the class {unnamed[0]}: classes keep their numbers.",)
        return {}, ("Classes are numbers; --class-list FILE gives them names.",) if numbers else ()

    def choose(self, labels: Iterable[str]) -> str:
        """The label that the user chose of those that the list has, else the first of them; raises UnknownName."""
        allowed = list(labels)
        if self.options.label and self.options.label not in allowed:
            raise label_error(self.path, self.options.label, allowed)
        return self.options.label or allowed[0]


def label_error(file: Path, label: str, allowed: Iterable[str]) -> UnknownName:
    """The error for a --label that a list does not have."""
    error = unknown_name(f"label in {file.name} for --label", label, allowed)
    return UnknownName(error.problem, error.remedy if list(allowed) else "Leave --label out: the list has one label.")
