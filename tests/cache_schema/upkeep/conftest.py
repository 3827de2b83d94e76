"""Kill a function at calls of the system that change the disk."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

_CHANGES = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.link", "os.truncate"}
_VISIBLE = {"os.rename", "os.link"}
_WRITE = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


class Killed(BaseException):
    """Stands in for SIGKILL: once it is raised, nothing more reaches the disk, whatever cleaning up is tried."""


class _Guard:
    """An audit hook, which cannot be removed again; it does nothing unless armed."""

    def __init__(self) -> None:
        self.armed = False
        self.last = 1 << 30
        self.calls: list[str] = []
        self.under = ""

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.armed:
            return
        if event == "open":
            if not (isinstance(args[2], int) and args[2] & _WRITE) or not str(args[0]).startswith(self.under):
                return
        elif event not in _CHANGES:
            return
        if len(self.calls) >= self.last:
            raise Killed
        self.calls.append(event)


_GUARD = _Guard()
sys.addaudithook(_GUARD)


@pytest.fixture(autouse=True, scope="session")
def no_syncs() -> Iterator[None]:
    """What a sync promises cannot be tested without cutting the power, and a thousand of them take minutes."""
    real = os.fsync
    os.fsync = lambda fd: None
    yield
    os.fsync = real


def _release_locks(folder: Path) -> None:
    """What the system does for a process that was killed."""
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{name}").startswith(str(folder)):
                os.close(int(name))


def _run(act: Callable[[Path], object], root: Path, last: int) -> list[str]:
    """The calls of `act` that changed the disk, up to the one at which it was killed."""
    _GUARD.armed, _GUARD.last, _GUARD.calls, _GUARD.under = True, last, [], str(root.parent)
    try:
        act(root)
        return _GUARD.calls
    except Killed:
        _release_locks(root)
        return _GUARD.calls
    finally:
        _GUARD.armed = False


@pytest.fixture
def killer() -> Callable[..., None]:
    """`kill(pristine, folder, prepare, act, require)`: act is killed, and what is left must satisfy `require`.

    It is killed before and after every call that makes something visible, and at a dozen calls in between.
    """
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("the locks of a killed process cannot be released on this system")

    def kill(
        pristine: Path,
        folder: Path,
        prepare: Callable[[Path], object],
        act: Callable[[Path], object],
        require: Callable[[Path], object],
    ) -> None:
        def one(name: str, last: int) -> list[str]:
            root = Path(shutil.copytree(pristine, folder / name))
            prepare(root)
            calls = _run(act, root, last)
            require(root)
            shutil.rmtree(root)
            return calls

        calls = one("whole", 1 << 30)
        visible = {i + after for i, call in enumerate(calls) if call in _VISIBLE for after in (0, 1)}
        for last in sorted({*visible, *range(0, len(calls), len(calls) // 12 + 1)} - {len(calls)}):
            assert len(one(f"killed{last}", last)) == last

    return kill
