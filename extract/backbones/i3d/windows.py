"""Windows over a long video, cut while its frames arrive; what no later window needs is let go at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, cast

import torch
from torch import Tensor

from vfc.cache_schema.values.errors import BadInput, unknown_name
from vfc.cache_schema.values.record import Json

Border = Literal["drop", "repeat", "zero"]
BORDERS: Final = ("drop", "repeat", "zero")
SECONDS: Final = "seconds"


@dataclass(frozen=True)
class Windows:
    """Which frames each step of a video looks at.

    `border` "drop": step i looks at `frames` frames from number `i * stride` on, and an incomplete last window is left
    out. "repeat", "zero": step i looks at `frames` frames around number `i * stride`, so `frames // 2` before it, as
    long as there is such a frame; beyond the ends the first and the last frame are repeated, or all values are 0.
    """

    frames: int = 64
    stride: int = 64
    border: Border = "drop"

    @classmethod
    def asked(cls, frames: int | None, stride: int | None, border: str | None, least: int) -> Windows:
        """From flags, where None is the default: 64 frames, side by side, whole ones only.

        Raises BadInput for fewer than `least` frames or a stride below 1, UnknownName for a border that is none.
        """
        frames = 64 if frames is None else frames
        stride = frames if stride is None else stride
        if frames < least:
            raise BadInput(f"--window {frames} is too short.", f"The network takes windows of {least} frames or more.")
        if stride < 1:
            raise BadInput(f"--stride is {stride}.", "--stride takes 1 or more.")
        if border is not None and border not in BORDERS:
            raise unknown_name("border", border, BORDERS)
        return cls(frames, stride, cast("Border", border or "drop"))

    def start(self, step: int) -> int:
        """Number of the first frame of a window; below 0 where it begins before the video."""
        return step * self.stride - (0 if self.border == "drop" else self.frames // 2)

    def middle(self, step: int) -> int:
        """Number of the frame that says when a window is."""
        return self.start(step) + self.frames // 2

    def recipe(self) -> dict[str, Json]:
        """For the recipe of a store."""
        return {"frames": self.frames, "stride": self.stride, "border": self.border}


@dataclass
class Track:
    """The rows of one stream of a video, `[n, ...]`, from the first that is still needed on."""

    border: Border
    first: int = 0
    count: int = 0
    parts: list[Tensor] = field(default_factory=list)

    def add(self, rows: Tensor) -> None:
        """The next rows."""
        if len(rows):
            self.parts.append(rows)
            self.count += len(rows)

    def take(self, start: int, stop: int) -> Tensor:
        """Rows `start` to `stop`; those outside of what there is repeat the nearest, or are 0."""
        whole = self._joined()
        if self.first <= start and stop <= self.count:
            return whole[start - self.first : stop - self.first]
        numbers = torch.arange(start, stop)
        inside = numbers.clamp(0, self.count - 1)
        rows = whole[inside - self.first]
        if self.border == "zero":
            rows[numbers != inside] = 0
        return rows

    def forget(self, before: int) -> None:
        """Let go of rows below this number, save for the last one, which may have to be repeated."""
        before = min(before, self.count - 1)
        if before > self.first:
            # A copy: a view would hold on to all the rest.
            self.parts = [self._joined()[before - self.first :].clone()]
            self.first = before

    def _joined(self) -> Tensor:
        if len(self.parts) > 1:
            self.parts = [torch.cat(self.parts)]
        return self.parts[0]


def cut(
    chunks: Iterable[Mapping[str, Tensor]], windows: Windows, streams: Sequence[str]
) -> Iterator[tuple[dict[str, Tensor], float]]:
    """Each window's rows by stream, `[frames, ...]`, and when its middle frame is shown, in seconds.

    Args:
        chunks: Rows by stream and `seconds` `[n]`, laid end to end. A stream may end earlier than the frames do, as
            flow does, which lies between frames: with "drop" its last windows are left out, else it ends earlier.
        windows: Which frames each looks at.
        streams: Those that are cut.
    """
    tracks = {name: Track(windows.border) for name in streams}
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


def _window(tracks: Mapping[str, Track], times: Track, windows: Windows, step: int) -> tuple[dict[str, Tensor], float]:
    start, middle = windows.start(step), windows.middle(step)
    rows = {name: track.take(start, start + windows.frames) for name, track in tracks.items()}
    return rows, float(times.take(middle, middle + 1)[0])
