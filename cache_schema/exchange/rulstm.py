"""Features in LMDB as RULSTM publishes them: a value per frame, `<video>_frame_0000000001.jpg` -> float32 `[D]`.

A folder of one database (`data.mdb`), or a folder of several (`rgb/`, `flow/`, `obj/`), which are streams of the same
videos. The databases are opened for reading only and without a lock, so that nothing is written beside them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from vfc.cache_schema.values.errors import BadInput, MissingExtra, RecordRejected, unknown_name

from .sources import Array, Item, Source

FRAMES_PER_SECOND: Final = 30.0
"""Of the videos as RULSTM encoded them again; frames are counted from 1."""

_KEY: Final = re.compile(rb"(?P<video>.+)_frame_(?P<frame>\d+)\.\w+")


def is_lmdb(place: Path) -> bool:
    """Whether a path is an LMDB database, or a folder of databases."""
    return place.suffix == ".mdb" or (place.is_dir() and bool(_databases(place)))


def rulstm(place: Path, dataset: str, fps: float | None) -> Source:
    """The videos of one database or of several; `dataset` names one of several.

    Raises:
        MissingExtra: lmdb is not installed.
        BadInput: no database, or no keys `<video>_frame_<number>.jpg` in it.
        UnknownName: there is no database of the name `dataset`.
    """
    databases = _databases(place)
    if dataset and dataset not in databases:
        raise unknown_name(f"database in {place}", dataset, databases)
    if not databases:
        raise BadInput(f"{place} holds no LMDB database (data.mdb).", "Give the folder of data.mdb, or one above.")
    streams = [dataset] if dataset else sorted(databases, key=lambda name: (name != "rgb", name))
    opened = {stream: _open(databases[stream]) for stream in streams}
    frames = {stream: _frames(opened[stream], databases[stream]) for stream in streams}
    rate = fps or FRAMES_PER_SECOND
    lost, items = [], []
    for video, own in frames[streams[0]].items():
        missing = next((s for s in streams if not np.array_equal(frames[s].get(video, []), own)), "")
        if missing:
            reason = f"The frames of {video} in {missing} are not those in {streams[0]}."
            lost.append((video, databases[missing], reason))
            continue
        load = {stream: partial(_values, opened[stream], databases[stream], video) for stream in streams}
        first, *others = streams
        items.append(
            Item(
                video,
                databases[first] / "data.mdb",
                load[first],
                streams={stream: load[stream] for stream in others},
                seconds=partial(_seconds, own, rate),
            )
        )
    note = () if fps else (f"Frames are counted from 1 at {rate:g} per second; --fps says another rate.",)
    return Source("lmdb", tuple(items), lost=lost, streams=tuple(streams) if len(streams) > 1 else (), notes=note)


def _databases(place: Path) -> dict[str, Path]:
    """Name -> folder of every database."""
    if place.suffix == ".mdb":
        place = place.parent
    if (place / "data.mdb").is_file():
        return {place.name: place}
    return {file.parent.name: file.parent for file in sorted(place.glob("*/data.mdb"))}


def _open(folder: Path) -> Any:
    try:
        import lmdb
    except ImportError as error:
        raise MissingExtra(f"Reading {folder} needs lmdb.", "pip install 'vfc[lmdb]'") from error
    try:
        return lmdb.open(str(folder), readonly=True, lock=False, readahead=False)
    except lmdb.Error as error:
        raise BadInput(f"{folder} is no LMDB database: {error}.", "Fetch it again.") from None


def _frames(database: Any, folder: Path) -> dict[str, Array]:
    """Video -> the numbers of its frames, ascending, int64."""
    numbers: dict[str, list[int]] = {}
    with database.begin() as transaction:
        for key in transaction.cursor().iternext(keys=True, values=False):
            match = _KEY.fullmatch(key)
            if match is None:
                raise BadInput(
                    f"{folder} has a key {key[:60]!r}, which is not <video>_frame_<number>.jpg.",
                    "Only LMDB as RULSTM writes it is read; write the arrays as npy files.",
                )
            numbers.setdefault(match["video"].decode("utf-8", "backslashreplace"), []).append(int(match["frame"]))
    return {video: np.array(sorted(own), np.int64) for video, own in numbers.items()}


def _values(database: Any, folder: Path, video: str) -> Array:
    """float32 `[T, D]` of one video, by number of frame."""
    prefix = f"{video}_frame_".encode()
    rows: list[tuple[int, Array]] = []
    with database.begin() as transaction:
        cursor = transaction.cursor()
        for key, value in cursor.iternext() if cursor.set_range(prefix) else ():
            match = _KEY.fullmatch(key)
            if match is None or not key.startswith(prefix):
                break
            if len(value) % 4:
                raise RecordRejected(f"{folder}: {key!r} has {len(value)} bytes, no float32.", "Fetch it again.")
            rows.append((int(match["frame"]), np.frombuffer(value, "<f4").copy()))
    vectors: Sequence[Array] = [vector for _, vector in sorted(rows, key=lambda row: row[0])]
    if len({len(vector) for vector in vectors}) != 1:
        raise RecordRejected(f"{folder}: the frames of {video} have different widths.", "Fetch it again.")
    return np.stack(vectors)


def _seconds(frames: Array, rate: float) -> Array:
    return np.asarray((frames - 1) / rate)
