"""compact and merge: the same records with the same digest, whatever is killed, whatever was there."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from suites.store import RECIPE, TEXT, VIDEO, as_stored, made, record

from vfc.cache_schema import (
    AxisMismatch,
    BadInput,
    Damaged,
    Key,
    Recipe,
    RecipeMismatch,
    Record,
    Refused,
    StoreWriter,
    open_store,
)
from vfc.cache_schema.annotations import Annotation, Annotations, load, write_annotations
from vfc.cache_schema.reduction.projection import fit_projection, load_projection, publish_projection
from vfc.cache_schema.upkeep import compact, inspect, merge, verify
from vfc.cache_schema.upkeep.stored import maintenance_lock
from vfc.cache_schema.values.progress import Silent
from vfc.cache_schema.values.record import Json

QUIET = Silent()


def fill(root: Path, *groups: tuple[int, ...], worker: str = "w0", recipe: Recipe = RECIPE) -> Path:
    """One part per group."""
    with StoreWriter(root, recipe, worker=worker) as writer:
        writer.declare("video", VIDEO)
        for group in groups:
            for i in group:
                writer.add(record(i))
            writer.commit()
    return root


def contents(root: Path) -> dict[Key, tuple[dict[str, bytes], dict[str, Json]]]:
    reader = open_store(root)
    return {
        key: (
            {spec.name: reader.view(key, spec.name).tobytes() for spec in reader.kinds[key.kind]},
            reader.metadata(key),
        )
        for key in reader.keys(None)
    }


def parts(root: Path) -> list[Path]:
    return sorted(path for path in (root / "parts").iterdir() if path.is_dir())


def messy(root: Path) -> Path:
    """Small parts, two writers that doubled records, deleted records, one of them made anew; two kinds."""
    fill(root)
    with StoreWriter(root, RECIPE, worker="a") as first, StoreWriter(root, RECIPE, worker="b") as second:
        for group in ((0, 1), (2, 3), (4,)):
            for i in group:
                first.add(record(i))
            first.commit()
        for i in (1, 2, 5):
            second.add(record(i))
        second.commit()
        second.declare("text", TEXT)
        for word in ("hug", "push"):
            second.add(Record(Key("text", word), {"embedding": np.full(7, len(word), np.float32)}))
            second.commit()
    with StoreWriter(root, RECIPE, worker="c") as third:
        third.delete([record(3).key, record(4).key, Key("text", "hug")])
        third.add(record(4, single=np.asarray(-4, np.float32)))
        third.commit()
        third.add(record(6))
    return root


def word(i: int, value: float | None = None) -> Record:
    return Record(Key("text", f"word {i}"), {"embedding": np.full(7, i if value is None else value, np.float32)})


def messy_words(root: Path) -> Path:
    """The same mess in a kind of one array, whose parts are quickly copied and removed."""
    for numbers, deleted in (((0, 1), ()), ((2, 3), ()), ((4,), (3, 4)), ((4, 5), ())):
        with StoreWriter(root, RECIPE) as writer, StoreWriter(root, RECIPE, worker="b") as other:
            writer.declare("text", TEXT)
            other.declare("text", TEXT)
            for i in numbers:
                writer.add(word(i, 10 * i if deleted else None))
                other.add(word(i, -i))
            writer.commit()
            other.commit()
            writer.delete([word(i).key for i in deleted])
    return root


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return messy(tmp_path_factory.mktemp("pristine") / "store")


@pytest.fixture
def store(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "store"))


def test_few_parts_the_same_records(store: Path) -> None:
    before, digest, looked = contents(store), open_store(store).digest, inspect(store, QUIET)
    assert (looked.records, looked.duplicates, looked.deleted) == (7, 3, 2)
    assert {key.name[-7:] for key in before if key.kind == "video"} == {f"{i:03}.mp4" for i in (0, 1, 2, 4, 5, 6)}
    done = compact(store, QUIET)
    assert contents(store) == before
    assert open_store(store).digest == digest
    assert verify(store, QUIET).ok
    after = inspect(store, QUIET)
    assert (after.records, after.duplicates, after.deleted) == (7, 0, 0)
    # Two tombstones stood between the older and the younger videos, so these make two parts, the texts one.
    assert (done.parts_before, done.parts_after, done.records, done.dropped) == (10, 3, 7, 5)
    assert done.bytes_after < done.bytes_before == looked.bytes
    assert sum(zarr.open(path, mode="r")["records"].nbytes > 0 for path in parts(store)) == 3
    assert compact(store, QUIET).parts_after == 2
    settled = compact(store, QUIET)
    assert (settled.parts_before, settled.parts_after, settled.dropped) == (2, 2, 0)
    assert contents(store) == before


def test_large_parts_are_left_alone(tmp_path: Path) -> None:
    root = fill(tmp_path / "s", (0, 1, 2), (3,), (4, 5, 6), (7,), (8,))
    sizes = {path.name: sum(p.stat().st_size for p in path.glob("*/*")) for path in parts(root)}
    large = {name for name, size in sizes.items() if size > min(sizes.values()) * 1.2}
    assert len(large) == 2
    before = contents(root)
    compact(root, QUIET, part_bytes=2 * min(sizes[name] for name in large))
    assert len(parts(root)) == 3
    assert large < {path.name for path in parts(root)}
    assert contents(root) == before


def test_circumstances_are_carried_over(tmp_path: Path) -> None:
    for i, device in enumerate(("cpu", "cuda", "cpu")):
        with StoreWriter(tmp_path / "s", RECIPE, circumstances={"device": device}) as writer:
            writer.declare("video", VIDEO)
            writer.add(record(i))
    for _ in range(2):
        compact(tmp_path / "s", QUIET)
        (part,) = parts(tmp_path / "s")
        attributes = json.loads((part / "zarr.json").read_text())["attributes"]
        assert attributes["circumstances"] == {"sources": [{"device": "cpu"}, {"device": "cuda"}]}
        fill(tmp_path / "s")
        with StoreWriter(tmp_path / "s", RECIPE, circumstances={"device": "cpu"}) as writer:
            if record(9).key not in writer:
                writer.add(record(9))


def test_a_kill_between_leaves_duplicates_and_loses_nothing(tmp_path: Path, killer: Callable[..., None]) -> None:
    pristine = messy_words(tmp_path / "pristine")
    before, digest = contents(pristine), open_store(pristine).digest
    assert {key.name: float(open_store(pristine).read(key, "embedding")[0]) for key in before} == {
        f"word {i}": i for i in (0, 1, 2, 4, 5)
    }

    def require(root: Path) -> None:
        assert open_store(root).digest == digest
        assert contents(root) == before
        compact(root, QUIET)
        compact(root, QUIET)
        assert contents(root) == before
        assert open_store(root).digest == digest
        looked = inspect(root, QUIET)
        assert (looked.duplicates, looked.deleted) == (0, 0)
        assert list((root / "tmp").iterdir()) == []
        assert len(parts(root)) == 1

    killer(pristine, tmp_path, lambda root: None, lambda root: compact(root, QUIET), require)


def test_damage_stops_it_and_the_parts_around_it_stay(store: Path) -> None:
    names, keys = {path.name for path in parts(store) if path.name.startswith("a-")}, open_store(store).keys()
    first = record(0).key.encode()
    hit = next(path for path in parts(store) if first in (path / "records" / "c.0").read_bytes())
    data = bytearray((hit / "layer3.visual" / "c.0.0.0.0").read_bytes())
    data[5] ^= 1
    (hit / "layer3.visual" / "c.0.0.0.0").write_bytes(data)
    with pytest.raises(Damaged, match=r"'layer3\.visual' of video"):
        compact(store, QUIET)
    assert names <= {path.name for path in parts(store)}
    assert open_store(store).keys() == keys
    assert list((store / "tmp").iterdir()) == []
    with maintenance_lock(store), pytest.raises(Refused, match="Another compact or repair"):
        compact(store, QUIET)


def test_a_writer_may_go_on_meanwhile(store: Path) -> None:
    """A record is deleted, and another added, by a writer that saw the parts of before and commits afterwards."""
    before = contents(store)
    with StoreWriter(store, RECIPE, worker="late") as writer:
        compact(store, QUIET)
        writer.delete([record(0).key])
        writer.add(record(20))
    after = contents(store)
    assert set(after) == set(before) - {record(0).key} | {record(20).key}
    compact(store, QUIET)
    assert contents(store) == after


def test_a_deletion_on_its_way_still_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stamped before another part was committed, visible only after both were joined with what it deletes."""
    root = fill(tmp_path / "s", (0,))
    with StoreWriter(root, RECIPE, worker="late") as writer:
        stamp = writer._stamp()
        monkeypatch.setattr(writer, "_stamp", lambda: stamp)
        fill(root, (1,), (2,))
        compact(root, QUIET)
        assert len(parts(root)) == 1
        writer.delete([record(0).key])
    assert set(contents(root)) == {record(1).key, record(2).key}


steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 5)),
        st.tuples(st.just("double"), st.integers(0, 5)),
        st.tuples(st.just("delete"), st.integers(0, 5)),
        st.tuples(st.just("compact"), st.sampled_from([1, 20_000, 1 << 30])),
    ),
    max_size=12,
)


@given(steps)
@settings(max_examples=40, deadline=None)
def test_any_history_reads_as_a_dict_does(
    tmp_path_factory: pytest.TempPathFactory, history: list[tuple[str, int]]
) -> None:
    root = fill(tmp_path_factory.mktemp("history") / "s")
    model: dict[Key, float] = {}
    for n, (step, value) in enumerate(history):
        key = record(value % 6).key
        changed = record(value % 6, single=np.asarray(n, np.float32))
        if step == "compact":
            digest = open_store(root).digest
            compact(root, QUIET, part_bytes=value)
            assert open_store(root).digest == digest
        elif step == "double":
            # Two writers that do not know of each other add one record; the first to commit counts.
            with StoreWriter(root, RECIPE, worker="a") as one, StoreWriter(root, RECIPE, worker="b") as two:
                if key not in one:
                    one.add(changed)
                    two.add(record(value % 6, single=np.asarray(-n, np.float32)))
                    one.commit()
                    model[key] = n
        else:
            with StoreWriter(root, RECIPE) as writer:
                assert (key in writer) == (key in model)
                if step == "add" and key not in model:
                    writer.add(changed)
                    model[key] = n
                elif step == "delete" and key in model:
                    writer.delete([key])
                    del model[key]
        reader = open_store(root)
        assert {k: float(reader.read(k, "single")) for k in reader.keys(None)} == model
    assert verify(root, QUIET).ok


# ---- merge


def test_stores_of_one_recipe_become_one(tmp_path: Path) -> None:
    one, two = fill(tmp_path / "one", (0, 1), (2,)), messy(tmp_path / "two")
    with StoreWriter(one, RECIPE) as writer:
        writer.bind("prompt", "what", "What happens?")
        writer.delete([record(2).key])
    write_annotations(one, "default", Annotations((Annotation("a", "x"), Annotation("b", "y"))))
    write_annotations(two, "default", Annotations((Annotation("b", "z"), Annotation("c", "x"))))
    (two / "failures").mkdir()
    lines = [{"kind": "video", "name": name, "reason": "cut", "size": 3} for name in (record(0).key.name, "broken.mp4")]
    (two / "failures" / "w0.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    publish_projection(one, "x", fit_projection("random:2", [np.ones((3, 4), np.float32)], 4))

    done = merge([one, two], tmp_path / "all", QUIET)
    wanted = contents(two) | contents(one)
    assert contents(tmp_path / "all") == wanted
    assert (done.taken, done.present, done.records) == ((2, 5), (0, 2), 7)
    assert done.conflicts == ("default: b",)
    assert {row.name: row.label for row in load(tmp_path / "all").rows} == {"a": "x", "b": "y", "c": "x"}
    assert open_store(tmp_path / "all").axes("prompt") == {"what": "What happens?"}
    assert load_projection(tmp_path / "all", "x") is not None
    assert inspect(tmp_path / "all", QUIET).failures == (lines[1],)
    assert verify(tmp_path / "all", QUIET).ok

    again = merge([one, two], tmp_path / "all", QUIET)
    assert (again.taken, again.present) == ((0, 0), (2, 7))
    assert contents(tmp_path / "all") == wanted
    # What one store holds, merged from two, is that store.
    whole = fill(tmp_path / "whole", (0, 1, 2, 3))
    halves = [fill(tmp_path / "left", (3, 0)), fill(tmp_path / "right", (1,), (2,))]
    merge(halves, tmp_path / "joined", QUIET, part_bytes=1)
    assert open_store(tmp_path / "joined").digest == open_store(whole).digest
    assert len(parts(tmp_path / "joined")) == 4


def test_a_merge_that_is_killed_goes_on(tmp_path: Path, killer: Callable[..., None]) -> None:
    pristine = tmp_path / "both"
    one, two = pristine / "one", pristine / "two"
    for root, numbers in ((one, (0, 1)), (two, (2, 1, 3))):
        with StoreWriter(root, RECIPE) as writer:
            writer.declare("text", TEXT)
            for i in numbers:
                writer.add(word(i))
    wanted = contents(one) | contents(two)

    def act(root: Path) -> None:
        merge([root / "one", root / "two"], root / "all", QUIET, part_bytes=1)

    def require(root: Path) -> None:
        if (root / "all" / "zarr.json").exists():
            assert contents(root / "all").items() <= wanted.items()
        act(root)
        assert contents(root / "all") == wanted
        assert inspect(root / "all", QUIET).duplicates == 0
        assert list((root / "all" / "tmp").iterdir()) == []

    killer(pristine, tmp_path, lambda root: None, act, require)


def test_stores_that_cannot_be_merged(tmp_path: Path) -> None:
    one = fill(tmp_path / "one", (0,))
    other = fill(tmp_path / "other", (1,), recipe=Recipe({**RECIPE.fields, "frames": 16}))
    with pytest.raises(RecipeMismatch, match=r"other was made with another recipe: frames: 16 there, 8 asked"):
        merge([one, other], tmp_path / "all", QUIET)
    assert not (tmp_path / "all").exists()
    with pytest.raises(BadInput, match="merge needs stores to read and another one to write"):
        merge([one, one], one, QUIET)
    for root, words in ((one, "What?"), (fill(tmp_path / "two", (1,)), "Why?")):
        with StoreWriter(root, RECIPE) as writer:
            writer.bind("prompt", "what", words)
    with pytest.raises(AxisMismatch, match=r"prompt 'what' of .* means \"What\?\"; asked: \"Why\?\""):
        merge([one, tmp_path / "two"], tmp_path / "all", QUIET)


def test_records_of_one_name_and_other_values_are_not_merged(tmp_path: Path) -> None:
    one, same, other = fill(tmp_path / "one", (0, 1, 2)), fill(tmp_path / "same", (1, 5)), tmp_path / "other"
    with StoreWriter(other, RECIPE) as writer:
        writer.declare("video", VIDEO)
        for i in (0, 2, 6):
            writer.add(Record(record(i).key, made(i + 40, rows=40), {}))
    assert merge([one, same], tmp_path / "all", QUIET).present == (0, 1)
    named = r"2 records have one name and other values in two stores .*: video 'class 0/clip000\.mp4', video 'class 2/"
    for stores, out in (([one, other], tmp_path / "new"), ([other], tmp_path / "all")):
        before = contents(out) if out.exists() else None
        with pytest.raises(RecipeMismatch, match=named):
            merge(stores, out, QUIET)
        assert (contents(out) if out.exists() else None) == before


def test_values_are_right_after_all_that(store: Path, tmp_path: Path) -> None:
    compact(store, QUIET)
    merge([store], tmp_path / "copy", QUIET)
    reader = open_store(tmp_path / "copy")
    for i in (0, 1, 2, 5, 6):
        for spec in VIDEO:
            np.testing.assert_array_equal(reader.read(record(i).key, spec.name), as_stored(made(i)[spec.name], spec))


def test_records_that_went_through_different_projections_are_not_mixed(tmp_path: Path) -> None:
    sample = [np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)]
    roots = [fill(tmp_path / name, (i,)) for i, name in enumerate(("one", "two", "three"))]
    for root, seed in zip(roots, (0, 0, 1), strict=True):
        publish_projection(root, "single", fit_projection("random:2", sample[: 1 + seed], 4, seed=seed))
    assert merge(roots[:2], tmp_path / "both", QUIET).records == 2
    for stores, out in (([roots[0], roots[2]], tmp_path / "all"), ([roots[2]], tmp_path / "both")):
        with pytest.raises(RecipeMismatch, match=r"'single' went through one projection in .* and through another in"):
            merge(stores, out, QUIET)
    assert not (tmp_path / "all").exists()
    assert len(open_store(tmp_path / "both")) == 2


def test_a_merge_says_that_the_recipe_differs_or_that_a_kind_is_not_declared(tmp_path: Path) -> None:
    one = fill(tmp_path / "one", (0,))
    other = tmp_path / "other"
    with StoreWriter(other, Recipe({**RECIPE.fields, "frames": 16})) as writer:
        writer.declare("video", VIDEO)
        writer.add(Record(record(0).key, made(40, rows=40), {}))
    with pytest.raises(RecipeMismatch, match="frames: 16 there, 8 asked"):
        merge([one], other, QUIET)
    shutil.rmtree(one / "kinds")
    with pytest.raises(Damaged, match=r"kinds/video\.json is missing"):
        merge([one], tmp_path / "all", QUIET)
