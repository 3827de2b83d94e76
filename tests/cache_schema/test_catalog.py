"""The catalog: which record counts, worked out by a slow loop over parts; rebuilding, merging, and what it survives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from suites.store import RECIPE

from vfc.cache_schema import ArraySpec, Damaged, Key, Record, StoreWriter, catalog, open_store
from vfc.cache_schema.catalog import Catalog, _merge, _winners, current, load
from vfc.cache_schema.parts.part import Part, PartInfo

SPEC = ArraySpec("x", "int64", ())


def committed(root: Path, names: list[str], worker: str = "w", *, delete: list[str] | None = None) -> None:
    with StoreWriter(root, RECIPE, worker=worker) as writer:
        writer.declare("video", [SPEC])
        for name in names:
            writer.add(Record(Key("video", name), {"x": np.array(len(name))}, {"by": worker}))
        writer.delete([Key("video", name) for name in delete or []])


def parts_of(root: Path) -> list[Path]:
    return [path for path in (root / "parts").iterdir() if path.is_dir()]


PARTS = st.lists(
    st.tuples(st.integers(0, 4), st.booleans(), st.lists(st.integers(0, 6), unique=True, min_size=1, max_size=7)),
    max_size=8,
)


@given(PARTS, st.integers(0, 7), st.randoms())
def test_the_winner_is_the_first_after_the_last_tombstone(parts: Any, gone: int, random: Any) -> None:
    # Half-hashes collide on purpose: key k has the head k // 2.
    names = [bytes([0] * 7 + [k // 2] + [0] * 7 + [k]) for k in range(7)]
    infos = [PartInfo(f"p{i}", "video", len(keys), ns, tomb) for i, (ns, tomb, keys) in enumerate(parts)]
    hidden = frozenset({f"p{gone}"})
    hashes = np.frombuffer(b"".join(names[k] for _, _, keys in parts for k in keys), np.uint8).reshape(-1, 16)

    state: dict[int, int] = {}
    first = np.cumsum([0, *(len(keys) for _, _, keys in parts)])
    for i in sorted(range(len(parts)), key=lambda i: (parts[i][0], f"p{i}")):
        if f"p{i}" in hidden:
            continue
        for row, k in enumerate(parts[i][2]):
            if parts[i][1]:
                state.pop(k, None)
            else:
                state.setdefault(k, int(first[i]) + row)

    heads, rows = _winners(infos, hashes, hidden)
    assert sorted(rows.tolist()) == sorted(state.values())
    assert (np.diff(heads.astype(np.int64)) >= 0).all()
    found = Catalog(tuple(infos), hashes, np.empty(0, np.uint8), np.zeros(1, np.int64), heads, rows, hidden)
    asked = list(range(7))
    random.shuffle(asked)
    assert found.locate([names[k] for k in asked]).tolist() == [state.get(k, -1) for k in asked]
    assert [found.find(names[k]) for k in asked] == [state.get(k, -1) for k in asked]


def test_of_two_writers_the_first_to_commit_wins(tmp_path: Path) -> None:
    root = tmp_path / "s"
    one, two = StoreWriter(root, RECIPE, worker="z"), StoreWriter(root, RECIPE, worker="a")
    for writer in (one, two):
        writer.declare("video", [SPEC])
        writer.add(Record(Key("video", "same"), {"x": np.array(1)}, {"by": writer.worker}))
    one.close()
    two.close()
    reader = open_store(root)
    assert len(reader) == 1
    assert reader.metadata(Key("video", "same")) == {"by": "z"}


def test_a_writer_stamps_later_than_what_it_has_seen_whatever_the_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "s"
    monkeypatch.setattr("time.time_ns", lambda: 2_000)
    committed(root, ["a", "b"])
    monkeypatch.setattr("time.time_ns", lambda: 10)  # a machine whose clock is behind
    committed(root, [], delete=["a"])
    assert [key.name for key in open_store(root).keys()] == ["b"]  # noqa: SIM118
    monkeypatch.setattr("time.time_ns", lambda: 5)
    committed(root, ["a"])
    assert [key.name for key in open_store(root).keys()] == ["a", "b"]  # noqa: SIM118
    assert sorted(Part(path).info.committed_ns for path in parts_of(root)) == [2_000, 2_001, 2_002]


def test_a_closed_writer_leaves_a_catalog_and_a_reader_trusts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "s"
    committed(root, ["a", "b"])
    monkeypatch.setattr(catalog, "_merge", None)
    assert len(open_store(root)) == 2


def test_new_parts_are_merged_without_reading_the_old_ones(tmp_path: Path) -> None:
    root = tmp_path / "s"
    committed(root, ["a", "b"])
    (old,) = parts_of(root)
    saved = (root / "catalog.bin").read_bytes()
    committed(root, ["c"])
    (root / "catalog.bin").write_bytes(saved)
    (old / "records" / "c.0").write_bytes(b"gone")
    reader = open_store(root)
    assert [key.name for key in reader.keys()] == ["a", "b", "c"]  # noqa: SIM118
    assert reader.read(Key("video", "c"), "x") == 1


@pytest.mark.parametrize("offset", [0, 8, 200, -5, -1])
def test_a_damaged_catalog_is_made_anew(tmp_path: Path, offset: int) -> None:
    root = tmp_path / "s"
    committed(root, ["a", "b"])
    path = root / "catalog.bin"
    good = path.read_bytes()
    bad = bytearray(good)
    bad[offset] ^= 4
    for data in (bytes(bad), good[:offset], b"", b"x"):
        path.write_bytes(data)
        assert load(root) is None
        assert len(open_store(root)) == 2
        assert path.read_bytes() == good


def test_a_lost_catalog_and_a_damaged_table_are_too_much(tmp_path: Path) -> None:
    root = tmp_path / "s"
    committed(root, ["a", "b"])
    (part,) = parts_of(root)
    table = part / "records" / "c.0"
    table.write_bytes(table.read_bytes()[:-1])
    names = current(root).keys_of(part.name)
    assert names is not None
    assert [Key.decode(name).name for name in names] == ["a", "b"]
    assert current(root).keys_of("no such part") is None
    (root / "catalog.bin").unlink()
    with pytest.raises(Damaged, match=r"records/c.0 is not what was committed.\nRun `vfc store verify`"):
        open_store(root)


def test_where_the_catalog_cannot_be_written_it_stays_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "s"
    committed(root, ["a", "b"])
    (root / "catalog.bin").unlink()

    def refuse(path: Path, data: bytes) -> None:
        raise PermissionError(30, "Read-only file system")

    monkeypatch.setattr(catalog, "replace_file", refuse)
    assert len(open_store(root)) == 2
    assert not (root / "catalog.bin").exists()


def test_a_part_that_vanishes_while_it_is_read_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "s"
    committed(root, ["a"], worker="v")
    committed(root, ["b"], worker="w")
    (root / "catalog.bin").unlink()

    def merge_after_compaction(*given_values: Any, **options: Any) -> Catalog:
        for path in (root / "parts").glob("v-*"):
            path.rename(tmp_path / "away")
        return _merge(*given_values, **options)

    monkeypatch.setattr(catalog, "_merge", merge_after_compaction)
    assert [key.name for key in open_store(root).keys()] == ["b"]  # noqa: SIM118


@settings(max_examples=15, deadline=None)
@given(st.lists(st.lists(st.text("abé ?\n", min_size=1, max_size=5), max_size=4), max_size=4))
def test_names_of_any_script_come_back(tmp_path_factory: pytest.TempPathFactory, groups: list[list[str]]) -> None:
    root = tmp_path_factory.mktemp("names") / "s"
    seen: set[str] = set()
    committed(root, [])
    for group in groups:
        fresh = [name for name in dict.fromkeys(group) if name not in seen]
        seen.update(fresh)
        committed(root, fresh)
    for forget in (False, True):
        if forget:
            (root / "catalog.bin").unlink(missing_ok=True)
        reader = open_store(root)
        assert [key.name for key in reader.keys()] == sorted(seen)  # noqa: SIM118
        assert all(Key("video", name) in reader for name in seen)


def test_a_table_that_vanishes_while_it_is_read_belongs_to_a_part_that_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "s"
    committed(root, ["a"], worker="v")
    committed(root, ["b"], worker="w")
    (root / "catalog.bin").unlink()
    info = Part.info.fget
    assert info is not None

    def compacted_after(part: Part) -> PartInfo:
        found: PartInfo = info(part)
        if part.name.startswith("v-") and part.folder.exists():
            part.folder.rename(tmp_path / "away")
        return found

    monkeypatch.setattr(Part, "info", property(compacted_after))
    assert [key.name for key in open_store(root).keys()] == ["b"]  # noqa: SIM118


def test_a_store_without_its_parts_is_damaged(tmp_path: Path) -> None:
    root = tmp_path / "s"
    committed(root, ["a"])
    (root / "parts").rename(tmp_path / "away")
    for use in (lambda: open_store(root), lambda: StoreWriter(root, RECIPE)):
        with pytest.raises(Damaged, match=r"parts is missing\.\nRestore that folder"):
            use()
