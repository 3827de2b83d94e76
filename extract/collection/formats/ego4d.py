"""Ego4D long-term anticipation: JSON `clips` with `clip_uid` and the times of an action in its clip; verb and noun."""

from __future__ import annotations

from typing import Final

from vfc.extract.collection.document import Document
from vfc.extract.collection.listing import Listing, Row

from .format import Format, known_split, one_row_per_time, seconds

_LABELS: Final = ("verb", "noun", "action")


def _read(document: Document) -> Listing | None:
    content = document.json
    clips = content.get("clips") if isinstance(content, dict) else None
    if not isinstance(clips, list) or not clips or not all(isinstance(c, dict) and "clip_uid" in c for c in clips):
        return None
    split = known_split(str(content.get("split", ""))) or document.split
    chosen = document.choose(_LABELS)
    parts = ("verb", "noun") if chosen == "action" else (chosen,)
    rows = []
    for number, clip in enumerate(clips, start=1):
        where = f"{document.path}, clip {number}"
        start, end = (seconds(clip[f"action_clip_{edge}_sec"], where) for edge in ("start", "end"))
        label = " ".join(str(clip.get(part, "")) for part in parts).strip()
        rows.append(Row(f"{clip['clip_uid']}.mp4", label, split, where, "id", "", start, end))
    by_time, lost = one_row_per_time(rows, "actions")
    labelled = any(row.label for row in by_time)
    choice_note = (f"Labels are those of the {chosen}; --label takes {', '.join(_LABELS)}.",) if labelled else ()
    return Listing(document.path, FORMAT.name, by_time, (*choice_note, *lost), labels=_LABELS)


FORMAT = Format("Ego4D", "JSON with `clips`, of entries with `clip_uid`", "fho_lta_train.json", _read)
