"""Encoding and decoding against torch, against slow loops and against known bit patterns."""

from __future__ import annotations

import math
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vfc.cache_schema import ArraySpec, BadInput, RecordRejected
from vfc.cache_schema.values.dtypes import decode, encode, fill_value, record_bytes, stored_arrays, stored_dtype

DTYPES = ["fp32", "fp16", "bf16", "int8", "float64", "int64", "int32", "uint8"]


def heavy_tailed(rows: int, width: int, seed: int = 0) -> np.ndarray[Any, Any]:
    """Like the residual stream of a language model: channels of very different size, a few forty times larger."""
    rng = np.random.default_rng(seed)
    channels = rng.lognormal(0, 1, width)
    channels[rng.choice(width, 3, replace=False)] *= 40
    norms = rng.lognormal(0, 0.3, (rows, 1))
    return (rng.normal(size=(rows, width)) * channels * norms).astype(np.float32)


@pytest.mark.parametrize(("dtype", "bits"), [("fp32", 32), ("fp16", 16), ("bf16", 16), ("int8", 8), ("float64", 64)])
def test_dtypes_lie_little_endian_on_disk(dtype: Any, bits: int) -> None:
    assert stored_dtype(dtype).itemsize * 8 == bits
    assert stored_dtype(dtype).newbyteorder("<") == stored_dtype(dtype)


def test_fill_values_cannot_pass_for_data() -> None:
    assert all(math.isnan(fill_value(dtype)) for dtype in ("fp32", "fp16", "float64"))
    assert fill_value("bf16") == 0x7FC0
    assert math.isnan(torch.tensor(0x7FC0, dtype=torch.int16).view(torch.bfloat16).item())
    assert fill_value("int8") == -128
    assert {fill_value(dtype) for dtype in ("int64", "int32", "uint8")} == {0}


FLOATS = hnp.arrays(np.float32, hnp.array_shapes(min_dims=1, max_dims=3, max_side=6), elements=st.floats(width=32))


@given(FLOATS)
def test_bf16_bits_are_those_of_torch(values: np.ndarray[Any, Any]) -> None:
    spec = ArraySpec("x", "bf16", values.shape)
    expected = torch.from_numpy(values).to(torch.bfloat16)
    if not torch.isfinite(expected).all():
        with pytest.raises(RecordRejected):
            encode(values, spec)
        return
    stored, scale = encode(values, spec)
    assert scale is None
    np.testing.assert_array_equal(stored, expected.view(torch.int16).numpy().view(np.uint16))
    np.testing.assert_array_equal(decode(stored, "bf16"), expected.float().numpy())


@given(FLOATS)
def test_fp16_is_that_of_torch_or_rejected(values: np.ndarray[Any, Any]) -> None:
    spec = ArraySpec("x", "fp16", values.shape)
    expected = torch.from_numpy(values).to(torch.float16)
    if not torch.isfinite(expected).all():
        with pytest.raises(RecordRejected):
            encode(values, spec)
        return
    stored, _ = encode(values, spec)
    np.testing.assert_array_equal(stored.view(np.uint16), expected.numpy().view(np.uint16))
    np.testing.assert_array_equal(decode(stored, "fp16"), expected.float().numpy())


@given(FLOATS)
def test_fp32_is_kept_bit_for_bit_or_rejected(values: np.ndarray[Any, Any]) -> None:
    spec = ArraySpec("x", "fp32", values.shape)
    if not np.isfinite(values).all():
        with pytest.raises(RecordRejected, match=r"'x' holds NaN or Inf"):
            encode(values, spec)
        return
    stored, _ = encode(values, spec)
    np.testing.assert_array_equal(stored.view(np.uint32), values.view(np.uint32))
    np.testing.assert_array_equal(decode(stored, "fp32").view(np.uint32), values.view(np.uint32))


@pytest.mark.parametrize("bits", [0x7C00, 0xFC00, 0x7C01, 0xFFFF, 0x7FFF, 0xFC01])
def test_every_kind_of_nan_and_inf_is_seen_in_halves(bits: int) -> None:
    values = np.full(1 << 19, 0x7BFF, np.uint16)  # the largest finite half; longer than one piece of the check
    values[1::2] = 0xFBFF
    spec = ArraySpec("x", "fp16", (1 << 19,))
    encode(values.view(np.float16), spec)
    for place in (0, 1 << 18, (1 << 19) - 1):
        bad = values.copy()
        bad[place] = bits
        with pytest.raises(RecordRejected, match=r"holds NaN or Inf.\nThe model overflowed|holds Inf: it reaches"):
            encode(bad.view(np.float16), spec)


@pytest.mark.parametrize("bits", [0x7F80, 0xFF80, 0x7FC0, 0xFFFF])
def test_bf16_bit_patterns_are_taken_as_they_are_but_checked(bits: int) -> None:
    spec = ArraySpec("x", "bf16", (3,))
    values = np.array([0x3F80, 0x7F7F, 0xFF7F], np.uint16)
    np.testing.assert_array_equal(encode(values, spec)[0], values)
    with pytest.raises(RecordRejected, match=r"holds NaN or Inf"):
        encode(np.array([0x3F80, bits, 0], np.uint16), spec)


def test_overflow_names_the_dtype_that_would_hold_it() -> None:
    with pytest.raises(RecordRejected, match=r"reaches 65520, beyond the 65504 of fp16.\nStore it with --dtype bf16"):
        encode(np.array([1, -65520], np.float32), ArraySpec("x", "fp16", (2,)))
    encode(np.array([65519], np.float32), ArraySpec("x", "fp16", (1,)))  # rounds to 65504
    with pytest.raises(RecordRejected, match=r"beyond the 3.39e38 of bf16.\nStore it with --dtype fp32"):
        encode(np.array([3.4e38], np.float32), ArraySpec("x", "bf16", (1,)))
    # Features that come as fp16 were cast on the device, where what does not fit becomes Inf.
    with pytest.raises(RecordRejected, match=r"beyond the 65504 of fp16, or .*\nStore it with --dtype bf16"):
        encode(np.array([1, np.inf], np.float16), ArraySpec("x", "fp16", (2,)))


def test_int8_error_on_heavy_tailed_activations() -> None:
    values = heavy_tailed(2048, 512)
    stored, scale = encode(values.reshape(8, 256, 512), ArraySpec("x", "int8", (8, 256, 512)))
    assert scale is not None
    assert stored.dtype == np.int8
    assert scale.shape == (512,)
    assert scale.dtype == np.float32
    assert np.abs(stored.astype(int)).max() == 127
    error = np.linalg.norm(decode(stored, "int8", scale).reshape(2048, 512) - values) / np.linalg.norm(values)
    assert 0.007 < error < 0.015  # measured on such data: 1.1e-2


@given(st.integers(0, 2**32 - 1))
def test_int8_is_within_half_a_step_per_channel(seed: int) -> None:
    values = heavy_tailed(40, 8, seed)
    stored, scale = encode(values, ArraySpec("x", "int8", (None, 8)))
    assert scale is not None
    np.testing.assert_allclose(scale, np.abs(values).max(axis=0) / 127, rtol=1e-6)
    assert (np.abs(decode(stored, "int8", scale) - values) <= scale * 0.5001).all()


def test_int8_channels_without_a_scale_are_zero() -> None:
    values = np.zeros((32, 3), np.float32)
    values[:, 1] = 1e-45  # the smallest float32: its scale underflows
    values[5, 2] = -127
    stored, scale = encode(values, ArraySpec("x", "int8", (32, 3)))
    np.testing.assert_array_equal(stored, np.where(values == -127, -127, 0))
    np.testing.assert_array_equal(decode(stored, "int8", scale), np.where(values == -127, -127, 0))


@pytest.mark.parametrize(("shape", "rows"), [((31, 4), 31), ((4, 7, 2), 28), ((5,), 1), ((), 1), ((0,), 1)])
def test_int8_refuses_few_rows(shape: tuple[int, ...], rows: int) -> None:
    with pytest.raises(RecordRejected, match=f"has {rows} rows; int8, a scale per channel, needs 32.\nStore it with"):
        encode(np.ones(shape, np.float32), ArraySpec("x", "int8", shape if shape != (0,) else (None,)))


def test_int8_refuses_nan_and_needs_its_scale() -> None:
    values = np.ones((32, 4), np.float32)
    values[3, 3] = np.inf
    with pytest.raises(RecordRejected, match=r"NaN or Inf"):
        encode(values, ArraySpec("x", "int8", (32, 4)))
    with pytest.raises(BadInput, match=r"mean nothing without their scales"):
        decode(np.zeros((2, 2), np.int8), "int8")


@pytest.mark.parametrize("dtype", ["float64", "int64", "int32", "uint8"])
def test_side_arrays_are_kept_as_they_are(dtype: Any) -> None:
    values = np.array([[1, 2, 3], [4, 5, 255]], stored_dtype(dtype))
    swapped = values.astype(values.dtype.newbyteorder(">"))
    for given_values in (values, values.T.copy().T, swapped):
        stored, scale = encode(given_values, ArraySpec("x", dtype, (2, 3)))
        assert scale is None
        assert stored.dtype == values.dtype
        assert stored.flags.c_contiguous
        np.testing.assert_array_equal(stored, values)
        np.testing.assert_array_equal(decode(stored, dtype), values)
    with pytest.raises(RecordRejected, match=f"stored as {dtype}, comes as float32.\nHand it over as {dtype}"):
        encode(values.astype(np.float32), ArraySpec("x", dtype, (2, 3)))


def test_side_arrays_may_hold_nan() -> None:
    stored, _ = encode(np.array([np.nan]), ArraySpec("seconds", "float64", (1,)))
    assert np.isnan(stored).all()


def test_features_come_as_float32_or_halves() -> None:
    with pytest.raises(RecordRejected, match=r"comes as float64.\nHand it over as float32 or float16.$"):
        encode(np.ones(3), ArraySpec("x", "fp16", (3,)))
    with pytest.raises(RecordRejected, match=r"comes as int64.\nHand it over as float32 or float16 or uint16 bits."):
        encode(np.ones(3, np.int64), ArraySpec("x", "bf16", (3,)))


@pytest.mark.parametrize(
    ("wanted", "given_shape", "shown"),
    [((2, 3), (3, 2), r"\[2, 3\]"), ((None, 3), (4, 2), r"\[L, 3\]"), ((2,), (2, 1), r"\[2\]"), ((), (1,), r"\[\]")],
)
def test_wrong_shapes_are_named(wanted: tuple[int | None, ...], given_shape: tuple[int, ...], shown: str) -> None:
    with pytest.raises(RecordRejected, match=rf"its kind is declared as {shown}.\nAll records of a kind share"):
        encode(np.ones(given_shape, np.float32), ArraySpec("x", "fp32", wanted))


def test_bytes_of_a_record() -> None:
    assert record_bytes(ArraySpec("x", "fp16", (8, 256, 4096))) == 16_777_216
    assert record_bytes(ArraySpec("x", "int8", (8, 256, 4096))) == 8_388_608 + 4 * 4096
    assert record_bytes(ArraySpec("x", "bf16", (None, 512)), rows=30) == 30_720
    assert record_bytes(ArraySpec("x", "int8", (None, 512)), rows=0) == 2048
    assert record_bytes(ArraySpec("x", "fp32", ())) == 4
    with pytest.raises(BadInput, match=r"'x' is ragged"):
        record_bytes(ArraySpec("x", "bf16", (None, 512)))


def test_scales_lie_beside_int8_arrays() -> None:
    arrays = stored_arrays([ArraySpec("b", "int8", (None, 6)), ArraySpec("a", "bf16", (2, 3))])
    assert [(a.name, a.dtype.str, a.shape, a.ragged, a.row_bytes) for a in arrays] == [
        ("a", "<u2", (2, 3), False, 12),
        ("b", "|i1", (None, 6), True, 6),
        ("b.scale", "<f4", (6,), False, 24),
    ]
    with pytest.raises(BadInput, match=r"Two arrays would be called 'b.scale'"):
        stored_arrays([ArraySpec("b", "int8", (None, 6)), ArraySpec("b.scale", "fp32", (6,))])
