"""Batches of several arrays in order; a thread stages in advance those that are not on the device already."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from vfc.cache_schema.values.devices import has_streams

from .device_ring import DeviceRing
from .features import Features, Rows

Requests = Iterable[tuple[Any, Mapping[str, Tensor]]]
"""(anything, role -> positions of records) of every batch."""

Batches = Generator[tuple[Any, dict[str, Tensor]]]


def stream(sources: Mapping[str, Features], requests: Requests, depth: int = 2) -> Batches:
    """For each (anything, role -> index): (the same, role -> values), in order; `<role>.valid` where there is padding.

    A thread stages `depth` batches in advance, from disk (from RAM too, where a GPU copies while it computes), into
    buffers that are used again and again, and takes the next request from `requests` itself. For a GPU the buffers are
    pinned and the copy of a batch runs while the one before it is computed. The tensors are valid until the next ones
    are asked for.
    """
    if not any(source.is_staged for source in sources.values()):
        for request, index_of in requests:
            yield request, by_role({role: sources[role].gather(index) for role, index in index_of.items()})
        return
    with _Prefetch(sources, requests, depth) as batches:
        yield from batches


def by_role(rows: Mapping[str, Rows]) -> dict[str, Tensor]:
    """Rows as a head gets them: role -> values, `<role>.valid` -> what is no padding."""
    tensors = {}
    for role, (values, valid) in rows.items():
        tensors[role] = values
        if valid is not None:
            tensors[f"{role}.valid"] = valid
    return tensors


@dataclass
class _Slot:
    """Host buffers of one batch, by role; `copied`: the event after which they may be overwritten."""

    buffers: dict[str, Tensor] = field(default_factory=dict)
    copied: Any = None


@dataclass(frozen=True)
class _Staged:
    """A batch on the host: values by role, in the buffers of `slot`."""

    request: Any
    index_of: Mapping[str, Tensor]
    values: Mapping[str, Tensor]
    slot: _Slot


class _Prefetch:
    """The staging thread of one stream and its ring of host buffers; `DeviceRing` has those of the device."""

    def __init__(self, sources: Mapping[str, Features], requests: Requests, depth: int) -> None:
        self._sources = sources
        self._requests = iter(requests)
        self._free: queue.SimpleQueue[_Slot | None] = queue.SimpleQueue()
        self._ready: queue.SimpleQueue[_Staged | BaseException] = queue.SimpleQueue()
        for _ in range(depth + 1):
            self._free.put(_Slot())
        device = next(source.device for source in sources.values() if source.is_staged)
        self._ring = DeviceRing(device) if has_streams(device) else None
        self._thread = threading.Thread(target=self._run, name="vfc-read-ahead", daemon=True)

    def __enter__(self) -> Iterator[tuple[Any, dict[str, Tensor]]]:
        self._thread.start()
        return self._batches() if self._ring is None else self._batches_on_device(self._ring)

    def __exit__(self, *_: object) -> None:
        self._free.put(None)
        self._thread.join()
        if self._ring is not None:
            self._ring.close()

    def _run(self) -> None:
        try:
            for request, index_of in self._requests:
                slot = self._free.get()
                if slot is None:
                    return
                if slot.copied is not None:
                    slot.copied.synchronize()
                values = {}
                for role, index in index_of.items():
                    if self._sources[role].is_staged:
                        values[role], slot.buffers[role] = self._sources[role].stage(index, slot.buffers.get(role))
                self._ready.put(_Staged(request, index_of, values, slot))
            self._ready.put(StopIteration())
        except BaseException as error:  # handed over, raised again where the batch is asked for
            self._ready.put(error)

    def _batches(self) -> Iterator[tuple[Any, dict[str, Tensor]]]:
        while isinstance(batch := self._ready.get(), _Staged):
            yield batch.request, self._tensors(batch, batch.values)
            self._free.put(batch.slot)
        _raise_unless_ended(batch)

    def _batches_on_device(self, ring: DeviceRing) -> Iterator[tuple[Any, dict[str, Tensor]]]:
        batch = self._begin_copy(self._ready.get(), ring)
        while isinstance(batch, _Staged):
            tensors = self._tensors(batch, ring.take())
            # The next copy runs while this batch is computed, where the thread was fast enough.
            following = None if self._ready.empty() else self._begin_copy(self._ready.get(), ring)
            yield batch.request, tensors
            ring.release()
            batch = self._begin_copy(self._ready.get(), ring) if following is None else following
        _raise_unless_ended(batch)

    def _begin_copy(self, batch: _Staged | BaseException, ring: DeviceRing) -> _Staged | BaseException:
        if isinstance(batch, _Staged):
            batch.slot.copied = ring.begin(batch.values)
            self._free.put(batch.slot)
        return batch

    def _tensors(self, batch: _Staged, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        rows = {
            role: self._sources[role].finish(values[role], index)
            if role in values
            else self._sources[role].gather(index)
            for role, index in batch.index_of.items()
        }
        return by_role(rows)


def _raise_unless_ended(error: _Staged | BaseException) -> None:
    if isinstance(error, BaseException) and not isinstance(error, StopIteration):
        raise error
