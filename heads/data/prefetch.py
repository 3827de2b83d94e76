"""Batches of several arrays in order; a thread reads those that are on disk in advance, into reused buffers."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor

from vfc.cache_schema.values.devices import functions, has_streams

from .features import Features, Rows

Requests = Iterable[tuple[Any, Mapping[str, Tensor]]]
"""(anything, role -> positions of records) of every batch."""

Batches = Generator[tuple[Any, dict[str, Tensor]]]


def stream(sources: Mapping[str, Features], requests: Requests, depth: int = 2) -> Batches:
    """For each (anything, role -> index): (the same, role -> values), in order; `<role>.valid` where there is padding.

    Where a source is on disk, a thread reads `depth` batches in advance and takes the next request from `requests`
    itself; buffers are pinned where the device is a GPU. The tensors are valid until the next ones are asked for.
    """
    if all(source.placement != "off" for source in sources.values()):
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


class _Prefetch:
    """The prefetch thread of one stream and its ring of buffers."""

    def __init__(self, sources: Mapping[str, Features], requests: Requests, depth: int) -> None:
        self._sources = sources
        self._requests = iter(requests)
        self._free: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._ready: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(depth + 1):
            self._free.put({})
        self._thread = threading.Thread(target=self._run, name="vfc-read-ahead", daemon=True)

    def __enter__(self) -> Iterator[tuple[Any, dict[str, Tensor]]]:
        self._thread.start()
        return self._batches()

    def __exit__(self, *_: object) -> None:
        self._free.put(None)
        self._thread.join()

    def _run(self) -> None:
        try:
            for request, index_of in self._requests:
                slot = self._free.get()
                if slot is None:
                    return
                staged = {}
                for role, index in index_of.items():
                    if self._sources[role].placement == "off":
                        staged[role], slot[role] = self._sources[role].stage(index, slot.get(role))
                self._ready.put((request, index_of, staged, slot))
            self._ready.put(None)
        except BaseException as error:  # handed over, raised again where the batch is asked for
            self._ready.put(error)

    def _batches(self) -> Iterator[tuple[Any, dict[str, Tensor]]]:
        while (item := self._ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            request, index_of, staged, slot = item
            rows = {
                role: self._sources[role].finish(staged[role], index)
                if role in staged
                else self._sources[role].gather(index)
                for role, index in index_of.items()
            }
            tensors = by_role(rows)
            for values in tensors.values():
                if has_streams(values.device):
                    # The copy out of the pinned buffer is asynchronous; the buffer is free once it has run.
                    functions(values.device).current_stream(values.device).synchronize()
                    break
            yield request, tensors
            self._free.put(slot)
