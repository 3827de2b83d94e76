"""Mistakes planted on purpose: the emulated GPU catches each of them, and the same work without it is clean."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from suites.emulated_gpu import DEVICE, Counts, counted
from suites.emulated_gpu.tensor import Emulated
from suites.family_stores import extract_family
from suites.motion_store import make_store
from suites.toy import write_clip

from vfc.cache_schema.values.progress import Silent
from vfc.heads.contract.train_config import TrainConfig
from vfc.heads.data.device_ring import DeviceRing
from vfc.heads.methods import prototype
from vfc.heads.tasks import fewshot
from vfc.heads.tasks.fewshot import episodic_head
from vfc.heads.training.fit import train

Training = Callable[[], list[Counts]]


@pytest.fixture
def training(_gpu: None, tmp_path: Path, steps: list[Counts]) -> Training:
    """Trains a head on a store that is read from disk; what each step after the first asks of the device."""
    store = make_store(tmp_path / "store", noise=0.3)

    def run() -> list[Counts]:
        task = fewshot.Config(store, way=3, train_queries=2, val_tasks=5, tasks=10, resident="off")
        how = TrainConfig(steps=6, batch=2, validate_every=6, device=DEVICE, out=tmp_path / "run")
        train("prototype", task, prototype.Config(width=8), how, Silent())
        return steps[1:]

    return run


def faults(steps: list[Counts]) -> str:
    return "\n".join(line for counts in steps for line in counts.faults)


def waits(steps: list[Counts]) -> int:
    return max(sum(counts.syncs.values()) for counts in steps)


def test_without_a_mistake_nothing_is_found(training: Training) -> None:
    steps = training()
    assert not faults(steps)
    assert waits(steps) == 0


def test_a_tensor_left_on_the_cpu(training: Training, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(episodic_head, "on_device", lambda tensor, _: tensor)
    with pytest.raises(RuntimeError, match=r"device|cpu"):
        training()


def through_ring(ring: DeviceRing) -> str:
    """Four batches one after the other, each doubled on the device; the faults."""
    with counted() as counts:
        for number in range(4):
            ring.begin({"frames": torch.full((8,), float(number)).pin_memory()})
            _ = ring.take()["frames"] * 2
            ring.release()
        ring.close()
    return "\n".join(counts.faults)


@pytest.mark.usefixtures("_gpu")
def test_a_ring_without_a_mistake() -> None:
    assert not through_ring(DeviceRing(torch.device(DEVICE)))


@pytest.mark.usefixtures("_gpu")
def test_a_slot_of_the_ring_that_is_reused_too_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DeviceRing, "release", lambda ring: ring._used.__setitem__(ring._taken, None))
    assert "overwrites what another stream may still be using" in through_ring(DeviceRing(torch.device(DEVICE)))


@pytest.mark.usefixtures("_gpu")
def test_a_batch_that_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def takes(ring: DeviceRing) -> Any:
        ring._taken, rows, _ = ring._begun.popleft()
        return rows

    monkeypatch.setattr(DeviceRing, "take", takes)
    assert "reads what another stream may still be writing" in through_ring(DeviceRing(torch.device(DEVICE)))


def test_an_item_in_the_step(training: Training, monkeypatch: pytest.MonkeyPatch) -> None:
    loss = prototype.Head.loss

    def looks(self: Any, batch: Any) -> Any:
        terms = loss(self, batch)
        assert sum(term.item() for term in terms.values()) > 0
        return terms

    monkeypatch.setattr(prototype.Head, "loss", looks)
    assert waits(training()) > 0


@pytest.mark.usefixtures("_gpu")
@pytest.mark.parametrize("recorded", [True, False])
def test_a_missing_record_stream(recorded: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for clip in range(4):
        write_clip(tmp_path / "videos" / "a" / f"{clip}.mp4", clip, frames=8, size=(32, 24))
    if not recorded:
        monkeypatch.setattr(Emulated, "record_stream", lambda *_: None)
    with counted() as counts:
        extract_family("image", tmp_path / "videos", tmp_path, device=DEVICE, batch=2)
    assert ("without record_stream" in "\n".join(counts.faults)) == (not recorded)
