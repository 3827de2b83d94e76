"""inspect counts what was put in."""

import json
from pathlib import Path

import numpy as np
import pytest
from suites.store import RECIPE, TEXT, VIDEO, record

from vfc.cache_schema import Key, MissingPath, NotAStore, Record, StoreWriter, open_store
from vfc.cache_schema.annotations import Annotation, Annotations, write_annotations
from vfc.cache_schema.reduction.reduce import Reduction
from vfc.cache_schema.upkeep import inspect, materialize
from vfc.cache_schema.values.progress import Silent

QUIET = Silent()


def test_everything_is_counted(tmp_path: Path) -> None:
    root = tmp_path / "store"
    with StoreWriter(root, RECIPE, part_bytes=1) as writer, StoreWriter(root, RECIPE, worker="b") as other:
        for one in (writer, other):
            one.declare("video", VIDEO)
        writer.declare("text", TEXT)
        for i in range(4):
            writer.add(record(i))
        other.add(record(3))
        writer.add(Record(Key("text", "hug"), {"embedding": np.zeros(7, np.float32)}))
        writer.bind("prompt", "what-now", "What?")
        writer.bind("prompt", "why", "Why?")
        writer.bind("view", "1", "left third")
    with StoreWriter(root, RECIPE) as writer:
        writer.delete([record(0).key])
    rows = [Annotation("a", "x", "train"), Annotation("b", "y", "train"), Annotation("c", "x", "test"), Annotation("d")]
    write_annotations(root, "default", Annotations(tuple(rows)))
    (root / "failures").mkdir()
    failed = [
        {"kind": "video", "name": record(1).key.name, "reason": "committed later"},
        {"kind": "video", "name": "torn.mp4", "reason": "first"},
        {"kind": "video", "name": "torn.mp4", "reason": "no frames", "size": 4},
    ]
    (root / "failures" / "w0.jsonl").write_text("\n".join(json.dumps(row) for row in failed) + '\n{"kind": "vid')
    materialize(root, Reduction(pool="mean"), QUIET, name="mean", arrays=["layer3.visual"])

    found = inspect(root, QUIET)
    counted = {kind.kind: (kind.records, kind.parts) for kind in found.kinds}
    assert counted == {"text": (1, 1), "video": (3, 6)}
    assert (found.records, found.duplicates, found.deleted) == (4, 1, 1)
    assert found.bytes == sum(path.stat().st_size for path in (root / "parts").glob("*/*/*"))
    assert {kind.kind: kind.arrays for kind in found.kinds}["text"] == TEXT
    assert found.axes == {"prompt": ("what-now", "why"), "view": ("1",)}
    (labels,) = found.annotations
    assert (labels.name, labels.rows, labels.labels, labels.splits) == ("default", 4, 2, {"train": 2, "test": 1})
    assert labels.digest == Annotations(tuple(rows)).digest
    assert found.failures == (failed[2],)
    assert (found.derived, found.projections, found.quarantined) == (("mean",), (), ())
    assert found.recipe == RECIPE.fields
    assert found.recipe_digest == RECIPE.digest
    assert found.digest == open_store(root).digest
    told = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert told["kinds"][0]["arrays"][0]["name"] == "embedding"
    assert told["records"] == 4


def test_places_without_a_store(tmp_path: Path) -> None:
    with pytest.raises(MissingPath, match=r"no store at .*nowhere"):
        inspect(tmp_path / "nowhere", QUIET)
    with pytest.raises(NotAStore, match="is not a feature store"):
        inspect(tmp_path, QUIET)


def test_an_empty_store(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "s", RECIPE) as writer:
        writer.declare("video", VIDEO)
    found = inspect(tmp_path / "s", QUIET)
    assert (found.records, found.bytes, found.kinds[0].records) == (0, 0, 0)


def test_a_failure_is_of_one_view_under_one_prompt(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "s", RECIPE) as writer:
        for kind, prompt in (("video", ""), ("prompted", "what"), ("prompted", "who@12ab")):
            writer.declare(kind, TEXT)
            writer.add(Record(Key(kind, "a.mp4", 0, prompt), {"embedding": np.zeros(7, np.float32)}))
    failed = [
        {"kind": kind, "name": "a.mp4", "reason": "overflow", "view": view, "prompt": prompt}
        for kind, prompt in (("prompted", "what"), ("prompted", "who"), ("prompted", "why"), ("video", ""))
        for view in (0, 1)
    ]
    (tmp_path / "s" / "failures").mkdir()
    (tmp_path / "s" / "failures" / "w0.jsonl").write_text("[]\n" + "\n".join(map(json.dumps, failed)))
    # View 0 of three of them is there; `who` is the template that was filled in later.
    assert inspect(tmp_path / "s", QUIET).failures == tuple(failed[i] for i in (4, 1, 3, 5, 7))


def test_identical_files_are_told_with_their_names(tmp_path: Path) -> None:
    root = tmp_path / "store"
    names = {"a/1.mp4": "x", "b/1.mp4": "x", "c.mp4": "y"}
    with StoreWriter(root, RECIPE) as writer:
        writer.declare("text", TEXT)
        writer.declare("video", TEXT)
        for view in (1, 2):
            for name, digest in names.items():
                arrays = {"embedding": np.zeros(7, np.float32)}
                writer.add(Record(Key("video", name, view), arrays, {"file": {"size": 3, "sha256": digest}}))
    (group,) = inspect(root, QUIET).identical
    assert group == (("a/1.mp4", ""), ("b/1.mp4", ""))
    rows = (Annotation("a/1.mp4", "a", "train"), Annotation("b/1.mp4", "b", "test"))
    write_annotations(root, "default", Annotations(rows))
    (group,) = inspect(root, QUIET).identical
    assert group == (("a/1.mp4", "train"), ("b/1.mp4", "test"))
