"""Format: one published form of a list of videos; and what several formats need for their rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from vfc.cache_schema.annotations.names import SPLITS, split_name
from vfc.cache_schema.values.errors import BadInput
from vfc.extract.collection.document import Document
from vfc.extract.collection.listing import Listing, Row


@dataclass(frozen=True)
class Format:
    """A form of lists.

    `name`: for the user. `sign`: what it is recognised by. `example`: a line for the documentation, the files that are
    downloaded. `read`: the rows of a document that has the sign, else None.
    """

    name: str
    sign: str
    example: str
    read: Callable[[Document], Listing | None]


def known_split(word: str) -> str:
    """`train`, `val` or `test` for a word of a list; nothing for a word that is none of their spellings."""
    split = split_name(word)
    return split if split in SPLITS else ""


def seconds(text: object, where: str) -> float:
    """A time in seconds, written as a number or as `HH:MM:SS.ss`; raises BadInput for anything else."""
    parts = str(text).strip().split(":")
    try:
        hours, minutes, rest = ["0"] * (3 - len(parts)) + parts
        value = 3600 * int(hours) + 60 * int(minutes) + float(rest)
    except ValueError:
        raise BadInput(f"{where}: {text!r} is no time.", "Times are seconds, or HH:MM:SS.ss.") from None
    # Binary fractions add up with errors (69.5 + 3600 * 0), names must not show them.
    return round(value, 6)


def one_row_per_time(rows: Iterable[Row], what: str) -> tuple[tuple[Row, ...], tuple[str, ...]]:
    """Rows without those that have the file and the times of an earlier one; and a note where labels are lost so."""
    first: dict[tuple[str, float | None, float | None], Row] = {}
    lost: list[Row] = []
    for row in rows:
        kept_row = first.setdefault((row.path, row.start_seconds, row.end_seconds), row)
        if kept_row.label != row.label:
            lost.append(row)
    if not lost:
        return tuple(first.values()), ()
    note = (
        f"{len(lost)} {what} have the times of another one of the same video, whose label is kept: "
        f"{lost[0].path} at {lost[0].start_seconds:g} s is not {lost[0].label!r}."
    )
    return tuple(first.values()), (note,)


def left_out(count: int, why: str, names: Sequence[str] = ()) -> tuple[str, ...]:
    """A note about videos of a list that get no row; nothing where there are none."""
    first = f", as {names[0]}" if names else ""
    return (f"{count} videos {why} are left out{first}.",) if count else ()
