"""WriterThread: records go to the store from a thread of its own, so that the forward need not wait for the disk."""

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
"""Abort after this many consecutive videos (or texts) failed by errors that are no decoder's, with none written."""


class Writer(Protocol):
    """What is used of a `StoreWriter`."""

    def __contains__(self, key: Key) -> bool:
        """Whether the record is stored already."""

    def add(self, record: Record) -> None:
        """Take one record; RecordRejected fails that record only."""

    def commit(self) -> None:
        """Make what was added readable."""


@dataclass(frozen=True)
class FinishedRecord:
    """A record and the file it came from.

    `wait`: to be called before the record is written, where its arrays are still being copied to the host; else None.
    """

    record: Record
    source: Path | None = None
    wait: Callable[[], None] | None = None

    @property
    def key(self) -> Key:
        """The record's key, as of a `FailedRecord`."""
        return self.record.key


@dataclass(frozen=True)
class FailedRecord:
    """A record that could not be made. `cause` is the error of a model or of our own; None for a bad video."""

    key: Key
    reason: str
    source: Path | None = None
    cause: Exception | None = None


class WriterThread:
    """A bounded queue and the one thread that writes records and failures.

    `written`: how many records it added to the store. `already_stored`: how many were there when their turn came.
    `failed`: the records listed as failed.

    Errors of the thread are raised by the next `put`, or by `finish`. Records that failed by errors that are not a
    decoder's are listed only once a record was written: a bug that fails every video must not pass for a folder of bad
    videos. What is refused by name (RecordRejected) is no bug where the store proves that the settings work.
    """

    def __init__(
        self, writer: Writer, failures: FailureList, *, proven: bool, depth: int = 4, idle_seconds: float = 60.0
    ) -> None:
        """`proven`: whether the store holds records already, so that a few failures at the end are no bug."""
        self.written = 0
        self.already_stored = 0
        self.failed: list[FailedRecord] = []
        self._writer, self._failures, self._idle_seconds = writer, failures, idle_seconds
        self._proven = proven
        self._suspects: list[FailedRecord] = []
        self._error: Exception | None = None
        self._queue: queue.Queue[FinishedRecord | FailedRecord | None] = queue.Queue(depth)
        self._thread = threading.Thread(target=self._run, name="vfc-writer", daemon=True)
        self._thread.start()

    def put(self, item: FinishedRecord | FailedRecord | None) -> None:
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
            judge: Whether suspicious failures, with nothing written in this run or before, are an error (a run that
                came to its end) or are forgotten (one that was interrupted).

        Raises:
            Exception: what stopped the thread, or the error that failed every record.
        """
        if self._thread.is_alive():
            self.put(None)
            self._thread.join()
        if self._error is not None:
            raise self._error
        if self._suspects and judge:
            if not self._proven:
                raise _cause(self._suspects[-1])
            self._list_suspects()

    def abandon(self) -> None:
        """End the thread after an error elsewhere; finished records are still committed if that is possible."""
        if self._error is None and self._thread.is_alive():
            self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        try:
            while (item := self._next()) is not None:
                if isinstance(item, FinishedRecord):
                    self._write(item)
                else:
                    self._fail(item)
            self._writer.commit()
        except Exception as error:
            self._error = error
            self._drain()

    def _next(self) -> FinishedRecord | FailedRecord | None:
        while True:
            try:
                return self._queue.get(timeout=self._idle_seconds)
            except queue.Empty:
                # The decoders are slow: do not leave finished records uncommitted for longer than was asked.
                self._writer.commit()

    def _write(self, item: FinishedRecord) -> None:
        if item.key in self._writer:
            self.already_stored += 1
            return
        try:
            self._writer.add(item.record)
        except RecordRejected as error:
            self._fail(FailedRecord(item.key, str(error).replace("\n", " "), item.source, error))
            return
        self.written += 1
        self._list_suspects()

    def _list_suspects(self) -> None:
        suspects, self._suspects = self._suspects, []
        for record in suspects:
            self._list(record)

    def _fail(self, record: FailedRecord) -> None:
        refused = self._proven and isinstance(record.cause, RecordRejected)
        if record.cause is None or self.written or refused:
            self._list(record)
            return
        self._suspects.append(record)
        if len({suspect.key.name for suspect in self._suspects}) >= PATIENCE:
            raise _cause(record)

    def _list(self, record: FailedRecord) -> None:
        self._failures.append(Failed.of(record.key, record.reason, record.source))
        # Without its cause, whose traceback would hold on to the tensors of the video.
        self.failed.append(replace(record, cause=None))

    def _drain(self) -> None:
        """Empty the queue, so that nobody waits for a thread that has ended."""
        while True:
            try:
                self._queue.get_nowait()
            except queue.Empty:
                return


def _cause(record: FailedRecord) -> Exception:
    assert record.cause is not None
    name = f"the {record.key.kind} record of {record.key.name!r}"
    record.cause.add_note(f"raised while making {name}; no record was written before")
    return record.cause
