"""Copies between host and device: pinned memory, a stream of their own, and how long the device computed."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

import numpy.typing as npt
import torch

from vfc.cache_schema.values.devices import functions, has_streams
from vfc.extract.backbone import Encoded

Item = TypeVar("Item")
Wait = Callable[[], None]


def host(tensor: torch.Tensor) -> npt.NDArray[Any]:
    """A tensor as the store takes it: numpy, bfloat16 as its uint16 bits."""
    tensor = tensor.detach().contiguous().cpu()
    return tensor.view(torch.uint16).numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()


def pinned(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copies in pinned memory, from which a GPU reads while it computes."""
    return {name: tensor.pin_memory() for name, tensor in tensors.items()}


def begin_copy(tensors: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], Wait | None]:
    """Tensors on the host, and what returns once they are complete; None where they are."""
    copies, device = dict[str, torch.Tensor](), torch.device("cpu")
    for name, tensor in tensors.items():
        if has_streams(tensor.device):
            device = tensor.device
            copies[name] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            copies[name].copy_(tensor.detach(), non_blocking=True)
        else:
            copies[name] = tensor.cpu()
    if device.type == "cpu":
        return copies, None
    event = functions(device).Event()
    event.record(functions(device).current_stream(device))
    return copies, cast("Wait", event.synchronize)


class DeviceToHost:
    """Runs the model and copies its outputs to the host.

    `asynchronous`: on a GPU the copies run on a stream of their own, into pinned memory, while the next batch is
    already computed; the outputs of `run` are complete only after its `wait`.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.asynchronous = has_streams(device)
        self._stream = functions(device).Stream(device) if self.asynchronous else None
        self._seconds = 0.0
        self._events: deque[tuple[Any, Any]] = deque()

    def run(
        self, encode: Callable[[Sequence[Item]], list[Encoded]], batch: Sequence[Item]
    ) -> tuple[list[Encoded], Wait | None]:
        """What `encode` gives for a batch, on the host, and what returns once it is complete; None where it is.

        The time counts as work of the device.
        """
        if self._stream is None:
            began = time.perf_counter()
            outputs = [_copied(output, torch.Tensor.cpu) for output in encode(batch)]
            self._seconds += time.perf_counter() - began
            return outputs, None
        gpu = functions(self.device)
        compute = gpu.current_stream(self.device)
        start, end = gpu.Event(enable_timing=True), gpu.Event(enable_timing=True)
        start.record(compute)
        on_device = encode(batch)
        end.record(compute)
        self._events.append((start, end))
        self._count_finished()
        self._stream.wait_stream(compute)
        complete = gpu.Event()
        with gpu.stream(self._stream):
            outputs = [_copied(output, self._begin_copy) for output in on_device]
            complete.record(self._stream)
        return outputs, complete.synchronize

    def _begin_copy(self, tensor: torch.Tensor) -> torch.Tensor:
        """Begin the copy of a tensor; its memory on the device is not reused before that has ended."""
        if tensor.device.type == "cpu":
            return tensor
        assert self._stream is not None
        tensor.record_stream(self._stream)
        target = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        target.copy_(tensor.detach(), non_blocking=True)
        return target

    def wait(self) -> None:
        """Return once nothing is under way on the device."""
        if self._stream is not None:
            functions(self.device).synchronize(self.device)

    def busy(self) -> float:
        """Seconds that the device spent on forwards; waits for those under way."""
        if self._events:
            self._events[-1][1].synchronize()
        self._count_finished()
        return self._seconds

    def _count_finished(self) -> None:
        """Add the time of the forwards that have ended; they end in the order in which they began."""
        while self._events and self._events[0][1].query():
            start, end = self._events.popleft()
            self._seconds += start.elapsed_time(end) / 1000


def _copied(output: Encoded, copy: Callable[[torch.Tensor], torch.Tensor]) -> Encoded:
    video, *prompted = (
        {name: copy(tensor) for name, tensor in arrays.items()} for arrays in (output.video, *output.prompted)
    )
    return Encoded(video, tuple(prompted))
