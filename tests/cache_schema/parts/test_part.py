"""A committed part: what plain Zarr sees in it, how many files it takes, and that any flipped byte is found."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file
from suites.store import RECIPE, VIDEO, made, record

from vfc.cache_schema import ArraySpec, Damaged, Key, Record, StoreWriter, open_store
from vfc.cache_schema.parts.part import Fault, Part, check
from vfc.cache_schema.parts.zarr_format import checksum
from vfc.cache_schema.values.dtypes import encode, stored_arrays


@pytest.fixture(scope="module")
def committed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one part of six records."""
    root = tmp_path_factory.mktemp("part") / "s"
    with StoreWriter(root, RECIPE, circumstances={"device": "none"}) as writer:
        writer.declare("video", VIDEO)
        for i in range(6):
            writer.add(record(i))
    return root


def only_part(root: Path) -> Path:
    (path,) = (path for path in (root / "parts").iterdir() if path.is_dir())
    return path


def test_plain_zarr_shows_the_stored_values(committed: Path) -> None:
    part = only_part(committed)
    group = zarr.open(committed, mode="r")[f"parts/{part.name}"]
    expected: dict[str, list[Any]] = {array.name: [] for array in stored_arrays(VIDEO)}
    for i in range(6):
        for spec in VIDEO:
            stored, scale = encode(made(i)[spec.name], spec)
            expected[spec.name].append(stored)
            if scale is not None:
                expected[f"{spec.name}.scale"].append(scale)
    assert set(group.array_keys()) == {*expected, "records"}
    for array in stored_arrays(VIDEO):
        shown = group[array.name]
        together = np.concatenate if array.ragged else np.stack
        np.testing.assert_array_equal(shown[...], together(expected[array.name]), strict=True)
        assert shown.attrs["vfc"] == {"dtype": array.logical, "layout": array.layout, "ragged": array.ragged}


def test_fill_values_in_plain_zarr(committed: Path) -> None:
    group = zarr.open(only_part(committed), mode="r")
    assert math.isnan(group["layer3.visual"].fill_value)
    assert group["layer3.text"].fill_value == 0x7FC0
    assert group["wide"].fill_value == -128
    assert group["text.ids"].fill_value == 0


def test_group_attributes_say_what_the_part_is(committed: Path) -> None:
    attributes = zarr.open(only_part(committed), mode="r").attrs
    assert (attributes["kind"], attributes["records"], attributes["tombstone"]) == ("video", 6, False)
    assert attributes["circumstances"] == {"device": "none"}
    files = {str(p.relative_to(only_part(committed))) for p in only_part(committed).rglob("*") if p.is_file()}
    assert set(attributes["files"]) == files - {"zarr.json"}


def test_the_table_is_a_safetensors_file(committed: Path) -> None:
    table = load_file(only_part(committed) / "records" / "c.0")
    part = Part(only_part(committed))
    assert table.keys() == part.table.keys()
    for name, column in table.items():
        np.testing.assert_array_equal(part.table[name], column)
    assert [part.key(row) for row in range(6)] == [record(i).key for i in range(6)]
    assert table["hashes"][4].tobytes() == record(4).key.hash128()
    assert table["crc32c/layer3.visual"][2] == checksum(made(2)["layer3.visual"].astype(np.float16))
    assert table["rows/layer3.text"].tolist() == [0, 0, 1, 3, 6, 6, 7]


def test_at_most_two_files_per_array_and_three_more(committed: Path) -> None:
    files = [path for path in only_part(committed).rglob("*") if path.is_file()]
    assert len(files) == 2 * len(stored_arrays(VIDEO)) + 3


def test_a_sound_part_has_no_faults(committed: Path) -> None:
    assert check(only_part(committed)) == []


def test_any_flipped_byte_in_any_file_is_found(committed: Path) -> None:
    part = only_part(committed)
    for path in sorted(part.rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            for offset in {0, len(data) // 3, len(data) // 2, len(data) - 1}:
                path.write_bytes(data[:offset] + bytes([data[offset] ^ 0x10]) + data[offset + 1 :])
                faults = check(part)
                assert [fault.file for fault in faults] == [str(path.relative_to(part))], (path, offset)
            path.write_bytes(data)
    assert check(part) == []


def test_a_fault_names_the_records_it_costs(committed: Path) -> None:
    part = only_part(committed)
    fixed, ragged = part / "layer3.visual" / "c.0.0.0.0", part / "layer3.text" / "c.0.0"
    # 240 bytes per fixed record; rows of 24 bytes, of which records 0..5 have 0, 1, 2, 3, 0, 1.
    for path, offset, rows in (
        (fixed, 239, (0,)),
        (fixed, 240, (1,)),
        (fixed, 6 * 240 + 5, None),
        (ragged, 0, (1,)),
        (ragged, 24, (2,)),
        (ragged, 6 * 24, (5,)),
        (part / "wide" / "zarr.json", 30, None),
        (part / "records" / "c.0", 700, None),
    ):
        data = path.read_bytes()
        path.write_bytes(data[:offset] + bytes([data[offset] ^ 1]) + data[offset + 1 :])
        assert check(part) == [Fault(str(path.relative_to(part)), "is not what was committed", rows)]
        path.write_bytes(data)


@pytest.mark.parametrize("name", ["zarr.json", "wide/c.0.0.0.0", "records/c.0", "long/zarr.json"])
def test_missing_and_cut_files_are_found(committed: Path, name: str) -> None:
    path, part = only_part(committed) / name, only_part(committed)
    data = path.read_bytes()
    path.unlink()
    assert [fault.file for fault in check(part)] == [name]
    path.write_bytes(data[:-1])
    assert [fault.file for fault in check(part)] == [name]
    path.write_bytes(b"")
    assert [fault.file for fault in check(part)] == [name]
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("layer3.visual/c.0.0.0.0", lambda data: data[:-1], "has 1539 bytes instead of 1540"),
        ("layer3.visual/c.0.0.0.0", lambda data: data + b"x", "has 1541 bytes instead of 1540"),
        ("layer3.visual/c.0.0.0.0", lambda data: data[:-9] + b"\7" + data[-8:], "The index of .* is not the one"),
        ("layer3.visual/c.0.0.0.0", None, "c.0.0.0.0 is missing"),
        ("records/c.0", lambda data: data[:99] + b"\7" + data[100:], "records/c.0 is not what was committed"),
        ("records/c.0", lambda data: b"", "records/c.0 is not what was committed"),
        ("records/c.0", None, "records/c.0 is missing"),
        ("zarr.json", lambda data: data.replace(b'"records":6', b'"records":5'), "zarr.json is not what was committed"),
        ("zarr.json", lambda data: data.replace(b'"kind":', b'"kind": '), "zarr.json is not what was committed"),
        ("zarr.json", lambda data: b"[]", "zarr.json is not what was committed"),
        ("zarr.json", None, "zarr.json is missing"),
    ],
)
def test_reading_refuses_a_damaged_file(committed: Path, name: str, change: Any, message: str) -> None:
    path = only_part(committed) / name
    data = path.read_bytes()
    reader = open_store(committed)  # the catalog covers the part, so the store still opens
    path.unlink() if change is None else path.write_bytes(change(data))
    with pytest.raises(Damaged, match=message + ".*\n.*vfc store verify"):
        reader.view(record(2).key, "layer3.visual")
    path.write_bytes(data)


LENGTHS = st.lists(st.integers(0, 5), min_size=1, max_size=6)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(["fp32", "fp16", "float64", "int64", "int32", "uint8"]),
    hnp.array_shapes(min_dims=0, max_dims=3, max_side=4),
    st.one_of(st.none(), LENGTHS),
    st.integers(0, 2**32 - 1),
)
def test_any_dtype_and_shape_comes_back_also_through_zarr(
    tmp_path_factory: pytest.TempPathFactory, dtype: Any, shape: tuple[int, ...], lengths: list[int] | None, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    spec = ArraySpec("x", dtype, shape if lengths is None else (None, *shape))
    numpy_dtype = {"fp32": "f4", "fp16": "f2"}.get(dtype, dtype)
    values = [
        np.asarray(rng.integers(0, 200, shape if lengths is None else (length, *shape)), numpy_dtype)
        for length in (lengths or [1, 1, 1])
    ]
    root = tmp_path_factory.mktemp("any") / "s"
    with StoreWriter(root, RECIPE) as writer:
        writer.declare("video", [spec])
        for i, value in enumerate(values):
            writer.add(Record(Key("video", f"{i}"), {"x": value}))
    reader = open_store(root)
    for i, value in enumerate(values):
        np.testing.assert_array_equal(reader.view(Key("video", f"{i}"), "x"), value, strict=True)
    shown = zarr.open(only_part(root), mode="r")["x"][...]
    np.testing.assert_array_equal(shown, np.stack(values) if lengths is None else np.concatenate(values))
    assert check(only_part(root)) == []


def test_long_ragged_arrays_have_inner_chunks_of_megabytes(tmp_path: Path) -> None:
    values = np.arange(2_600_000, dtype=np.int64).reshape(-1, 13)  # 200,000 rows of 104 bytes: 20.8 MB
    with StoreWriter(tmp_path / "s", RECIPE) as writer:
        writer.declare("video", [ArraySpec("x", "int64", (None, 13))])
        writer.add(Record(Key("video", "a"), {"x": values[:150_001]}))
        writer.add(Record(Key("video", "b"), {"x": values[150_001:]}))
    part = only_part(tmp_path / "s")
    metadata = json.loads((part / "x" / "zarr.json").read_bytes())
    inner = metadata["codecs"][0]["configuration"]["chunk_shape"][0]
    assert 1 << 20 <= inner * 104 <= 4 << 20
    assert metadata["chunk_grid"]["configuration"]["chunk_shape"][0] - 200_000 < 10
    np.testing.assert_array_equal(zarr.open(part, mode="r")["x"][...], values)
    np.testing.assert_array_equal(open_store(tmp_path / "s").view(Key("video", "b"), "x"), values[150_001:])


def test_a_tombstone_is_a_part_with_keys_alone(tmp_path: Path) -> None:
    root = tmp_path / "s"
    with StoreWriter(root, RECIPE) as writer:
        writer.declare("video", VIDEO)
        writer.add(record(1))
        writer.delete([record(1).key])
    (tomb,) = (Part(p) for p in (root / "parts").iterdir() if p.is_dir() and Part(p).info.tombstone)
    assert tomb.key(0) == record(1).key
    assert sorted(p.name for p in tomb.folder.rglob("*") if p.is_file()) == ["c.0", "zarr.json", "zarr.json"]
    assert check(tomb.folder) == []
