"""Checksums against google-crc32c, tables against safetensors, shards against hand-worked numbers."""

from __future__ import annotations

import struct

import google_crc32c
import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load

from vfc.cache_schema.parts.zarr_format import (
    PIECE,
    Shard,
    checksum,
    copy_checked,
    joined_checksum,
    pack,
    ragged_blob,
    unpack,
)
from vfc.cache_schema.values.dtypes import Array, StoredArray


@given(st.binary(max_size=3000), st.binary(max_size=3000))
def test_checksums_of_two_strings_join(front: bytes, back: bytes) -> None:
    joined = joined_checksum(google_crc32c.value(front), google_crc32c.value(back), len(back))
    assert joined == google_crc32c.value(front + back) == checksum(back, checksum(front))


def test_a_known_checksum() -> None:
    assert checksum(b"123456789") == 0xE3069283  # the check value of CRC-32C
    assert joined_checksum(checksum(b"1234"), checksum(b"56789"), 5) == 0xE3069283


@pytest.mark.parametrize("size", [0, 1, 1000, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 17])
def test_checksums_and_checked_copies_of_arrays_of_any_length(size: int) -> None:
    data = np.random.default_rng(size).integers(0, 255, size, dtype=np.uint8)
    out = np.zeros(size, np.uint8)
    assert checksum(data) == copy_checked(data, out) == google_crc32c.value(data.tobytes())
    np.testing.assert_array_equal(out, data)


def test_checksums_of_arrays_of_any_dtype_and_rank() -> None:
    for values in (np.array(3.5), np.arange(24.0).reshape(2, 3, 4), np.zeros((0, 4), np.float16)):
        assert checksum(values) == google_crc32c.value(values.tobytes())
        out = np.empty_like(values)
        copy_checked(values, out)
        np.testing.assert_array_equal(out, values)


COLUMNS = hnp.arrays(
    st.sampled_from(["u1", "<u4", "<u8", "<i8"]).map(np.dtype), hnp.array_shapes(min_dims=1, max_dims=2, min_side=0)
)


@given(st.dictionaries(st.text(st.characters(codec="ascii", categories=["L"]), min_size=1), COLUMNS, min_size=1))
def test_tables_are_safetensors(columns: dict[str, Array]) -> None:
    data = pack(columns)
    for loaded in (load(data), unpack(data)):
        assert loaded.keys() == columns.keys()
        for name, column in columns.items():
            np.testing.assert_array_equal(loaded[name], column, strict=True)


@pytest.mark.parametrize("data", [b"", b"1234567", struct.pack("<Q", 99) + b"{}", struct.pack("<Q", 2) + b"{]"])
def test_what_is_no_table(data: bytes) -> None:
    with pytest.raises(ValueError):
        unpack(np.frombuffer(data, np.uint8))


def test_byte_strings_laid_end_to_end() -> None:
    blob, offsets = ragged_blob([b"ab", b"", b"cde"])
    assert (blob.tobytes(), offsets.tolist()) == (b"abcde", [0, 2, 2, 5])


def test_shards_of_fixed_and_ragged_arrays() -> None:
    fixed = Shard.of(StoredArray("x", "fp16", (8, 256, 4096)), 8)
    assert (fixed.inner, fixed.chunks, fixed.padding, fixed.size) == (1, 8, 0, 8 * 16_777_216 + 8 * 16 + 4)
    text = Shard.of(StoredArray("x", "bf16", (None, 512)), 900)  # 0.9 MB: one chunk, nothing to pad
    assert (text.inner, text.chunks, text.padding, text.size) == (900, 1, 0, 921_600 + 16 + 4)
    steps = Shard.of(StoredArray("x", "fp32", (None, 1024)), 10_001)  # 41 MB: twenty chunks of 2 MB
    assert (steps.inner, steps.chunks, steps.padding) == (501, 20, 19)
    assert Shard.of(StoredArray("x", "fp32", (None, 1 << 20)), 3).inner == 1
    assert Shard.of(StoredArray("x", "fp32", (None, 4)), 0).size == 0


def test_the_index_of_a_shard() -> None:
    index = Shard(3, 1, 10).index()
    assert struct.unpack("<6Q", index[:48]) == (0, 10, 10, 10, 20, 10)
    assert index[48:] == google_crc32c.value(index[:48]).to_bytes(4, "little")
