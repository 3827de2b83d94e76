"""The layout of a part in the words of Zarr v3: metadata files, shard indexes, and the table of small things.

A fixed-shape array is one shard whose inner chunk is one record, uncompressed: a raw row-major file with a checksummed
index at its end. A ragged array is flat, `[sum L, ...]`, in inner chunks of 1 to 4 MB. Metadata is written here rather
than by a library: it is small, and the hot path then needs no Zarr at all.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, TypeAlias

import google_crc32c
import numpy as np
import numpy.typing as npt
from safetensors.numpy import save

from vfc.cache_schema.values.dtypes import StoredArray, fill_value
from vfc.cache_schema.values.recipe import canonical
from vfc.cache_schema.values.record import Json

Array: TypeAlias = npt.NDArray[Any]
Buffer: TypeAlias = "bytes | npt.NDArray[np.uint8]"

METADATA: Final = "zarr.json"
TABLE: Final = "records"
"""The array of a part whose bytes are a safetensors table: keys, metadata, row offsets, checksums."""

_RAGGED_CHUNK: Final = 2 << 20
PIECE: Final = 1 << 20
"""Bytes that stay in cache between a copy and a checksum, yet are enough for the copy to bypass it on its way out."""


def checksum(data: bytes | Array, crc: int = 0) -> int:
    """crc32c of the bytes of a C-contiguous array, continued from `crc`."""
    if isinstance(data, np.ndarray):
        if data.nbytes > PIECE:
            # Piece by piece: one call holds the interpreter, and a prefetching thread should get its turn.
            flat = data.reshape(-1).view(np.uint8)
            for start in range(0, flat.size, PIECE):
                crc = google_crc32c.extend(crc, flat[start : start + PIECE])
            return int(crc)
        return int(google_crc32c.extend(crc, data)) if data.size else crc
    return int(google_crc32c.extend(crc, data))


def joined_checksum(front: int, back: int, back_bytes: int) -> int:
    """crc32c of two byte strings laid end to end, from the crc32c of each and the length of the second.

    A crc is a remainder of polynomials over GF(2): appending n bytes multiplies the front's by x^(8n).
    """
    return _times(_shift(back_bytes), front) ^ back


@lru_cache(maxsize=1024)
def _shift(size: int) -> int:
    """x^(8 size) modulo the polynomial of crc32c; bit 31 is the coefficient of x^0."""
    power, square = 1 << 31, 1 << 23
    while size:
        if size & 1:
            power = _times(power, square)
        square = _times(square, square)
        size >>= 1
    return power


def _times(a: int, b: int) -> int:
    """Product of two remainders modulo the polynomial of crc32c."""
    product = 0
    for bit in range(31, -1, -1):
        if a >> bit & 1:
            product ^= b
        b = b >> 1 ^ (0x82F63B78 if b & 1 else 0)
    return product


def copy_checked(source: Array, out: Array) -> int:
    """Copy a C-contiguous array and return its crc32c, with one way through memory for both."""
    if source.nbytes <= PIECE:
        out[...] = source
        return checksum(source)
    crc = 0
    flat, target = source.reshape(-1).view(np.uint8), out.reshape(-1).view(np.uint8)
    for start in range(0, flat.size, PIECE):
        piece = flat[start : start + PIECE]
        target[start : start + PIECE] = piece
        crc = google_crc32c.extend(crc, piece)
    return int(crc)


def chunk_name(array: StoredArray | None = None) -> str:
    """Name of the one chunk file in an array's folder; without an array, of the table's."""
    return "c" + ".0" * (1 if array is None else len(array.row_shape) + 1)


def group_json(attributes: Mapping[str, Json]) -> bytes:
    """zarr.json of a group."""
    return canonical({"attributes": dict(attributes), "node_type": "group", "zarr_format": 3})


@dataclass(frozen=True)
class Shard:
    """Where the rows of one stored array are in its one chunk file.

    `rows` of data, then padding up to whole inner chunks of `inner` rows, then the index and its crc32c.
    """

    rows: int
    inner: int
    row_bytes: int

    @classmethod
    def of(cls, array: StoredArray, rows: int) -> Shard:
        """For `rows` records of a fixed array (one per inner chunk), or `rows` rows of a ragged one (about 2 MB)."""
        if not array.ragged or not rows:
            return cls(rows, 1, array.row_bytes)
        chunks = math.ceil(rows * array.row_bytes / _RAGGED_CHUNK)
        return cls(rows, math.ceil(rows / min(chunks, rows)), array.row_bytes)

    @property
    def chunks(self) -> int:
        """Number of inner chunks."""
        return math.ceil(self.rows / self.inner)

    @property
    def padding(self) -> int:
        """Rows of fill after the last row of data."""
        return self.chunks * self.inner - self.rows

    @property
    def size(self) -> int:
        """Bytes of the chunk file; 0 means that there is none."""
        return self.chunks * (self.inner * self.row_bytes + 16) + 4 if self.rows else 0

    def index(self) -> bytes:
        """The index at the end: offset and length of every inner chunk, uint64, and the crc32c of these."""
        length = self.inner * self.row_bytes
        pairs = np.empty((self.chunks, 2), "<u8")
        pairs[:, 0] = np.arange(self.chunks, dtype="<u8") * length
        pairs[:, 1] = length
        return pairs.tobytes() + checksum(pairs).to_bytes(4, "little")


def array_json(array: StoredArray, shard: Shard) -> bytes:
    """zarr.json of one stored array of a part."""
    little: Json = {"name": "bytes", "configuration": {"endian": "little"}}
    inner: list[Json] = [shard.inner, *array.row_shape]
    sharding: Json = {
        "name": "sharding_indexed",
        "configuration": {
            "chunk_shape": inner,
            "codecs": [little],
            "index_codecs": [little, {"name": "crc32c"}],
            "index_location": "end",
        },
    }
    attributes: Json = {"vfc": {"dtype": array.logical, "layout": array.layout, "ragged": array.ragged}}
    chunk: list[Json] = [max(1, shard.chunks) * shard.inner, *array.row_shape]
    fill = fill_value(array.logical)
    named = "NaN" if math.isnan(fill) else fill
    return _array_json([shard.rows, *array.row_shape], array.dtype.name, chunk, [sharding], named, attributes)


def table_json(size: int) -> bytes:
    """zarr.json of the table: `size` bytes in one unsharded chunk."""
    return _array_json([size], "uint8", [size], [{"name": "bytes"}], 0, {"vfc": {"holds": "safetensors"}})


def _array_json(
    shape: list[Json], data_type: str, chunk: list[Json], codecs: list[Json], fill: Json, attributes: Json
) -> bytes:
    return canonical(
        {
            "zarr_format": 3,
            "node_type": "array",
            "shape": shape,
            "data_type": data_type,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk}},
            # A dot keeps the chunk file beside its metadata: fewer folders to make and to sync.
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
            "fill_value": fill,
            "codecs": codecs,
            "attributes": attributes,
            "storage_transformers": [],
        }
    )


def pack(columns: Mapping[str, Array]) -> bytes:
    """Named arrays as one safetensors byte string."""
    return save({name: np.ascontiguousarray(column) for name, column in columns.items()})


def unpack(data: Buffer) -> dict[str, Array]:
    """Views of the arrays in a safetensors byte string; nothing is copied, so a mapped file is read where touched.

    Raises:
        ValueError: The bytes are no such table.
    """
    return {name: values for name, (_, values) in unpack_typed(data).items()}


def unpack_typed(data: Buffer) -> dict[str, tuple[str, Array]]:
    """The same, with the dtype that safetensors names; bf16 as its bits.

    Raises:
        ValueError: The bytes are no safetensors file, or one that was cut short.
    """
    flat = np.frombuffer(data, np.uint8)
    start = 8 + int(flat[:8].view("<u8")[0]) if flat.size >= 8 else 1 << 62
    if start > flat.size:
        raise ValueError("it was cut short, or is no safetensors file")
    tensors = {}
    for name, entry in json.loads(flat[8:start].tobytes()).items():
        if name != "__metadata__":
            (first, last), dtype, shape = entry["data_offsets"], np.dtype(SAFETENSORS[entry["dtype"]]), entry["shape"]
            if start + last > flat.size or last - first != math.prod(shape) * dtype.itemsize:
                raise ValueError(f"tensor {name!r} is cut short")
            tensors[name] = entry["dtype"], flat[start + first : start + last].view(dtype).reshape(shape)
    return tensors


SAFETENSORS: Final[Mapping[str, str]] = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "|i1",
    "U64": "<u8",
    "U32": "<u4",
    "U8": "|u1",
    "BOOL": "|b1",
}
"""The dtypes of safetensors, as numpy reads them; bf16 as its bits."""


def ragged_blob(pieces: list[bytes]) -> tuple[Array, Array]:
    """Byte strings laid end to end, uint8, and their offsets, int64 `[n+1]`."""
    offsets = np.zeros(len(pieces) + 1, "<i8")
    np.cumsum([len(piece) for piece in pieces], out=offsets[1:])
    return np.frombuffer(b"".join(pieces), np.uint8), offsets
