"""convert and materialize: derived stores say what they were made from, have the right values, and grow."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from suites.store import RECIPE, TEXT, VIDEO, as_stored, made, record

from vfc.cache_schema import (
    ArraySpec,
    BadInput,
    Damaged,
    Key,
    NotAStore,
    RecipeMismatch,
    Record,
    StoreWriter,
    UnknownName,
    open_store,
)
from vfc.cache_schema.annotations import Annotation, Annotations, load, write_annotations
from vfc.cache_schema.parts.part import Part
from vfc.cache_schema.reduction.projection import same_projection
from vfc.cache_schema.reduction.reduce import Reduction
from vfc.cache_schema.upkeep import compact, convert, inspect, materialize, merge, verify
from vfc.cache_schema.values.progress import Silent
from vfc.cache_schema.values.record import Dtype

QUIET = Silent()
Values = npt.NDArray[Any]

TOKENS = (
    ArraySpec("layer3.visual", "fp32", (2, 16, 6), "frame-major"),
    ArraySpec("layer5.visual", "fp16", (2, 17, 6), "frame-major, cls first in frame"),
    ArraySpec("frames", "fp32", (2, 6)),
    ArraySpec("seconds", "float64", (2,)),
)


def tokens(i: int) -> Record:
    rng = np.random.default_rng([7, i])
    arrays: dict[str, Values] = {
        spec.name: rng.normal(size=[size or 1 for size in spec.shape]).astype(np.float32) for spec in TOKENS[:3]
    }
    return Record(Key("video", f"v{i}.mp4"), {**arrays, "seconds": np.array([i, i + 0.5])}, {"fps": 25.0})


def fill(root: Path, *groups: tuple[int, ...]) -> Path:
    with StoreWriter(root, RECIPE) as writer:
        writer.declare("video", TOKENS)
        for group in groups:
            for i in group:
                writer.add(tokens(i))
            writer.commit()
    return root


def parts(root: Path) -> list[list[str]]:
    """The names in every part, parts in order of commit."""
    found = sorted((Part(path) for path in (root / "parts").iterdir() if path.is_dir()), key=lambda p: p.info.order)
    return [[part.key(row).name for row in range(part.info.records)] for part in found]


# ---- convert


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_a_converted_store_holds_the_same_in_another_dtype(tmp_path: Path, dtype: Dtype) -> None:
    root = tmp_path / "s"
    with StoreWriter(root, RECIPE) as writer:
        writer.declare("video", VIDEO)
        writer.declare("text", TEXT)
        writer.bind("prompt", "what", "What?")
        for i in range(3):
            writer.add(record(i))
        writer.add(Record(Key("text", "hug"), {"embedding": np.arange(7, dtype=np.float32)}))
    write_annotations(root, "default", Annotations((Annotation("a", "x"),)))
    done = convert(root, tmp_path / "out", dtype, QUIET)
    assert (done.added, done.present, done.parts, done.rejected, done.orphans) == (4, 0, 2, (), 0)
    parent, reader = open_store(root), open_store(tmp_path / "out")
    for i in range(3):
        for spec in VIDEO:
            now = reader.spec("video", spec.name)
            feature = spec.dtype in ("fp32", "fp16", "bf16", "int8")
            assert now == (ArraySpec(spec.name, dtype, spec.shape, spec.layout) if feature else spec)
            read = parent.read(record(i).key, spec.name)
            np.testing.assert_array_equal(reader.read(record(i).key, spec.name), as_stored(read, now))
        assert reader.metadata(record(i).key).items() >= {"fps": 25.0, "number": i}.items()
    assert reader.recipe.fields == {
        "parent": {"digest": RECIPE.digest, "recipe": RECIPE.fields},
        "function": "convert",
        "parameters": {"dtype": dtype, "arrays": "all"},
    }
    assert reader.axes("prompt") == {"what": "What?"}
    assert load(tmp_path / "out").labels() == ["x"]
    assert verify(tmp_path / "out", QUIET).ok


@given(st.integers(0, 99), st.floats(0.01, 100))
@settings(max_examples=10, deadline=None)
def test_int8_is_off_by_half_a_step_at_most(tmp_path_factory: pytest.TempPathFactory, seed: int, spread: float) -> None:
    rng = np.random.default_rng(seed)
    values = (rng.normal(size=(4, 10, 5)) * np.exp(spread / 30 * rng.normal(size=5))).astype(np.float32)
    root = tmp_path_factory.mktemp("int8")
    with StoreWriter(root / "s", RECIPE) as writer:
        writer.declare("video", [ArraySpec("x", "fp32", (4, 10, 5)), ArraySpec("kept", "fp32", (5,))])
        writer.add(Record(Key("video", "a"), {"x": values, "kept": values[0, 0]}))
    convert(root / "s", root / "out", "int8", QUIET, arrays=["x"])
    reader = open_store(root / "out")
    steps = np.abs(values).max(axis=(0, 1)) / 127
    assert (np.abs(reader.read(Key("video", "a"), "x") - values) <= steps * (0.5 + 1e-5)).all()
    np.testing.assert_allclose(reader.scale(Key("video", "a"), "x"), steps, rtol=1e-6)
    np.testing.assert_array_equal(reader.read(Key("video", "a"), "kept"), values[0, 0])
    assert reader.recipe.fields["parameters"] == {"dtype": "int8", "arrays": ["x"]}


def test_what_cannot_be_converted_is_named(tmp_path: Path) -> None:
    root = fill(tmp_path / "s", (0, 1))
    with pytest.raises(BadInput, match=r"'frames' would have 2 rows per record; int8 .* needs 32"):
        convert(root, tmp_path / "out", "int8", QUIET)
    with pytest.raises(
        UnknownName, match=r"no feature array in this store 'layer3\.visuals'\. Did you mean 'layer3\.vis"
    ):
        convert(root, tmp_path / "out", "fp16", QUIET, arrays=["layer3.visuals"])
    assert not (tmp_path / "out").exists()


def test_a_record_that_overflows_is_listed_and_the_others_are_made(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "s", RECIPE) as writer:
        writer.declare("text", TEXT)
        for name, value in (("small", 1.0), ("large", 1e6)):
            writer.add(Record(Key("text", name), {"embedding": np.full(7, value, np.float32)}))
    done = convert(tmp_path / "s", tmp_path / "out", "fp16", QUIET)
    assert done.added == 1
    ((name, reason),) = done.rejected
    assert name == "large"
    assert "65504" in reason


# ---- materialize


def test_pooled_tokens_under_the_parent(tmp_path: Path) -> None:
    root = fill(tmp_path / "s", (0, 1), (2,))
    write_annotations(root, "default", Annotations((Annotation("v0.mp4", "x"),)))
    arrays = ["layer3.visual", "layer5.visual"]
    done = materialize(root, Reduction(pool="2x2", dtype="bf16"), QUIET, name="pooled", arrays=arrays)
    assert (done.path, done.added, done.parts) == (str(root / "derived" / "pooled"), 3, 2)
    derived = open_store(root / "derived" / "pooled")
    assert derived.kinds["video"] == (
        ArraySpec("layer3.visual", "bf16", (2, 4, 6), "frame-major"),
        ArraySpec("layer5.visual", "bf16", (2, 5, 6), "frame-major, cls first in frame"),
        ArraySpec("seconds", "float64", (2,)),
    )
    assert parts(root / "derived" / "pooled") == parts(root)
    for i in range(3):
        values = tokens(i).arrays["layer3.visual"]
        cells = [[values[:, 8 * r + 2 * c + k] for k in (0, 1, 4, 5)] for r in (0, 1) for c in (0, 1)]
        mean = np.stack([sum(cell) / 4 for cell in cells], axis=1)
        np.testing.assert_allclose(derived.read(tokens(i).key, "layer3.visual"), mean, rtol=2**-8, atol=1e-6)
        cls = as_stored(as_stored(tokens(i).arrays["layer5.visual"], TOKENS[1])[:, 0], derived.kinds["video"][1])
        np.testing.assert_array_equal(derived.read(tokens(i).key, "layer5.visual")[:, 0], cls)
        np.testing.assert_array_equal(derived.read(tokens(i).key, "seconds"), [i, i + 0.5])
    assert derived.recipe.fields["parameters"] == {"pool": "2x2", "dtype": "bf16", "arrays": arrays}
    # Below derived/ the labels are those of the parent, also when these are corrected.
    assert load(derived.root).labels() == ["x"]
    write_annotations(root, "default", Annotations((Annotation("v0.mp4", "y"),)))
    assert load(derived.root).labels() == ["y"]
    assert inspect(root, QUIET).derived == ("pooled",)


def test_it_grows_with_its_parent_and_follows_replacements(tmp_path: Path) -> None:
    root = fill(tmp_path / "s", (0, 1), (2,))
    reduction = Reduction(pool="mean")
    arrays = ["layer3.visual"]

    def run() -> tuple[int, int, int, int]:
        done = materialize(root, reduction, QUIET, name="mean", arrays=arrays)
        return done.added, done.replaced, done.present, done.orphans

    assert run() == (3, 0, 0, 0)
    before = parts(root / "derived" / "mean")
    assert run() == (0, 0, 3, 0)
    assert parts(root / "derived" / "mean") == before
    fill(root, (3,), (4, 5))
    assert run() == (3, 0, 3, 0)
    assert parts(root / "derived" / "mean") == [*before, ["v3.mp4"], ["v4.mp4", "v5.mp4"]]
    compact(root, QUIET)
    assert run() == (0, 0, 6, 0)
    with StoreWriter(root, RECIPE) as writer:
        writer.delete([tokens(1).key, tokens(2).key])
        writer.add(Record(tokens(1).key, tokens(9).arrays))
    assert run() == (0, 1, 4, 1)
    derived = open_store(root / "derived" / "mean")
    for i, source in ((0, 0), (1, 9), (3, 3)):
        mean = tokens(source).arrays["layer3.visual"].sum(axis=1) / 16
        np.testing.assert_allclose(derived.read(tokens(i).key, "layer3.visual"), mean, rtol=1e-5, atol=1e-6)
    assert run() == (0, 0, 5, 1)


def test_killed_and_run_again_it_is_the_same(tmp_path: Path, killer: Callable[..., None]) -> None:
    root = fill(tmp_path / "pristine", (0, 1), (2,))
    reduction = Reduction(pool="2x2", project="pca:3")

    def act(root: Path) -> None:
        materialize(root, reduction, QUIET, name="small", arrays=["layer3.visual"])

    digests = set()

    def require(root: Path) -> None:
        act(root)
        assert verify(root / "derived" / "small", QUIET).ok
        assert parts(root / "derived" / "small") == [["v0.mp4", "v1.mp4"], ["v2.mp4"]]
        digests.add(open_store(root / "derived" / "small").digest)

    killer(root, tmp_path, lambda root: None, act, require)
    assert len(digests) == 1


# ---- projections


def slow_pca(rows: Values, d: int, mean: bool = True) -> tuple[Values, float]:
    """The projector onto the leading subspace, and the share of variance (about zero without `mean`) it keeps."""
    _, sizes, vectors = np.linalg.svd(rows - rows.mean(axis=0) * mean, full_matrices=False)
    return vectors[:d].T @ vectors[:d], float(np.square(sizes[:d]).sum() / np.square(sizes).sum())


@pytest.mark.parametrize("mean", [False, True])
def test_a_projection_is_fitted_once_on_the_first_names_by_hash(tmp_path: Path, mean: bool) -> None:
    root = fill(tmp_path / "s", (0, 1, 2), (3, 4))
    reduction = Reduction(project="pca:2", fit_records=3, project_mean=mean)
    done = materialize(root, reduction, QUIET, name="pca", arrays=["layer3.visual"])
    names = sorted((f"v{i}.mp4" for i in range(5)), key=lambda name: hashlib.sha256(name.encode()).hexdigest())[:3]
    rows = np.concatenate([tokens(int(name[1])).arrays["layer3.visual"].reshape(-1, 6) for name in names])
    projector, explained = slow_pca(rows.astype(np.float64), 2, mean)
    assert done.explained["layer3.visual"] == pytest.approx(explained, rel=1e-5)
    reader = open_store(root / "derived" / "pca")
    assert reader.spec("video", "layer3.visual") == ArraySpec("layer3.visual", "fp32", (2, 16, 2), "frame-major")
    centred = tokens(4).arrays["layer3.visual"].reshape(-1, 6) - rows.mean(axis=0) * mean
    got = reader.read(tokens(4).key, "layer3.visual").reshape(-1, 2)
    # Distances within the subspace do not depend on the signs or the rotation of the basis.
    np.testing.assert_allclose(got @ got.T, centred @ projector @ centred.T, rtol=1e-3, atol=1e-4)
    assert inspect(root / "derived" / "pca", QUIET).projections == ("layer3.visual",)

    # More records later: the projection stays, and so does the recipe.
    digest = reader.recipe.digest
    fill(root, (5, 6))
    assert materialize(root, reduction, QUIET, name="pca", arrays=["layer3.visual"]).added == 2
    assert open_store(root / "derived" / "pca").recipe.digest == digest
    np.testing.assert_array_equal(
        open_store(root / "derived" / "pca").read(tokens(4).key, "layer3.visual").reshape(-1, 2), got
    )


def two_towers(root: Path, count: int = 40) -> Path:
    """Frames and class texts of one space, and two records that hold one vector."""
    vectors = np.random.default_rng(7).normal(size=(count, 6)).astype(np.float32) + 3
    with StoreWriter(root, RECIPE) as writer:
        writer.declare("video", (ArraySpec("frames", "fp32", (2, 6)), ArraySpec("layer1.visual", "fp32", (2, 6))))
        writer.declare("text", (ArraySpec("embedding", "fp32", (6,)),))
        for i, vector in enumerate(vectors):
            arrays = {"frames": np.stack([vector, vector]), "layer1.visual": np.stack([vector, vector[::-1]])}
            writer.add(Record(Key("video", f"v{i}"), arrays))
            writer.add(Record(Key("text", f"t{i}"), {"embedding": vector}))
    return root


def test_frames_and_texts_of_one_space_get_one_basis(tmp_path: Path) -> None:
    root = two_towers(tmp_path / "s")
    materialize(root, Reduction(project="pca:3"), QUIET, name="small")
    reader = open_store(root / "derived" / "small")
    for i in range(40):
        np.testing.assert_array_equal(
            reader.read(Key("video", f"v{i}"), "frames")[0], reader.read(Key("text", f"t{i}"), "embedding")
        )
    parameters = cast("dict[str, Any]", reader.recipe.fields["parameters"])
    assert parameters["one_basis"] == [["embedding", "frames"]]
    assert (parameters["mean"], parameters["fitted_on"]) == ("none", "all")
    frames, embedding = reader.spec("video", "frames"), reader.spec("text", "embedding")
    assert same_projection(reader.root, frames, embedding)
    assert not same_projection(reader.root, reader.spec("video", "layer1.visual"), embedding)


def test_a_pca_is_fitted_on_training_videos_where_they_are_known(tmp_path: Path) -> None:
    root = two_towers(tmp_path / "s")
    rows = [Annotation(f"v{i}", "x", "train" if i % 2 else "test") for i in range(40)]
    write_annotations(root, "default", Annotations(tuple(rows)))
    done = materialize(root, Reduction(project="pca:2"), QUIET, name="x", arrays=["frames"])
    keys = [Key("video", row.name) for row in rows if row.split == "train"]
    trained = np.concatenate([open_store(root).read(key, "frames") for key in keys])
    _, explained = slow_pca(trained.astype(np.float64), 2, mean=False)
    assert done.explained["frames"] == pytest.approx(explained, rel=1e-5)
    recipe = open_store(root / "derived" / "x").recipe
    assert cast("dict[str, Any]", recipe.fields["parameters"])["fitted_on"] == "train"
    # What was fitted stays, whatever the splits are now.
    write_annotations(root, "default", Annotations(tuple(replace(row, split="") for row in rows)))
    with pytest.raises(BadInput, match=r"fitted on training videos, and no video of .* has the split train"):
        materialize(root, Reduction(project="pca:2", project_fit="train"), QUIET, name="y", arrays=["frames"])
    with pytest.raises(RecipeMismatch, match=r'fitted_on: "train" there, "all" asked'):
        materialize(root, Reduction(project="pca:2", project_fit="all"), QUIET, name="x", arrays=["frames"])


def test_a_store_of_version_0_1_keeps_its_projections_and_its_recipe(tmp_path: Path) -> None:
    root = two_towers(tmp_path / "s")
    materialize(root, Reduction(project="pca:3", project_fit="0.1"), QUIET, name="old")
    old = open_store(root / "derived" / "old")
    assert cast("dict[str, Any]", old.recipe.fields["parameters"]).keys() == {
        "arrays",
        "fit_records",
        "project",
        "seed",
    }
    with StoreWriter(root, RECIPE) as writer:
        writer.add(Record(Key("text", "more"), {"embedding": np.ones(6, np.float32)}))
    assert materialize(root, Reduction(project="pca:3"), QUIET, name="old").added == 1
    assert open_store(root / "derived" / "old").recipe.digest == old.recipe.digest


def test_two_fits_on_other_data_do_not_mix(tmp_path: Path) -> None:
    one, two = fill(tmp_path / "one", (0, 1)), fill(tmp_path / "two", (2, 3))
    for root in (one, two):
        materialize(root, Reduction(project="pca:2"), QUIET, out=root.with_suffix(".pca"), arrays=["frames"])
    with pytest.raises(RecipeMismatch, match=r"projection\.frames"):
        merge([one.with_suffix(".pca"), two.with_suffix(".pca")], tmp_path / "both", QUIET)
    # A random projection is the same everywhere.
    for root in (one, two):
        materialize(root, Reduction(project="random:2"), QUIET, out=root.with_suffix(".random"), arrays=["frames"])
    assert merge([one.with_suffix(".random"), two.with_suffix(".random")], tmp_path / "all", QUIET).records == 4


def test_what_cannot_be_materialized(tmp_path: Path) -> None:
    root = fill(tmp_path / "s", (0, 1))
    with pytest.raises(BadInput, match=r"'frames' cannot be pooled with '2x2'"):
        materialize(root, Reduction(pool="2x2"), QUIET, name="x")
    with pytest.raises(BadInput, match=r"materialize needs either a name or an --out"):
        materialize(root, Reduction(), QUIET)
    with pytest.raises(BadInput, match=r"'\.\./x' cannot name a derived store"):
        materialize(root, Reduction(), QUIET, name="../x")
    with pytest.raises(BadInput, match=r"A pca:5 cannot be fitted on 2 rows"):
        materialize(root, Reduction(project="pca:5", fit_records=1), QUIET, name="x", arrays=["frames"])
    assert not (root / "derived" / "x").exists()
    materialize(root, Reduction(pool="mean"), QUIET, name="x", arrays=["frames"])
    with pytest.raises(RecipeMismatch, match=r"derived/x was made .* parameters\.pool: \"mean\" there, null asked"):
        materialize(root, Reduction(), QUIET, name="x", arrays=["frames"])
    materialize(root, Reduction(project="pca:2"), QUIET, name="y", arrays=["frames"])
    with pytest.raises(BadInput, match=r"projection of 'frames' in .*y is pca:2 of 6 dimensions; pca:3 of 6 was asked"):
        materialize(root, Reduction(project="pca:3"), QUIET, name="y", arrays=["frames"])


def test_damage_in_the_parent_is_not_passed_on(tmp_path: Path) -> None:
    root = fill(tmp_path / "s", (0,), (1,))
    part = next(p for p in (root / "parts").iterdir() if p.is_dir() and b"v1.mp4" in (p / "records/c.0").read_bytes())
    data = bytearray((part / "frames" / "c.0.0.0").read_bytes())
    data[3] ^= 16
    (part / "frames" / "c.0.0.0").write_bytes(data)
    with pytest.raises(Damaged, match=r"'frames' of video 'v1\.mp4'"):
        materialize(root, Reduction(pool="mean"), QUIET, name="x", arrays=["frames"])
    assert [key.name for key in open_store(root / "derived" / "x").keys("video")] == ["v0.mp4"]


def test_ragged_grids(tmp_path: Path) -> None:
    specs = (ArraySpec("l.visual", "fp16", (None, 4), "ragged grid"), ArraySpec("visual.grid", "int64", (3,)))
    with StoreWriter(tmp_path / "s", RECIPE) as writer:
        writer.declare("video", specs)
        for i, grid in enumerate(((2, 4, 4), (1, 2, 6), (3, 1, 9))):
            rows = np.random.default_rng(i).normal(size=(int(np.prod(grid)), 4)).astype(np.float32)
            writer.add(Record(Key("video", f"{i}"), {"l.visual": rows, "visual.grid": np.array(grid)}))
    done = materialize(tmp_path / "s", Reduction(pool="2x2"), QUIET, name="x")
    assert done.added == 2
    assert done.rejected[0][0] == "2"
    assert "1x9 tokens per frame" in done.rejected[0][1]
    reader = open_store(tmp_path / "s" / "derived" / "x")
    assert reader.read(Key("video", "0"), "l.visual").shape == (8, 4)
    assert reader.read(Key("video", "1"), "visual.grid").tolist() == [1, 2, 2]


def test_made_arrays_are_those_of_the_record(tmp_path: Path) -> None:
    """Without pooling or projection a materialized array is the array."""
    with StoreWriter(tmp_path / "s", RECIPE) as writer:
        writer.declare("video", VIDEO)
        writer.add(record(3))
    done = materialize(tmp_path / "s", Reduction(dtype="fp32"), QUIET, name="x", arrays=["layer3.text", "single"])
    reader = open_store(Path(done.path))
    assert {spec.name for spec in reader.kinds["video"]} == {"layer3.text", "single", "text.ids", "seconds"}
    np.testing.assert_array_equal(
        reader.read(record(3).key, "layer3.text"), as_stored(made(3)["layer3.text"], VIDEO[1])
    )
    assert json.loads(json.dumps(done.to_json()))["kinds"]["video"][0]["name"] == "layer3.text"


def test_no_projection_is_left_where_the_records_may_not_go(tmp_path: Path) -> None:
    root, other = fill(tmp_path / "s", (0, 1)), fill(tmp_path / "other", (2,))
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    for out, error in ((other, RecipeMismatch), (tmp_path / "photos", NotAStore)):
        before = sorted(out.rglob("*"))
        with pytest.raises(error):
            materialize(root, Reduction(project="random:2"), QUIET, out=out, arrays=["frames"])
        assert sorted(out.rglob("*")) == before


def test_a_replaced_record_that_cannot_be_made_is_rejected_and_counted_as_nothing_else(tmp_path: Path) -> None:
    def add(value: float) -> None:
        with StoreWriter(tmp_path / "s", RECIPE) as writer:
            writer.declare("text", TEXT)
            writer.delete([key for key in [Key("text", "a")] if key in writer])
            writer.add(Record(Key("text", "a"), {"embedding": np.full(7, value, np.float32)}))

    counts = []
    for value in (1.0, 2.0, 1e6, 3.0):
        add(value)
        done = convert(tmp_path / "s", tmp_path / "out", "fp16", QUIET)
        counts.append((done.added, done.replaced, done.present, len(done.rejected)))
    assert counts == [(1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 0, 1), (1, 0, 0, 0)]


class Heard(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def labelled(label: str) -> Annotations:
    return Annotations((Annotation("v0.mp4", label),))


@pytest.mark.parametrize("below", [True, False])
def test_annotations_follow_the_parent_until_they_are_changed(tmp_path: Path, below: bool) -> None:
    root, heard = fill(tmp_path / "s", (0, 1)), Heard()
    target = root / "derived" / "x" if below else tmp_path / "out"
    where: dict[str, Any] = {"name": "x"} if below else {"out": target}

    def again() -> None:
        heard.lines.clear()
        materialize(root, Reduction(pool="mean"), heard, arrays=["frames"], **where)

    write_annotations(root, "default", labelled("first"))
    again()
    write_annotations(root, "default", labelled("corrected"))
    assert load(target, say=heard.say) == labelled("corrected")
    again()
    assert load(target, say=heard.say) == labelled("corrected")
    # A label that was corrected in the derived store stays, and it is said which count.
    write_annotations(target, "default", labelled("own"))
    again()
    assert load(target, say=heard.say) == labelled("own")
    assert f"Annotations 'default' of {target} are used; those of {root} differ." in heard.lines
    if not below:
        assert any(f"of {target} were changed there and stay" in line for line in heard.lines)
    assert verify(target, QUIET).ok


def test_a_derived_store_whose_parent_is_gone_uses_its_copy(tmp_path: Path) -> None:
    root = fill(tmp_path / "s", (0, 1))
    write_annotations(root, "default", labelled("first"))
    materialize(root, Reduction(pool="mean"), QUIET, arrays=["frames"], out=tmp_path / "out")
    root.rename(tmp_path / "moved")
    assert load(tmp_path / "out") == labelled("first")
