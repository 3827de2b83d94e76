"""What every test may use: the folder of real test data, `suites` as a package, hypothesis without a clock."""

from __future__ import annotations

import itertools
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

TESTS = Path(__file__).resolve().parent
sys.path.insert(0, str(TESTS))

# Read when torch is first imported, here and in the processes that tests start: on networks this small, threads that
# wait for each other take most of the time. What a run fixes for its numbers, it still fixes itself.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell that starts the tests in the background ignores Ctrl-C for them and for all they start, which some tests send.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A busy machine is no failure; what a test may take is bounded by pytest-timeout.
hypothesis.settings.register_profile("house", deadline=None)
hypothesis.settings.load_profile("house")


def pytest_collection_finish(session: pytest.Session) -> None:
    """The emulated GPU is known to torch before any test runs a backward pass in this process."""
    if any("emulated" in item.path.parts for item in session.items):
        from suites import emulated_gpu

        emulated_gpu.register()


@pytest.fixture(scope="session")
def _caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("caches")
    return (folder / str(number) for number in itertools.count())


@pytest.fixture(autouse=True)
def _a_cache_of_its_own(_caches: Iterator[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """What another test has kept must not answer for this one."""
    monkeypatch.setenv("VFC_CACHE", str(next(_caches)))


@pytest.fixture(autouse=True)
def _the_same_draws_in_any_order() -> None:
    """Which test came before, and on which core, must not decide what a test draws."""
    torch = sys.modules.get("torch")  # what does without it is not made to wait for it
    if torch is not None:
        torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real clips, weights and lists: VFC_TEST_DATA, else `shared/data` beside the checkout."""
    folder = Path(os.environ.get("VFC_TEST_DATA") or TESTS.parent.parent / "shared" / "data")
    if not (folder / "MANIFEST.csv").is_file():
        pytest.skip(f"no real test data at {folder}; set VFC_TEST_DATA to the folder that holds MANIFEST.csv")
    return folder
