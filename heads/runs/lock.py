"""A lock on a run folder, so that two processes do not train in it."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from vfc.cache_schema.values.errors import BadInput

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Create a run folder and hold it for this process.

    The operating system releases the lock when the process ends in any way, so a killed run blocks nobody.

    Raises:
        BadInput: another process holds it; the message names that process.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "lock"
    if fcntl is None:
        yield
        return
    file = _acquire(path)
    os.truncate(file, 0)
    os.write(file, f"process {os.getpid()} on {socket.gethostname()}".encode())
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(file)


def _acquire(path: Path) -> int:
    """A descriptor of the locked file at `path`."""
    assert fcntl is not None
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.path.samestat(os.fstat(file), path.stat()):
                return file
        except BlockingIOError:
            owner = os.read(file, 200).decode(errors="replace") or "another process"
            os.close(file)
            raise BadInput(
                f"The run folder {path.parent} is in use by {owner}.",
                "Wait until it has finished, or give another --out.",
            ) from None
        os.close(file)  # a process that finished in the meantime removed this file
