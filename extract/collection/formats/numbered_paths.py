"""V-JEPA, PySlowFast, mmaction2: CSV files without a header, of a path and the number of its class."""

from __future__ import annotations

import posixpath
import re
from typing import Final

from vfc.extract.collection.document import Document
from vfc.extract.collection.listing import Listing, Row, forward_slashes
from vfc.extract.collection.video import VIDEO_SUFFIXES

from .format import Format

_SUFFIX: Final = rf"(?:{'|'.join(map(re.escape, sorted(VIDEO_SUFFIXES, reverse=True)))})"
_LINE: Final = re.compile(
    rf'"?(?P<path>.+?{_SUFFIX})"?(?:(?P<separator>::|\s*,\s*|\s+)(?:(?P<frames>\d+)(?P=separator))?(?P<label>-?\d+))?',
    re.IGNORECASE,
)


def _read(document: Document) -> Listing | None:
    matches = [_LINE.fullmatch(forward_slashes(line)) for _, line in document.lines]
    lines = [match for match in matches if match]
    if not lines or len(lines) < len(matches) or len({match["label"] is None for match in lines}) > 1:
        return None
    by_colons = lines[0]["separator"] == "::"
    # A list in .txt may number the folders of its videos, as UCF101's do: see `lines`.
    if document.path.suffix.lower() != ".csv" and not by_colons:
        return None
    numbers = [match["label"] or "" for match in lines]
    names, notes = document.class_names(filter(None, numbers), "category.txt", "label_map.txt", "classInd.txt")
    of_vjepa = by_colons or all(posixpath.isabs(match["path"]) for match in lines)
    split = "" if of_vjepa else document.split
    rows = tuple(
        Row(match["path"], names.get(number, number), split, where, "suffix")
        for match, number, (where, _) in zip(lines, numbers, document.lines, strict=True)
    )
    kind = "V-JEPA" if of_vjepa else "PySlowFast"
    return Listing(document.path, kind, rows, notes, is_table=of_vjepa)


FORMAT = Format(
    "V-JEPA, PySlowFast",
    "a CSV without a header, of lines `path label`, `path frames label`, `path,label` or `path::label` with numbers",
    "train.csv",
    _read,
)
