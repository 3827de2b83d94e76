"""Labels as segments, and the windows of a video: the part that is observed and the part that is to be predicted.

Sizes are rounded as in the released codes: `int(ratio * n)` in floating point.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

Ids: TypeAlias = "npt.NDArray[np.int64]"

FUTURE: Final = 0.5
"""The share of a video that is always predicted; shorter horizons are its beginning."""


@dataclass(frozen=True)
class Window:
    """`observed` label frames from `start` on, then `future` frames to predict; all counted in `unit` frames each.

    All of it lies `phase` frames later than these say.
    """

    start: int
    observed: int
    future: int
    unit: int = 1
    phase: int = 0

    def observed_frames(self, stride: int) -> Ids:
        """The label frames of the observed steps, one in `stride`."""
        return np.arange(self.start, self.start + self.observed, stride // self.unit) * self.unit + self.phase

    def future_frames(self, stride: int) -> Ids:
        """The label frames of the steps to predict, one in `stride`, from the first frame that is not observed."""
        first = self.start + self.observed
        return np.arange(first, first + self.future, stride // self.unit) * self.unit + self.phase

    def room(self, frames: int) -> int:
        """How many of a video's `frames` follow the observed part: a window that many frames later predicts nothing."""
        return frames - (self.start + self.observed) * self.unit

    def later(self, phase: int, frames: int) -> Window:
        """The same `phase` frames later in a video of `frames`; what would lie behind its end is not predicted."""
        left = -(-(self.room(frames) - phase) // self.unit)
        return replace(self, phase=phase, future=min(self.future, left))


def window(frames: int, ratio: float, *, stride: int, full: bool = True, offset: int = 0) -> Window:
    """The window of a video of `frames` label frames that observes `ratio` of it and predicts the next half.

    `full`: cut in label frames; else every `stride`-th frame is taken first, and those are cut. The window starts
    `offset` steps (of `stride` frames) late; what would lie behind the video's end is not predicted.
    """
    unit = 1 if full else stride
    count = -(-frames // unit)
    start, observed = offset * stride // unit, int(ratio * count)
    return Window(start, observed, min(int(FUTURE * count), count - start - observed), unit)


def runs(labels: Ids) -> tuple[Ids, Ids]:
    """Classes `[M]` and lengths `[M]` of the segments of `labels [n]`."""
    starts = np.flatnonzero(np.r_[True, labels[1:] != labels[:-1]])
    return labels[starts], np.diff(np.r_[starts, len(labels)])
