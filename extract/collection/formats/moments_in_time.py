"""Moments in Time: lines of `class/file.mp4,class,agree,disagree` without a header, in the folders of the splits."""

from __future__ import annotations

import csv
from typing import Final

from vfc.extract.collection.document import Document, NoVideoList
from vfc.extract.collection.listing import Listing, Row
from vfc.extract.collection.video import folder_label, is_video

from .format import Format

_FOLDERS: Final = {"train": "training/", "val": "validation/", "test": "testing/", "": ""}


def _read(document: Document) -> Listing | None:
    if not document.columns or not is_video(document.columns[0]):
        return None
    rows = list(csv.reader((line for _, line in document.lines), skipinitialspace=True))
    if all(len(row) > 2 and is_video(row[0]) and all(value.strip().isdigit() for value in row[1:]) for row in rows):
        if any(len(row) > 3 for row in rows):
            raise NoVideoList(
                f"{document.lines[0][0]}: {rows[0][0]!r} has {len(rows[0]) - 1} classes (Multi-Moments in Time).",
                "A video has one label here: choose one, in a CSV with the header path,label.",
            )
        return None
    if not all(len(row) == 4 and is_video(row[0]) and row[2].isdigit() and row[3].isdigit() for row in rows):
        return None
    folder = _FOLDERS[document.split]
    listed = tuple(
        Row(f"{folder}{path.strip()}", label.strip() or folder_label(path), document.split, where, "id")
        for (where, _), (path, label, _, _) in zip(document.lines, rows, strict=True)
    )
    return Listing(document.path, FORMAT.name, listed)


FORMAT = Format(
    "Moments in Time", "lines `class/file.mp4,class,agree,disagree` without a header", "trainingSet.csv", _read
)
