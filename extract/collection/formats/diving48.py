"""Diving48 V2: a JSON list of `{vid_name, label, start_frame, end_frame}`; classes by number in Diving48_vocab.json."""

from __future__ import annotations

from vfc.extract.collection.document import Document
from vfc.extract.collection.listing import Listing, Row

from .format import Format


def _read(document: Document) -> Listing | None:
    entries = document.objects
    if not entries or not all("vid_name" in entry for entry in entries):
        return None
    numbers = [str(entry.get("label", "")) for entry in entries]
    names, notes = document.class_names(filter(None, numbers), "*vocab*.json")
    rows = tuple(
        # start_frame and end_frame are those of the clip, which is cut already.
        Row(f"{str(entry['vid_name']).strip()}.mp4", names.get(label, label), document.split, where, "id")
        for entry, label, where in zip(entries, numbers, _places(document), strict=True)
    )
    return Listing(document.path, FORMAT.name, rows, notes)


def _places(document: Document) -> list[str]:
    return [f"{document.path}, entry {number}" for number in range(1, len(document.objects) + 1)]


FORMAT = Format("Diving48", "a JSON list of objects with `vid_name` and `label`", "Diving48_V2_train.json", _read)
