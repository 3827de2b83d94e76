"""The most memory that tensors take during a call: what the device counts, on a CPU the tensors themselves."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from vfc.cache_schema.values.devices import functions, has_streams, peak_memory


def peak_bytes(run: Callable[[], object], device: torch.device, counted: Iterable[Tensor]) -> int:
    """The most bytes of tensors alive at once while `run` runs, those of `counted` (weights, inputs) included.

    On a CPU what an operation needs for itself and frees is not counted.
    """
    if has_streams(device):
        functions(device).reset_peak_memory_stats(device)
        run()
        return peak_memory(device)
    counter = _LiveTensors(counted)
    with counter:
        run()
    return counter.peak


def tensors_of(value: Any) -> Iterator[Tensor]:
    """The tensors of a batch: a dataclass, a mapping, a sequence or a tensor."""
    if isinstance(value, Tensor):
        yield value
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from tensors_of(getattr(value, field.name))
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_of(item)
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        for item in value:
            yield from tensors_of(item)


class _LiveTensors(TorchDispatchMode):
    """Counts the bytes of every storage from the operation that makes it until it is freed."""

    def __init__(self, counted: Iterable[Tensor]) -> None:
        TorchDispatchMode.__init__(self)
        self._sizes: dict[int, int] = {}
        self._now = self.peak = 0
        for tensor in counted:
            self._count(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and count what it made."""
        result = func(*args, **(kwargs or {}))
        for tensor in tensors_of(result):
            self._count(tensor)
        return result

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        place, size = storage._cdata, storage.nbytes()
        if place in self._sizes:
            return
        self._sizes[place] = size
        self._now += size
        self.peak = max(self.peak, self._now)
        weakref.finalize(storage, self._free, place)

    def _free(self, place: int) -> None:
        self._now -= self._sizes.pop(place, 0)
