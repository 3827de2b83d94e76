"""The disk: how a part's bytes are written, synced, renamed into place and cleaned up.

With `atomic_files`, these are the only calls of a store that create, write, sync, rename or remove. They are in one
place so that a full disk or a read-only one gives the same two lines everywhere, and so that a test can make each of
them fail.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import socket
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Final, cast

import numpy as np
import numpy.typing as npt

from vfc.cache_schema.values.errors import BadInput

from .atomic_files import writing

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_LEFTOVER_SECONDS: Final = 3600.0


def make_folder(path: Path) -> None:
    """Create a folder, its parents too, unless it is there.

    Raises:
        BadInput: A file, or a broken link, is in its place or above it.
        Refused, ReadOnlyTarget: See `atomic_files.writing`.
    """
    with writing(path):
        missing = []
        while not path.is_dir():
            missing.append(path)
            path = path.parent
        for folder in reversed(missing):
            try:
                os.mkdir(folder)
            except (FileExistsError, NotADirectoryError):
                if not folder.is_dir():
                    raise BadInput(
                        f"The folder {folder} cannot be made: a file, or a link that leads nowhere, is in the way.",
                        "Give another path.",
                    ) from None


class NewFile:
    """A file being written once, front to back; `rollback` drops what was written after a position.

    Bytes go to the system in units of 2 MB at multiples of 2 MB. The page cache then holds them in huge pages, which
    makes reading them through a mapping a tenth faster, and small records need no system call each.
    """

    _UNIT: Final = 2 << 20
    _AHEAD: Final = 8 << 20

    def __init__(self, path: Path) -> None:
        self.path = path
        with writing(path):
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        self._gathered = np.empty(self._UNIT, np.uint8)
        self._waiting = self._on_disk = self._begun = 0

    def write(self, data: bytes | npt.NDArray[np.uint8]) -> None:
        """Append bytes.

        Raises:
            Refused: The disk is full.
            ReadOnlyTarget: It takes no writes.
        """
        rest = np.frombuffer(data, np.uint8) if isinstance(data, bytes) else data
        while rest.size:
            room = self._UNIT - self._on_disk % self._UNIT - self._waiting
            if not self._waiting and rest.size >= room:
                direct = room + (rest.size - room) // self._UNIT * self._UNIT
                self._on_disk += self._hand_over(rest[:direct])
                rest = rest[direct:]
            else:
                part = rest[:room]
                self._gathered[self._waiting : self._waiting + part.size] = part
                self._waiting += part.size
                rest = rest[room:]
                if part.size == room:
                    self.flush()

    def flush(self) -> None:
        """Hand the gathered bytes to the system."""
        self._on_disk += self._hand_over(self._gathered[: self._waiting])
        self._waiting = 0

    def _hand_over(self, data: npt.NDArray[np.uint8]) -> int:
        """Write all of `data` at the end of what is on disk; an error leaves everything as it was."""
        done = 0
        with writing(self.path):
            try:
                while done < data.size:
                    done += os.write(self._fd, data[done:].data)
            except OSError:
                self._cut(self._on_disk)
                raise
        self._start_writeback(self._on_disk + done)
        return done

    def _start_writeback(self, stop: int) -> None:
        """Let the disk begin while the next records are made: the sync at the end then finds little to do."""
        if stop - self._begun >= self._AHEAD and (begin := _sync_file_range()) is not None:
            begin(self._fd, self._begun, stop - self._begun, 2)  # SYNC_FILE_RANGE_WRITE: start, do not wait
            self._begun = stop

    def _cut(self, position: int) -> None:
        os.lseek(self._fd, position, os.SEEK_SET)
        # A disk that has just failed may fail here too: the rest is then written over, or cut off by `finish`.
        with contextlib.suppress(OSError):
            os.ftruncate(self._fd, position)

    @property
    def position(self) -> int:
        """Bytes written so far."""
        return self._on_disk + self._waiting

    def rollback(self, position: int) -> None:
        """Forget the bytes after a position that was passed before."""
        if self._on_disk > position:
            self._cut(position)
            self._on_disk = position
        self._waiting = position - self._on_disk

    def finish(self) -> None:
        """Flush, sync and close, unless it was discarded."""
        if self._fd >= 0:
            self.flush()
            with writing(self.path):
                os.ftruncate(self._fd, self._on_disk)
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


@cache
def _sync_file_range() -> Callable[[int, int, int, int], int] | None:
    """The call of Linux that starts writing a range of a file to disk, or None elsewhere."""
    if sys.platform != "linux":
        return None
    call = ctypes.CDLL(None).sync_file_range
    call.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
    return cast("Callable[[int, int, int, int], int]", call)


def sync_all(syncs: Sequence[Callable[[], None]]) -> None:
    """Make several syncs at once: the system writes its journal once for all of them, not once for each."""
    with ThreadPoolExecutor(min(8, len(syncs))) as pool:
        for done in [pool.submit(sync) for sync in syncs]:
            done.result()


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
    process however it ends, shows whether the owner is alive, also where two containers use the same process numbers.
    """

    def __init__(self, tmp: Path, worker: str) -> None:
        self._lock: int | None = None
        while True:
            self.path = tmp / f"{worker}+{host()}+{os.getpid()}+{uuid.uuid4().hex}"
            with writing(self.path):
                os.mkdir(self.path)
            # Else a clean-up came between the two calls: it has removed the folder, or holds it and is about to.
            with contextlib.suppress(BlockingIOError):
                self._lock = _lock(self.path)
                if self.path.is_dir():
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
            with contextlib.suppress(BlockingIOError):
                lock = _lock(path)
                if lock is not None:
                    remove(path)
                    os.close(lock)
                    cleared += 1
    return cleared


def _lock(path: Path) -> int | None:
    """A descriptor that holds the folder's lock, or None where the system has none.

    Raises:
        BlockingIOError: another holds it.
    """
    if fcntl is None:
        return None
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        if isinstance(error, BlockingIOError):
            raise
        return None
    return fd
