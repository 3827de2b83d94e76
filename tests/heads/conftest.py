"""A small store of made-up features, and a progress that remembers."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from suites.motion_store import MakeStore, Told, make_store


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture(name="make_store")
def store_maker(tmp_path: Path) -> MakeStore:
    """`make_store(classes=15, clips=8, ...)`: the path of a new store."""
    return partial(make_store, tmp_path / "store")
