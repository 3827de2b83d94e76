"""What becomes of the rows of a store when a collection is read again: new ones, corrected ones, those of no file."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from .rows import Annotation, Annotations, source


@dataclass(frozen=True)
class Update:
    """The rows afterwards, and names of rows that the collection does not name.

    `gone`: they have no file. `unsplit`: they lost their split. `moved`, of those in `gone`: (old name, new name) of
    files that are in another folder now; the old row lost its label and its split, so that the video counts once.
    """

    annotations: Annotations
    gone: tuple[str, ...]
    unsplit: tuple[str, ...]
    moved: tuple[tuple[str, str], ...] = ()


def update_rows(
    before: Annotations,
    collection: Annotations,
    has_file: Callable[[str], bool],
    *,
    prune: bool = False,
    same_content: Callable[[str, str], bool] = lambda old, new: True,
) -> Update:
    """The rows of a store after a collection was read.

    Rows of the collection replace those of the same name. Where one of them has another split now, the collection is
    another list of the same videos: rows that it does not name, and whose file is in its folder, lose their split; a
    collection without any split is no such list. A row without a file there stays as it is, or is removed; where the
    one new file of its name is in another folder and has its content, the file was moved.

    Args:
        before: Rows of the store.
        collection: Rows of the collection.
        has_file: Whether a file of this name is in the folder of the collection.
        prune: Whether rows without a file are removed.
        same_content: Whether the file of a new name has the content that an old name had.
    """
    rows = {row.name: row for row in collection.rows}
    changed = (row.name in rows and _split(row) != _split(rows[row.name]) for row in before.rows)
    other_list = bool(collection.splits()) and any(changed)
    arrivals = _by_last_name(rows.keys() - {row.name for row in before.rows})
    departures = _by_last_name(row.name for row in before.rows if row.name not in rows)
    gone, unsplit, moved = list[str](), list[str](), list[tuple[str, str]]()
    for row in before.rows:
        if row.name in rows:
            continue
        if not has_file(source(row.name)):
            gone.append(row.name)
            last = PurePosixPath(row.name).name
            if prune:
                continue
            new = arrivals.get(last, [])
            if len(new) == len(departures[last]) == 1 and same_content(row.name, new[0]):
                moved.append((row.name, new[0]))
                row = replace(row, label="", split="", fold="")
        elif other_list and any(_split(row)):
            unsplit.append(row.name)
            row = replace(row, split="", fold="")
        rows[row.name] = row
    return Update(Annotations(tuple(rows.values())), tuple(gone), tuple(unsplit), tuple(moved))


def _by_last_name(names: Iterable[str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(PurePosixPath(name).name, []).append(name)
    return groups


def _split(row: Annotation) -> tuple[str, str]:
    return row.split, row.fold
