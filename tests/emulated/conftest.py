"""Every test here has an emulated GPU, and fails where something was read, written or given back in the wrong order."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from suites.emulated_gpu import Counts, counted, emulated_gpu


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
