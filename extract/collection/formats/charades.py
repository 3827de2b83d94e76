"""Charades: a CSV with `id`, `actions` (`c092 11.90 21.20;c147 0.00 12.60`) and `length`; a segment an action."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from vfc.cache_schema.values.errors import BadInput
from vfc.extract.collection.document import Document, NoVideoList
from vfc.extract.collection.listing import Listing, Row

from .format import Format, left_out, one_row_per_time, seconds

_SENTENCE: Final = re.compile(r"\S+ [\d.]+ [\d.]+##.+")


def _read(document: Document) -> Listing | None:
    if document.lines and all(_SENTENCE.fullmatch(line) for _, line in document.lines):
        raise NoVideoList(
            f"{document.path} lists the sentences of Charades-STA, which are no classes.",
            "Give Charades_v1_train.csv, or a CSV with the header path,label,start_seconds,end_seconds.",
        )
    if not {"id", "actions", "length"} <= set(document.columns):
        return None
    actions = list(_actions(document))
    names, notes = document.class_names((code for _, _, code, _, _ in actions), "*classes*.txt")
    rows, lost = one_row_per_time(
        (
            Row(
                f"{video}.mp4", names.get(code, code), document.split, where, "id", start_seconds=start, end_seconds=end
            )
            for where, video, code, start, end in actions
        ),
        "actions",
    )
    empty = [values["id"] for _, values in document.table() if not values["actions"]]
    notes = (*notes, *lost, *left_out(len(empty), "without an action", empty))
    return Listing(document.path, FORMAT.name, rows, notes)


def _actions(document: Document) -> Iterator[tuple[str, str, str, float, float]]:
    """(file and line, video, code of the class, start, end) of every action, in the order of the list."""
    for where, values in document.table():
        for action in filter(None, (part.strip() for part in values["actions"].split(";"))):
            code, *times = action.split()
            if len(times) != 2:
                raise BadInput(f"{where}: the action {action!r} is not 'code start end'.", "Download the list again.")
            start, end = (seconds(time, where) for time in times)
            if end > start:
                yield where, values["id"], code, start, end


FORMAT = Format("Charades", "a CSV with the columns `id`, `actions`, `length`", "Charades_v1_train.csv", _read)
