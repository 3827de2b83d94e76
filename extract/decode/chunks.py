"""A long video in chunks: the frames of `read_job`, but a few at a time, so that it never lies in memory as a whole."""

from __future__ import annotations

from collections.abc import Iterator

import av
import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from vfc.cache_schema.values.record import Json

from .clip import Clip, Job
from .decoding import Damage, IndexMismatch, decode_at, deliver
from .packets import PacketIndex, packet_index
from .read import Times, choose, chosen_of, delivered, opened, times_of, upright


def read_chunks(job: Job, threads: int = 0) -> Iterator[Clip | None]:
    """The frames of `job`, `job.chunk` at a time; each chunk but the first begins with the last `job.overlap` before.

    None means: forget what came, all of it comes again, because the file's index did not hold what it promised.

    Raises:
        VfcError: as `read_clip`.
    """
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
    times = times_of(video, index.pts)
    indices, notes = choose(job, times)
    wanted = [index.pts[i] for i in np.unique(indices).tolist()]
    return _chunks(job, video, times, indices, notes, decode_at(container, video, index, wanted, threads))


def _everything(job: Job) -> Iterator[Clip]:
    """Decoded twice: to count what is delivered, then to take the chosen frames."""
    damage = Damage()
    with opened(job) as (container, video):
        stamps = [frame.pts for frame in deliver(container, video, damage)]
        times, indices, notes = chosen_of(job, video, stamps, damage)
    with opened(job) as (container, video):
        yield from _chunks(job, video, times, indices, notes, delivered(container, video, indices))


def _chunks(
    job: Job,
    video: VideoStream,
    times: Times,
    indices: npt.NDArray[np.int64],
    notes: dict[str, Json],
    frames: Iterator[VideoFrame],
) -> Iterator[Clip]:
    notes["frames"] = len(indices)
    first, held = 0, list[npt.NDArray[np.uint8]]()
    for place, image in enumerate(upright(job, video, indices, notes, frames), start=1):
        held.append(image)
        if len(held) == job.chunk or place == len(indices):
            part = indices[first:place]
            yield Clip(np.stack(held), times.seconds[part], part, times.fps, len(times.seconds), dict(notes), job.name)
            held = held[len(held) - job.overlap :]
            first = place - job.overlap
