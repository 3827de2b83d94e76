"""Frame folders: videos that lie on disk as numbered pictures, as TSN and Something-Something V1 have them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from .video import is_video

_PICTURE: Final = re.compile(r"(?P<prefix>.*?)(?P<number>\d+)\.(?:jpe?g|png|bmp|webp|ppm)", re.IGNORECASE)
_NOT_COLOUR: Final = re.compile(r"(^|[-_])(flow|depth|mask)([-_]|$)|(^|-)[xyuv]_$", re.IGNORECASE)


def frame_files(names: Iterable[str]) -> list[str]:
    """The pictures of a frame folder in order of their numbers; empty where the names are no frame folder.

    One family of names counts, that of the most pictures (`img_00001.jpg`); optical flow beside them does not
    (`flow_x_00001.jpg`). Two pictures are the least. Beside videos, pictures are not frames but thumbnails.
    """
    families: dict[str, list[tuple[int, str]]] = {}
    for name in names:
        if is_video(name) and not name.startswith("."):
            return []
        picture = _PICTURE.fullmatch(name)
        if picture and not name.startswith(".") and not _NOT_COLOUR.search(picture["prefix"]):
            families.setdefault(picture["prefix"], []).append((int(picture["number"]), name))
    numbered = max(families.values(), key=len, default=[])
    return [name for _, name in sorted(numbered)] if len(numbered) > 1 else []


def is_frame_folder(path: Path) -> bool:
    """Whether a path is a folder of numbered pictures."""
    return path.is_dir() and bool(frame_files(os.listdir(path)))
