"""Which views of a store are drawn in training and averaged in a test."""

from __future__ import annotations

import re
from typing import Final

from vfc.cache_schema.reader import StoreReader
from vfc.cache_schema.values.errors import BadInput, MissingRecord
from vfc.cache_schema.values.progress import Progress

from .dataset import InUse, VideoDataset, in_view

_NAMED: Final = 5
"""Videos that a message names."""

_RANGES: Final = re.compile(r"\d+(-\d+)?(,\d+(-\d+)?)*")


def training_views(reader: StoreReader, views: str) -> InUse:
    """Which views are drawn in training: `auto` leaves out crops and clips that are made for tests."""
    if views == "auto":
        excluded = {
            view
            for view, meaning in view_meanings(reader).items()
            if {"crop", "clip"} & set(meaning) and "copy" not in meaning
        }
        return lambda view: view not in excluded
    return in_view(None) if views == "all" else numbers(views, "--train-views")


def complete_views(videos: VideoDataset, progress: Progress, *, leave_out: bool) -> tuple[list[int], list[str]]:
    """The views that are averaged, and the videos that have all of them.

    Raises:
        MissingRecord: videos lack one of the views, by name, and are not to be left out.
    """
    views_of: dict[str, set[int]] = {name: set() for name in videos.names}
    for key in videos.keys:
        views_of[key.name].add(key.view)
    views = sorted(set().union(*views_of.values()))
    missing = {name: sorted({*views} - own) for name, own in views_of.items() if len(own) < len(views)}
    if missing:
        listed = "; ".join(
            f"{name!r} lacks {', '.join(map(str, lacks))}" for name, lacks in [*missing.items()][:_NAMED]
        )
        more = f" and {len(missing) - _NAMED} more videos" if len(missing) > _NAMED else ""
        problem = (
            f"{len(missing)} of {len(views_of)} tested videos do not have all of the {len(views)} views that are "
            f"averaged: {listed}{more}."
        )
        if not leave_out:
            raise MissingRecord(
                problem,
                "Extract the missing views, name views that all videos have with --test-views, or leave these videos "
                "out with --leave-out-incomplete.",
            )
        progress.say(f"{problem} They are left out.")
    return views, [name for name in videos.names if name not in missing]


def test_views(reader: StoreReader, views: str) -> InUse:
    """Which views are tested: `all` leaves out augmented copies; `4x3` are 3 crops each of 4 clips in time.

    Raises:
        BadInput: no such clips and crops, or of two published pipelines.
    """
    if views == "all":
        copies = {view for view, meaning in view_meanings(reader).items() if "copy" in meaning}
        return lambda view: view not in copies
    if not re.fullmatch(r"\d+x\d+", views):
        return numbers(views, "--test-views")
    clips, crops = map(int, views.split("x"))
    by_pipeline: dict[object, set[int]] = {}
    for view, meaning in view_meanings(reader).items():
        if "copy" not in meaning and (meaning.get("of"), meaning.get("crops")) == (clips, crops):
            by_pipeline.setdefault(meaning.get("pipeline"), set()).add(view)
    if len(by_pipeline) != 1:
        stored = f"those of {' and '.join(map(str, by_pipeline))}" if by_pipeline else "none"
        raise BadInput(
            f"--test-views {views}: of such views the store {reader.root} has {stored}.",
            f"Extract them with --views test:{views}, or give the numbers of the views.",
        )
    (chosen,) = by_pipeline.values()
    return lambda view: view in chosen


def numbers(text: str, flag: str) -> InUse:
    """Numbers and ranges of numbers, as in `0,401-404`.

    Raises:
        BadInput: anything else.
    """
    if not _RANGES.fullmatch(text):
        raise BadInput(f"{flag} {text!r} names no views.", f"Write numbers and ranges: {flag} 0,401-404; or all.")
    pairs = [piece.partition("-") for piece in text.split(",")]
    ranges = [range(int(first), int(last or first) + 1) for first, _, last in pairs]
    return lambda view: any(view in numbers for numbers in ranges)


def view_meanings(reader: StoreReader) -> dict[int, dict[str, object]]:
    """View -> what the store says of it: clip, crop, copy ..."""
    return {int(view): dict(meaning) for view, meaning in reader.axes("view").items() if isinstance(meaning, dict)}
