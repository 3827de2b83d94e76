"""From the answers of the queries to a class per frame: segments in order, until the first "no more action".

All three rules give a segment `int(0.5 + frames * share)` frames, its share being exp(duration) over the sum of those
before the first NONE. They differ where rounding leaves frames over, and where the first query says NONE:

- `extend`: left-over frames belong to the last segment; a first NONE is overruled by that query's likeliest action.
- `actionllm`: left-over frames get the last query's class, which is mostly NONE and then wrong; after a first NONE all
  frames are wrong.
- `futr`: as `actionllm`, but after a first NONE all frames get the last query's class; and where no query says NONE,
  the place of the video before's NONE is used, in the order of the test list.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from .segments import Ids

Rule = Literal["extend", "actionllm", "futr"]

NOTHING: Final = -1
"""A frame for which no class was predicted: wrong whatever the truth is."""


class Decoder:
    """One rule over the videos of a test list, in order."""

    def __init__(self, rule: Rule = "extend") -> None:
        self._rule = rule
        self._last: int | None = None

    def __call__(self, logits: npt.NDArray[Any], durations: npt.NDArray[Any], frames: int) -> Ids:
        """Class ids `[frames]` from logits `[N, K + 1]` (index K: NONE) and raw durations `[N]`."""
        none = logits.shape[1] - 1
        classes = logits.argmax(axis=1)
        count = self._count(classes, none)
        if not count and self._rule == "extend":
            return np.full(frames, logits[0, :none].argmax())
        raw = durations[:count].astype(np.float64)
        shares = np.exp(raw - raw.max(initial=-np.inf))
        shares /= shares.sum()
        lengths = (0.5 + frames * shares).astype(np.int64)
        left = (
            NOTHING if not count and self._rule == "actionllm" else classes[count - 1 if self._rule == "extend" else -1]
        )
        predicted = np.repeat(np.append(classes[:count], left), np.append(lengths, frames))[:frames]
        return np.where(predicted == none, NOTHING, predicted)

    def _count(self, classes: Ids, none: int) -> int:
        """How many queries come before the first NONE."""
        ends = np.flatnonzero(classes == none)
        if len(ends):
            self._last = int(ends[0])
            return int(ends[0])
        return len(classes) if self._rule != "futr" or self._last is None else self._last
