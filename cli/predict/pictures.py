"""Frames of each video for the page of predictions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from vfc.cache_schema.values.errors import VfcError
from vfc.cache_schema.values.progress import Progress

if TYPE_CHECKING:
    from .features import Scene

FRAMES: Final = 3


def pictures_of(scenes: Mapping[str, Scene], count: int, progress: Progress) -> Callable[[str], tuple[bytes, ...]]:
    """A function that decodes a video, by its name, for three of its frames as JPEG files.

    One video is in memory at a time. A video without a file, or that cannot be read any more, has no pictures.
    """
    from vfc.extract.frames.thumbnails import thumbnails

    progress.begin("Pictures", count, "videos")

    def pictures(name: str) -> tuple[bytes, ...]:
        progress.advance()
        scene = scenes.get(name)
        if scene is None:
            return ()
        try:
            return thumbnails(scene.path, FRAMES, start_seconds=scene.start_seconds, end_seconds=scene.end_seconds)
        except VfcError:
            return ()

    return pictures
