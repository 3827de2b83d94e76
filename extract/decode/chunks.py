"""A long video in chunks: the frames of `read_job`, a few at a time, so that memory holds only a few of them."""

from __future__ import annotations

from collections.abc import Iterator

import av
import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from .clip import Clip, Job
from .decoding import Damage, IndexMismatch, decode_all, decode_at
from .packets import PacketIndex, packet_index
from .pictures import read_pictures
from .read import Selection, decode_numbers, opened, select, upright


def read_chunks(job: Job, threads: int = 0) -> Iterator[Clip | None]:
    """The frames of `job`, `job.chunk` at a time; each chunk but the first begins with the last `job.overlap` before.

    None means: discard all chunks so far, they come again, because the packet index turned out to be wrong.

    Raises:
        VfcError: as `read_clip`.
    """
    if job.path.is_dir():
        yield from read_pictures(job)
        return
    with opened(job) as (container, video):
        index = packet_index(container, video)
        if index is not None:
            try:
                yield from _indexed(job, container, video, index, threads)
                return
            except (av.FFmpegError, IndexMismatch):
                yield None
    yield from _everything(job)


def _indexed(
    job: Job, container: InputContainer, video: VideoStream, index: PacketIndex, threads: int
) -> Iterator[Clip]:
    selection = select(job, video, index.pts)
    stamps = [index.pts[number] for number in selection.numbers]
    return _chunks(job, video, selection, decode_at(container, video, index, stamps, threads))


def _everything(job: Job) -> Iterator[Clip]:
    """Decoded twice: to count the frames, then to take the chosen ones."""
    damage = Damage()
    with opened(job) as (container, video):
        selection = select(job, video, [frame.pts for frame in decode_all(container, video, damage)], damage)
    with opened(job) as (container, video):
        yield from _chunks(job, video, selection, decode_numbers(container, video, selection.numbers))


def _chunks(job: Job, video: VideoStream, selection: Selection, frames: Iterator[VideoFrame]) -> Iterator[Clip]:
    total = len(selection.indices)
    selection.notes["frames"] = total
    first, images = 0, list[npt.NDArray[np.uint8]]()
    for stop, image in enumerate(upright(job, video, selection, frames), start=1):
        images.append(image)
        if len(images) == job.chunk or stop == total:
            yield selection.clip(job, np.stack(images), slice(first, stop))
            images = images[len(images) - job.overlap :]
            first = stop - job.overlap
