import math
from itertools import product

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfc.cache_schema.reduction.pooling import pool_values, pooled_spec
from vfc.cache_schema.reduction.reduce import Reduction, reduce_record, reduced_spec
from vfc.cache_schema.values.errors import BadInput, RecordRejected
from vfc.cache_schema.values.record import ArraySpec

Values = npt.NDArray[np.float32]


def some(*shape: int, seed: int = 0) -> Values:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def slow_cells(frame: Values, rows: int, columns: int, out_rows: int, out_columns: int) -> Values:
    """One frame `[H*W, D]`, every token visited for every cell."""
    cells = []
    for r, c in product(range(out_rows), range(out_columns)):
        top, bottom = math.floor(r * rows / out_rows), math.ceil((r + 1) * rows / out_rows)
        left, right = math.floor(c * columns / out_columns), math.ceil((c + 1) * columns / out_columns)
        total = np.zeros(frame.shape[1])
        for y, x in product(range(top, bottom), range(left, right)):
            total += frame[y * columns + x]
        cells.append(total / ((bottom - top) * (right - left)))
    return np.array(cells, np.float32)


sizes = st.integers(1, 7)


@given(st.integers(1, 3), sizes, sizes, st.data(), st.sampled_from((0, 1, 5)))
def test_a_grid_is_the_mean_of_its_cells(frames: int, rows: int, columns: int, data: st.DataObject, cls: int) -> None:
    out_rows, out_columns = data.draw(st.integers(1, rows)), data.draw(st.integers(1, columns))
    values = some(frames, rows * columns + cls, 3)
    words = {0: "", 1: ", cls first in frame", 5: ", cls and 4 more first in frame"}
    layout = f"frame-major{words[cls]}"
    spec = ArraySpec("layer1.visual", "fp32", values.shape, layout)
    pool, grid = f"{out_rows}x{out_columns}", f"{rows}x{columns}"
    got = pool_values(values, spec, pool, grid)
    wanted = np.stack([slow_cells(frame[cls:], rows, columns, out_rows, out_columns) for frame in values])
    if cls:
        np.testing.assert_array_equal(got[:, :cls], values[:, :cls])
    np.testing.assert_allclose(got[:, cls:], wanted, rtol=1e-5, atol=1e-6)
    after = pooled_spec(spec, pool, grid)
    assert after == ArraySpec("layer1.visual", "fp32", got.shape, layout)
    assert got.dtype == np.float32
    # The same tokens, laid out raggedly with their grid beside them.
    if not cls:
        flat = ArraySpec("layer1.visual", "fp32", (None, 3), "ragged grid")
        ragged = pool_values(values.reshape(-1, 3), flat, pool, "", (frames, rows, columns))
        np.testing.assert_array_equal(ragged, got.reshape(-1, 3))
        assert pooled_spec(flat, pool) == flat


@given(st.integers(1, 3), sizes, sizes, st.data(), st.booleans())
def test_patches_behind_one_class_token_are_pooled_frame_by_frame(
    frames: int, rows: int, columns: int, data: st.DataObject, ragged: bool
) -> None:
    cells = (data.draw(st.integers(1, rows)), data.draw(st.integers(1, columns)))
    pool = data.draw(st.sampled_from(("mean", f"{cells[0]}x{cells[1]}")))
    out = (1, 1) if pool == "mean" else cells
    values = some(1 + rows * columns * frames, 3)
    stated = "" if ragged else f", frames {frames}"
    shape = (None if ragged else len(values), 3)
    spec = ArraySpec("layer1.visual", "fp32", shape, f"cls first, patch-major, grid {rows}x{columns}{stated}")
    got = pool_values(values, spec, pool)
    wanted = [values[0]]
    by_frame = [
        slow_cells(np.stack([values[1 + n * frames + t] for n in range(rows * columns)]), rows, columns, *out)
        for t in range(frames)
    ]
    wanted += [by_frame[t][cell] for cell in range(out[0] * out[1]) for t in range(frames)]
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)
    assert got.dtype == np.float32
    after = pooled_spec(spec, pool)
    assert after.layout == f"cls first, patch-major, grid {out[0]}x{out[1]}{stated}"
    assert after.shape == ((None, 3) if ragged else got.shape)
    np.testing.assert_allclose(pool_values(got, after, pool), got)


@given(st.integers(1, 3), sizes, sizes)
def test_pooling_onto_its_own_grid_changes_nothing(frames: int, rows: int, columns: int) -> None:
    values = some(frames, rows * columns, 2)
    spec = ArraySpec("x", "fp32", values.shape, "frame-major")
    np.testing.assert_array_equal(pool_values(values, spec, f"{rows}x{columns}", f"{rows}x{columns}"), values)


def test_hand_worked_cells() -> None:
    # 3x3 tokens 0..8 onto 2x2: rows 0-1 and 1-2 overlap in the middle.
    values = np.arange(9, dtype=np.float32).reshape(1, 9, 1)
    spec = ArraySpec("x", "fp32", (1, 9, 1), "frame-major")
    np.testing.assert_array_equal(pool_values(values, spec, "2x2")[0, :, 0], [2, 3, 5, 6])
    np.testing.assert_array_equal(pool_values(values, spec, "1x3")[0, :, 0], [3, 4, 5])


def test_mean() -> None:
    tokens, cls = some(4, 9, 5), some(4, 1, 5, seed=1)
    spec = ArraySpec("x", "bf16", (4, 9, 5), "frame-major")
    got = pool_values(tokens, spec, "mean")
    np.testing.assert_allclose(got, [np.stack(list(frame)).sum(axis=0) / 9 for frame in tokens], rtol=1e-5, atol=1e-6)
    assert pooled_spec(spec, "mean") == ArraySpec("x", "bf16", (4, 5), "frame-major")

    spec = ArraySpec("x", "fp32", (4, 10, 5), "frame-major, cls first in frame")
    with_cls = pool_values(np.concatenate([cls, tokens], axis=1), spec, "mean")
    np.testing.assert_array_equal(with_cls[:, 0], cls[:, 0])
    np.testing.assert_array_equal(with_cls[:, 1], got)
    assert pooled_spec(spec, "mean").shape == (4, 2, 5)

    registers = ArraySpec("x", "fp32", (4, 14, 5), "frame-major, cls and 4 more first in frame, grid 3x3")
    leading = some(4, 5, 5, seed=2)
    with_registers = pool_values(np.concatenate([leading, tokens], axis=1), registers, "mean")
    np.testing.assert_array_equal(with_registers, np.concatenate([leading, got[:, None]], axis=1))
    after = ArraySpec("x", "fp32", (4, 6, 5), "frame-major, cls and 4 more first in frame")
    assert pooled_spec(registers, "mean") == after

    flat = ArraySpec("x", "fp32", (None, 5), "ragged grid")
    np.testing.assert_array_equal(pool_values(tokens.reshape(-1, 5), flat, "mean", "", (4, 3, 3)), got)

    for spec in (ArraySpec("frames", "fp32", (4, 5)), ArraySpec("text", "fp32", (None, 5))):
        np.testing.assert_allclose(pool_values(got, spec, "mean"), got.sum(axis=0) / 4, rtol=1e-5, atol=1e-6)
        assert pooled_spec(spec, "mean") == ArraySpec(spec.name, "fp32", (5,))


@pytest.mark.parametrize(
    ("spec", "pool", "told"),
    [
        (
            ArraySpec("embedding", "fp32", (8,)),
            "mean",
            r"'embedding' cannot be pooled with 'mean': its layout is '' with 1",
        ),
        (
            ArraySpec("text", "fp32", (None, 8)),
            "2x2",
            r"'text' cannot be pooled with '2x2': its layout is '' with 2 axes",
        ),
        (
            ArraySpec("tokens", "fp32", (33, 8), "cls first, patch-major"),
            "mean",
            r"'tokens' cannot .*'cls first, patch-major'",
        ),
        (
            ArraySpec("tokens", "fp32", (34, 8), "cls first, patch-major, grid 4x4, frames 2"),
            "2x2",
            r"'tokens' has 34 tokens, which is no class token and frames of 16",
        ),
        (
            ArraySpec("tokens", "fp32", (33, 8), "cls first, patch-major, grid 4x4, frames 2"),
            "5x2",
            r"'tokens' cannot be pooled with '5x2': its frames have 4x4 tokens",
        ),
        (ArraySpec("maps", "fp32", (2, 9, 8), "whatever"), "mean", r"'maps' cannot be pooled .*'whatever' with 3 axes"),
        (
            ArraySpec("v", "fp32", (2, 9, 8), "frame-major"),
            "4x2",
            r"'v' cannot be pooled with '4x2': its frames have 3x3",
        ),
        (ArraySpec("v", "fp32", (2, 10, 8), "frame-major"), "2x2", r"'v' has 10 tokens per frame, which is no square"),
        (ArraySpec("v", "fp32", (2, 9, 8), "frame-major, cls first in frame"), "2x2", r"'v' has 8 tokens per frame"),
    ],
)
def test_what_cannot_be_pooled_is_named(spec: ArraySpec, pool: str, told: str) -> None:
    with pytest.raises(BadInput, match=told):
        pooled_spec(spec, pool)


def test_records_that_cannot_be_pooled() -> None:
    flat = ArraySpec("v", "fp32", (None, 2), "ragged grid")
    with pytest.raises(RecordRejected, match=r"'v' of this record has 1x6 tokens per frame; --pool 2x2 needs as many"):
        pool_values(some(6, 2), flat, "2x2", "", (1, 1, 6))
    with pytest.raises(RecordRejected, match=r"'v' of this record has 6 rows, not those of its grid \[2, 2, 2\]"):
        pool_values(some(6, 2), flat, "2x2", "", (2, 2, 2))
    with pytest.raises(RecordRejected, match=r"'text' of this record has no rows"):
        pool_values(some(0, 2), ArraySpec("text", "fp32", (None, 2)), "mean")
    with pytest.raises(BadInput, match=r"'v' has the layout 'ragged grid' but no 'v\.grid' beside it"):
        reduce_record({"v": some(6, 2)}, [flat], Reduction(pool="2x2"))


def test_misspelt_ways() -> None:
    for pool in ("4", "4x", "x4", "0x4", "4x4x4", "max"):
        with pytest.raises(BadInput, match=rf"--pool '{pool}' is no grid\.\nGive rows x columns, .* or `mean`"):
            Reduction(pool=pool)
    with pytest.raises(BadInput, match=r"--grid 'mean' is no grid"):
        Reduction(grid="mean")
    with pytest.raises(BadInput, match=r"--project 'pca' is no projection\.\nGive pca:<dimensions>"):
        Reduction(project="pca")
    with pytest.raises(BadInput, match=r"'v' has 9 tokens per frame, which is no grid of 2x4"):
        pooled_spec(ArraySpec("v", "fp32", (1, 9, 2), "frame-major"), "2x2", "2x4")


def test_a_record_keeps_its_side_arrays_and_tells_its_new_grid() -> None:
    specs = [
        ArraySpec("layer3.visual", "fp16", (None, 2), "ragged grid"),
        ArraySpec("visual.grid", "int64", (3,)),
        ArraySpec("visual.seconds", "float64", (None,)),
    ]
    arrays = {
        "layer3.visual": some(2 * 4 * 6, 2),
        "visual.grid": np.array([2, 4, 6]),
        "visual.seconds": np.array([0.5, 1.5]),
        "not.wanted": np.zeros(3),
    }
    got = reduce_record(arrays, specs, Reduction(pool="2x3"))
    assert got.keys() == {"layer3.visual", "visual.grid", "visual.seconds"}
    np.testing.assert_array_equal(got["visual.grid"], [2, 2, 3])
    assert got["visual.grid"].dtype == np.int64
    assert got["layer3.visual"].shape == (12, 2)
    np.testing.assert_array_equal(got["visual.seconds"], [0.5, 1.5])
    np.testing.assert_array_equal(reduce_record(arrays, specs, Reduction(pool="mean"))["visual.grid"], [2, 1, 1])
    np.testing.assert_array_equal(reduce_record(arrays, specs, Reduction(dtype="fp32"))["visual.grid"], [2, 4, 6])


def test_specs_after_all_three_steps() -> None:
    spec = ArraySpec("v", "fp16", (8, 16, 64), "frame-major")
    assert reduced_spec(spec, Reduction("2x2", project="pca:10", dtype="int8")) == ArraySpec(
        "v", "int8", (8, 4, 10), "frame-major"
    )
    assert reduced_spec(spec, Reduction()) == spec
    with pytest.raises(BadInput, match=r"'v' has 64 dimensions; 'pca:65' asks for 65"):
        reduced_spec(spec, Reduction(project="pca:65"))
    with pytest.raises(
        BadInput, match=r"'v' would have 8 rows per record; int8 keeps a scale per channel and needs 32"
    ):
        reduced_spec(spec, Reduction(pool="mean", dtype="int8"))
    assert Reduction("2x2", dtype="int8").to_json() == {"pool": "2x2", "dtype": "int8"}
    assert Reduction(project="pca:3").to_json() == {"project": "pca:3", "fit_records": 256, "seed": 0}


def test_a_layout_that_states_its_grid_is_read_and_rewritten() -> None:
    values = np.arange(2 * 7 * 3, dtype=np.float32).reshape(2, 7, 3)
    spec = ArraySpec("layer1.visual", "fp32", values.shape, "frame-major, cls first in frame, grid 2x3")
    after = pooled_spec(spec, "1x3")
    assert (after.shape, after.layout) == ((2, 4, 3), "frame-major, cls first in frame, grid 1x3")
    got = pool_values(values, spec, "1x3")
    assert np.array_equal(got[:, 0], values[:, 0])
    assert np.array_equal(got[:, 1:], (values[:, 1:4] + values[:, 4:]) / 2)
    assert pooled_spec(spec, "mean").layout == "frame-major, cls first in frame"


def test_projections_fitted_on_nothing_or_with_no_seed_are_refused() -> None:
    for wrong in ({"fit_records": 0}, {"fit_records": -1}, {"seed": -1}):
        with pytest.raises(BadInput, match=r"on -?\d+ records with the seed -?\d+\.\nGive --fit-records"):
            Reduction(project="random:2", **wrong)  # type: ignore[arg-type]
