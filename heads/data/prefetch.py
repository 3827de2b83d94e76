"""Batches of several arrays, in order, read ahead by a thread into a ring of reused buffers."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable, Iterator, Mapping
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

Placement = Literal["device", "ram", "off"]


class Source(Protocol):
    """One array that is served. What rests on disk is staged by the thread and settled where it is used."""

    placement: Placement

    def gather(self, index: Tensor) -> Mapping[str, Tensor]:
        """Rows at `index [M]`, on the device, by suffix: `""` the values, others what belongs to them."""

    def stage(self, index: Tensor, memory: Any) -> tuple[Any, Any]:
        """Read rows into `memory` (None: make it); what was read, and the memory for the next time."""

    def settle(self, staged: Any, index: Tensor) -> Mapping[str, Tensor]:
        """What `gather` gives, of what `stage` read."""


Plans = Iterable[tuple[Any, Mapping[str, Tensor]]]
Batches = Generator[tuple[Any, dict[str, Tensor]]]


def stream(sources: Mapping[str, Source], plans: Plans, ahead: int = 2) -> Batches:
    """For each (anything, role -> index): (the same, role + suffix -> rows), in order.

    Where a source rests on disk, a thread reads `ahead` batches in advance and takes the next plan from `plans` itself;
    buffers are pinned where the device is a GPU. The tensors are valid until the next ones are asked for.
    """
    if all(source.placement != "off" for source in sources.values()):
        for plan, wanted in plans:
            yield plan, _joined({role: sources[role].gather(index) for role, index in wanted.items()})
        return
    with _Ahead(sources, plans, ahead) as batches:
        yield from batches


def _joined(found: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {role + suffix: values for role, parts in found.items() for suffix, values in parts.items()}


class _Ahead:
    """The look-ahead thread of one stream and its ring of buffers."""

    def __init__(self, sources: Mapping[str, Source], plans: Plans, ahead: int) -> None:
        self._sources = sources
        self._plans = iter(plans)
        self._free: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._ready: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(ahead + 1):
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
            for plan, wanted in self._plans:
                slot = self._free.get()
                if slot is None:
                    return
                staged = {}
                for role, index in wanted.items():
                    if self._sources[role].placement == "off":
                        staged[role], slot[role] = self._sources[role].stage(index, slot.get(role))
                self._ready.put((plan, wanted, staged, slot))
            self._ready.put(None)
        except BaseException as error:  # handed over, raised again where the batch is asked for
            self._ready.put(error)

    def _batches(self) -> Iterator[tuple[Any, dict[str, Tensor]]]:
        while (item := self._ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            plan, wanted, staged, slot = item
            found = {
                role: self._sources[role].settle(staged[role], index)
                if role in staged
                else self._sources[role].gather(index)
                for role, index in wanted.items()
            }
            videos = _joined(found)
            for values in videos.values():
                if values.is_cuda:
                    # The copy out of the pinned buffer is asynchronous; the buffer is free when it has run.
                    torch.cuda.current_stream(values.device).synchronize()
                    break
            yield plan, videos
            self._free.put(slot)
