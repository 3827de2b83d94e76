"""Shard files as memory: against the arrays that were written, stitched and file by file."""

from __future__ import annotations

import gc
import os
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vfc.cache_schema import Damaged, Refused
from vfc.cache_schema.parts import shard_mmap
from vfc.cache_schema.parts.shard_mmap import Rows, ShardFile, map_rows
from vfc.cache_schema.parts.zarr_format import Shard
from vfc.cache_schema.values.dtypes import StoredArray


def written(folder: Path, array: StoredArray, counts: list[int]) -> tuple[list[ShardFile], list[np.ndarray[Any, Any]]]:
    """Chunk files with these numbers of rows, and their rows."""
    rng = np.random.default_rng(sum(counts))
    files, values = [], []
    for i, rows in enumerate(counts):
        shard = Shard.of(array, rows)
        data = rng.integers(0, 100, (rows, *array.row_shape)).astype(array.dtype)
        file = ShardFile(folder / f"{array.name}{i}", shard)
        if rows:
            padding = np.zeros((shard.padding, *array.row_shape), array.dtype)
            file.path.write_bytes(data.tobytes() + padding.tobytes() + shard.index())
        files.append(file)
        values.append(data)
    return files, values


@pytest.fixture(params=["stitched", "separate"])
def separate(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    if request.param == "separate":
        monkeypatch.setattr(shard_mmap, "stitchable", lambda files, array: False)
    return bool(request.param == "separate")


def require_rows(rows: Rows, values: list[np.ndarray[Any, Any]]) -> None:
    slots, expected = [], []
    for base, data in zip(rows.base, values, strict=True):
        np.testing.assert_array_equal(rows.span(base, base + len(data)), data)
        for i in range(len(data)):
            np.testing.assert_array_equal(rows.row(base + i), data[i])
            assert rows.row(base + i).shape == data[i].shape
            slots.append(base + i)
            expected.append(data[i])
    order = np.random.default_rng(1).permutation(len(slots))
    out = np.empty((len(slots), *values[0].shape[1:]), values[0].dtype)
    rows.gather(np.array(slots, np.int64)[order], out)
    np.testing.assert_array_equal(out, np.array(expected, out.dtype).reshape(out.shape)[order])
    for slot in slots[:3]:
        rows.advise(slot, slot + 1)


@settings(max_examples=20, deadline=None)
@given(
    counts=st.lists(st.integers(0, 5), min_size=1, max_size=6),
    shape=st.sampled_from([(), (3,), (5, 7), (1000,), (4096,), (2, 12288), (3, 3001)]),
    ragged=st.booleans(),
)
@pytest.mark.parametrize("separate", [False, True])
def test_every_row_of_every_file_is_found(
    tmp_path_factory: pytest.TempPathFactory, separate: bool, counts: list[int], shape: tuple[int, ...], ragged: bool
) -> None:
    array = StoredArray("x", "int32", (None, *shape) if ragged else shape)
    files, values = written(tmp_path_factory.mktemp("m"), array, counts)
    rows = shard_mmap._SeparateRows(files, array) if separate else shard_mmap._StitchedRows(files, array)
    require_rows(rows, values)


def test_an_odd_row_needs_no_page_of_its_own(tmp_path: Path) -> None:
    array = StoredArray("x", "uint8", (18_001,))
    files, values = written(tmp_path, array, [3] * 40)
    assert shard_mmap.stitchable(files, array)
    require_rows(map_rows(files, array), values)


def test_more_addresses_than_a_process_has_are_not_reserved(tmp_path: Path) -> None:
    array = StoredArray("x", "uint8", ((1 << 30) + 1,))
    shard = Shard.of(array, 1)
    assert not shard_mmap.stitchable([ShardFile(tmp_path / "x", shard)] * 9, array)  # 4 TB of addresses each


def test_descriptors_are_closed_and_memory_is_given_back(tmp_path: Path, separate: bool) -> None:
    array = StoredArray("x", "int64", (512,))
    files, values = written(tmp_path, array, [4] * 30)
    opened = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    rows = map_rows(files, array)
    if opened is not None:
        assert len(os.listdir("/proc/self/fd")) == opened
        maps = Path("/proc/self/maps").read_text().count(str(tmp_path))
        assert maps == 30
    view = rows.row(rows.base[7])
    del rows
    gc.collect()
    np.testing.assert_array_equal(view, values[7][0])
    del view
    gc.collect()
    if opened is not None:
        assert str(tmp_path) not in Path("/proc/self/maps").read_text()


def test_hundreds_of_parts_under_a_small_limit_of_descriptors(tmp_path: Path) -> None:
    array = StoredArray("x", "int64", (5,))
    files, values = written(tmp_path, array, [2] * 300)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(200, hard), hard))
    try:
        require_rows(map_rows(files, array), values)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_file_is_checked_before_it_is_mapped(tmp_path: Path, separate: bool) -> None:
    array = StoredArray("x", "int64", (512,))
    files, _ = written(tmp_path, array, [4, 4])
    path, data = files[1].path, files[1].path.read_bytes()
    for change, message in (
        (data[:-4096], "has 12356 bytes instead of 16452"),
        (b"", "has 0 bytes"),
        (data[:-68] + b"\1" + data[-67:], "The index of .*x1 is not the one that was written"),
        (data[:-1] + bytes([data[-1] ^ 1]), "The index of"),
    ):
        path.write_bytes(change)
        with pytest.raises(Damaged, match=message):
            map_rows(files, array)
    path.unlink()
    with pytest.raises(Damaged, match=r"x1 is missing"):
        map_rows(files, array)


def test_a_system_that_maps_no_more_is_named(tmp_path: Path, separate: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    array = StoredArray("x", "int64", (512,))
    files, _ = written(tmp_path, array, [4])

    class Full:
        def mmap(self, *_: object) -> int:
            return (1 << 64) - 1

    monkeypatch.setattr(shard_mmap, "_libc", Full)
    with pytest.raises(Refused, match=r"maps no more memory .*\nRaise `ulimit -v` or vm.max_map_count"):
        map_rows(files, array)


def test_where_addresses_are_limited_files_are_mapped_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = StoredArray("x", "int64", (512,))
    files, values = written(tmp_path, array, [4, 0, 3])
    libc = shard_mmap._libc()

    class Limited:
        munmap, madvise = libc.munmap, libc.madvise

        def mmap(self, address: Any, size: int, *rest: int) -> int:
            return (1 << 64) - 1 if rest[0] == 0 else int(libc.mmap(address, size, *rest))

    limited = Limited()
    monkeypatch.setattr(shard_mmap, "_libc", lambda: limited)
    rows = map_rows(files, array)
    assert isinstance(rows, shard_mmap._SeparateRows)
    require_rows(rows, values)


def test_where_there_is_no_c_library_files_are_mapped_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_mmap, "_libc", lambda: None)
    array = StoredArray("x", "int64", (5,))
    files, values = written(tmp_path, array, [4, 0, 3])
    require_rows(map_rows(files, array), values)
