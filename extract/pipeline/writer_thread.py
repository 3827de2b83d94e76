"""Writing behind: records go to the store from a thread of its own, so that the forward need not wait for the disk."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol

from vfc.cache_schema.values.errors import RecordRejected
from vfc.cache_schema.values.record import Key, Record

from .failures import Failed, FailureList

PATIENCE: Final = 8
"""So many videos (or texts) lost in a row to errors that are not a decoder's, and none kept: that is no bad video."""


class Writer(Protocol):
    """What is used of a `StoreWriter`."""

    def __contains__(self, key: Key) -> bool:
        """Whether it is kept already."""

    def add(self, record: Record) -> None:
        """Take one record; RecordRejected costs that record only."""

    def commit(self) -> None:
        """Make what was added readable."""


@dataclass(frozen=True)
class Made:
    """A finished record and the file it came from.

    `wait`: for arrays that are still on their way to the host, before it is put; None where they are there.
    """

    record: Record
    source: Path | None = None
    wait: Callable[[], None] | None = None


@dataclass(frozen=True)
class Lost:
    """A record that could not be made. `cause` is the error of a model or of our own; None for a bad video."""

    key: Key
    reason: str
    source: Path | None = None
    cause: Exception | None = None


class Behind:
    """A bounded queue and the one thread that writes records and failures.

    Errors of the thread are raised by the next `put`, or by `finish`. Records lost to errors that are not a decoder's
    are listed only once a record was kept: a bug that fails every video must not pass for a folder of bad videos.
    What is refused by name (RecordRejected) is no bug where the store proves that the settings work.
    """

    def __init__(
        self, writer: Writer, failures: FailureList, *, proven: bool, depth: int = 4, idle_seconds: float = 60.0
    ) -> None:
        """`proven`: whether the store holds records already, so that a few losses at the end are bad luck."""
        self.kept = 0
        self.there = 0
        self.lost: list[Lost] = []
        self._writer, self._failures, self._idle_seconds = writer, failures, idle_seconds
        self._proven = proven
        self._suspects: list[Lost] = []
        self._error: Exception | None = None
        self._queue: queue.Queue[Made | Lost | None] = queue.Queue(depth)
        self._thread = threading.Thread(target=self._run, name="vfc-writer", daemon=True)
        self._thread.start()

    def put(self, item: Made | Lost | None) -> None:
        """Hand one over; waits while the queue is full.

        Raises:
            Exception: what stopped the thread (a full disk, a read-only store, a bug).
        """
        while True:
            if self._error is not None:
                raise self._error
            try:
                self._queue.put(item, timeout=0.1)
                return
            except queue.Full:
                continue

    def finish(self, *, judge: bool = True) -> None:
        """Write what is queued, commit, and end the thread.

        Args:
            judge: Whether records lost to suspicious errors, with nothing kept in this run or before, are an error
                (a run that came to its end) or are forgotten (one that was interrupted).

        Raises:
            Exception: what stopped the thread, or the error that cost every record.
        """
        if self._thread.is_alive():
            self.put(None)
            self._thread.join()
        if self._error is not None:
            raise self._error
        if self._suspects and judge:
            if not self._proven:
                raise _cause(self._suspects[-1])
            self._acquit()

    def abandon(self) -> None:
        """End the thread after an error elsewhere; what was made is still committed if that is possible."""
        if self._error is None and self._thread.is_alive():
            self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        try:
            while (item := self._next()) is not None:
                if isinstance(item, Made):
                    self._keep(item)
                else:
                    self._lose(item)
            self._writer.commit()
        except Exception as error:
            self._error = error
            self._drain()

    def _next(self) -> Made | Lost | None:
        while True:
            try:
                return self._queue.get(timeout=self._idle_seconds)
            except queue.Empty:
                # The decoders are slow: do not leave finished records uncommitted for longer than was asked.
                self._writer.commit()

    def _keep(self, made: Made) -> None:
        if made.record.key in self._writer:
            self.there += 1
            return
        try:
            self._writer.add(made.record)
        except RecordRejected as error:
            self._lose(Lost(made.record.key, str(error).replace("\n", " "), made.source, error))
            return
        self.kept += 1
        self._acquit()

    def _acquit(self) -> None:
        suspects, self._suspects = self._suspects, []
        for lost in suspects:
            self._list(lost)

    def _lose(self, lost: Lost) -> None:
        refused = self._proven and isinstance(lost.cause, RecordRejected)
        if lost.cause is None or self.kept or refused:
            self._list(lost)
            return
        self._suspects.append(lost)
        if len({suspect.key.name for suspect in self._suspects}) >= PATIENCE:
            raise _cause(lost)

    def _list(self, lost: Lost) -> None:
        self._failures.append(Failed.of(lost.key, lost.reason, lost.source))
        # Without its cause, whose traceback would hold on to the tensors of the video.
        self.lost.append(replace(lost, cause=None))

    def _drain(self) -> None:
        """Make room, so that nobody waits for a thread that has ended."""
        while True:
            try:
                self._queue.get_nowait()
            except queue.Empty:
                return


def _cause(lost: Lost) -> Exception:
    assert lost.cause is not None
    lost.cause.add_note(f"met while making the {lost.key.kind} record of {lost.key.name!r}; no record was kept before")
    return lost.cause
