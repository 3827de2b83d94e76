"""Source files: whether a record still belongs to its file.

A record belongs to the content of a file. Its metadata holds `file`: `size` in bytes, `mtime_ns` (absent in stores of
version 0.1) and `sha256`.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from vfc.cache_schema.reader import StoreReader
from vfc.cache_schema.values.record import Json, Key
from vfc.extract.collection.frame_folder import frame_files

SINGLE_FRAME: Final = "single_frame"
"""True in the metadata of a clip of several frames that are one frame of the video, repeated."""


def file_identity(path: Path) -> dict[str, Json]:
    """Size in bytes, modification time in nanoseconds and SHA-256 of a file, or of the pictures of a frame folder."""
    size, mtime_ns = _size_and_time(path)
    return {"size": size, "mtime_ns": mtime_ns, "sha256": _sha256(path, size, mtime_ns)}


def _size_and_time(path: Path) -> tuple[int, int]:
    """Size in bytes and latest modification time in nanoseconds; of a folder of pictures those of all pictures."""
    if not path.is_dir():
        status = os.stat(path)
        return status.st_size, status.st_mtime_ns
    states = [os.stat(path / name) for name in frame_files(os.listdir(path))]
    return sum(state.st_size for state in states), max((state.st_mtime_ns for state in states), default=0)


# Segments and views of one file follow each other in a collection.
@functools.lru_cache(maxsize=64)
def _sha256(path: Path, size: int, mtime_ns: int) -> str:
    if path.is_dir():
        hasher = hashlib.sha256()
        for name in frame_files(os.listdir(path)):
            hasher.update(
                name.encode(errors="surrogateescape") + b"\0" + hashlib.sha256((path / name).read_bytes()).digest()
            )
        return hasher.hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_changed(path: Path, metadata: Any, *, check_content: bool) -> bool:
    """Whether a file is not the one that a record was made from.

    Size and time are compared; where they are not both equal and the size allows it, SHA-256 decides. A record that
    does not name its file, or whose file is gone, does not count as changed.

    Args:
        path: The file now.
        metadata: Of the record.
        check_content: Whether SHA-256 is compared in any case.
    """
    stored = metadata.get("file")
    if not stored or not path.exists():
        return False
    size, mtime_ns = _size_and_time(path)
    if size != stored["size"]:
        return True
    if mtime_ns == stored.get("mtime_ns") and not check_content:
        return False
    return bool(_sha256(path, size, mtime_ns) != stored["sha256"])


def single_frame_clips(reader: StoreReader, views: Iterable[int]) -> list[Key]:
    """Records of these views whose clip is one frame, repeated."""
    numbers = set(views)
    keys: Sequence[Key] = reader.keys("video") if "video" in reader.kinds else ()
    return [key for key in keys if key.view in numbers and reader.metadata(key).get(SINGLE_FRAME)]
