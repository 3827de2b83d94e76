"""verify finds every flipped byte; repair keeps what is whole and names what is not."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from suites.store import RECIPE, TEXT, VIDEO, as_stored, made, record

from vfc.cache_schema import Damaged, Key, NotAStore, Record, Refused, StoreWriter, open_store
from vfc.cache_schema.annotations import Annotation, Annotations, write_annotations
from vfc.cache_schema.reduction.projection import fit_projection, publish_projection
from vfc.cache_schema.upkeep import compact, repair, verify
from vfc.cache_schema.upkeep.stored import maintenance_lock
from vfc.cache_schema.values.progress import Silent

QUIET = Silent()


def build(root: Path) -> Path:
    """Three parts of 3, 2 and 1 videos, a part of texts, and a tombstone for video 1."""
    with StoreWriter(root, RECIPE) as writer:
        writer.declare("video", VIDEO)
        writer.declare("text", TEXT)
        for group in ((0, 1, 2), (3, 4), (5,)):
            for i in group:
                writer.add(record(i))
            writer.commit()
        writer.add(Record(Key("text", "a hug"), {"embedding": np.arange(7, dtype=np.float32)}))
        writer.commit()
        writer.delete([record(1).key])
    open_store(root).close()
    return root


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("pristine") / "store")


@pytest.fixture
def store(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "store"))


def part_of(root: Path, i: int) -> Path:
    """The folder of the part that holds video i."""
    for path in (root / "parts").iterdir():
        if path.is_dir() and record(i).key.encode() in (path / "records" / "c.0").read_bytes():
            attributes = json.loads((path / "zarr.json").read_bytes())["attributes"]
            if not attributes["tombstone"]:
                return path
    raise AssertionError(i)


def flip(path: Path, at: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << bit
    path.write_bytes(data)


def files_of(part: Path) -> list[str]:
    return sorted(path.relative_to(part).as_posix() for path in part.rglob("*") if path.is_file())


def require_whole(root: Path, numbers: set[int]) -> None:
    """Exactly these videos, with the right values; and every file in order."""
    assert verify(root, QUIET).ok
    reader = open_store(root)
    assert {key.name for key in reader.keys("video")} == {record(i).key.name for i in numbers}
    for i in numbers:
        for spec in VIDEO:
            np.testing.assert_array_equal(reader.read(record(i).key, spec.name), as_stored(made(i)[spec.name], spec))
        assert reader.metadata(record(i).key) == {"fps": 25.0, "number": i}


def redone(root: Path, keys: tuple[Key, ...]) -> None:
    """What extraction does afterwards: make what is not committed."""
    with StoreWriter(root, RECIPE) as writer:
        for key in keys:
            writer.add(record(int(key.name[-7:-4])))


def test_a_whole_store_verifies(store: Path) -> None:
    found = verify(store, QUIET)
    assert found.ok
    assert (found.parts, found.records, found.damaged, found.other) == (5, 7, (), ())
    bytes_there = sum(
        p.stat().st_size for p in (store / "parts").rglob("*") if p.is_file() and p.parent.name != "parts"
    )
    groups = sum((p / "zarr.json").stat().st_size for p in (store / "parts").iterdir() if p.is_dir())
    assert found.bytes == bytes_there - groups
    assert json.loads(json.dumps(found.to_json()))["ok"] is True
    nothing = repair(store, QUIET)
    assert (nothing.damaged, nothing.redo, nothing.quarantine) == ((), (), "")
    require_whole(store, {0, 2, 3, 4, 5})


# The three files whose loss costs whole records; every other file of a part is metadata.
DATA = [f"{spec.name}/c.{'.'.join('0' * max(1, len(spec.shape)))}" for spec in VIDEO if spec.shape]


def test_a_flipped_byte_in_any_file_is_found_and_repaired(pristine: Path, tmp_path: Path) -> None:
    files = files_of(part_of(pristine, 0))
    assert len(files) == 1 + 2 * (len(VIDEO) + 2) + 2  # group, arrays with two scales, table
    for n, name in enumerate(files):
        root = Path(shutil.copytree(pristine, tmp_path / f"{n}"))
        part = part_of(root, 0)
        size = (part / name).stat().st_size
        before = {path.name: files_of(path) for path in (root / "parts").iterdir() if path.is_dir()}
        flip(part / name, size // 2, bit=n % 8)

        found = verify(root, QUIET)
        assert not found.ok, name
        assert [hit.part for hit in found.damaged] == [part.name], name
        assert [fault.file for fault in found.damaged[0].faults] == [name]
        assert found.parts == 5

        done = repair(root, QUIET)
        assert done.damaged == found.damaged
        assert done.unnamed == ()
        assert verify(root, QUIET).ok
        assert (root / "quarantine" / part.name).is_dir()
        assert files_of(root / "quarantine" / part.name) == before[part.name]
        if name in ("zarr.json", *(f for f in files if f.endswith("/zarr.json"))):
            assert done.redo == (), name
            assert done.saved == 3
        elif name.startswith("records/"):
            # Keys, metadata and checksums in doubt: all of the part, named from the catalog; 1 was deleted anyway.
            assert [key.name for key in done.redo] == [record(0).key.name, record(2).key.name]
            assert done.saved == 0
        else:
            assert len(done.redo) <= 1, name
            assert done.saved >= 2
        redone(root, done.redo)
        require_whole(root, {0, 2, 3, 4, 5})


@given(st.data())
@settings(max_examples=30, deadline=None)
def test_any_flips_anywhere_cost_no_more_than_what_they_hit(pristine: Path, data: st.DataObject) -> None:
    root = pristine.parent / "flipped"
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(pristine, root)
    files = sorted(p for part in (root / "parts").iterdir() if part.is_dir() for p in part.rglob("*") if p.is_file())
    if data.draw(st.booleans(), "without a catalog"):
        (root / "catalog.bin").unlink()
    for _ in range(data.draw(st.integers(1, 3), "flips")):
        path = data.draw(st.sampled_from(files))
        how = data.draw(st.sampled_from(["flip", "cut", "remove", "grow"]))
        size = path.stat().st_size if path.exists() else 0
        if how == "flip" and size:
            flip(path, data.draw(st.integers(0, size - 1)), data.draw(st.integers(0, 7)))
        elif how == "cut" and size:
            os.truncate(path, data.draw(st.integers(0, size - 1)))
        elif how == "remove":
            path.unlink(missing_ok=True)
        elif size:
            path.write_bytes(path.read_bytes() + b"x")
    found = verify(root, QUIET)
    done = repair(root, QUIET)
    assert {hit.part for hit in done.damaged} == {hit.part for hit in found.damaged}
    after = verify(root, QUIET)
    assert after.ok, after
    reader = open_store(root)
    for key in reader.keys("video"):
        i = int(key.name[-7:-4])
        for spec in VIDEO:
            np.testing.assert_array_equal(reader.read(key, spec.name), as_stored(made(i)[spec.name], spec))
        assert reader.metadata(key) == {"fps": 25.0, "number": i}
    # Nothing is lost without a word: what is gone is named, or counted as unnamed.
    gone = {record(i).key for i in (0, 2, 3, 4, 5)} - set(reader.keys())
    if not done.unnamed:
        assert gone <= set(done.redo)
    assert set(done.redo) & set(reader.keys()) == set()


def test_records_hit_in_one_array_are_named_and_their_neighbours_saved(store: Path) -> None:
    part = part_of(store, 0)
    path = part / "layer3.visual" / "c.0.0.0.0"
    flip(path, 2 * 5 * 12 * 2 + 7)  # within the second record: video 1, which was deleted
    flip(path, 2 * (2 * 5 * 12 * 2) + 7)  # within the third: video 2
    found = verify(store, QUIET)
    (hit,) = found.damaged
    assert [key.name for key in hit.keys] == [record(1).key.name, record(2).key.name]
    assert (hit.records, hit.unnamed, hit.kind) == (3, 0, "video")
    assert found.records == 7 - 2
    with pytest.raises(Damaged, match=r"'layer3\.visual' of video '.*002\.mp4'"):
        open_store(store).view(record(2).key, "layer3.visual")
    done = repair(store, QUIET)
    assert done.redo == (record(2).key,)
    assert done.saved == 1
    require_whole(store, {0, 3, 4, 5})
    redone(store, done.redo)
    require_whole(store, {0, 2, 3, 4, 5})


def test_a_truncated_file_costs_only_its_end(store: Path) -> None:
    path = part_of(store, 0) / "wide" / "c.0.0.0.0"
    os.truncate(path, 2 * 4 * 16 * 6 + 5)
    done = repair(store, QUIET)
    assert done.redo == (record(2).key,)
    require_whole(store, {0, 3, 4, 5})


def test_damage_to_an_index_alone_costs_nothing(store: Path) -> None:
    path = part_of(store, 3) / "layer3.visual" / "c.0.0.0.0"
    flip(path, path.stat().st_size - 1)
    with pytest.raises(Damaged):
        open_store(store).view(record(3).key, "layer3.visual")
    digest = json.loads((store / "zarr.json").read_text())["attributes"]["vfc"]["recipe_digest"]
    done = repair(store, QUIET, drop=True)
    assert (done.redo, done.saved, done.quarantine) == ((), 2, "")
    assert not (store / "quarantine").exists()
    require_whole(store, {0, 2, 3, 4, 5})
    assert open_store(store).recipe.digest == digest


def test_without_a_catalog_a_hit_table_still_names_the_keys_it_can(store: Path) -> None:
    (store / "catalog.bin").unlink()
    table = part_of(store, 3) / "records" / "c.0"
    flip(table, table.read_bytes().index(record(4).key.encode()) + 12)
    with pytest.raises(Damaged):
        open_store(store)
    done = repair(store, QUIET)
    (hit,) = done.damaged
    assert (hit.keys, hit.unnamed, hit.records) == ((record(3).key,), 1, 2)
    assert done.redo == (record(3).key,)
    assert done.unnamed == (f"{hit.part}: part of 1 unnamed records",)
    require_whole(store, {0, 2, 5})


def test_an_empty_part_folder_is_a_part_of_unnamed_records(store: Path) -> None:
    (store / "catalog.bin").unlink()
    part = part_of(store, 5)
    for path in [p for p in part.rglob("*") if p.is_file()]:
        path.unlink()
    done = repair(store, QUIET)
    assert done.unnamed == (f"{part.name}: part of an unknown number of unnamed records",)
    require_whole(store, {0, 2, 3, 4})


def test_a_part_that_vanished_is_named_from_the_catalog(store: Path) -> None:
    part = part_of(store, 3)
    shutil.rmtree(part)
    found = verify(store, QUIET)
    (hit,) = found.damaged
    assert hit.faults[0].problem == "the part is missing"
    assert set(hit.keys) == {record(3).key, record(4).key}
    done = repair(store, QUIET)
    assert set(done.redo) == set(hit.keys)
    redone(store, done.redo)
    require_whole(store, {0, 2, 3, 4, 5})


def test_a_hit_tombstone_keeps_hiding(store: Path) -> None:
    (tombstone,) = (
        path.parent
        for path in (store / "parts").glob("*/zarr.json")
        if json.loads(path.read_bytes())["attributes"]["tombstone"]
    )
    flip(tombstone / "records" / "c.0", 60)
    done = repair(store, QUIET)
    assert (done.redo, done.saved, done.unnamed) == ((), 0, ())
    require_whole(store, {0, 2, 3, 4, 5})


def test_a_tombstone_beyond_naming_is_told(store: Path) -> None:
    (store / "catalog.bin").unlink()
    (tombstone,) = (
        path.parent
        for path in (store / "parts").glob("*/zarr.json")
        if json.loads(path.read_bytes())["attributes"]["tombstone"]
    )
    table = tombstone / "records" / "c.0"
    flip(table, table.read_bytes().index(record(1).key.encode()) + 12)
    done = repair(store, QUIET)
    assert len(done.unnamed) == 1
    require_whole(store, {0, 1, 2, 3, 4, 5})


def test_a_repair_that_is_killed_loses_nothing(pristine: Path, tmp_path: Path, killer: Callable[..., None]) -> None:
    def hit(root: Path) -> None:
        flip(part_of(root, 0) / "layer3.visual" / "c.0.0.0.0", 2 * (2 * 5 * 12 * 2) + 7)

    def require(root: Path) -> None:
        done = repair(root, QUIET)
        assert set(done.redo) <= {record(2).key}
        require_whole(root, {0, 3, 4, 5})

    killer(pristine, tmp_path, hit, lambda root: repair(root, QUIET), require)


def test_small_files_beside_the_parts_are_looked_at(store: Path) -> None:
    with StoreWriter(store, RECIPE) as writer:
        writer.bind("prompt", "what", "What happens?")
    write_annotations(store, "default", Annotations((Annotation("a"),)))
    publish_projection(store, "layer3.visual", fit_projection("random:2", [np.ones((3, 4), np.float32)], 4))
    assert verify(store, QUIET).ok
    (store / "axes" / "prompt-what.json").write_text("{")
    (store / "annotations" / "default.jsonl").write_text('{"name": "a"}\nx\n')
    flip(store / "projection" / "layer3.visual.safetensors", -1)
    found = verify(store, QUIET)
    assert [any(word in problem for problem in found.other) for word in ("prompt-what", "line 2", "projection")] == [
        True,
        True,
        True,
    ]
    assert not found.ok
    assert found.damaged == ()
    assert repair(store, QUIET).other == found.other


def test_one_at_a_time(store: Path, tmp_path: Path) -> None:
    with maintenance_lock(store), pytest.raises(Refused, match="Another compact or repair is at work"):
        repair(store, QUIET)
    with pytest.raises(NotAStore):
        verify(tmp_path, QUIET)


def test_reports_are_plain_json(store: Path) -> None:
    flip(part_of(store, 0) / "layer3.visual" / "c.0.0.0.0", 3)
    told = json.loads(json.dumps(repair(store, QUIET).to_json()))
    assert told["redo"] == [asdict(record(0).key)]
    assert told["damaged"][0]["faults"][0]["file"] == "layer3.visual/c.0.0.0.0"


def test_a_record_that_was_made_anew_and_vanished_is_named(store: Path) -> None:
    with StoreWriter(store, RECIPE, worker="late") as writer:
        writer.add(record(1))  # its first version is deleted, and still on disk
    for path in (store / "parts").glob("late-*"):
        shutil.rmtree(path)
    (hit,) = verify(store, QUIET).damaged
    assert hit.keys == (record(1).key,)
    assert repair(store, QUIET).redo == (record(1).key,)


@pytest.mark.parametrize("hit", [False, True])
def test_a_store_that_does_not_say_what_arrays_it_has(store: Path, hit: bool) -> None:
    (store / "kinds" / "video.json").rename(store / "away")
    if hit:
        flip(part_of(store, 0) / "wide" / "c.0.0.0.0", 5)
    before = sorted(path.name for path in (store / "parts").iterdir())
    found = verify(store, QUIET)
    assert found.other == (f"{store} holds records of kind 'video', but kinds/video.json is missing.",)
    if hit:
        with pytest.raises(Damaged, match=r"kinds/video\.json is missing\.\nRestore this one file"):
            repair(store, QUIET, drop=True)
    with pytest.raises(Damaged, match=r"kinds/video\.json is missing"):
        compact(store, QUIET)
    assert sorted(path.name for path in (store / "parts").iterdir()) == before
    (store / "away").rename(store / "kinds" / "video.json")
    assert len(repair(store, QUIET).redo) == hit


@pytest.mark.parametrize("how", ["stamp", "file"])
def test_a_part_of_unknown_age_without_a_catalog_is_not_passed_over(store: Path, how: str) -> None:
    def hit(part: Path) -> None:
        data = (part / "zarr.json").read_bytes()
        earlier = data.replace(b'"committed_ns":1', b'"committed_ns":0')
        (part / "zarr.json").write_bytes(earlier if how == "stamp" else b"{")
        (store / "catalog.bin").unlink()

    with StoreWriter(store, RECIPE, worker="late") as writer:
        writer.add(record(1))  # behind the tombstone of its first version
    hit(next((store / "parts").glob("late-*")))
    done = repair(store, QUIET)
    assert record(1).key not in open_store(store)
    assert done.redo == (record(1).key,)
    redone(store, done.redo)
    with StoreWriter(store, RECIPE, worker="gone") as writer:
        writer.delete([record(3).key])
    tombstone = next((store / "parts").glob("gone-*"))
    hit(tombstone)
    done = repair(store, QUIET)
    assert record(3).key in open_store(store)
    assert done.unnamed == (f"{tombstone.name}: when 1 records were deleted; they may show again",)
