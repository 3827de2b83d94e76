"""StoreWriter: several at once, what each leaves behind, and when it commits."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from suites.store import RECIPE, VIDEO, made, record

from vfc.cache_schema import (
    ArraySpec,
    BadInput,
    Key,
    Record,
    RecordRejected,
    Refused,
    StoreWriter,
    UnknownName,
    open_store,
)
from vfc.cache_schema import root as root_module
from vfc.cache_schema.parts import disk
from vfc.cache_schema.parts.commits import WAITING
from vfc.cache_schema.parts.part import Part, PartInfo
from vfc.cache_schema.parts.part_writer import PartWriter
from vfc.cache_schema.values.dtypes import stored_arrays
from vfc.cache_schema.values.recipe import Recipe

SPEC = ArraySpec("x", "fp32", (100,))


def parts(root: Path) -> list[Path]:
    return [path for path in (root / "parts").iterdir() if path.is_dir()]


def tiny(i: int) -> Record:
    return Record(Key("video", f"{i:04}"), {"x": np.full(100, i, np.float32)})


def test_a_part_is_committed_when_it_is_large(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "s", RECIPE, part_bytes=1000) as writer:
        writer.declare("video", [SPEC])
        for i in range(7):
            writer.add(tiny(i))
            assert writer.committed == (i + 1) // 3 * 3
            assert len(parts(tmp_path / "s")) == (i + 1) // 3
    assert (writer.committed, writer.bytes_written) == (7, 2800)
    assert sorted(Part(path).info.records for path in parts(tmp_path / "s")) == [1, 3, 3]


def test_a_part_is_committed_when_it_is_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    with StoreWriter(tmp_path / "s", RECIPE, part_seconds=60) as writer:
        writer.declare("video", [SPEC])
        for i, at in enumerate([100.0, 159.9, 160.0, 161.0]):
            now[0] = at
            writer.add(tiny(i))
            assert writer.committed == (3 if i >= 2 else 0)


def test_a_thread_commits_in_order_few_parts_wait_and_its_error_comes_with_the_next_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_end, begun = threading.Semaphore(0), list[int]()
    commit = PartWriter.commit

    def slow(part: PartWriter, committed_ns: int) -> PartInfo:
        begun.append(committed_ns)
        assert may_end.acquire(timeout=20)
        if len(begun) == 4:
            part.abandon()
            raise Refused("The disk is full.", "Free some space.")
        return commit(part, committed_ns)

    monkeypatch.setattr(PartWriter, "commit", slow)
    added = threading.Event()
    writer = StoreWriter(tmp_path / "s", RECIPE, part_bytes=1, commit_thread=True)
    writer.declare("video", VIDEO)
    for i in range(WAITING):
        writer.add(record(i))
    assert all(record(i).key in writer for i in range(WAITING))
    assert writer.committed == 0

    def one_more() -> None:
        writer.add(record(WAITING))
        added.set()

    thread = threading.Thread(target=one_more)
    thread.start()
    assert not added.wait(0.2)
    may_end.release()
    thread.join(20)
    assert added.is_set()
    assert writer.committed == 1

    may_end.release(2)
    writer.commit()
    assert writer.committed == 3
    writer.add(record(3))
    may_end.release()
    may_end.release(9)

    def add_more() -> None:
        for i in range(4, 40):
            writer.add(record(i))
            time.sleep(0.01)

    with pytest.raises(Refused, match="The disk is full"):
        add_more()
    assert record(3).key not in writer
    may_end.release(9)
    writer.add(record(3))
    writer.close()
    assert begun == sorted(begun)
    assert {record(i).key for i in range(4)} <= set(open_store(tmp_path / "s").keys())


def test_commit_without_records_makes_no_part(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "s", RECIPE) as writer:
        writer.declare("video", [SPEC])
        writer.commit()
        writer.delete([])
        with pytest.raises(RecordRejected):
            writer.add(Record(Key("video", "a"), {"x": np.full(100, np.nan, np.float32)}))
    assert parts(tmp_path / "s") == []
    assert list((tmp_path / "s" / "tmp").iterdir()) == []
    assert len(open_store(tmp_path / "s")) == 0


def test_a_closed_writer_takes_nothing(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "s", RECIPE) as writer:
        writer.declare("video", [SPEC])
    writer.close()
    with pytest.raises(BadInput, match=r"The writer of .* is closed.\nMake a new StoreWriter"):
        writer.add(tiny(1))
    with pytest.raises(BadInput, match=r"The writer of .* is closed"):
        writer.delete([])


def test_what_an_exception_interrupts_is_committed_for_every_kind(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), StoreWriter(tmp_path / "s", RECIPE) as writer:  # noqa: PT012
        for kind in ("video", "text"):
            writer.declare(kind, [SPEC])
            writer.add(Record(Key(kind, "a"), tiny(1).arrays))
        raise ZeroDivisionError
    assert len(open_store(tmp_path / "s")) == 2


def test_writers_see_each_other_after_a_refresh(tmp_path: Path) -> None:
    one, two = StoreWriter(tmp_path / "s", RECIPE, worker="a"), StoreWriter(tmp_path / "s", RECIPE, worker="b")
    one.declare("video", [SPEC])
    one.add(tiny(1))
    one.commit()
    assert tiny(1).key not in two
    two.refresh()
    assert tiny(1).key in two
    with pytest.raises(UnknownName, match=r"no declared kind 'video'"):
        two.add(tiny(2))
    two.delete([tiny(1).key])
    assert tiny(1).key not in two
    assert tiny(1).key in one
    one.add(tiny(3))
    one.refresh()
    assert tiny(1).key not in one
    assert tiny(3).key in one
    one.close()
    two.close()


def test_kinds_declared_earlier_need_not_be_declared_again(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "s", RECIPE) as writer:
        writer.declare("video", [SPEC])
    with StoreWriter(tmp_path / "s", RECIPE) as writer:
        writer.add(tiny(1))
    assert len(open_store(tmp_path / "s")) == 1


def test_deleting_a_key_twice_in_one_call_is_once(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "s", RECIPE) as writer:
        writer.declare("video", [SPEC])
        writer.add(tiny(1))
        writer.delete([tiny(1).key, tiny(1).key])
        writer.add(tiny(1))
    assert len(open_store(tmp_path / "s")) == 1


@pytest.mark.parametrize("worker", ["", "a b", "../x", "a+b", ".hidden"])
def test_names_of_workers(tmp_path: Path, worker: str) -> None:
    with pytest.raises(BadInput, match=r"A worker cannot be called .*\nUse letters, digits"):
        StoreWriter(tmp_path / "s", RECIPE, worker=worker)


@pytest.mark.parametrize("name", ["records", "zarr.json", "a/b", "", "ä", "-x"])
def test_names_of_arrays(tmp_path: Path, name: str) -> None:
    with StoreWriter(tmp_path / "s", RECIPE) as writer:
        with pytest.raises(BadInput, match=r"An array cannot be called"):
            writer.declare("video", [ArraySpec(name, "fp32", (2,))])
        with pytest.raises(BadInput, match=r"declared without arrays"):
            writer.declare("video", [])
        with pytest.raises(UnknownName, match=r"no kind of record 'vidoe'. Did you mean 'video'"):
            writer.declare("vidoe", [SPEC])
        with pytest.raises(BadInput, match=r"cannot be the id of an axis"):
            writer.bind("prompt", "a/b", 1)


WRITER = """
import sys
from pathlib import Path
from suites.store import RECIPE, VIDEO, record
from vfc.cache_schema import StoreWriter
rank, world, wanted, root = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
with StoreWriter(root, RECIPE, worker=sys.argv[5], part_bytes=8000) as writer:
    writer.declare("video", VIDEO)
    writer.bind("prompt", "what", "What?")
    for i in range(rank, wanted, world):
        if record(i).key not in writer:
            writer.add(record(i))
"""


def started(root: Path, rank: int, world: int, wanted: int, worker: str) -> subprocess.Popen[bytes]:
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).resolve().parents[1])!r})\n" + WRITER
    return subprocess.Popen([sys.executable, "-c", code, str(rank), str(world), str(wanted), str(root), worker])


def digest_of(root: Path, count: int) -> str:
    with StoreWriter(root, RECIPE) as writer:
        writer.declare("video", VIDEO)
        for i in range(count):
            writer.add(record(i))
    return open_store(root).digest


@pytest.mark.parametrize(("world", "one_name"), [(2, False), (2, True), (4, False), (4, True)])
def test_writers_at_once_lose_and_double_nothing(tmp_path: Path, world: int, one_name: bool) -> None:
    root = tmp_path / "s"
    running = [started(root, rank, world, 40, "w" if one_name else f"w{rank}") for rank in range(world)]
    assert [process.wait(60) for process in running] == [0] * world
    reader = open_store(root)
    assert reader.keys() == sorted(record(i).key for i in range(40))
    assert sum(Part(path).info.records for path in parts(root)) == 40
    assert reader.digest == digest_of(tmp_path / "alone", 40)
    assert reader.axes("prompt") == {"what": "What?"}
    assert list((root / "tmp").iterdir()) == []


def test_writers_of_the_same_records_double_nothing_that_can_be_read(tmp_path: Path) -> None:
    root = tmp_path / "s"
    running = [started(root, 0, 1, 15, f"w{rank}") for rank in range(2)]
    assert [process.wait(60) for process in running] == [0, 0]
    assert open_store(root).digest == digest_of(tmp_path / "alone", 15)


def test_what_a_dead_writer_left_is_cleared_and_what_a_living_one_has_is_not(tmp_path: Path) -> None:
    root = tmp_path / "s"
    living = StoreWriter(root, RECIPE, worker="w")
    living.declare("video", VIDEO)
    living.add(record(0))
    code = (
        "import os, sys; from pathlib import Path; from vfc.cache_schema.parts import disk\n"
        "claim = disk.Claim(Path(sys.argv[1]), sys.argv[2]); (claim.path / 'x').write_text('half'); os._exit(9)"
    )
    for worker in ("w", "other"):
        subprocess.run([sys.executable, "-c", code, str(root / "tmp"), worker], check=False, timeout=60)
    foreign = root / "tmp" / f"w+elsewhere+1+{'0' * 32}"
    foreign.mkdir()
    assert len(list((root / "tmp").iterdir())) == 4
    StoreWriter(root, RECIPE, worker="w").close()
    left = sorted(path.name.split("+")[0:2] for path in (root / "tmp").iterdir())
    assert left == sorted([["other", disk.host()], ["w", "elsewhere"], ["w", disk.host()]])
    assert disk.clear_stale(root / "tmp") == 1
    living.add(record(1))
    living.close()
    np.testing.assert_array_equal(open_store(root).read(record(1).key, "single"), made(1)["single"])
    assert [path.name for path in (root / "tmp").iterdir()] == [foreign.name]


def test_files_on_their_way_are_cleared_when_they_are_old(tmp_path: Path) -> None:
    for name, age in (("fresh.json", 10), ("old.json", 7200)):
        (tmp_path / name).write_text("{}")
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    assert disk.clear_stale(tmp_path) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["fresh.json"]
    assert disk.clear_stale(tmp_path / "absent") == 0


def test_a_store_made_and_filled_between_two_looks_is_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    look = root_module.require_free

    def after_another(root: Path) -> None:
        monkeypatch.setattr(root_module, "require_free", look)
        with StoreWriter(root, RECIPE, worker="first") as writer:
            writer.declare("video", [SPEC])
            writer.add(tiny(1))
        look(root)

    monkeypatch.setattr(root_module, "require_free", after_another)
    with StoreWriter(tmp_path / "s", RECIPE, worker="second") as writer:
        assert tiny(1).key in writer


def test_a_second_recipe_is_refused_also_where_both_make_the_store(tmp_path: Path) -> None:
    first = StoreWriter(tmp_path / "s", RECIPE)
    with pytest.raises(ValueError, match=r"made with another recipe"):
        StoreWriter(tmp_path / "s", Recipe({"other": True}))
    first.close()


def test_stored_values_go_in_as_they_are_and_must_fit(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "a", RECIPE) as writer:
        writer.declare("video", VIDEO)
        writer.add(record(0))
    source = open_store(tmp_path / "a")
    key = record(0).key
    names = [array.name for array in stored_arrays(VIDEO)]
    arrays = {name: source.view(key, name) for name in names}
    with StoreWriter(tmp_path / "b", RECIPE) as writer:
        writer.declare("video", VIDEO)
        name = next(iter(arrays))
        for wrong, said in (
            ({n: v for n, v in arrays.items() if n != name}, "comes as nothing; its kind has "),
            ({**arrays, "more": arrays[name]}, "'more' .* its kind has no such array"),
            ({**arrays, name: arrays[name].astype(np.float64)}, r"comes as float64 .*\nBring the stored values"),
        ):
            with pytest.raises(RecordRejected, match=said):
                writer.add_stored(key, wrong, {})
        writer.add_stored(key, arrays, source.metadata(key))
        with pytest.raises(RecordRejected, match="already holds"):
            writer.add_stored(key, arrays, {})
    assert open_store(tmp_path / "b").digest == source.digest


def test_circumstances_that_are_no_json_are_found_before_a_record_is_taken(tmp_path: Path) -> None:
    for circumstances in ({"loss": float("nan")}, {"host": "\udcff"}, {"device": object()}):
        with pytest.raises(BadInput, match=r"The circumstances are no JSON: .*\nUse finite numbers"):
            StoreWriter(tmp_path / "s", RECIPE, circumstances=circumstances)  # type: ignore[arg-type]
    assert not (tmp_path / "s").exists()
