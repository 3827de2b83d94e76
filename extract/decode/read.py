"""From a file to the frames that a rule chooses.

There are two ways, and both give the same frames. With a packet index, only what the chosen frames need is decoded.
Without one, or after any error or missing frame, everything is decoded in one thread, in the order in which the decoder
delivers frames; errors are counted and skipped. That order *is* the presentation order, also where time stamps run
backwards.
"""

from __future__ import annotations

import contextlib
import itertools
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
from .decoding import Damage, IndexMismatch, decode_all, decode_at, error_text
from .orientation import orientation
from .packets import PacketIndex, packet_index
from .sampling import CLOCK_SLACK, check_rule, fixed_count, frame_indices

BUFFER_BYTES: Final = 256 << 20
"""Most decoded frames kept while a video without an index is counted; of a longer one, frames are decoded twice."""

Image = npt.NDArray[np.uint8]
READABLE: Final = "Check that the file is complete and plays; `vfc` reads what FFmpeg reads."


@dataclass(frozen=True)
class Selection:
    """Which frames of a video are read.

    `indices`: their numbers in presentation order, never falling, int64 `[T]`. `seconds`: when each frame of the whole
    video is shown, float64. `fps`: mean frame rate. `notes`: see `Clip.metadata`.
    """

    indices: npt.NDArray[np.int64]
    seconds: npt.NDArray[np.float64]
    fps: float
    notes: dict[str, Json]

    @property
    def numbers(self) -> list[int]:
        """The different frame numbers, rising."""
        return [int(number) for number in np.unique(self.indices)]

    def clip(self, job: Job, frames: Image, part: slice = slice(None)) -> Clip:
        """`frames` `[t, H, W, 3]` as the clip of the indices in `part`."""
        indices = self.indices[part]
        return Clip(frames, self.seconds[indices], indices, self.fps, len(self.seconds), dict(self.notes), job.name)


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
        stream: number of the stream in the file; None takes the container's best video stream.
        seed: of `tsn-random`.
        name: of the video, for `tsn-random`.
        start_seconds: start of the segment, counted from the first frame as a player does.
        end_seconds: its end, not included. A segment too short to hold a frame gives the frame on display at its start.
        threads: of the decoder, 0 for one per core; the frames do not depend on it.

    Raises:
        MissingPath: no such file.
        BadInput: no video, no such stream, nothing decodable, or a segment that begins after the end.
        UnknownName: no such rule.
    """
    check_rule(rule)
    job = Job(name, Path(path), rule, num_frames, stream, seed, start_seconds, end_seconds)
    return read_job(job, threads)


def read_job(job: Job, threads: int = 0) -> Clip:
    """`read_clip` with its arguments in one value."""
    if job.path.is_dir():
        from .pictures import read_pictures  # which chooses frames by this module

        return next(read_pictures(job))
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
    """The file of a job and its video stream; raises as `read_clip` does."""
    if not job.path.exists():
        raise MissingPath(f"There is no file {job.path}.", "Check the path, or remove the video from the list.")
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
    detail = logs[-1][2].strip() if logs else ""
    return f"{error_text(error)} ({detail})" if detail else error_text(error)


def _video_stream(job: Job, container: InputContainer) -> VideoStream:
    numbers = [s.index for s in container.streams.video]
    best = container.streams.best("video")
    number = job.stream if job.stream is not None else best.index if best is not None else None
    if number is None or number not in numbers:
        raise BadInput(
            f"{job.path} holds no video stream{'' if job.stream is None else f' {job.stream}'}.",
            f"Its video streams: {', '.join(map(str, numbers)) or 'none'}.",
        )
    video = container.streams.video[numbers.index(number)]
    if video.codec_context is None:
        raise BadInput(f"The video in {job.path} is coded in a way this FFmpeg cannot decode.", READABLE)
    return video


def _read_indexed(job: Job, container: InputContainer, video: VideoStream, index: PacketIndex, threads: int) -> Clip:
    selection = select(job, video, index.pts)
    stamps = [index.pts[number] for number in selection.numbers]
    return _assemble(job, video, selection, decode_at(container, video, index, stamps, threads))


def _read_everything(job: Job) -> Clip:
    """Decode the whole video to count its frames; take the chosen ones from memory, or decode them a second time."""
    buffer: list[VideoFrame] = []
    stamps: list[int | None] = []
    damage = Damage()
    with opened(job) as (container, video):
        room = BUFFER_BYTES
        for frame in decode_all(container, video, damage):
            stamps.append(frame.pts)
            room -= sum(plane.buffer_size for plane in frame.planes)
            if room >= 0:
                buffer.append(frame)
            else:
                buffer.clear()
        selection = select(job, video, stamps, damage)
        if buffer:
            return _assemble(job, video, selection, (buffer[number] for number in selection.numbers))
    with opened(job) as (container, video):
        return _assemble(job, video, selection, decode_numbers(container, video, selection.numbers))


def decode_numbers(container: InputContainer, video: VideoStream, numbers: Sequence[int]) -> Iterator[VideoFrame]:
    """The frames of these numbers, each once and in order; the video is decoded from its start."""
    chosen = set(numbers)
    return (frame for i, frame in enumerate(decode_all(container, video, Damage())) if i in chosen)


def select(job: Job, video: VideoStream, stamps: Sequence[int | None], damage: Damage | None = None) -> Selection:
    """The frames that the rule of `job` chooses, from the time stamps of all frames in order of presentation.

    Raises:
        BadInput: there is no frame, or the segment begins after the end of the video.
    """
    if not stamps:
        raise BadInput(f"No frame of {job.path} can be decoded{damage.text(': ') if damage else ''}.", READABLE)
    seconds, rate, notes = _times(video, stamps)
    if damage:
        notes["damage"] = damage.text()
    return select_at(job, seconds, rate, notes)


def select_at(job: Job, seconds: npt.NDArray[np.float64], rate: float, notes: dict[str, Json]) -> Selection:
    """The frames that the rule of `job` chooses, from the times of all frames; adds to the notes."""
    start_frame, stop_frame = _segment_frames(job, seconds, rate)
    if job.start_seconds is not None or job.end_seconds is not None:
        notes["window"] = [job.start_seconds, job.end_seconds]
    segment = seconds[start_frame:stop_frame]
    indices = frame_indices(job.rule, job.num_frames, len(segment), rate, seed=job.seed, name=job.name, seconds=segment)
    notes["repeated"] = max(0, job.num_frames - len(segment)) if fixed_count(job.rule) else 0
    return Selection(indices + start_frame, seconds, rate, notes)


def _times(video: VideoStream, stamps: Sequence[int | None]) -> tuple[npt.NDArray[np.float64], float, dict[str, Json]]:
    """When each frame is shown, the mean frame rate, and notes where the file's header or time stamps are wrong."""
    notes: dict[str, Json] = {}
    if video.frames and video.frames != len(stamps):
        notes["header_frames"] = video.frames
    header_rate = float(video.average_rate or video.guessed_rate or 0)
    seconds = _rising_seconds(video, stamps)
    if seconds is not None:
        return seconds, _mean_rate(seconds, header_rate), notes
    rate = header_rate or 25.0
    first = next((stamp for stamp in stamps if stamp is not None), None)
    start = float(first * video.time_base) if first is not None and video.time_base is not None else 0.0
    notes["seconds_from"] = "frame rate"
    return start + np.arange(len(stamps)) / rate, rate, notes


def _rising_seconds(video: VideoStream, stamps: Sequence[int | None]) -> npt.NDArray[np.float64] | None:
    """When each frame is shown, by its time stamp; None where stamps are missing or do not rise."""
    base = video.time_base
    known_stamps = [stamp for stamp in stamps if stamp is not None]
    if base is None or len(known_stamps) < len(stamps):
        return None
    ticks = np.array(known_stamps, dtype=np.int64)
    return ticks * base.numerator / base.denominator if (np.diff(ticks) > 0).all() else None


def _mean_rate(seconds: npt.NDArray[np.float64], header: float) -> float:
    """Frames per second. Containers round time stamps, so the header's rate is taken unless it contradicts them."""
    span = float(seconds[-1] - seconds[0])
    measured = (len(seconds) - 1) / span if span > 0 else header or 1.0
    return header if header and abs(header / measured - 1) < 0.05 else measured


def _segment_frames(job: Job, seconds: npt.NDArray[np.float64], fps: float) -> tuple[int, int]:
    """First frame of the segment that `job` names, and the frame after its last."""
    if job.start_seconds is None and job.end_seconds is None:
        return 0, len(seconds)
    clock = seconds - seconds[0]
    start = job.start_seconds or 0.0
    if start > clock[-1] + 1 / fps:
        raise BadInput(
            f"The part from {start:g} s on lies behind the end of {job.path} ({clock[-1] + 1 / fps:.2f} s).",
            "Correct start_seconds; it counts from the first frame of the file.",
        )
    first, stop = int(np.searchsorted(clock, start - CLOCK_SLACK, side="left")), len(clock)
    if job.end_seconds is not None:
        stop = int(np.searchsorted(clock, job.end_seconds - CLOCK_SLACK, side="left"))
    if first >= stop:  # the segment is shorter than a frame: the frame on display at its start
        first = int(np.searchsorted(clock, start + CLOCK_SLACK, side="right")) - 1
        stop = first + 1
    return first, stop


def _assemble(job: Job, video: VideoStream, selection: Selection, frames: Iterator[VideoFrame]) -> Clip:
    """The clip of `frames` (one per different number, in order), as upright RGB; repeated where numbers repeat."""
    images: Image | None = None
    for position, image in enumerate(upright(job, video, selection, frames)):
        if images is None:
            images = np.empty((len(selection.indices), *image.shape), dtype=np.uint8)
        images[position] = image
    assert images is not None
    return selection.clip(job, images)


def upright(
    job: Job, video: VideoStream, selection: Selection, frames: Iterator[VideoFrame]
) -> Iterator[npt.NDArray[Any]]:
    """One upright RGB image per index, from one frame per different number; adds to the notes at the first one."""
    shape: tuple[int, ...] = ()
    copies = np.unique(selection.indices, return_counts=True)[1].tolist()
    for count, frame in zip(copies, frames, strict=True):
        turn = orientation(frame)
        image: npt.NDArray[Any] = turn.apply(frame.to_ndarray(format="rgb24"))
        if not shape:
            shape = image.shape
            codec = video.codec_context.codec.canonical_name
            selection.notes.update({"stream": video.index, "codec": codec, **turn.notes()})
        elif image.shape != shape:
            raise BadInput(
                f"The picture of {job.path} changes its size from {_size(shape)} to {_size(image.shape)}.",
                "Re-encode it to one size, or ask for a part within which the size stays.",
            )
        yield from itertools.repeat(image, count)


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]}"
