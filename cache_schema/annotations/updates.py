"""What becomes of the rows of a store when a collection is read again: new ones, corrected ones, those of no file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from .rows import Annotation, Annotations, source


@dataclass(frozen=True)
class Update:
    """The rows afterwards. `gone`: names of rows without a file. `unsplit`: names of rows that lost their split."""

    annotations: Annotations
    gone: tuple[str, ...]
    unsplit: tuple[str, ...]


def update(before: Annotations, collection: Annotations, has_file: Callable[[str], bool], *, prune: bool) -> Update:
    """The rows of a store after a collection was read.

    Rows of the collection replace those of the same name. Where one of them has another split now, the collection is
    another list of the same videos: rows that it does not name, and whose file lies in its folder, lose their split. A
    row without a file there stays as it is, or is removed.

    Args:
        before: Rows of the store.
        collection: Rows of the collection.
        has_file: Whether a file of this name lies in the folder of the collection.
        prune: Whether rows without a file are removed.
    """
    rows = {row.name: row for row in collection.rows}
    other_list = any(row.name in rows and _split(row) != _split(rows[row.name]) for row in before.rows)
    gone, unsplit = list[str](), list[str]()
    for row in before.rows:
        if row.name in rows:
            continue
        if not has_file(source(row.name)):
            gone.append(row.name)
            if prune:
                continue
        elif other_list and any(_split(row)):
            unsplit.append(row.name)
            row = replace(row, split="", fold="")
        rows[row.name] = row
    return Update(Annotations(tuple(rows.values())), tuple(gone), tuple(unsplit))


def _split(row: Annotation) -> tuple[str, str]:
    return row.split, row.fold
