"""From a file to the frames that a rule chooses.

Two ways lead there and give the same frames. With a packet index only what the chosen frames need is decoded, and any
doubt (an error, a frame that does not come) leads to the other way: everything is decoded in one thread, in the order
in which the decoder delivers, errors are counted and passed over. That order *is* the presentation order, also where
time stamps run backwards.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import av
import av.logging
import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from vfc.cache_schema.values.errors import BadInput, MissingPath
from vfc.cache_schema.values.record import Json

from .clip import Clip, Job
from .decoding import Damage, IndexMismatch, decode_at, deliver, error_text
from .orientation import orientation
from .packets import PacketIndex, packet_index
from .sampling import CLOCK_SLACK, check_rule, fixed_count, frame_indices

HELD_BYTES: Final = 256 << 20
"""Decoded frames kept while a video without an index is counted; beyond that it is decoded a second time."""

Image = npt.NDArray[np.uint8]
READABLE: Final = "Check that the file is complete and plays; `vfc` reads what FFmpeg reads."


@dataclass(frozen=True)
class Times:
    """When each frame of a video is shown, its mean rate, and what of that is worth a note."""

    seconds: npt.NDArray[np.float64]
    fps: float
    notes: dict[str, Json]


def read_clip(
    path: Path | str,
    rule: str,
    num_frames: int,
    *,
    stream: int | None = None,
    seed: int = 0,
    name: str = "",
    start_seconds: float | None = None,
    end_seconds: float | None = None,
    threads: int = 0,
) -> Clip:
    """Decode, in this process, the frames of `path` that `rule` chooses.

    Args:
        path: a file that FFmpeg can read.
        rule: which frames (see `sampling`).
        num_frames: how many, for the rules that take a number.
        stream: number of the stream within the file; None takes the container's best video stream.
        seed: of `tsn-random`.
        name: of the video, for `tsn-random`.
        start_seconds: first moment to look at, counted from the first frame as a player does.
        end_seconds: the moment to stop before. A part too short to hold a frame gives the frame on display then.
        threads: of the decoder, 0 for one per core; the frames do not depend on it.

    Raises:
        MissingPath: no such file.
        BadInput: no video, no such stream, nothing decodable, or a part that lies behind the end.
        UnknownName: no such rule.
    """
    check_rule(rule)
    job = Job(name, Path(path), rule, num_frames, stream, seed, start_seconds, end_seconds)
    return read_job(job, threads)


def read_job(job: Job, threads: int = 0) -> Clip:
    """`read_clip` with its arguments in one value."""
    with opened(job) as (container, video):
        index = packet_index(container, video)
        if index is not None:
            try:
                return _read_indexed(job, container, video, index, threads)
            except (av.FFmpegError, IndexMismatch):
                pass
    return _read_everything(job)


@contextlib.contextmanager
def opened(job: Job) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The file of a job and the stream to look at; raises as `read_clip` does."""
    if not job.path.exists():
        raise MissingPath(f"There is no file {job.path}.", "Check the path, or remove the video from the list.")
    if job.path.is_dir():
        raise BadInput(f"{job.path} is a folder, not a video.", "Give its files, or the folder as a collection.")
    try:
        container = av.open(str(job.path), metadata_errors="ignore")
    except (av.FFmpegError, OSError) as error:
        raise BadInput(f"{job.path} cannot be opened as a video: {_why(job.path, error)}.", READABLE) from error
    with container:
        yield container, _video_stream(job, container)


def _why(path: Path, error: Exception) -> str:
    """The last thing FFmpeg logs when it fails to open `path`: it says more than its error code."""
    if path.stat().st_size == 0:
        return "the file is empty"
    level = av.logging.get_level()
    av.logging.set_level(av.logging.ERROR)
    try:
        with av.logging.Capture() as logs, contextlib.suppress(av.FFmpegError, OSError):
            av.open(str(path), metadata_errors="ignore").close()
    finally:
        av.logging.set_level(level)
    said = logs[-1][2].strip() if logs else ""
    return f"{error_text(error)} ({said})" if said else error_text(error)


def _video_stream(job: Job, container: InputContainer) -> VideoStream:
    numbers = [s.index for s in container.streams.video]
    best = container.streams.best("video")
    number = job.stream if job.stream is not None else best.index if best is not None else None
    if number is None or number not in numbers:
        asked = "a video stream" if job.stream is None else f"a video stream {job.stream}"
        raise BadInput(
            f"{job.path} holds no {asked.removeprefix('a ')}.",
            f"Its video streams: {', '.join(map(str, numbers)) or 'none'}.",
        )
    video = container.streams.video[numbers.index(number)]
    if video.codec_context is None:
        raise BadInput(f"The video in {job.path} is coded in a way this FFmpeg cannot decode.", READABLE)
    return video


def _read_indexed(job: Job, container: InputContainer, video: VideoStream, index: PacketIndex, threads: int) -> Clip:
    times = times_of(video, index.pts)
    indices, notes = choose(job, times)
    wanted = [index.pts[i] for i in np.unique(indices).tolist()]
    return _assemble(job, video, times, indices, notes, decode_at(container, video, index, wanted, threads))


def _read_everything(job: Job) -> Clip:
    """Decode the whole video, count what is delivered, and take the chosen frames (from memory, or a second time)."""
    held: list[VideoFrame] = []
    stamps: list[int | None] = []
    damage = Damage()
    with opened(job) as (container, video):
        room = HELD_BYTES
        for frame in deliver(container, video, damage):
            stamps.append(frame.pts)
            room -= sum(plane.buffer_size for plane in frame.planes)
            if room >= 0:
                held.append(frame)
            else:
                held.clear()
        times, indices, notes = chosen_of(job, video, stamps, damage)
        if held:
            return _assemble(job, video, times, indices, notes, (held[i] for i in np.unique(indices).tolist()))
    with opened(job) as (container, video):
        return _assemble(job, video, times, indices, notes, delivered(container, video, indices))


def chosen_of(
    job: Job, video: VideoStream, stamps: Sequence[int | None], damage: Damage
) -> tuple[Times, npt.NDArray[np.int64], dict[str, Json]]:
    """Of a video that was decoded whole: its times, and what `choose` takes of it; `stamps` of all that was delivered.

    Raises BadInput where nothing was.
    """
    if not stamps:
        raise BadInput(f"No frame of {job.path} can be decoded{damage.words(': ')}.", READABLE)
    times = times_of(video, stamps)
    indices, notes = choose(job, times)
    if damage:
        notes["damage"] = damage.words()
    return times, indices, notes


def delivered(container: InputContainer, video: VideoStream, indices: npt.NDArray[np.int64]) -> Iterator[VideoFrame]:
    """The frames of these numbers, each once and in order, of a video that is decoded from its start."""
    chosen = set(indices.tolist())
    return (frame for i, frame in enumerate(deliver(container, video, Damage())) if i in chosen)


def times_of(video: VideoStream, stamps: Sequence[int | None]) -> Times:
    """Seconds per frame and the mean rate; both survive headers and time stamps that are wrong."""
    notes: dict[str, Json] = {}
    if video.frames and video.frames != len(stamps):
        notes["header_frames"] = video.frames
    header = float(video.average_rate or video.guessed_rate or 0)
    base = video.time_base
    known = [s for s in stamps if s is not None]
    if base is not None and len(known) == len(stamps):
        ticks = np.array(known, dtype=np.int64)
        if (np.diff(ticks) > 0).all():
            seconds = ticks * base.numerator / base.denominator
            span = float(seconds[-1] - seconds[0])
            measured = (len(known) - 1) / span if span > 0 else header or 1.0
            # Containers round time stamps, so the header's rate is the better number unless it contradicts them.
            return Times(seconds, header if header and abs(header / measured - 1) < 0.05 else measured, notes)
    rate = header or 25.0
    start = float(known[0] * base) if known and base is not None else 0.0
    notes["seconds_from"] = "frame rate"
    return Times(start + np.arange(len(stamps)) / rate, rate, notes)


def choose(job: Job, times: Times) -> tuple[npt.NDArray[np.int64], dict[str, Json]]:
    """Frame numbers `[T]` and what to note about them."""
    notes = dict(times.notes)
    first, stop = 0, len(times.seconds)
    if job.start_seconds is not None or job.end_seconds is not None:
        clock = times.seconds - times.seconds[0]
        start = job.start_seconds or 0.0
        if start > clock[-1] + 1 / times.fps:
            raise BadInput(
                f"The part from {start:g} s on lies behind the end of {job.path} ({clock[-1] + 1 / times.fps:.2f} s).",
                "Correct start_seconds; it counts from the first frame of the file.",
            )
        first = int(np.searchsorted(clock, start - CLOCK_SLACK, side="left"))
        if job.end_seconds is not None:
            stop = int(np.searchsorted(clock, job.end_seconds - CLOCK_SLACK, side="left"))
        if first >= stop:
            first = int(np.searchsorted(clock, start + CLOCK_SLACK, side="right")) - 1
            stop = first + 1
        notes["window"] = [job.start_seconds, job.end_seconds]
    part = times.seconds[first:stop]
    chosen = frame_indices(
        job.rule, job.num_frames, stop - first, times.fps, seed=job.seed, name=job.name, seconds=part
    )
    notes["repeated"] = max(0, job.num_frames - (stop - first)) if fixed_count(job.rule) else 0
    return chosen + first, notes


def _assemble(
    job: Job,
    video: VideoStream,
    times: Times,
    indices: npt.NDArray[np.int64],
    notes: dict[str, Json],
    frames: Iterator[VideoFrame],
) -> Clip:
    """Convert `frames` (one per different index, in order) to upright RGB and repeat where indices repeat."""
    out: Image | None = None
    for place, image in enumerate(upright(job, video, indices, notes, frames)):
        if out is None:
            out = np.empty((len(indices), *image.shape), dtype=np.uint8)
        out[place] = image
    assert out is not None
    return Clip(out, times.seconds[indices], indices, times.fps, len(times.seconds), notes, job.name)


def upright(
    job: Job,
    video: VideoStream,
    indices: npt.NDArray[np.int64],
    notes: dict[str, Json],
    frames: Iterator[VideoFrame],
) -> Iterator[npt.NDArray[Any]]:
    """One upright RGB image per index, from one frame per different index; adds to `notes` before the first comes."""
    shape: tuple[int, ...] = ()
    place = 0
    for number, frame in zip(np.unique(indices).tolist(), frames, strict=True):
        turned = orientation(frame)
        image: npt.NDArray[Any] = turned.apply(frame.to_ndarray(format="rgb24"))
        if not shape:
            shape = image.shape
            notes |= {"stream": video.index, "codec": video.codec_context.codec.canonical_name, **turned.notes()}
        elif image.shape != shape:
            raise BadInput(
                f"The picture of {job.path} changes its size from {_size(shape)} to {_size(image.shape)}.",
                "Re-encode it to one size, or ask for a part within which the size stays.",
            )
        while place < len(indices) and indices[place] == number:
            yield image
            place += 1


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]}"
