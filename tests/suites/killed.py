"""A training that is killed on the way, for tests of what resuming gives."""

from __future__ import annotations

from vfc.cache_schema.values.progress import Silent


class Killed(Exception):
    """Stands for a kill."""


class KilledAt(Silent):
    """Dies when the n-th update is reported."""

    def __init__(self, update: int) -> None:
        self.left = update
        self.training = False

    def begin(self, label: str, total: int | None, unit: str = "records") -> None:
        self.training = label == "Train"

    def advance(self, amount: int = 1, note: str = "") -> None:
        self.left -= amount if self.training else 0
        if self.training and self.left <= 0:
            raise Killed
