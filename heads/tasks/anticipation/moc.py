"""Mean over classes: frames of all test videos of a split pooled, accuracy per class that occurs, their plain mean.

The measure of Abu Farha, Richard and Gall, "When will you do what?" (CVPR 2018), as the later codes compute it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from .segments import Ids

Grid: TypeAlias = "npt.NDArray[np.float64]"


class Tally:
    """Frames right and in all, per observed ratio (A), predicted ratio (P) and class (K)."""

    def __init__(self, classes: int, observe: Sequence[float], predict: Sequence[float]) -> None:
        self.observe, self.predict = tuple(observe), tuple(predict)
        self.right: npt.NDArray[np.int64] = np.zeros((len(observe), len(predict), classes), np.int64)
        self.frames = np.zeros_like(self.right)

    def add(self, place: int, truth: Ids, future: Ids) -> None:
        """Count one video.

        Args:
            place: Of its observed ratio.
            truth: Its class ids `[n]`, all of them.
            future: Class ids predicted for the frames from `int(ratio * n)` on.
        """
        n, ratio = len(truth), self.observe[place]
        start = int(ratio * n)
        for i, share in enumerate(self.predict):
            stop = min(int((ratio + share) * n), start + len(future), n)
            scored = truth[start:stop]
            right = scored[scored == future[: stop - start]]
            self.right[place, i] += np.bincount(right, minlength=self.right.shape[-1])
            self.frames[place, i] += np.bincount(scored, minlength=self.right.shape[-1])

    def moc(self) -> Grid:
        """Mean over classes, `[A, P]`, shares of 1."""
        occurs = self.frames > 0
        accuracy: Grid = np.divide(self.right, self.frames, out=np.zeros(occurs.shape), where=occurs)
        return np.asarray(accuracy.sum(axis=-1) / occurs.sum(axis=-1).clip(1))

    def classes(self) -> npt.NDArray[Any]:
        """How many classes each mean is over, `[A, P]`."""
        return np.asarray((self.frames > 0).sum(axis=-1))
