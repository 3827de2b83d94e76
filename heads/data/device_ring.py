"""Copies of batches from pinned memory to a GPU on a stream of their own, into two sets of buffers in turn."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor

from vfc.cache_schema.values.devices import functions

_SETS: Final = 2
"""One is computed with while the other is filled."""


class DeviceRing:
    """Two sets of device buffers, by role. Each batch: `begin`, `take`, and `release` once its use is in the queue.

    The host waits for nothing: the copy stream waits for the computation that used the buffers last, and the
    computation for the copy, both on the device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._gpu = device, functions(device)
        self._copies = self._gpu.Stream(device)
        self._buffers: list[dict[str, Tensor]] = [{} for _ in range(_SETS)]
        self._used: list[Any] = [None] * _SETS
        self._begun: deque[tuple[int, dict[str, Tensor], Any]] = deque()
        self._number = self._taken = 0

    def begin(self, values: Mapping[str, Tensor]) -> Any:
        """Begin the copies of pinned `values`; the event after which these may be overwritten.

        At most one batch may have been taken and not released, else its buffers would be overwritten.
        """
        number, self._number = self._number, (self._number + 1) % _SETS
        buffers = self._buffers[number]
        for role, value in values.items():
            if role not in buffers or len(buffers[role]) < len(value):
                buffers[role] = torch.empty(value.shape, dtype=value.dtype, device=self._device)
                # New memory may be that of a tensor which the computation has still to read.
                self._used[number] = self._recorded()
        if self._used[number] is not None:
            self._copies.wait_event(self._used[number])
        with self._gpu.stream(self._copies):
            rows = {role: buffers[role][: len(value)].copy_(value, non_blocking=True) for role, value in values.items()}
            copied = self._gpu.Event()
            copied.record(self._copies)
        self._begun.append((number, rows, copied))
        return copied

    def take(self) -> Mapping[str, Tensor]:
        """The values of the batch that was begun first, role -> tensor; work from here on waits for their copies."""
        self._taken, rows, copied = self._begun.popleft()
        self._gpu.current_stream(self._device).wait_event(copied)
        return rows

    def release(self) -> None:
        """Say that all work with the batch taken last is in the queue of the current stream."""
        self._used[self._taken] = self._recorded()

    def close(self) -> None:
        """Before the buffers are freed: work from here on, which may get their memory, waits for copies under way."""
        self._gpu.current_stream(self._device).wait_stream(self._copies)

    def _recorded(self) -> Any:
        event = self._gpu.Event()
        event.record(self._gpu.current_stream(self._device))
        return event
