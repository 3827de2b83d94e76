"""A part: one commit, immutable and self-contained, a Zarr group that any Zarr library opens.

    <worker>-<uuid>/
      zarr.json            attributes: kind, records, committed_ns, circumstances, size and crc32c of every other file,
                           crc32c of the attributes themselves
      <array>/             zarr.json and one chunk file; int8 arrays have `<array>.scale` beside them
      records/             zarr.json and one chunk file, a safetensors table: hashes, keys, metadata, row offsets of
                           ragged arrays, crc32c of every record in every array

A part without arrays that is marked as a tombstone hides the keys it names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np

from vfc.cache_schema.values.dtypes import Array, StoredArray
from vfc.cache_schema.values.errors import Damaged
from vfc.cache_schema.values.recipe import canonical
from vfc.cache_schema.values.record import Json, Key

from .shard_mmap import ShardFile, map_file, missing
from .zarr_format import METADATA, TABLE, Shard, checksum, chunk_name, group_json, unpack

_REMEDY = "Run `vfc store verify` to see what is damaged, then `vfc store repair`."


@dataclass(frozen=True)
class PartInfo:
    """What the catalog knows of a part without opening it."""

    name: str
    kind: str
    records: int
    committed_ns: int
    tombstone: bool = False

    @property
    def order(self) -> tuple[int, str]:
        """Parts count in this order: the first to hold a key counts, a tombstone hides what is before it."""
        return self.committed_ns, self.name


class Part:
    """A committed part, read lazily. Every file is checked when it is first touched.

    Raises:
        Damaged: From any property whose file is not the one that was committed.
        MissingPath: From any property, where the part is no longer in the store.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = folder.name

    @cached_property
    def attributes(self) -> dict[str, Any]:
        """The attributes of the part's group."""
        path = self.folder / METADATA
        try:
            data = path.read_bytes()
        except FileNotFoundError as error:
            raise missing(path, self.folder) from error
        try:
            attributes = json.loads(data)["attributes"]
            if group_json(attributes) == data and attributes.pop("crc32c") == checksum(canonical(attributes)):
                return cast("dict[str, Any]", attributes)
        except (ValueError, LookupError, TypeError, AttributeError):
            pass
        raise Damaged(f"{path} is not what was committed.", _REMEDY)

    @property
    def info(self) -> PartInfo:
        """What the catalog keeps of this part."""
        fields = self.attributes
        return PartInfo(self.name, fields["kind"], fields["records"], fields["committed_ns"], fields["tombstone"])

    @cached_property
    def table(self) -> Mapping[str, Array]:
        """The columns of the `records` table, mapped."""
        path = self.folder / TABLE / chunk_name()
        expected = self.attributes["files"][f"{TABLE}/{chunk_name()}"]
        try:
            with open(path, "rb") as file:
                size = file.seek(0, 2)
                data = map_file(file.fileno(), size) if size == expected["size"] else np.empty(0, np.uint8)
        except FileNotFoundError as error:
            raise missing(path, self.folder) from error
        if checksum(data) != expected["crc32c"] or not len(data):
            raise Damaged(f"{path} is not what was committed.", _REMEDY)
        return unpack(data)

    def key(self, row: int) -> Key:
        """The key of a row."""
        return Key.decode(self._piece("keys", row))

    def metadata(self, row: int) -> dict[str, Json]:
        """The metadata of a row."""
        return cast("dict[str, Json]", json.loads(self._piece("metadata", row)))

    def _piece(self, column: str, row: int) -> bytes:
        start, stop = self.table[f"{column}.offsets"][row : row + 2].tolist()
        return self.table[column][start:stop].tobytes()

    def crcs(self, array: str) -> Array:
        """uint32 `[n]`: crc32c of every record in a stored array."""
        return self.table[f"crc32c/{array}"]

    def offsets(self, array: str) -> Array:
        """int64 `[n+1]`: where the rows of every record begin in a ragged array."""
        return self.table[f"rows/{array}"]

    def shard_file(self, array: StoredArray) -> ShardFile:
        """The chunk file of a stored array."""
        rows = int(self.offsets(array.name)[-1]) if array.ragged else int(self.attributes["records"])
        return ShardFile(self.folder / array.name / chunk_name(array), Shard.of(array, rows))


@dataclass(frozen=True)
class Fault:
    """One thing wrong with a part. `rows` are the records that are lost; None means all of them."""

    file: str
    problem: str
    rows: tuple[int, ...] | None = None


def check(folder: Path) -> list[Fault]:
    """Read every byte of a part and compare it with what was committed; an empty list means that all is well."""
    part = Part(folder)
    try:
        files = part.attributes["files"]
    except Damaged as error:
        return [Fault(METADATA, error.problem)]
    faults = []
    for name, expected in sorted(files.items()):
        path = folder / name
        if not path.is_file():
            faults.append(Fault(name, "is missing"))
        elif path.stat().st_size != expected["size"]:
            faults.append(Fault(name, f"has {path.stat().st_size} bytes instead of {expected['size']}"))
        elif file_checksum(path) != expected["crc32c"]:
            faults.append(Fault(name, "is not what was committed", _rows_hit(part, path)))
    return faults


def file_checksum(path: Path) -> int:
    """crc32c of a file, read in pieces."""
    crc, piece = 0, bytearray(1 << 20)
    with open(path, "rb", buffering=0) as file:
        while size := file.readinto(piece):
            crc = checksum(np.frombuffer(piece, np.uint8, size), crc)
    return crc


def _rows_hit(part: Part, path: Path) -> tuple[int, ...] | None:
    """The records whose bytes a damaged chunk file no longer holds; None where the records cannot be told apart."""
    name = path.parent.name
    try:
        if name == TABLE or path.name == METADATA:
            return None
        described = (path.parent / METADATA).read_bytes()
        if checksum(described) != part.attributes["files"][f"{name}/{METADATA}"]["crc32c"]:
            return None
        data, crcs = np.fromfile(path, np.uint8), part.crcs(name)
    except (Damaged, OSError):
        return None
    metadata = json.loads(described)
    logical, shape = metadata["attributes"]["vfc"], metadata["shape"][1:]
    array = StoredArray(name, logical["dtype"], ((None, *shape) if logical["ragged"] else tuple(shape)))
    offsets = part.offsets(name) if array.ragged else np.arange(len(crcs) + 1)
    bounds = (offsets * array.row_bytes).tolist()
    hit = tuple(i for i, crc in enumerate(crcs.tolist()) if checksum(data[bounds[i] : bounds[i + 1]]) != crc)
    # Records all well: the flaw is in the padding or in the index, and the reader refuses the file as a whole.
    return hit or None
