"""compare against numbers worked out the long way."""

import json
from pathlib import Path

import numpy as np
import pytest
from suites.store import RECIPE, TEXT, VIDEO, record

from vfc.cache_schema import ArraySpec, Key, Recipe, Record, StoreWriter
from vfc.cache_schema.upkeep import compact, compare, convert
from vfc.cache_schema.values.progress import Silent
from vfc.cache_schema.values.record import Json

QUIET = Silent()


def fill(root: Path, numbers: range, recipe: Recipe = RECIPE) -> Path:
    with StoreWriter(root, recipe, part_bytes=1) as writer:
        writer.declare("video", VIDEO)
        for i in numbers:
            writer.add(record(i))
    return root


def test_the_same_records_in_other_parts_are_identical(tmp_path: Path) -> None:
    one, two = fill(tmp_path / "one", range(4)), fill(tmp_path / "two", range(3, -1, -1))
    compact(two, QUIET)
    found = compare(one, two, QUIET)
    assert found.identical
    assert found.same_recipe
    assert {a.array for a in found.arrays} == {spec.name for spec in VIDEO}
    for a in found.arrays:
        assert (a.records, a.equal, a.unlike, a.max_abs, a.rel_l2, a.cosine_min) == (4, 4, 0, 0.0, 0.0, 1.0)
    # Another recipe, the same numbers: still identical, and said.
    other = fill(tmp_path / "other", range(4), Recipe({**RECIPE.fields, "frames": 16}))
    found = compare(one, other, QUIET)
    assert found.identical
    assert not found.same_recipe
    assert found.recipe_difference == (("frames", 8, 16),)


def test_what_is_on_one_side_only_is_named(tmp_path: Path) -> None:
    one, two = fill(tmp_path / "one", range(3)), fill(tmp_path / "two", range(1, 4))
    with StoreWriter(two, RECIPE) as writer:
        writer.declare("text", TEXT)
        writer.add(Record(Key("text", "hug"), {"embedding": np.zeros(7, np.float32)}))
    found = compare(one, two, QUIET)
    assert not found.identical
    assert found.only_here == (record(0).key,)
    assert found.only_there == (Key("text", "hug"), record(3).key)
    assert (found.arrays_only_here, found.arrays_only_there) == ((), ("text: embedding",))
    assert json.loads(json.dumps(found.to_json()))["identical"] is False


def test_differences_are_measured(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(3, 2, 5)).astype(np.float32), rng.normal(size=(3, 2, 5)).astype(np.float32)
    right[0] = left[0]
    specs = [ArraySpec("x", "fp32", (2, 5)), ArraySpec("n", "int64", (1,)), ArraySpec("r", "fp32", (None, 5))]
    for name, values in (("one", left), ("two", right)):
        with StoreWriter(tmp_path / name, RECIPE) as writer:
            writer.declare("video", specs)
            for i in range(3):
                ragged = values[i][:1] if name == "two" and i == 2 else values[i]
                side = np.array([i if name == "one" else min(i, 1)])
                told: dict[str, Json] = {"i": i} if name == "one" or i else {"i": 9}
                writer.add(Record(Key("video", f"{i}"), {"x": values[i], "n": side, "r": ragged}, told))
    found = compare(tmp_path / "one", tmp_path / "two", QUIET)
    n, r, x = found.arrays
    apart = left.astype(np.float64) - right
    assert (x.records, x.equal, x.unlike) == (3, 1, 0)
    assert x.max_abs == pytest.approx(np.abs(apart).max())
    assert x.rel_l2 == pytest.approx(np.linalg.norm(apart) / np.linalg.norm(left))
    cosines = [
        float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
        for a, b in zip(left.reshape(3, -1), right.reshape(3, -1), strict=True)
    ]
    assert x.cosine_min == pytest.approx(min(cosines))
    assert x.cosine_mean == pytest.approx(sum(cosines) / 3)
    assert (n.equal, n.unlike) == (2, 1)
    assert (r.equal, r.unlike) == (1, 1)
    assert found.metadata_differs == 1
    assert not found.identical


def test_other_dtypes_are_compared_by_value(tmp_path: Path) -> None:
    one = fill(tmp_path / "one", range(3))
    convert(one, tmp_path / "bf16", "bf16", QUIET)
    found = {a.array: a for a in compare(one, tmp_path / "bf16", QUIET).arrays}
    assert found["layer3.text"].equal == 3
    assert 0 < found["layer3.visual"].rel_l2 < 2**-8
    assert found["layer3.visual"].cosine_min > 0.9999
