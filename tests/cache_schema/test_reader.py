"""StoreReader: the conformance suite, and what only this reader promises."""

from __future__ import annotations

import copy
import hashlib
import multiprocessing
import pickle
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
from suites.store import RECIPE, VIDEO, StoreSuite, made, record

from vfc.cache_schema import (
    ArraySpec,
    BadInput,
    Damaged,
    Key,
    MissingPath,
    Record,
    StoreReader,
    StoreWriter,
    UnknownName,
    open_store,
)
from vfc.cache_schema.parts import shard_mmap as mapping_module
from vfc.cache_schema.upkeep import compact
from vfc.cache_schema.values.dtypes import encode
from vfc.cache_schema.values.progress import Silent


class TestStore(StoreSuite):
    """The store on its fast path."""


class TestStoreMappedFileByFile(StoreSuite):
    """The store where files cannot be stitched into one range of addresses."""

    @pytest.fixture(autouse=True)
    def _separate(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(mapping_module, "stitchable", lambda files, array: False)


class TestStoreVerifiedAlways(StoreSuite):
    """The store with checksums compared on every read."""

    def reader(self, root: Path, **options: Any) -> Any:
        return open_store(root, verify="always", **options)


def filled(root: Path, numbers: range, **options: Any) -> None:
    with StoreWriter(root, RECIPE, **options) as writer:
        writer.declare("video", VIDEO)
        for i in numbers:
            writer.add(record(i))


def flip(root: Path, array: str, offset: int) -> None:
    """Change one byte of the one part's chunk file."""
    (path,) = (root / "parts").glob(f"*/{array}/c.*")
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def test_the_digest_is_what_its_definition_says(tmp_path: Path) -> None:
    filled(tmp_path / "s", range(5), part_bytes=2000)
    expected = hashlib.sha256(RECIPE.digest.encode())
    for key in sorted((record(i).key for i in range(5)), key=Key.encode):
        expected.update(len(key.encode()).to_bytes(4, "little") + key.encode())
        arrays: dict[str, bytes] = {}
        for spec in VIDEO:
            stored, scale = encode(made(int(key.name[-7:-4]))[spec.name], spec)
            arrays[spec.name] = stored.tobytes()
            if scale is not None:
                arrays[spec.name + ".scale"] = scale.tobytes()
        for name in sorted(arrays):
            expected.update(name.encode() + b"\0" + google_crc32c.value(arrays[name]).to_bytes(4, "little"))
    assert open_store(tmp_path / "s").digest == expected.hexdigest()


def test_damage_is_met_at_the_first_touch_of_its_record(tmp_path: Path) -> None:
    filled(tmp_path / "s", range(6))
    size = 2 * 5 * 12 * 2
    flip(tmp_path / "s", "layer3.visual", 3 * size + 17)
    reader = open_store(tmp_path / "s")
    out = np.empty((2, 2, 5, 12), np.float16)
    reader.take([record(2).key, record(4).key], "layer3.visual", out)
    for read in (
        lambda: reader.view(record(3).key, "layer3.visual"),
        lambda: reader.read(record(3).key, "layer3.visual"),
        lambda: reader.take([record(2).key, record(3).key], "layer3.visual", out),
    ):
        with pytest.raises(Damaged, match=r"'layer3.visual' of video 'class 0/clip003.mp4' \(part w0-.*\n.*verify"):
            read()
    reader.take([record(2).key, record(4).key], "layer3.visual", out)
    np.testing.assert_array_equal(
        open_store(tmp_path / "s", verify="never").view(record(2).key, "single"), made(2)["single"]
    )
    open_store(tmp_path / "s", verify="never").view(record(3).key, "layer3.visual")


def test_a_window_checks_its_whole_record_once(tmp_path: Path) -> None:
    filled(tmp_path / "s", range(3))
    flip(tmp_path / "s", "long", 32 * 6 + 31 * 6)  # the 32nd row of record 1, which has 33
    reader = open_store(tmp_path / "s")
    reader.window(record(0).key, "long", 0, 5)
    with pytest.raises(Damaged, match=r"'long' of video 'class 1/clip001.mp4'"):
        reader.window(record(1).key, "long", 0, 5)


@pytest.mark.parametrize(("verify", "noticed"), [("once", False), ("always", True), ("never", False)])
def test_when_a_change_after_the_first_read_is_noticed(tmp_path: Path, verify: Any, noticed: bool) -> None:
    filled(tmp_path / "s", range(3))
    reader = open_store(tmp_path / "s", verify=verify)
    out = np.empty((3, 2, 5, 12), np.float16)
    rows = reader.locate(reader.keys())
    reader.take(rows, "layer3.visual", out)
    (path,) = (tmp_path / "s" / "parts").glob("*/layer3.visual/c.*")
    with open(path, "r+b") as file:  # in place: the mapping sees it
        file.seek(100)
        file.write(b"\xff")
    if noticed:
        with pytest.raises(Damaged, match=r"have changed"):
            reader.take(rows, "layer3.visual", out)
    else:
        reader.take(rows, "layer3.visual", out)


def test_numbers_of_another_kind_or_out_of_range_are_refused(tmp_path: Path) -> None:
    root = tmp_path / "s"
    filled(root, range(2))
    with StoreWriter(root, RECIPE) as writer:
        writer.declare("text", [ArraySpec("single", "fp32", ())])
        writer.add(Record(Key("text", "a"), {"single": np.array(1, np.float32)}))
        writer.delete([record(0).key])
    reader = open_store(root)
    text, video = int(reader.locate([Key("text", "a")])[0]), int(reader.locate([record(1).key])[0])
    out = np.empty(2, np.float32)
    for rows in ([video, text], [text, video], [video, 99], [video, -1]):
        with pytest.raises(BadInput, match=r"Record number -?\d+ has no array 'single'"):
            reader.take(np.array(rows), "single", out)


def test_records_larger_than_one_checking_piece(tmp_path: Path) -> None:
    root = tmp_path / "s"
    specs = (ArraySpec("frames", "fp16", (3, 70_001)), ArraySpec("rows", "fp16", (None, 1000)))
    values = {"frames": np.random.default_rng(0).normal(size=(3, 70_001)).astype(np.float16)}
    values["rows"] = np.random.default_rng(1).normal(size=(2500, 1000)).astype(np.float16)
    with StoreWriter(root, RECIPE) as writer:
        writer.declare("video", specs)
        for name in "abc":
            writer.add(Record(Key("video", name), values))
    for verify in ("once", "always", "never"):
        reader = open_store(root, verify=verify)
        out = np.zeros((2, 3, 70_001), np.float16)
        for _ in range(2):
            reader.take([Key("video", "c"), Key("video", "a")], "frames", out)
            np.testing.assert_array_equal(out, np.stack([values["frames"]] * 2))
            np.testing.assert_array_equal(reader.view(Key("video", "b"), "rows"), values["rows"])


def test_a_reader_outlives_the_removal_of_its_parts(tmp_path: Path) -> None:
    root = tmp_path / "s"
    filled(root, range(2), worker="a")
    filled(root, range(2, 4), worker="b")
    reader = open_store(root)
    rows = reader.locate([record(2).key, record(3).key])
    for path in (root / "parts").glob("a-*"):
        for file in sorted(path.rglob("*"), reverse=True):
            file.rmdir() if file.is_dir() else file.unlink()
        path.rmdir()
    reader.refresh()
    assert reader.keys() == [record(i).key for i in (3, 2)]
    np.testing.assert_array_equal(reader.locate([record(2).key, record(3).key]), rows)
    np.testing.assert_array_equal(reader.read(int(rows[0]), "single"), made(2)["single"])
    assert open_store(root).keys() == reader.keys()


def test_ways_to_verify_are_a_closed_set(tmp_path: Path) -> None:
    filled(tmp_path / "s", range(1))
    with pytest.raises(
        UnknownName, match=r"no way to verify 'onec'. Did you mean 'once'\?\nKnown: always, never, once"
    ):
        open_store(tmp_path / "s", verify="onec")


def test_a_kind_declared_later_is_seen_after_a_refresh(tmp_path: Path) -> None:
    filled(tmp_path / "s", range(1))
    reader = open_store(tmp_path / "s")
    with StoreWriter(tmp_path / "s", RECIPE) as writer:
        writer.declare("text", [ArraySpec("x", "fp32", ())])
    assert set(reader.kinds) == {"video"}
    reader.refresh()
    assert set(reader.kinds) == {"video", "text"}


def test_opening_and_reading_loads_no_zarr_and_no_hdf5(tmp_path: Path) -> None:
    filled(tmp_path / "s", range(2))
    code = (
        "import sys; from pathlib import Path; from vfc.cache_schema import open_store, Key\n"
        f"r = open_store(Path({str(tmp_path / 's')!r})); k = r.keys()[0]; r.read(k, 'layer3.visual'); r.digest\n"
        "sys.exit(bool({'zarr', 'h5py', 'torch'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_errors_and_progress_are_light_to_import() -> None:
    code = (
        "import sys; import vfc.cache_schema.values.errors, vfc.cache_schema.values.progress\n"
        "sys.exit(bool({'numpy', 'safetensors', 'zarr', 'h5py'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_front_door_names_everything_it_lists() -> None:
    import vfc.cache_schema as door

    assert all(getattr(door, name) is not None for name in door.__all__)
    with pytest.raises(AttributeError, match=r"has no attribute 'StoreWirter'"):
        _ = door.StoreWirter


def test_numbers_that_no_record_has_are_refused(tmp_path: Path) -> None:
    filled(tmp_path / "s", range(2))
    reader = open_store(tmp_path / "s")
    for number in (-1, 2, 10**9):
        for read in (
            lambda n: reader.view(n, "single"),
            lambda n: reader.read(n, "wide"),
            lambda n: reader.window(n, "long"),
            lambda n: reader.length(n, "long"),
            lambda n: reader.take(np.array([n]), "single", np.empty(1, np.float32)),
            lambda n: reader.prefetch(np.array([n]), "single"),
            reader.metadata,
        ):
            with pytest.raises(BadInput, match=rf"no record number {number}: the parts of .* hold 2, from 0\.\nGive a"):
                read(number)


def test_a_part_that_was_joined_with_others_meanwhile_is_not_called_damaged(tmp_path: Path) -> None:
    root = tmp_path / "s"
    filled(root, range(2), worker="a")
    filled(root, range(2, 4), worker="b")
    reader = open_store(root)
    reader.metadata(record(0).key)
    reader.metadata(record(2).key)
    compact(root, Silent())
    for array in ("single", "long"):
        with pytest.raises(MissingPath, match=r"is gone: the store was compacted or repaired .*\nOpen the store again"):
            reader.view(record(0).key, array)
    reader.refresh()
    np.testing.assert_array_equal(reader.read(record(0).key, "single"), made(0)["single"])


@pytest.mark.parametrize("verify", ["once", "always"])
def test_a_used_reader_is_copied_and_sent_to_a_spawned_process(tmp_path: Path, verify: Any) -> None:
    filled(tmp_path / "s", range(4), part_bytes=2000)
    reader = open_store(tmp_path / "s", verify=verify)
    number = int(reader.locate([record(3).key])[0])
    expected = {spec.name: reader.read(number, spec.name) for spec in VIDEO}
    for copied in (copy.deepcopy(reader), pickle.loads(pickle.dumps(reader))):
        assert (copied.root, copied.verify, copied.digest) == (reader.root, verify, reader.digest)
        for name, values in expected.items():
            np.testing.assert_array_equal(copied.read(number, name), values)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        answers = {name: pool.submit(StoreReader.read, reader, number, name) for name in expected}
        for name, answer in answers.items():
            np.testing.assert_array_equal(answer.result(timeout=60), expected[name])


def test_a_reader_is_not_copied_where_its_numbers_would_mean_other_records(tmp_path: Path) -> None:
    root = tmp_path / "s"
    filled(root, range(2), worker="a")
    filled(root, range(2, 4), worker="b")
    reader = open_store(root)
    compact(root, Silent())
    with pytest.raises(BadInput, match=r"joined or dropped since this reader was opened\.\nOpen the store again"):
        copy.deepcopy(reader)
