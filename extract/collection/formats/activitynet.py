"""ActivityNet, THUMOS, HACS (OpenTAD, ActionFormer) and COIN: JSON `database.<id>` with segments and a subset."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from vfc.cache_schema.values.errors import BadInput
from vfc.extract.collection.document import Document
from vfc.extract.collection.listing import Listing, Row

from .format import Format, known_split, left_out, one_row_per_time

_COIN: Final = ("step", "task")
_YOUTUBE: Final = re.compile(r"(v_)?[\w-]{11}")


def _read(document: Document) -> Listing | None:
    videos = _videos(document.json)
    if not videos:
        return None
    is_coin = any("annotation" in video for video in videos.values())
    chosen = document.choose(_COIN) if is_coin else ""
    # ActivityNet and HACS call the file of a YouTube id v_<id>; ids of another form (THUMOS) are the names of files.
    prefix = "" if is_coin or not all(map(_YOUTUBE.fullmatch, videos)) else "v_"
    rows: list[Row] = []
    empty = []
    for key, video in videos.items():
        path, split = prefix + key.removeprefix(prefix), known_split(str(video.get("subset", ""))) or document.split
        own = list(_rows(document, key, video, path, split, chosen))
        rows += own
        empty += [] if own else [key]
    by_time, lost = one_row_per_time(rows, "segments")
    if not by_time:  # a test list: the videos without their segments
        by_time = tuple(
            Row(f"{prefix}{key.removeprefix(prefix)}.mp4", "", known_split(str(video.get("subset", ""))), "", "id")
            for key, video in videos.items()
        )
        empty = []
    choice_note = (f"Labels are those of the {chosen}; --label {_other(chosen)} for the other.",) if is_coin else ()
    notes = (*choice_note, *lost, *left_out(len(empty), "without a segment", empty))
    kind = "COIN" if is_coin else FORMAT.name
    return Listing(document.path, kind, by_time, notes, labels=_COIN if is_coin else ())


def _videos(content: Any) -> Mapping[str, Mapping[str, Any]]:
    """Id -> its entry; empty for other JSON. mmaction2's copies have no `database` around them."""
    if not isinstance(content, dict):
        return {}
    videos = content.get("database", content)
    if not isinstance(videos, dict) or not videos or not all(isinstance(video, dict) for video in videos.values()):
        return {}
    if "database" in content:
        return videos
    are_videos = all(
        isinstance(v.get("annotations"), list) and {"duration", "duration_second"} & set(v) for v in videos.values()
    )
    return videos if are_videos else {}


def _rows(document: Document, key: str, video: Mapping[str, Any], path: str, split: str, chosen: str) -> Iterator[Row]:
    where = f"{document.path}, {key}"
    others = (path.removeprefix("v_"),) if path.startswith("v_") else (f"v_{path}",)
    if chosen == "task":
        yield Row(f"{path}.mp4", str(video.get("class", "")), split, where, "id", other_stems=others)
        return
    for segment in video.get("annotations") or video.get("annotation") or ():
        try:
            start, end = (round(float(edge), 6) for edge in segment["segment"])
            label = str(segment["label"]).strip()
        except (KeyError, TypeError, ValueError):
            raise BadInput(f"{where}: {segment!r} is no segment with a label.", "Download the list again.") from None
        if end > max(start, 0.0):
            yield Row(f"{path}.mp4", label, split, where, "id", "", max(start, 0.0), end, other_stems=others)


def _other(chosen: str) -> str:
    return next(label for label in _COIN if label != chosen)


FORMAT = Format(
    "ActivityNet, THUMOS, HACS, COIN",
    "JSON with `database`, of entries with `subset` and `annotations` (COIN: `annotation`)",
    "activity_net.v1-3.min.json",
    _read,
)
