"""Commits of parts, one after the other: at once, or in a thread while the next records are added."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from .part_writer import PartWriter

WAITING: Final = 2
"""Parts that may wait for their commit or be under way; a kill loses these and the open one."""

Commit = tuple[PartWriter, BaseException | None]
"""A part whose commit has ended, and its error."""


class Commits:
    """Commits parts in the order in which they come; those that have ended are handed back, in the same order.

    A part is on the disk's way since its first record; its commit, which waits for the disk, is what the thread does.
    """

    def __init__(self, *, in_thread: bool) -> None:
        self._thread = ThreadPoolExecutor(1, "vfc-commit") if in_thread else None
        self._under_way: deque[tuple[PartWriter, Future[BaseException | None]]] = deque()

    def __bool__(self) -> bool:
        return bool(self._under_way)

    @property
    def parts(self) -> list[PartWriter]:
        """Those handed over and not handed back."""
        return [part for part, _ in self._under_way]

    def begin(self, part: PartWriter, committed_ns: int) -> list[Commit]:
        """Commit a part; waits where too many are under way. Those that have ended."""
        if self._thread is None:
            return [(part, _committed(part, committed_ns))]
        self._under_way.append((part, self._thread.submit(_committed, part, committed_ns)))
        return [*(self.wait() for _ in range(len(self._under_way) - WAITING)), *self.ended()]

    def ended(self) -> list[Commit]:
        """Those that have ended; waits for none."""
        ended = []
        while self._under_way and self._under_way[0][1].done():
            ended.append(self.wait())
        return ended

    def wait(self) -> Commit:
        """The one that began first, once it has ended."""
        part, future = self._under_way[0]
        error = future.result()
        self._under_way.popleft()
        return part, error

    def close(self) -> None:
        """End the thread."""
        if self._thread is not None:
            self._thread.shutdown()


def _committed(part: PartWriter, committed_ns: int) -> BaseException | None:
    try:
        part.commit(committed_ns)
    except BaseException as error:  # handed back, raised in the thread that adds records
        return error
    return None
