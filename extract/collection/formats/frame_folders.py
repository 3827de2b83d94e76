"""TSN, TSM, mmaction2 and PySlowFast lists of frame folders: a video is a folder of numbered pictures."""

from __future__ import annotations

import csv
import posixpath
import re
from typing import Final

from vfc.extract.collection.document import Document
from vfc.extract.collection.listing import Listing, Row, forward_slashes
from vfc.extract.collection.video import is_video

from .format import Format

_WITH_START: Final = re.compile(r"(?P<folder>\S+)\s+(?P<start>\d+)\s+(?P<frames>\d+)\s+(?P<label>-?\d+)")
_THREE: Final = re.compile(r"(?P<folder>.*\S)\s+(?P<frames>\d+)\s+(?P<label>-?\d+)")
_NAMES: Final = ("category.txt", "classInd.txt", "label_map.txt")


def _read(document: Document) -> Listing | None:
    if document.lines and re.match(r"original_vi\w*_id\s+video_id\s+frame_id\s+path\s+labels", document.lines[0][1]):
        return _one_line_a_frame(document)
    # Four fields in every line are one with an offset; else the name of a folder may hold blanks.
    with_start = all(_WITH_START.fullmatch(line) for _, line in document.lines)
    pattern = _WITH_START if with_start else _THREE
    matches = [pattern.fullmatch(forward_slashes(line)) for _, line in document.lines]
    lines = [match for match in matches if match]
    if (
        not lines
        or len(lines) < len(matches)
        or any(is_video(part) for match in lines for part in re.split(r"[\s,;]", match["folder"]))
    ):
        return None
    numbers = [match["label"] for match in lines]
    names, notes = document.class_names(numbers, *_NAMES)
    rows = tuple(
        # The number of frames may be wrong, or 0: the pictures are counted.
        Row(match["folder"].rstrip("/"), names.get(number, number), document.split, where, "id")
        for match, number, (where, _) in zip(lines, numbers, document.lines, strict=True)
    )
    return Listing(document.path, FORMAT.name, rows, notes)


def _one_line_a_frame(document: Document) -> Listing:
    """PySlowFast: one line a picture, whose labels are `""` or `"1,2"`; a video has a label where all have the same."""
    labels: dict[str, set[str]] = {}
    places: dict[str, str] = {}
    for where, line in document.lines[1:]:
        values = next(csv.reader([line], delimiter=" "))
        folder = posixpath.dirname(values[3])
        labels.setdefault(folder, set()).add(values[4] if len(values) > 4 else "")
        places.setdefault(folder, where)
    single = {folder: next(iter(own)) for folder, own in labels.items() if len(own) == 1}
    numbers = {folder: label for folder, label in single.items() if label.isdigit()}
    names, notes = document.class_names(numbers.values(), *_NAMES)
    rows = tuple(
        Row(folder, names.get(numbers.get(folder, ""), numbers.get(folder, "")), document.split, where, "id")
        for folder, where in places.items()
    )
    several = len(labels) - len(single)
    if several:
        notes = (*notes, f"{several} videos have labels that change from frame to frame, which are not read.")
    return Listing(document.path, "PySlowFast frames", rows, notes)


FORMAT = Format(
    "TSN, TSM, mmaction2 frames",
    "lines `folder frames label` or `folder start frames label`, where the folder has no suffix of a video",
    "train_videofolder.txt",
    _read,
)
