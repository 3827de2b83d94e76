"""The ring's waits, on streams that only note what they are asked: which copy comes after which computation."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from vfc.heads.data import device_ring
from vfc.heads.data.device_ring import DeviceRing


class FakeStream:
    """Notes after which events of other streams its next work comes, and how much work it has."""

    def __init__(self, name: str) -> None:
        self.name, self.after, self.work = name, list[str](), 0

    def wait_event(self, event: Event) -> None:
        self.after.append(event.point)

    def wait_stream(self, other: FakeStream) -> None:
        self.after.append(f"{other.name} {other.work}")


class Event:
    point = ""

    def record(self, stream: FakeStream) -> None:
        self.point = f"{stream.name} {stream.work}"


class Gpu:
    """In place of `torch.cuda`."""

    def __init__(self) -> None:
        self.compute, self.copies, self.Event = FakeStream("compute"), FakeStream("copy"), Event

    def Stream(self, device: Any) -> FakeStream:  # noqa: N802
        return self.copies

    def current_stream(self, device: Any) -> FakeStream:
        return self.compute

    @contextlib.contextmanager
    def stream(self, stream: FakeStream) -> Iterator[None]:
        stream.work += 1
        yield


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    gpu = Gpu()
    monkeypatch.setattr(device_ring, "functions", lambda device: gpu)
    return gpu


def test_no_copy_overtakes_the_work_with_its_buffers_and_no_work_its_copy(gpu: Gpu) -> None:
    ring = DeviceRing(torch.device("cpu"))
    batches = [{"visual": torch.full((3, 2), float(i))} for i in range(4)]
    events = [ring.begin(batches[0])]
    taken = []
    for i in range(4):
        rows = ring.take()["visual"]
        assert gpu.compute.after[-1] == events[-1].point == f"copy {i + 1}"
        gpu.copies.after.clear()
        if i < 3:
            events.append(ring.begin(batches[i + 1]))
            # Into the buffers of batch i - 1, whose work ended with `compute i`; the first two are new memory.
            assert gpu.copies.after == [f"compute {max(0, i)}"]
        assert torch.equal(rows, batches[i]["visual"])
        gpu.compute.work += 1
        ring.release()
        taken.append(rows.data_ptr())
    assert len(set(taken)) == 2
    assert taken[:2] == taken[2:]
    ring.close()
    assert gpu.compute.after[-1] == "copy 4"


def test_buffers_that_grow_are_new_memory_that_the_computation_may_still_be_reading(gpu: Gpu) -> None:
    ring = DeviceRing(torch.device("cpu"))
    for rows, after in ((2, "compute 0"), (2, "compute 1"), (5, "compute 2"), (4, "compute 3"), (3, "compute 3")):
        gpu.copies.after.clear()
        ring.begin({"visual": torch.ones(rows, 2)})
        assert gpu.copies.after == [after]
        assert ring.take()["visual"].shape == (rows, 2)
        gpu.compute.work += 1
        ring.release()
