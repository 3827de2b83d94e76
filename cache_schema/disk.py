"""The disk: how a part's bytes are written, synced, renamed into place and cleaned up.

With `publish`, these are the only calls of a store that create, write, sync, rename or remove. They stand together so
that a full disk or a read-only one gives the same two lines wherever it is met, and so that a test can fail each of
them in turn.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import time
import uuid
from pathlib import Path
from types import ModuleType
from typing import Final

import numpy as np
import numpy.typing as npt

from .publish import writing

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_LEFTOVER_SECONDS: Final = 3600.0


def make_folder(path: Path) -> None:
    """Create a folder, its parents too, unless it is there."""
    with writing(path):
        missing = []
        while not path.is_dir():
            missing.append(path)
            path = path.parent
        for folder in reversed(missing):
            with contextlib.suppress(FileExistsError):
                os.mkdir(folder)


class NewFile:
    """A file being written once, front to back: small pieces are gathered, large ones go straight through.

    `rollback` drops what was written after a position.
    """

    _GATHER: Final = 1 << 18

    def __init__(self, path: Path) -> None:
        self.path = path
        with writing(path):
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        self._pending = bytearray()
        self._on_disk = 0

    def write(self, data: bytes | npt.NDArray[np.uint8]) -> None:
        """Append bytes.

        Raises:
            Refused: The disk is full.
            ReadOnlyTarget: It takes no writes.
        """
        if len(data) < self._GATHER:
            self._pending += data if isinstance(data, bytes) else data.data
            if len(self._pending) >= self._GATHER:
                self.flush()
        else:
            self.flush()
            self._write_out(memoryview(data) if isinstance(data, bytes) else data.data)

    def flush(self) -> None:
        """Hand the gathered bytes to the system; those it does not take stay gathered."""
        done = 0
        try:
            with memoryview(self._pending) as pending, writing(self.path):
                while done < len(pending):
                    done += os.write(self._fd, pending[done:])
        finally:
            del self._pending[:done]
            self._on_disk += done

    def _write_out(self, data: memoryview) -> None:
        with writing(self.path):
            while data:
                done = os.write(self._fd, data)
                self._on_disk += done
                data = data[done:]

    @property
    def position(self) -> int:
        """Bytes written so far."""
        return self._on_disk + len(self._pending)

    def rollback(self, position: int) -> None:
        """Forget the bytes after a position that was passed before."""
        if self._on_disk > position:
            self._pending.clear()
            with writing(self.path):
                os.ftruncate(self._fd, position)
                os.lseek(self._fd, position, os.SEEK_SET)
            self._on_disk = position
        else:
            del self._pending[position - self._on_disk :]

    def finish(self) -> None:
        """Flush, sync and close."""
        self.flush()
        with writing(self.path):
            os.fsync(self._fd)
        self.close()

    def discard(self) -> None:
        """Close and remove."""
        self.close()
        with writing(self.path):
            os.unlink(self.path)

    def close(self) -> None:
        """Close without a word about what was written; twice is once."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def write_file(path: Path, data: bytes) -> None:
    """A new file with this content, synced."""
    file = NewFile(path)
    try:
        file.write(data)
        file.finish()
    finally:
        file.close()


def rename(source: Path, target: Path) -> None:
    """Move a file or a folder within one file system: it appears whole or not at all."""
    with writing(target):
        os.rename(source, target)


def remove(path: Path) -> None:
    """Remove a file or a folder if that is possible; what cannot be removed now is removed by a later clean-up."""
    with contextlib.suppress(OSError):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            os.unlink(path)


def host() -> str:
    """This machine's name, fit for a file name."""
    return "".join(c if c.isalnum() else "_" for c in socket.gethostname())


class Claim:
    """A folder under `tmp/` that belongs to this process while it lives.

    Its name carries worker, host and process; an exclusive lock on the folder, which the system drops with the
    process however it ends, tells a living owner from a dead one, also where two containers count processes alike.
    """

    def __init__(self, tmp: Path, worker: str) -> None:
        while True:
            self.path = tmp / f"{worker}+{host()}+{os.getpid()}+{uuid.uuid4().hex}"
            with writing(self.path):
                os.mkdir(self.path)
            self._lock = _lock(self.path)
            if self.path.is_dir():  # else a clean-up came between the two calls
                return
            self.release()

    def release(self) -> None:
        """Give the lock back; twice is once."""
        fd, self._lock = self._lock, None
        if fd is not None:
            os.close(fd)


def clear_stale(tmp: Path, worker: str | None = None) -> int:
    """Remove what dead processes of this host left under `tmp/`: of one worker, or of all; returns how many."""
    cleared = 0
    for path in sorted(tmp.iterdir()) if tmp.is_dir() else ():
        owner = path.name.split("+")
        if len(owner) != 4:
            # A file on its way to be published exists for milliseconds.
            with contextlib.suppress(FileNotFoundError):
                if path.is_file() and time.time() - path.stat().st_mtime > _LEFTOVER_SECONDS:
                    remove(path)
                    cleared += 1
        elif owner[1] == host() and worker in (None, owner[0]):
            lock = _lock(path)
            if lock is not None:
                remove(path)
                os.close(lock)
                cleared += 1
    return cleared


def _lock(path: Path) -> int | None:
    """A descriptor that holds the folder's lock, or None where another holds it or the system has none."""
    if fcntl is None:
        return None
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
        else:
            return fd
    return None
