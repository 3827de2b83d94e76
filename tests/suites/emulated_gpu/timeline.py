"""Streams, events and copies of the emulated GPU: what has run, what may still run, and which order nobody has secured.

Every stream counts its operations. A clock says for every stream up to which of its operations something is ordered
after: each stream has one, each event keeps one, and the host has one. Copies between the host and the device take
effect as late as a real GPU may run them: when the host waits for an operation behind them.
"""

from __future__ import annotations

import contextlib
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch.multiprocessing.reductions import StorageWeakRef

PROJECT = Path(__file__).resolve().parents[3]
Clock = dict[int, int]


def caller() -> str:
    """The innermost line of the project outside of tests/suites, as `file:line`."""
    for frame in reversed(traceback.extract_stack()):
        path = Path(frame.filename)
        inside = path.is_relative_to(PROJECT) and ".venv" not in path.parts
        if inside and path.relative_to(PROJECT).parts[:2] != ("tests", "suites"):
            return f"{path.relative_to(PROJECT)}:{frame.lineno}"
    return "a library"


@dataclass
class Counts:
    """What the host asked of the device; each `Counter` by what was done and the line of the project that did it."""

    syncs: Counter[str] = field(default_factory=Counter)
    launches: Counter[str] = field(default_factory=Counter)
    pinned_bytes: int = 0
    pageable_bytes: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)

    def sync(self, kind: str) -> None:
        """The main thread waits; a thread that waits for buffers holds up nobody."""
        if threading.current_thread() is threading.main_thread():
            self.syncs[f"{kind} at {caller()}"] += 1

    def fault(self, kind: str) -> None:
        self.faults[f"{kind} at {caller()}"] += 1


@dataclass
class _Copy:
    """A copy that may still be under way, and what its end does on the host."""

    stream: int
    tick: int
    end: Callable[[], None]


class Timeline:
    """The one order of everything on the emulated GPU of this process."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.counts = Counts()
        self.host: Clock = {}
        self.copies: list[_Copy] = []
        self.default = Stream(self)
        self.local = threading.local()
        self.pinned: dict[int, StorageWeakRef] = {}

    @property
    def current(self) -> Stream:
        stream: Stream = getattr(self.local, "stream", self.default)
        return stream

    @contextlib.contextmanager
    def on(self, stream: Stream | None) -> Iterator[None]:
        before = self.current
        self.local.stream = stream or before
        try:
            yield
        finally:
            self.local.stream = before

    def wait(self, clock: Clock) -> None:
        """The host waits: copies up to the clock have ended, and whatever the host asks next comes after them."""
        with self.lock:
            ended = [copy for copy in self.copies if copy.tick <= clock.get(copy.stream, 0)]
            self.copies = [copy for copy in self.copies if copy.tick > clock.get(copy.stream, 0)]
            for copy in ended:
                copy.end()
            merge(self.host, clock)  # last: now `query` says to other threads that the copies have ended

    def wait_for_all(self) -> None:
        for copy in list(self.copies):
            self.wait({copy.stream: copy.tick})
        self.wait(self.current.clock())

    def begin_copy(self, end: Callable[[], None]) -> None:
        with self.lock:
            self.copies.append(_Copy(self.current.number, self.current.tick, end))

    # -- pinned memory -----------------------------------------------------------------------------------------------

    def pin(self, tensor: torch.Tensor) -> torch.Tensor:
        reference = StorageWeakRef(tensor.untyped_storage())
        self.pinned = {cdata: other for cdata, other in self.pinned.items() if not other.expired()}
        self.pinned[reference.cdata] = reference
        return tensor

    def is_pinned(self, tensor: torch.Tensor) -> bool:
        return tensor.device.type == "cpu" and tensor.untyped_storage()._cdata in self.pinned


class Stream:
    """As `torch.cuda.Stream`."""

    timeline: Timeline
    _numbers = iter(range(1 << 30))

    def __init__(self, timeline: Timeline) -> None:
        self.timeline, self.number, self.tick = timeline, next(self._numbers), 0
        self.after: Clock = {}

    def clock(self) -> Clock:
        return {**self.after, self.number: self.tick}

    def advance(self) -> int:
        """One more operation, which comes after everything that the host has waited for."""
        merge(self.after, self.timeline.host)
        self.tick += 1
        return self.tick

    def covers(self, stream: int, tick: int) -> bool:
        """Whether what this stream does next comes after operation `tick` of a stream."""
        return stream == self.number or max(self.after.get(stream, 0), self.timeline.host.get(stream, 0)) >= tick

    def wait_stream(self, other: Stream) -> None:
        merge(self.after, other.clock())

    def wait_event(self, event: Event) -> None:
        merge(self.after, event.clock or {})

    def record_event(self, event: Event | None = None) -> Event:
        event = event or Event(self.timeline)
        event.record(self)
        return event

    def synchronize(self) -> None:
        self.timeline.counts.sync("stream.synchronize")
        self.timeline.wait(self.clock())


class Event:
    """As `torch.cuda.Event`."""

    def __init__(self, timeline: Timeline) -> None:
        self.timeline = timeline
        self.clock: Clock | None = None

    def record(self, stream: Stream | None = None) -> None:
        self.clock = (stream or self.timeline.current).clock()

    def wait(self, stream: Stream | None = None) -> None:
        (stream or self.timeline.current).wait_event(self)

    def query(self) -> bool:
        """False as long as a real GPU may still be at work."""
        return all(self.timeline.host.get(stream, 0) >= tick for stream, tick in (self.clock or {}).items())

    def synchronize(self) -> None:
        if self.clock is None:
            self.timeline.counts.fault("an event is waited for that was never recorded")
        if not self.query():
            self.timeline.counts.sync("event.synchronize")
            self.timeline.wait(self.clock or {})

    def elapsed_time(self, end: Event) -> float:
        assert self.query()
        assert end.query()
        return 1.0


def merge(clock: Clock, other: Clock) -> None:
    for stream, tick in dict(other).items():  # a thread may add to it meanwhile
        clock[stream] = max(clock.get(stream, 0), tick)
