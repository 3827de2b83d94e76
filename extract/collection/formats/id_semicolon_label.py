"""Something-Something V1, Jester: lines of `id;label` without a header; the test list has ids alone."""

from __future__ import annotations

import re
from typing import Final

from vfc.extract.collection.document import Document
from vfc.extract.collection.listing import Listing, Row

from .format import Format

_LINE: Final = re.compile(r"(?P<id>\d+)\s*(?:;(?P<label>.*))?")


def _read(document: Document) -> Listing | None:
    matches = [_LINE.fullmatch(line) for _, line in document.lines]
    groups = [match for match in matches if match]
    if not groups or len(groups) < len(matches):
        return None
    # The answers to the test of Something-Something V2 have the same form, and are about files.
    of_v2 = "answer" in document.path.stem.lower() or document.beside("*something-v2-*.json")
    rows = []
    for (where, _), match in zip(document.lines, groups, strict=True):
        label = (match["label"] or "").strip().strip('"').replace("[", "").replace("]", "")
        rows.append(Row(match["id"] + (".webm" if of_v2 else ""), label, document.split, where, "id"))
    kind = "answers of Something-Something V2" if of_v2 else FORMAT.name
    return Listing(document.path, kind, tuple(rows))


FORMAT = Format(
    "Something-Something V1, Jester",
    "lines `id;label` or `id`, where the id is a number; a video is a folder of pictures of that name",
    "jester-v1-train.csv",
    _read,
)
