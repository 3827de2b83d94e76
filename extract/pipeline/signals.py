"""Ctrl-C, SIGTERM and SIGHUP: between records they stop the run, within a record they wait until it is written."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any


def stopping_signals() -> list[int]:
    """The signals that stop a run in good order; SIGHUP (a closed terminal) not under `nohup`, which ignores it."""
    numbers = [signal.SIGINT, signal.SIGTERM]
    hang_up = getattr(signal, "SIGHUP", None)  # Windows has none
    return [*numbers, hang_up] if hang_up and signal.getsignal(hang_up) != signal.SIG_IGN else [*numbers]


class Interrupted(SystemExit):
    """The run is to stop; not an Exception, so that no handler takes it for a failing video.

    Where nothing catches it, while the store is being opened or closed, the process leaves with 128 + signal.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)
        self.signum = signum


class Interrupts:
    """While entered, the `stopping_signals` raise Interrupted in the main thread, but never inside `shielded`.

    There it is raised at the end of the block. A second signal raises at once and gives up the current record.
    Outside the main thread, where Python allows no handlers, this does nothing.
    """

    def __init__(self) -> None:
        self._shields = 0
        self._pending: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._on) for number in stopping_signals()}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def _on(self, signum: int, frame: FrameType | None) -> None:
        first, self._pending = self._pending is None, signum
        if not (first and self._shields):
            raise Interrupted(signum)

    def ignore(self) -> None:
        """From now on signals are only noted: the last commit is short and must not be interrupted."""
        for number in self._before:
            signal.signal(number, self._note)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self._pending = signum

    @contextmanager
    def shielded(self) -> Iterator[None]:
        """A block that the first signal does not interrupt."""
        self._shields += 1
        try:
            yield
        finally:
            self._shields -= 1
        if self._pending is not None and not self._shields:
            raise Interrupted(self._pending)
