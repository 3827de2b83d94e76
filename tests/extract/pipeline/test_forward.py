from __future__ import annotations

import hashlib
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from vfc.cache_schema.values.errors import BadInput, Refused
from vfc.cache_schema.values.record import Key
from vfc.extract.backbone import Encoded
from vfc.extract.models.determinism import THREADS, determinism
from vfc.extract.pipeline.device_copy import host
from vfc.extract.pipeline.forward import BatchSize, Ready, batches, failed, forward
from vfc.extract.pipeline.prefetch import in_threads
from vfc.extract.pipeline.source_files import file_identity
from vfc.extract.pipeline.stage_timer import STAGES, StageTimer
from vfc.extract.pipeline.writer_thread import FailedRecord, FinishedRecord

Batch = Sequence[Ready]


def item(name: str, value: float) -> Ready:
    return Ready(Key("video", name), {"x": torch.full((2,), value)}, {"about": name})


def doubled(batch: Batch) -> list[Encoded]:
    if any(float(one.tensors["x"][0]) < 0 for one in batch):
        raise ValueError("a negative clip")
    return [Encoded({"y": 2 * one.tensors["x"]}, ()) for one in batch]


def test_a_bad_one_in_a_batch_costs_itself() -> None:
    outcome = forward(doubled, [item("a", 1), item("bad", -1), item("c", 3)])
    assert [type(one) for one in outcome] == [FinishedRecord, FailedRecord, FinishedRecord]
    first, bad, last = outcome
    assert isinstance(first, FinishedRecord)
    assert isinstance(bad, FailedRecord)
    assert isinstance(last, FinishedRecord)
    assert first.record.metadata == {"about": "a"}
    assert np.array_equal(last.record.arrays["y"], np.full(2, 6, np.float32))
    assert (bad.key.name, bad.reason) == ("bad", "ValueError: a negative clip")


def test_out_of_memory_is_not_the_fault_of_one_video() -> None:
    calls = []

    def full(batch: Batch) -> list[Encoded]:
        calls.append(len(batch))
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate\n(a table)")

    with pytest.raises(Refused, match=r"Out of memory at the video record of 'a': CUDA out of memory"):
        forward(full, [item("a", 1), item("b", 1)])
    assert calls == [2, 1]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory"),
        torch.AcceleratorError("CUDA error: out of memory"),
    ],
)
def test_a_batch_that_memory_cannot_hold_halves_until_it_fits_and_loses_nothing(error: Exception) -> None:
    sizes, said = list[int](), list[str]()

    def small(batch: Batch) -> list[Encoded]:
        sizes.append(len(batch))
        if len(batch) > 2:
            raise error
        return doubled(batch)

    size = BatchSize(7, said.append)
    videos = [item(str(number), number) for number in range(17)]
    records = [
        record
        for batch in batches(videos, size)
        if isinstance(batch, list)
        for record in forward(small, batch, None, size)
    ]
    assert sizes == [7, 3, 1, 1, 1, 3, 1, 1, 1, 1, *[1] * 10]
    assert [r.record.key.name for r in records if isinstance(r, FinishedRecord)] == [str(n) for n in range(17)]
    values = [float(r.record.arrays["y"][0]) for r in records if isinstance(r, FinishedRecord)]
    assert values == [2.0 * number for number in range(17)]
    assert len(said) == 1
    assert "--batch 3" in said[0]


def test_a_failed_forward_frees_its_tensors_before_the_next_try() -> None:
    alive: list[weakref.ref[torch.Tensor]] = []
    still_alive = list[int]()

    def large(batch: Batch) -> list[Encoded]:
        still_alive.append(sum(tensor() is not None for tensor in alive))
        activations = torch.zeros(4)
        alive.append(weakref.ref(activations))
        if len(batch) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return doubled(batch)

    assert len(forward(large, [item("a", 1), item("b", 2)])) == 2
    assert still_alive == [0, 0, 0]


def test_errors_of_ours_are_told_in_their_own_words() -> None:
    told = failed(Key("text", "a b"), BadInput("Too long.", "Shorten it."), None)
    assert told.reason == "Too long. Shorten it."
    assert isinstance(told.cause, BadInput)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int64])
def test_tensors_arrive_as_they_are(dtype: torch.dtype) -> None:
    tensor = torch.arange(6).reshape(2, 3).to(dtype).t()
    assert np.array_equal(host(tensor), np.arange(6).reshape(2, 3).T)
    assert str(host(tensor).dtype) == str(dtype).removeprefix("torch.")


def test_bfloat16_arrives_as_its_bits() -> None:
    values = torch.tensor([1.0, -2.5, 3.140625, 0.0])
    bits = (values.numpy().view(np.uint32) >> 16).astype(np.uint16)
    got = host(values.bfloat16())
    assert got.dtype == np.uint16
    assert np.array_equal(got, bits)


def test_threads_keep_the_order_and_do_not_run_ahead_for_ever() -> None:
    taken: list[int] = []
    gate = threading.Event()

    def numbers() -> Iterator[int]:
        for i in range(50):
            taken.append(i)
            yield i

    def work(i: int) -> list[Ready | FailedRecord]:
        if i == 0:
            gate.wait(10)
        time.sleep(0.001 * (i % 3))
        return [item(str(i), i)]

    timer = StageTimer()
    with ThreadPoolExecutor(3) as pool:
        threading.Timer(0.1, gate.set).start()
        stream = in_threads(numbers(), work, pool, 4, timer)
        first = next(stream)
        assert len(taken) == 5
        names = [first.key.name, *(one.key.name for one in stream)]
    assert names == [str(i) for i in range(50)]
    assert timer.seconds["pixels"] > 0.05
    assert timer.bottleneck() == "pixels"
    assert sum(timer.shares().values()) == pytest.approx(1)
    assert set(timer.shares()) == set(STAGES)


def test_a_file_is_known_by_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"abc")
    sha256, mtime_ns = hashlib.sha256(b"abc").hexdigest(), path.stat().st_mtime_ns
    assert file_identity(path) == {"size": 3, "mtime_ns": mtime_ns, "sha256": sha256}
    path.write_bytes(b"abcd")
    assert file_identity(path)["sha256"] == hashlib.sha256(b"abcd").hexdigest()


def test_deterministic_mode_fixes_the_threads_and_fast_mode_leaves_them() -> None:
    before = torch.get_num_threads()
    with determinism("deterministic", None):
        assert torch.get_num_threads() == THREADS
        assert torch.are_deterministic_algorithms_enabled()
    with determinism("fast", None):
        assert torch.get_num_threads() == before
        assert not torch.are_deterministic_algorithms_enabled()
    with determinism("fast", 3):
        assert torch.get_num_threads() == 3
    assert torch.get_num_threads() == before
