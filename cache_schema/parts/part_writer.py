"""An open part: records stream into a folder under `tmp/`; a rename into `parts/` commits them all at once.

The order of syncs is what makes a commit survive a power cut: every file, every folder from the bottom up, the
rename, the folder it went into. A file whose sync failed is never tried again, since the system may have dropped its
pages: the whole part is given up.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from vfc.cache_schema.values.dtypes import Array, StoredArray, fill_value
from vfc.cache_schema.values.recipe import canonical
from vfc.cache_schema.values.record import Json, Key

from . import disk
from .atomic_files import sync_folder
from .part import PartInfo
from .zarr_format import (
    METADATA,
    TABLE,
    Shard,
    array_json,
    checksum,
    chunk_name,
    group_json,
    joined_checksum,
    pack,
    ragged_blob,
    table_json,
)

# From here on, joining two checksums is cheaper than going through the bytes again.
_LONG = 64 << 10


class _ArrayWriter:
    """One stored array of an open part."""

    def __init__(self, folder: Path, array: StoredArray) -> None:
        self.array = array
        disk.make_folder(folder)
        self.file = disk.NewFile(folder / chunk_name(array))
        self.crcs: list[int] = []
        self.lengths: list[int] = []
        self.crc = 0

    def write(self, values: Array) -> int:
        """Append bytes; returns their crc32c."""
        crc = checksum(values)
        long = values.nbytes >= _LONG
        self.crc = joined_checksum(self.crc, crc, values.nbytes) if long else checksum(values, self.crc)
        self.file.write(values.reshape(-1).view(np.uint8))
        return crc

    def rollback(self, records: int, position: int, crc: int) -> None:
        """Go back to the first `records` records."""
        del self.crcs[records:], self.lengths[records:]
        self.crc = crc
        self.file.rollback(position)

    def finish(self) -> tuple[Shard, int]:
        """Write padding and index; the order of its rows, and the crc32c of the file."""
        array = self.array
        shard = Shard.of(array, sum(self.lengths) if array.ragged else len(self.crcs))
        if shard.rows:
            self.write(np.full((shard.padding, *array.row_shape), fill_value(array.logical), array.dtype))
            self.write(np.frombuffer(shard.index(), np.uint8))
            self.file.flush()
        else:
            self.file.discard()
        return shard, self.crc


class PartWriter:
    """Collects records of one kind, all with the same arrays, and commits them as one part.

    Args:
        root: Folder of the store, with `tmp/` and `parts/` in it.
        worker: Name that the part begins with.
        kind: Kind of all its records.
        arrays: What every record brings; none for a tombstone.
        circumstances: Kept with the part, never compared.
    """

    def __init__(
        self,
        root: Path,
        worker: str,
        kind: str,
        arrays: Sequence[StoredArray],
        circumstances: Mapping[str, Json],
    ) -> None:
        self.kind, self.bytes, self.since = kind, 0, time.monotonic()
        self._root, self._circumstances = root, dict(circumstances)
        self._keys: list[bytes] = []
        self._hashes: list[bytes] = []
        self._metadata: list[bytes] = []
        self._arrays: list[_ArrayWriter] = []
        self._small: list[disk.NewFile] = []
        self._claim = disk.Claim(root / "tmp", worker)
        self.name = f"{worker}-{self._claim.path.name.rpartition('+')[2]}"
        try:
            self._arrays.extend(_ArrayWriter(self._claim.path / array.name, array) for array in arrays)
        except BaseException:
            self.abandon()
            raise

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def hashes(self) -> list[bytes]:
        """The 16-byte hashes of the keys added."""
        return self._hashes

    def add(self, key: Key, arrays: Mapping[str, Array], metadata: bytes) -> None:
        """Append one record; see `append`."""
        self.append(key.encode(), key.hash128(), arrays, metadata)

    def append(self, key: bytes, name: bytes, arrays: Mapping[str, Array], metadata: bytes) -> None:
        """Append one record whose arrays were encoded and checked; after any error none of its bytes is left.

        Args:
            key: Its key, encoded,
            name: and hashed.
            arrays: Stored values by stored name.
            metadata: Canonical JSON.

        Raises:
            Refused: The disk is full.
            ReadOnlyTarget: It takes no writes.
        """
        before, size = len(self), self.bytes
        marks = [(writer.file.position, writer.crc) for writer in self._arrays]
        try:
            for writer in self._arrays:
                values = arrays[writer.array.name]
                writer.crcs.append(writer.write(values))
                writer.lengths.append(len(values) if writer.array.ragged else 1)
                self.bytes += values.nbytes
            self._metadata.append(metadata)
            self._hashes.append(name)
            self._keys.append(key)
        except BaseException:
            del self._metadata[before:], self._hashes[before:], self._keys[before:]
            self.bytes = size
            for writer, (position, crc) in zip(self._arrays, marks, strict=True):
                writer.rollback(before, position, crc)
            raise

    def commit(self, committed_ns: int) -> PartInfo:
        """Make everything durable and visible; after any error the part is given up, and nothing of it is visible.

        Raises:
            Refused: The disk is full.
            ReadOnlyTarget: It takes no writes.
        """
        try:
            files: dict[str, Json] = {}
            for writer in self._arrays:
                name = writer.array.name
                shard, crc = writer.finish()
                if shard.rows:
                    files[f"{name}/{writer.file.path.name}"] = {"size": shard.size, "crc32c": crc}
                self._write(f"{name}/{METADATA}", array_json(writer.array, shard), files)
            table = self._table()
            disk.make_folder(self._claim.path / TABLE)
            self._write(f"{TABLE}/{chunk_name()}", table, files)
            self._write(f"{TABLE}/{METADATA}", table_json(len(table)), files)
            attributes: dict[str, Json] = {
                "kind": self.kind,
                "records": len(self),
                "committed_ns": committed_ns,
                "tombstone": not self._arrays,
                "circumstances": self._circumstances,
                "files": files,
            }
            attributes["crc32c"] = checksum(canonical(attributes))
            self._write(METADATA, group_json(attributes), {})
            finish: list[Callable[[], None]] = [writer.file.finish for writer in self._arrays]
            finish += [file.finish for file in self._small]
            folders = {self._claim.path, *((self._claim.path / name).parent for name in files)}
            disk.sync_all([*finish, *(partial(sync_folder, folder) for folder in sorted(folders))])
            disk.rename(self._claim.path, self._root / "parts" / self.name)
        except BaseException:
            self.abandon()
            raise
        self._claim.release()
        sync_folder(self._root / "parts")
        return PartInfo(self.name, self.kind, len(self), committed_ns, not self._arrays)

    def _write(self, name: str, data: bytes, files: dict[str, Json]) -> None:
        """Write one small file, not yet synced, and note its size and crc32c."""
        file = disk.NewFile(self._claim.path / name)
        self._small.append(file)
        file.write(data)
        file.flush()
        files[name] = {"size": len(data), "crc32c": checksum(data)}

    def _table(self) -> bytes:
        columns: dict[str, Array] = {"hashes": np.frombuffer(b"".join(self._hashes), np.uint8).reshape(-1, 16)}
        columns["keys"], columns["keys.offsets"] = ragged_blob(self._keys)
        columns["metadata"], columns["metadata.offsets"] = ragged_blob(self._metadata)
        for writer in self._arrays:
            columns[f"crc32c/{writer.array.name}"] = np.array(writer.crcs, "<u4")
            if writer.array.ragged:
                columns[f"rows/{writer.array.name}"] = np.cumsum([0, *writer.lengths], dtype="<i8")
        return pack(columns)

    def abandon(self) -> None:
        """Give the part up and remove what it has written, as far as the disk allows."""
        for file in [*(writer.file for writer in self._arrays), *self._small]:
            file.close()
        disk.remove(self._claim.path)
        self._claim.release()
