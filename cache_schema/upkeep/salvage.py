"""What can be saved of a damaged part: its keys where they are known, and its intact records."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vfc.cache_schema.catalog import Catalog
from vfc.cache_schema.parts.part import Fault, Part, PartInfo
from vfc.cache_schema.parts.zarr_format import METADATA, TABLE, checksum, chunk_name, unpack
from vfc.cache_schema.values.dtypes import StoredArray, stored_arrays
from vfc.cache_schema.values.errors import Damaged, VfcError
from vfc.cache_schema.values.record import ArraySpec, Key

from .stored import StoredRecord

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class DamagedPart:
    """A part that is not what was committed: what is wrong, and which of its records cannot be saved.

    `keys` are those that could be named, from the part or from the catalog; `unnamed` counts the others. Damage to an
    index or to Zarr metadata loses no record.
    """

    part: str
    kind: str
    records: int
    faults: tuple[Fault, ...]
    keys: tuple[Key, ...]
    unnamed: int


@dataclass(frozen=True, eq=False)
class SalvagedPart:
    """A damaged part: who it was, what is wrong, its keys by row (None where unknown), the rows that are whole.

    A tombstone is whole where its keys are known. `dated`: whether it is known when the part was committed.
    """

    folder: Path
    info: PartInfo
    faults: tuple[Fault, ...]
    keys: tuple[Key | None, ...]
    intact: tuple[int, ...]
    table: Mapping[str, Array]
    arrays: tuple[StoredArray, ...]
    dated: bool

    @property
    def lost(self) -> tuple[Key, ...]:
        """The keys of the records that are not intact, where they are known."""
        intact = set(self.intact)
        return tuple(key for row, key in enumerate(self.keys) if key is not None and row not in intact)

    @property
    def unnamed(self) -> int:
        """Records that are not whole and cannot be named."""
        return self.info.records - len(self.intact) - len(self.lost)

    @property
    def damage(self) -> DamagedPart:
        """What is reported of it."""
        info = self.info
        return DamagedPart(info.name, info.kind, info.records, self.faults, self.lost, self.unnamed)

    def records(self) -> Iterator[StoredRecord]:
        """The records that are whole."""
        data = {array.name: _bytes(self.folder / array.name / chunk_name(array)) for array in self.arrays}
        for row in self.intact:
            key = self.keys[row]
            assert key is not None
            if not self.table:
                yield StoredRecord(key, {}, b"{}")
                continue
            start, stop = self.table["metadata.offsets"][row : row + 2].tolist()
            values = {}
            for array in self.arrays:
                rows = data[array.name][_bounds(self.table, array, row)].view(array.dtype)
                values[array.name] = rows.reshape((-1, *array.row_shape) if array.ragged else array.row_shape)
            yield StoredRecord(key, values, self.table["metadata"][start:stop].tobytes())


def salvage(
    folder: Path, faults: list[Fault], kinds: Mapping[str, tuple[ArraySpec, ...]], saved: Catalog | None
) -> SalvagedPart:
    """Look through a damaged part.

    Keys, metadata and checksums are believed only from a table that still has the checksum its attributes name; keys
    also where they have the hash beside them, or from the catalog. A record is whole where its bytes in every array
    have their checksum, whatever became of indexes, Zarr metadata or its neighbours.
    """
    attributes = _attributes(folder)
    raw = _bytes(folder / TABLE / chunk_name())
    expected = attributes.get("files", {}).get(f"{TABLE}/{chunk_name()}", {}).get("crc32c")
    table = _unpacked(raw) if len(raw) and checksum(raw) == expected else {}
    info_saved = next((info for info in saved.parts if info.name == folder.name), None) if saved else None
    in_catalog = tuple(map(Key.decode, saved.keys_of(folder.name) or ())) if saved else ()
    keys = _keys(table) or in_catalog or _keys(_unpacked(raw))
    info = _info(folder.name, attributes, keys, table or _unpacked(raw), info_saved)
    dated = info_saved is not None or "tombstone" in attributes
    named = (*keys, *[None] * (info.records - len(keys)))
    if info.tombstone:
        intact = tuple(range(info.records)) if all(named) else ()
        return SalvagedPart(folder, info, tuple(faults), named, intact, table, (), dated)
    arrays = stored_arrays(kinds[info.kind]) if info.kind in kinds else ()
    if not table or not arrays:
        return SalvagedPart(folder, info, tuple(faults), named, (), {}, arrays, dated)
    intact_rows = np.ones(info.records, bool)
    for array in arrays:
        data, crcs = _bytes(folder / array.name / chunk_name(array)), table[f"crc32c/{array.name}"].tolist()
        for row in np.flatnonzero(intact_rows).tolist():
            bounds = _bounds(table, array, row)
            intact_rows[row] = bounds.stop <= len(data) and checksum(data[bounds]) == crcs[row]
    intact = tuple(np.flatnonzero(intact_rows).tolist())
    return SalvagedPart(folder, info, tuple(faults), named, intact, table, arrays, dated)


def _attributes(folder: Path) -> dict[str, Any]:
    """The attributes as committed; where they are damaged, single numbers that can still be read in the file."""
    try:
        return Part(folder).attributes
    except (Damaged, OSError):
        pass
    try:
        text = (folder / METADATA).read_bytes()
    except OSError:
        return {}
    # What is found is only a hint: a table is believed when it has this checksum, which chance does not give it.
    crc = re.search(rb'"%s/%s":\{"crc32c":(\d+),' % (TABLE.encode(), chunk_name().encode()), text)
    attributes: dict[str, Any] = {"files": {f"{TABLE}/{chunk_name()}": {"crc32c": int(crc[1])}}} if crc else {}
    for name in ("records", "committed_ns"):
        number = re.search(rb'"%s":(\d+)' % name.encode(), text)
        if number:
            attributes[name] = int(number[1])
    return attributes


def _info(
    name: str,
    attributes: Mapping[str, Any],
    keys: tuple[Key | None, ...],
    table: Mapping[str, Array],
    saved: PartInfo | None,
) -> PartInfo:
    if saved is not None:
        return saved
    kind = next((key.kind for key in keys if key is not None), str(attributes.get("kind", "")))
    records = len(keys) or int(attributes.get("records", 0))
    bare = bool(table) and not any(column.startswith("crc32c/") for column in table)
    tombstone = bool(attributes.get("tombstone", bare))
    # A stamp that cannot be read sorts first: a record must not come back that was deleted later.
    return PartInfo(name, kind, records, int(attributes.get("committed_ns", 1)), tombstone)


def _unpacked(raw: Array) -> dict[str, Array]:
    try:
        return unpack(raw)
    except (ValueError, LookupError, TypeError, AttributeError):
        return {}


def _keys(table: Mapping[str, Array]) -> tuple[Key | None, ...]:
    """The keys of a table, None where a key has not the hash beside it."""
    try:
        offsets, data, hashes = table["keys.offsets"].tolist(), table["keys"], table["hashes"]
        keys: list[Key | None] = []
        for row in range(len(offsets) - 1):
            keys.append(_key(data[offsets[row] : offsets[row + 1]].tobytes(), hashes[row].tobytes()))
        return tuple(keys)
    except (LookupError, ValueError, TypeError, AttributeError):
        return ()


def _key(data: bytes, name: bytes) -> Key | None:
    try:
        key = Key.decode(data)
        return key if key.hash128() == name else None
    except (ValueError, TypeError, VfcError):
        return None


def _bytes(path: Path) -> Array:
    """The bytes of a file, mapped; empty where there is none."""
    try:
        return np.memmap(path, np.uint8, "r") if path.stat().st_size else np.empty(0, np.uint8)
    except OSError:
        return np.empty(0, np.uint8)


def _bounds(table: Mapping[str, Array], array: StoredArray, row: int) -> slice:
    if array.ragged:
        start, stop = (table[f"rows/{array.name}"][row : row + 2] * array.row_bytes).tolist()
        return slice(start, stop)
    return slice(row * array.row_bytes, (row + 1) * array.row_bytes)
