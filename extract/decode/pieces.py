"""A long video in pieces: the frames of `read_job`, but a few at a time, so that it never lies in memory as a whole."""

from __future__ import annotations

from collections.abc import Iterator

import av
import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from vfc.cache_schema.errors import BadInput
from vfc.cache_schema.record import Json

from .clip import Clip, Job
from .frames import Damage, Doubt, decode_at, deliver
from .packets import PacketIndex, packet_index
from .read import READABLE, Times, choose, opened, times_of, upright


def read_pieces(job: Job, threads: int = 0) -> Iterator[Clip | None]:
    """The frames of `job`, `job.piece` at a time; each piece but the first begins with the last `job.overlap` before.

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
            except (av.FFmpegError, Doubt):
                yield None
    yield from _everything(job)


def _indexed(
    job: Job, container: InputContainer, video: VideoStream, index: PacketIndex, threads: int
) -> Iterator[Clip]:
    times = times_of(video, index.pts)
    indices, notes = choose(job, times)
    wanted = [index.pts[i] for i in np.unique(indices).tolist()]
    return _pieces(job, video, times, indices, notes, decode_at(container, video, index, wanted, threads))


def _everything(job: Job) -> Iterator[Clip]:
    """Decoded twice: to count what is delivered, then to take the chosen frames."""
    damage = Damage()
    with opened(job) as (container, video):
        stamps = [frame.pts for frame in deliver(container, video, damage)]
        if not stamps:
            raise BadInput(f"No frame of {job.path} can be decoded{damage.words(': ')}.", READABLE)
        times = times_of(video, stamps)
    indices, notes = choose(job, times)
    if damage:
        notes["damage"] = damage.words()
    with opened(job) as (container, video):
        chosen = set(indices.tolist())
        frames = (f for i, f in enumerate(deliver(container, video, Damage())) if i in chosen)
        yield from _pieces(job, video, times, indices, notes, frames)


def _pieces(
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
        if len(held) == job.piece or place == len(indices):
            part = indices[first:place]
            yield Clip(np.stack(held), times.seconds[part], part, times.fps, len(times.seconds), dict(notes), job.name)
            held = held[len(held) - job.overlap :]
            first = place - job.overlap
