"""Windows over a long video, cut while its frames arrive; rows that no later window needs are freed at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Literal, cast

import torch
from torch import Tensor

from vfc.cache_schema.values.errors import BadInput, RecordRejected, unknown_name
from vfc.cache_schema.values.record import Json

from .pixels import PixelRule

Border = Literal["drop", "repeat", "zero"]
BORDERS: Final = ("drop", "repeat", "zero")
SECONDS: Final = "seconds"


@dataclass(frozen=True)
class Windows:
    """The frames of each step of a video.

    `border` "drop": step i has `frames` frames from number `i * stride` on, and an incomplete last window is dropped.
    "repeat", "zero": step i has `frames` frames around number `i * stride`, `frames // 2` of them before it, for every
    such frame number of the video; beyond the ends the first and the last frame are repeated, or all values are 0.
    """

    frames: int = 64
    stride: int = 64
    border: Border = "drop"

    @classmethod
    def of(
        cls, frames: int | None, stride: int | None, border: str | None, least: int = 1, default: int = 64
    ) -> Windows:
        """From flags, where None is the default: `default` frames, non-overlapping, whole windows only.

        Raises BadInput for fewer than `least` frames or a stride below 1, UnknownName for an unknown border.
        """
        frames = default if frames is None else frames
        stride = frames if stride is None else stride
        if frames < least:
            raise BadInput(f"--window {frames} is too short.", f"The network takes windows of {least} frames or more.")
        if stride < 1:
            raise BadInput(f"--stride is {stride}.", "--stride takes 1 or more.")
        if border is not None and border not in BORDERS:
            raise unknown_name("border", border, BORDERS)
        return cls(frames, stride, cast("Border", border or "drop"))

    def start(self, step: int) -> int:
        """Number of the first frame of a window; negative where it begins before the video."""
        return step * self.stride - (0 if self.border == "drop" else self.frames // 2)

    def middle(self, step: int) -> int:
        """Number of the frame whose time is the time of the window."""
        return self.start(step) + self.frames // 2

    def count(self, frames: int) -> int:
        """How many windows a video of so many frames has."""
        if self.border == "drop":
            return max(0, (frames - self.frames) // self.stride + 1)
        return -(-frames // self.stride)

    def padded(self, pixels: Tensor, rule: PixelRule) -> Tensor:
        """Pixels of a chunk `[T, 3, h, w]` that frames of zeros may stand beside: zero after normalisation, not before.

        Only "zero" needs it, where uint8 pixels would be normalised on the device.
        """
        return rule.normalise(pixels) if self.border == "zero" and pixels.dtype == torch.uint8 else pixels

    def recipe(self) -> dict[str, Json]:
        """For the recipe of a store."""
        return {"frames": self.frames, "stride": self.stride, "border": self.border}


@dataclass
class Track:
    """The rows of one stream of a video, `[n, ...]`, from the first that is still needed.

    `blank`: the row that stands beyond the ends under "zero"; None is a row of zeros.
    """

    border: Border
    blank: Tensor | None = None
    first: int = 0
    count: int = 0
    parts: list[Tensor] = field(default_factory=list)

    def add(self, rows: Tensor) -> None:
        """Append the next rows."""
        if len(rows):
            self.parts.append(rows)
            self.count += len(rows)

    def take(self, start: int, stop: int) -> Tensor:
        """Rows `start` to `stop`; those beyond the ends repeat the nearest row, or are blank."""
        stored = self._joined()
        if self.first <= start and stop <= self.count:
            return stored[start - self.first : stop - self.first]
        numbers = torch.arange(start, stop)
        inside = numbers.clamp(0, self.count - 1)
        rows = stored[inside - self.first]
        if self.border == "zero":
            rows[numbers != inside] = 0 if self.blank is None else self.blank
        return rows

    def forget(self, before: int) -> None:
        """Free the rows below this number, except the last one, which may have to be repeated."""
        before = min(before, self.count - 1)
        if before > self.first:
            # A copy: a view would keep all rows in memory.
            self.parts = [self._joined()[before - self.first :].clone()]
            self.first = before

    def _joined(self) -> Tensor:
        if len(self.parts) > 1:
            self.parts = [torch.cat(self.parts)]
        return self.parts[0]


def cut(
    chunks: Iterable[Mapping[str, Tensor]],
    windows: Windows,
    streams: Sequence[str],
    blanks: Mapping[str, Tensor] = MappingProxyType({}),
) -> Iterator[tuple[dict[str, Tensor], float]]:
    """Each window's rows by stream, `[frames, ...]`, and the time of its middle frame in seconds.

    Args:
        chunks: Rows by stream and `seconds` `[n]`, laid end to end. A stream may have fewer rows than there are
            frames, such as flow between frames: with "drop" its last windows are dropped, else it ends earlier.
        windows: The frames of each window.
        streams: Names of the streams to cut.
        blanks: See `Track`, by stream.
    """
    tracks = {name: Track(windows.border, blanks.get(name)) for name in streams}
    times = Track("repeat")
    step = 0
    for chunk in chunks:
        times.add(chunk[SECONDS])
        for name, track in tracks.items():
            track.add(chunk[name])
        while windows.start(step) + windows.frames <= min(track.count for track in tracks.values()):
            yield _window(tracks, times, windows, step)
            step += 1
        for track in (*tracks.values(), times):
            track.forget(windows.start(step))
    if windows.border == "drop" or not all(track.count for track in tracks.values()):
        return
    while step * windows.stride < times.count:
        yield _window(tracks, times, windows, step)
        step += 1


def over_windows(
    chunks: Iterable[Mapping[str, Tensor]],
    windows: Windows,
    streams: Sequence[str],
    vector: Callable[[Mapping[str, Tensor]], Tensor],
    blanks: Mapping[str, Tensor] = MappingProxyType({}),
) -> Iterator[dict[str, Tensor]]:
    """`frames` `[1, D]`, which `vector` makes of a window's rows by stream, and `seconds` `[1]`, of each window.

    Args:
        chunks: See `cut`.
        windows: The frames of each window.
        streams: Names of the streams to cut.
        vector: Takes the rows of one window by stream.
        blanks: See `Track`, by stream.

    Raises:
        RecordRejected: the video is shorter than a window.
    """
    steps, frames = 0, 0

    def counted() -> Iterator[Mapping[str, Tensor]]:
        nonlocal frames
        for chunk in chunks:
            frames += len(chunk[SECONDS])
            yield chunk

    for window, seconds in cut(counted(), windows, streams, blanks):
        steps += 1
        yield {"frames": vector(window), SECONDS: torch.tensor([seconds], dtype=torch.float64)}
    if not steps:
        flow = " and their flow" if "flow" in streams else ""
        raise RecordRejected(
            f"Its {frames} frames{flow} are fewer than one window of {windows.frames} needs.",
            "Give a smaller --window, a denser --frames, or --border repeat.",
        )


def require_frames(windows: Windows, count: int | None, overlap: int = 0) -> None:
    """Raise BadInput where `count` frames per video are less than a window needs, so that no video gives a row.

    `count`: None where it differs from video to video. `overlap`: frames that a window needs beside its own.
    """
    needed = windows.frames + overlap
    if count is not None and windows.border == "drop" and count < needed:
        raise BadInput(
            f"Windows of {windows.frames} frames were asked for, of {count} frames per video.",
            f"Give --frames all (or fps:25, stride:2), or --num-frames {needed} or more.",
        )


def _window(tracks: Mapping[str, Track], times: Track, windows: Windows, step: int) -> tuple[dict[str, Tensor], float]:
    start, middle = windows.start(step), windows.middle(step)
    rows = {name: track.take(start, start + windows.frames) for name, track in tracks.items()}
    return rows, float(times.take(middle, middle + 1)[0])
