"""EPIC-KITCHENS-100 and -55: a CSV of segments `video_id,start_timestamp,stop_timestamp`; verb, noun, action."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from vfc.extract.collection.document import Document, ListOptions
from vfc.extract.collection.listing import Listing, Row

from .format import Format, one_row_per_time, seconds

_LABELS: Final = ("verb", "noun", "action")


def _read(document: Document) -> Listing | None:
    if not {"video_id", "start_timestamp", "stop_timestamp"} <= set(document.columns):
        return None
    labelled = {"verb_class", "noun_class"} <= set(document.columns)
    chosen = document.choose(_LABELS)
    notes: tuple[str, ...] = ()
    table = list(document.table())
    parts = ("verb", "noun") if chosen == "action" else (chosen,)
    names: dict[str, Mapping[str, str]] = {}
    for part in parts if labelled else ():
        # The column `verb` is the spoken word; classes are numbered, and their names are the keys of another file.
        numbers = [values[f"{part}_class"] for _, values in table]
        names[part], notes = _names(document, part, numbers, only=len(parts) == 1)
    rows = []
    for where, values in table:
        classes = [names[part].get(values[f"{part}_class"], values[f"{part}_class"]) for part in names]
        start, end = (seconds(values[f"{edge}_timestamp"], where) for edge in ("start", "stop"))
        path = f"{values['video_id']}.MP4"
        rows.append(Row(path, " ".join(classes), document.split, where, "id", start_seconds=start, end_seconds=end))
    by_time, lost = one_row_per_time(rows, "segments")
    others = " or ".join(f"--label {label}" for label in _LABELS if label != chosen)
    choice_note = (f"Labels are those of the column {chosen}; {others} for the others.",) if labelled else ()
    return Listing(document.path, FORMAT.name, by_time, (*choice_note, *notes, *lost), labels=_LABELS)


def _names(
    document: Document, part: str, numbers: list[str], *, only: bool
) -> tuple[Mapping[str, str], tuple[str, ...]]:
    """Names of the verbs or nouns; the user's class list is that of the one label that is chosen."""
    if not only:
        document = Document(document.path, document.text, ListOptions())
    return document.class_names(filter(None, numbers), f"*{part}_classes*.csv")


FORMAT = Format(
    "EPIC-KITCHENS",
    "a CSV with the columns `video_id`, `start_timestamp`, `stop_timestamp`",
    "EPIC_100_train.csv",
    _read,
)
