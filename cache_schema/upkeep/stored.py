"""Stored records without decoding: read from one part, every checksum compared, to be written into another."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from vfc.cache_schema.catalog import Catalog
from vfc.cache_schema.parts import disk
from vfc.cache_schema.parts.atomic_files import sync_folder
from vfc.cache_schema.parts.column import Column
from vfc.cache_schema.parts.part import Part, PartInfo
from vfc.cache_schema.values.dtypes import StoredArray
from vfc.cache_schema.values.errors import Refused
from vfc.cache_schema.values.recipe import canonical
from vfc.cache_schema.values.record import Key

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


@dataclass(frozen=True)
class StoredRecord:
    """One record as it is stored: stored arrays by stored name, metadata as canonical JSON."""

    key: Key
    arrays: dict[str, npt.NDArray[Any]]
    metadata: bytes

    @property
    def bytes(self) -> int:
        """Bytes of its arrays."""
        return sum(values.nbytes for values in self.arrays.values())


class StoredPart:
    """The records of one part, by row; a record whose bytes are not those committed raises `Damaged`."""

    def __init__(self, folder: Path, arrays: Sequence[StoredArray]) -> None:
        self.part = Part(folder)
        self._first = np.array([0, self.part.info.records], np.int64)
        self._columns = {array.name: Column(array, [self.part], self._first, "always") for array in arrays}

    def record(self, row: int) -> StoredRecord:
        """The record of a row; its arrays are read-only views."""
        arrays = {name: column.view(row) for name, column in self._columns.items()}
        return StoredRecord(self.part.key(row), arrays, canonical(self.part.metadata(row)))


def live_rows(catalog: Catalog) -> Iterator[tuple[PartInfo, list[int]]]:
    """Every part, in order of commit, with the rows of it that count; tombstones with none."""
    numbers = catalog.live()
    owners = np.searchsorted(catalog.first, numbers, "right") - 1
    bounds = np.searchsorted(owners, np.arange(len(catalog.parts) + 1))
    for i in sorted(range(len(catalog.parts)), key=lambda i: catalog.parts[i].order):
        rows = numbers[bounds[i] : bounds[i + 1]] - catalog.first[i]
        yield catalog.parts[i], rows.tolist()


@contextlib.contextmanager
def maintenance_lock(root: Path) -> Iterator[None]:
    """Hold the lock for dropping parts of this store; writers and readers may go on.

    Two processes that drop parts at once could each drop the copy that the other one keeps.

    Raises:
        Refused: another `compact` or `repair` is at work.
    """
    folder = os.open(root / "parts", os.O_RDONLY) if fcntl else -1
    try:
        if fcntl:
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                # A file system without locks is left to the care of its user.
                if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                    raise Refused(
                        f"Another compact or repair is at work on {root}.", "Wait for it, then run this again."
                    ) from None
        yield
    finally:
        if folder >= 0:
            os.close(folder)


def drop_parts(root: Path, worker: str, names: Iterable[str]) -> None:
    """Take parts out of a store, in the order given, each in one step; missing ones are skipped."""
    claim = disk.Claim(root / "tmp", worker)
    try:
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                disk.rename(root / "parts" / name, claim.path / name)
                sync_folder(root / "parts")
    finally:
        disk.remove(claim.path)
        claim.release()
