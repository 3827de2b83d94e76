"""Where the time of the main thread goes, so that a run can say which stage slowed it down."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final, TypeVar

Item = TypeVar("Item")

STAGES: Final = ("decode", "pixels", "forward", "write")


class StageTimer:
    """Adds up seconds by stage: waiting for decoders, for pixels, forwarding, waiting for the writer.

    `moved`: seconds of one stage that were spent within another.
    """

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self.moved = 0.0
        self.began = time.perf_counter()

    @contextmanager
    def measure(self, stage: str, *, within: str = "") -> Iterator[None]:
        """The time of the block belongs to `stage`, and not to the stage `within` which it is spent."""
        began = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - began
            self.seconds[stage] += spent
            if within:
                self.seconds[within] -= spent
                self.moved += spent

    def measure_each(self, stage: str, items: Iterable[Item], *, within: str = "") -> Iterator[Item]:
        """The items; the time until each comes belongs to `stage`, see `measure`."""
        source = iter(items)
        while True:
            with self.measure(stage, within=within):
                try:
                    item = next(source)
                except StopIteration:
                    return
            yield item

    @property
    def elapsed(self) -> float:
        """Seconds since the timer was made."""
        return time.perf_counter() - self.began

    def shares(self) -> Mapping[str, float]:
        """Stage -> its part of the time measured, 0 to 1."""
        total = sum(self.seconds.values()) or 1.0
        return {stage: seconds / total for stage, seconds in self.seconds.items()}

    def bottleneck(self) -> str:
        """The stage that took most; empty where nothing ran."""
        return max(self.seconds, key=lambda stage: self.seconds[stage]) if any(self.seconds.values()) else ""
