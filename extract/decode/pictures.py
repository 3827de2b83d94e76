"""A frame folder as a video: numbered pictures in order, at a frame rate that the user says."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from vfc.cache_schema.values.errors import BadInput
from vfc.cache_schema.values.record import Json
from vfc.extract.collection.frame_folder import frame_files

from .clip import Clip, Job
from .read import Selection, select_at

ASSUMED_FPS: Final = 25.0
"""Frames per second of pictures where the user says none: pictures do not say when they are shown."""


def read_pictures(job: Job) -> Iterator[Clip]:
    """The chosen frames of a folder of pictures: `job.chunk` at a time as `read_chunks` gives them, or one clip.

    Raises:
        BadInput: no numbered pictures, one that cannot be read, other sizes, or a part in seconds without a rate.
    """
    files = frame_files(os.listdir(job.path))
    if not files:
        raise BadInput(
            f"{job.path} is a folder, not a video.", "Give its files, or a folder of numbered pictures (img_00001.jpg)."
        )
    if job.fps is None and (job.start_seconds is not None or job.end_seconds is not None):
        raise BadInput(
            f"{job.name}: a part in seconds of a folder of pictures, whose frame rate is not known.", "Give --fps."
        )
    rate = job.fps or ASSUMED_FPS
    how = "--fps" if job.fps else f"{ASSUMED_FPS:g} frames per second, assumed"
    notes: dict[str, Json] = {"seconds_from": how}
    selection = select_at(job, np.arange(len(files)) / rate, rate, notes)
    notes.update({"stream": 0, "codec": os.path.splitext(files[0])[1][1:].lower(), "rotation": 0})
    return _chunks(job, selection, _images(job.path, files, selection))


def _chunks(job: Job, selection: Selection, images: Iterator[npt.NDArray[np.uint8]]) -> Iterator[Clip]:
    total = len(selection.indices)
    size = job.chunk or total
    if job.chunk:
        selection.notes["frames"] = total
    first, frames = 0, list[npt.NDArray[np.uint8]]()
    for stop, image in enumerate(images, start=1):
        frames.append(image)
        if len(frames) == size or stop == total:
            yield selection.clip(job, np.stack(frames), slice(first, stop))
            frames = frames[len(frames) - job.overlap :] if job.overlap else []
            first = stop - job.overlap


def _images(folder: Path, files: list[str], selection: Selection) -> Iterator[npt.NDArray[np.uint8]]:
    """One RGB image `[H, W, 3]` per index; each picture is read once."""
    shape: tuple[int, ...] = ()
    for number, repeats in itertools.groupby(selection.indices.tolist()):
        image = _image(folder / files[number])
        if shape and image.shape != shape:
            raise BadInput(
                f"The pictures of {folder} change their size at {files[number]}.", "Write them anew in one size."
            )
        shape = image.shape
        yield from (image for _ in repeats)


def _image(file: Path) -> npt.NDArray[np.uint8]:
    try:
        with Image.open(file) as picture:
            return np.asarray(picture.convert("RGB"))
    except (OSError, UnidentifiedImageError) as error:
        raise BadInput(f"The picture {file} cannot be read: {error}.", "Write it anew, or remove it.") from None
