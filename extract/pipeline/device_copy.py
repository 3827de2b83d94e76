"""Between host and device: pinned memory, copies on a stream of their own, and how long the device was at work."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy.typing as npt
import torch

from vfc.extract.backbone import Encoded

Item = TypeVar("Item")
Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Fetched:
    """`Encoded` on the host. `wait`: returns once the arrays are all there; None where they are."""

    video: Arrays
    prompted: tuple[Arrays, ...]
    wait: Callable[[], None] | None = None


def host(tensor: torch.Tensor) -> npt.NDArray[Any]:
    """A tensor as the store takes it: numpy, bfloat16 as its uint16 bits."""
    tensor = tensor.detach().contiguous().cpu()
    return tensor.view(torch.uint16).numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()


def pinned(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copies in pinned memory, from which a GPU reads while it computes."""
    return {name: tensor.pin_memory() for name, tensor in tensors.items()}


class Carrier:
    """Runs the model and brings what it makes to the host.

    On a GPU the copies run on a stream of their own, into pinned memory, while the next batch is computed already;
    what `run` returns is then still on its way.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.late = device.type == "cuda"
        self._stream = torch.cuda.Stream(device) if self.late else None
        self._seconds = 0.0
        self._events: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()

    def run(self, encode: Callable[[Sequence[Item]], list[Encoded]], batch: Sequence[Item]) -> list[Fetched]:
        """What `encode` makes of a batch; counts as work of the device."""
        if self._stream is None:
            began = time.perf_counter()
            outputs = encode(batch)
            found = [
                Fetched(_each(host, out.video), tuple(_each(host, one) for one in out.prompted)) for out in outputs
            ]
            self._seconds += time.perf_counter() - began
            return found
        compute = torch.cuda.current_stream(self.device)
        start, end, arrived = (
            torch.cuda.Event(enable_timing=True),
            torch.cuda.Event(enable_timing=True),
            torch.cuda.Event(),
        )
        start.record(compute)
        outputs = encode(batch)
        end.record(compute)
        self._events.append((start, end))
        self._settle()
        self._stream.wait_stream(compute)
        with torch.cuda.stream(self._stream):
            found = [
                Fetched(
                    _each(self._away, out.video),
                    tuple(_each(self._away, one) for one in out.prompted),
                    arrived.synchronize,
                )
                for out in outputs
            ]
            arrived.record(self._stream)
        return found

    def _away(self, tensor: torch.Tensor) -> npt.NDArray[Any]:
        """Begin the copy of a tensor; its memory on the device is not given away before that has ended."""
        if tensor.device.type == "cpu":
            return host(tensor)
        assert self._stream is not None
        tensor.record_stream(self._stream)
        target = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        target.copy_(tensor.detach(), non_blocking=True)
        return host(target)

    def busy(self) -> float:
        """Seconds that the device spent on forwards; waits for those under way."""
        if self._events:
            self._events[-1][1].synchronize()
        self._settle()
        return self._seconds

    def _settle(self) -> None:
        """Count the forwards that have ended; they end in the order in which they began."""
        while self._events and self._events[0][1].query():
            start, end = self._events.popleft()
            self._seconds += start.elapsed_time(end) / 1000


def _each(change: Callable[[torch.Tensor], npt.NDArray[Any]], tensors: Mapping[str, torch.Tensor]) -> Arrays:
    return {name: change(tensor) for name, tensor in tensors.items()}
