"""Mapping: the shard files of one array as memory.

All data sections are mapped one behind the other into one reserved range of addresses, so that the rows of all parts
are one ndarray and a batch is one `np.take`. Each section starts at a multiple of both the page and the row; the
file descriptors are closed at once, since a process may hold few of them. Where a system cannot do that (Windows, or
a limit on addresses), every file is mapped on its own behind the same interface.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import mmap
import os
import sys
import weakref
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from vfc.cache_schema.values.dtypes import StoredArray
from vfc.cache_schema.values.errors import Damaged, MissingPath, Refused, VfcError

from .zarr_format import Shard

Array: TypeAlias = npt.NDArray[Any]

_REMEDY: Final = "Run `vfc store verify` to see what is damaged, then `vfc store repair`."
_RANGE: Final = 1 << 45
"""Most addresses to reserve for one array: 32 TB of the 128 TB that a process has."""
_HUGE: Final = 2 << 20
_ADVICE: Final = 128 << 10
"""One advice is cut off at the read-ahead limit of the system, commonly 128 KiB, so it is given in such pieces."""


@dataclass(frozen=True)
class ShardFile:
    """One chunk file and where its rows must be."""

    path: Path
    shard: Shard


class Rows(Protocol):
    """The rows of one array over all its shard files; a *slot* is a row's number in this mapping."""

    base: list[int]
    """Slot of the first row of each file, in the order given."""

    def span(self, start: int, stop: int) -> Array:
        """Read-only view of the slots `start` to `stop`, all of one file: `[stop - start, *row]`."""

    def row(self, slot: int) -> Array:
        """Read-only view of one row."""

    def gather(self, slots: npt.NDArray[np.int64], out: Array) -> None:
        """Copy rows into `out` `[n, *row]`; the slots are known to be in range."""

    def advise(self, start: int, stop: int, step: int = 1) -> None:
        """Ask the system to read these slots, or every `step`th of them, all of one file, ahead of time."""


def map_rows(files: Sequence[ShardFile], array: StoredArray) -> Rows:
    """The rows of all `files` as memory.

    Raises:
        Damaged: A file that is missing, has not its size, or whose index is not the one that was written.
        MissingPath: The part no longer exists.
        Refused: The system maps no more files.
    """
    if stitchable(files, array):
        # A process whose addresses are limited (`ulimit -v`) may still map the files themselves.
        with contextlib.suppress(Refused):
            return _StitchedRows(files, array)
    return _SeparateRows(files, array)


def stitchable(files: Sequence[ShardFile], array: StoredArray) -> bool:
    """Whether the files fit into one reservation on this system."""
    return _libc() is not None and sum(_stride(file.shard) for file in files) <= _RANGE and array.row_bytes > 0


def _stride(shard: Shard) -> int:
    """Bytes of address range that a file takes: its rows, rounded up so that the next one starts at page and row.

    At a huge page where the range allows: the system then maps 2 MB at a time.
    """
    step = math.lcm(_HUGE, shard.row_bytes)
    if step > _HUGE << 8:
        step = math.lcm(mmap.PAGESIZE, shard.row_bytes)
    return math.ceil(shard.rows * shard.row_bytes / step) * step


class _StitchedRows:
    def __init__(self, files: Sequence[ShardFile], array: StoredArray) -> None:
        self.base, at = [], 0
        for file in files:
            self.base.append(at // array.row_bytes)
            at += _stride(file.shard)
        memory, address = _reserve(max(at, mmap.PAGESIZE))
        for file, base in zip(files, self.base, strict=True):
            if file.shard.rows:
                place = address + base * array.row_bytes
                with_checked(file, lambda fd, size, place=place: _map_at(place, size, fd))  # type: ignore[misc]
        self._address, self._row_bytes = address, array.row_bytes
        self._rows = memory[:at].view(array.dtype).reshape(-1, *array.row_shape)

    def span(self, start: int, stop: int) -> Array:
        return self._rows[start:stop]

    def row(self, slot: int) -> Array:
        return self._rows[slot, ...]

    def gather(self, slots: npt.NDArray[np.int64], out: Array) -> None:
        # mode="raise" would go through a temporary copy of the whole result.
        np.take(self._rows, slots, axis=0, out=out, mode="clip")

    def advise(self, start: int, stop: int, step: int = 1) -> None:
        _advise(self._address + start * self._row_bytes, stop - start, step, self._row_bytes)


class _SeparateRows:
    def __init__(self, files: Sequence[ShardFile], array: StoredArray) -> None:
        self.base, self._files, at = [], [], 0
        for file in files:
            self.base.append(at)
            at += file.shard.rows
            data = with_checked(file, map_file) if file.shard.rows else np.empty(0, np.uint8)
            self._files.append(data.view(array.dtype).reshape(-1, *array.row_shape))

    def _find(self, slot: int) -> tuple[Array, int]:
        # The last file that starts at or before the slot: files without rows share their start with the next one.
        index = bisect_right(self.base, slot) - 1
        return self._files[index], slot - self.base[index]

    def span(self, start: int, stop: int) -> Array:
        rows, first = self._find(start)
        return rows[first : first + stop - start]

    def row(self, slot: int) -> Array:
        rows, at = self._find(slot)
        return rows[at, ...]

    def gather(self, slots: npt.NDArray[np.int64], out: Array) -> None:
        for place, slot in enumerate(slots.tolist()):
            rows, at = self._find(slot)
            out[place] = rows[at]

    def advise(self, start: int, stop: int, step: int = 1) -> None:
        rows, first = self._find(start)
        if rows.size and _libc() is not None:
            row_bytes = rows.strides[0]
            _advise(rows.ctypes.data + first * row_bytes, stop - start, step, row_bytes)


def with_checked(file: ShardFile, use: Callable[[int, int], Any]) -> Any:
    """Open a shard file, check its size and its index, and hand `use` the descriptor and the bytes of its rows."""
    try:
        fd = os.open(file.path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    except FileNotFoundError as error:
        raise missing(file.path, file.path.parent.parent) from error
    try:
        size, expected = os.fstat(fd).st_size, file.shard.size
        if size != expected:
            # Reading past the end of a mapped file kills the process, so this comes before any mapping.
            raise Damaged(f"{file.path} has {size} bytes instead of {expected}.", _REMEDY)
        index = file.shard.index()
        os.lseek(fd, size - len(index), os.SEEK_SET)
        if _read(fd, len(index)) != index:
            raise Damaged(f"The index of {file.path} is not the one that was written.", _REMEDY)
        return use(fd, file.shard.rows * file.shard.row_bytes)
    finally:
        os.close(fd)


def missing(path: Path, part: Path) -> VfcError:
    """The error for a file that is not there: of a part that is damaged, or of one that is no longer in the store."""
    if part.exists():
        return Damaged(f"{path} is missing.", _REMEDY)
    return MissingPath(
        f"The part {part.name} is gone: the store was compacted or repaired meanwhile.", "Open the store again."
    )


def _read(fd: int, size: int) -> bytes:
    pieces = []
    while size and (piece := os.read(fd, size)):
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


def map_file(fd: int, size: int) -> npt.NDArray[np.uint8]:
    """The first `size` bytes of an open file as read-only memory that outlives the descriptor."""
    if _libc() is None:
        return np.frombuffer(mmap.mmap(fd, size, access=mmap.ACCESS_READ), np.uint8)
    return _owned(_mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, fd), size)


def _reserve(size: int) -> tuple[npt.NDArray[np.uint8], int]:
    """Addresses that nothing is mapped to yet, from a multiple of 2 MB on: as memory, and the first of them."""
    address = _mmap(None, size + _HUGE, 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1)
    skipped = -address % _HUGE
    return _owned(address, size + _HUGE)[skipped:], address + skipped


def _owned(address: int, size: int) -> npt.NDArray[np.uint8]:
    """Mapped memory as a read-only array; it is unmapped when its last view is released."""
    memory = (ctypes.c_char * size).from_address(address)
    weakref.finalize(memory, _libc().munmap, address, size).atexit = False
    return np.frombuffer(memoryview(memory).toreadonly(), np.uint8)


def _map_at(address: int, size: int, fd: int) -> None:
    _mmap(address, size, mmap.PROT_READ, mmap.MAP_SHARED | 0x10, fd)  # MAP_FIXED, the same on Linux and macOS


def _mmap(address: int | None, size: int, protection: int, flags: int, fd: int) -> int:
    start = _libc().mmap(address, size, protection, flags, fd, 0)
    if start in (None, ctypes.c_void_p(-1).value):
        reason = os.strerror(ctypes.get_errno())
        raise Refused(
            f"The system maps no more memory ({reason}).",
            "Raise `ulimit -v` or vm.max_map_count, or join small parts with `vfc store compact`.",
        )
    return int(start)


def _advise(address: int, rows: int, step: int, row_bytes: int) -> None:
    """Ask for every `step`th row from an address on; for all of them where two are less than a page apart."""
    page, madvise, end = mmap.PAGESIZE, _libc().madvise, address + rows * row_bytes
    dense = (step - 1) * row_bytes < page
    for first in range(address, end, (rows if dense else step) * row_bytes or 1):
        start, stop = first - first % page, end if dense else first + row_bytes
        while start < stop:
            madvise(start, min(_ADVICE, stop - start), mmap.MADV_WILLNEED)
            start += _ADVICE


@cache
def _libc() -> Any:
    """The C library, or None where it has no mmap that maps to a given place."""
    if sys.platform == "win32":
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_int64]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return libc
