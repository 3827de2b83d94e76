"""FineGym (Gym99, Gym288): lines of `<video>_E_<start>_<end>_A_<start>_<end> label`; classes by number."""

from __future__ import annotations

import re
from typing import Final

from vfc.extract.collection.document import Document, NoVideoList
from vfc.extract.collection.listing import Listing, Row

from .format import Format

_LINE: Final = re.compile(r"(?P<clip>\S{11}_E_\d{6}_\d{6}_A_\d{4}_\d{4})(?:\.\w{2,4})?(?:[\s,;]+(?P<label>\d+))?")


def _read(document: Document) -> Listing | None:
    if isinstance(document.json, dict) and any(
        isinstance(events, dict) and any(str(event).startswith("E_") for event in events)
        for events in document.json.values()
    ):
        raise NoVideoList(
            f"{document.path} holds the times of FineGym's events, and no list of classes.",
            "Give a list such as gym99_train_element_v1.1.txt; its clips are cut with these times.",
        )
    matches = [_LINE.fullmatch(line) for _, line in document.lines]
    groups = [match for match in matches if match]
    if not groups or len(groups) < len(matches):
        return None
    numbers = [match["label"] or "" for match in groups]
    names, notes = document.class_names(filter(None, numbers), "gym*_categories.txt", "label_map.txt")
    rows = tuple(
        Row(f"{match['clip']}.mp4", names.get(number, number), document.split, where, "id")
        for match, number, (where, _) in zip(groups, numbers, document.lines, strict=True)
    )
    return Listing(document.path, FORMAT.name, rows, notes)


FORMAT = Format(
    "FineGym",
    "lines `<YouTube id>_E_<6 digits>_<6 digits>_A_<4 digits>_<4 digits> label`",
    "gym99_train_element_v1.1.txt",
    _read,
)
