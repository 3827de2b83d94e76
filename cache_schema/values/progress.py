"""How a long-running function reports its progress: a small protocol, so that only `cli` knows about terminals."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """What a long-running function reports to; `cli/progress.py` draws it, tests record it."""

    def begin(self, label: str, total: int | None, unit: str = "records") -> None:
        """A new stage starts; `total` is None where it is not known."""

    def advance(self, amount: int = 1, note: str = "") -> None:
        """`amount` more units of the current stage are done; `note` is shown beside the bar."""

    def say(self, line: str) -> None:
        """One line worth reading in the log (a warning, a decision taken, a count)."""


class Silent:
    """Reports nothing."""

    def begin(self, label: str, total: int | None, unit: str = "records") -> None:
        """Nothing."""

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Nothing."""

    def say(self, line: str) -> None:
        """Nothing."""
