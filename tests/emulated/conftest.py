"""Every test here has an emulated GPU, and fails where something was read, written or given back in the wrong order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from suites.emulated_gpu import Counts, counted, emulated_gpu

from vfc.heads.training import loop


@pytest.fixture(scope="session")
def _gpu() -> Iterator[None]:
    with emulated_gpu():
        yield


@pytest.fixture
def counts(_gpu: None) -> Iterator[Counts]:
    """What the test asks of the device."""
    with counted() as counts:
        yield counts
    assert not counts.faults


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[Counts]:
    """What each step of a training asks of the device, from its next batch to the end of the optimizer."""
    each, give = list[Counts](), loop.Lockstep._give

    def counting(self: Any, trials: Any, batches: Any) -> None:
        with counted(wait=False) as counts:
            give(self, trials, batches)
        each.append(counts)

    monkeypatch.setattr(loop.Lockstep, "_give", counting)
    return each
