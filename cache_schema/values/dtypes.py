"""Dtypes: how values of a logical dtype are stored, checked, encoded and decoded.

A bf16 value lies on disk as the uint16 of its bits, because plain Zarr has no bf16; int8 keeps one symmetric float32
scale per record and channel in a second array, `<array>.scale` (one scale per token would cost 8.6 % error where
this costs 1.1 %: a few channels of a language model are forty times larger than the rest). The fill value can never
pass for data: NaN, the bits of a bf16 NaN, -128.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from .errors import BadInput, RecordRejected
from .record import FEATURE_DTYPES, ArraySpec, Dtype

Array: TypeAlias = npt.NDArray[Any]

LEAST_ROWS_FOR_INT8: Final = 32
"""With fewer rows a scale per channel takes more bytes than int8 saves, and depends on single values."""

_BLOCK: Final = 1 << 18
_STORED: Final[dict[str, np.dtype[Any]]] = {
    "fp32": np.dtype("<f4"),
    "fp16": np.dtype("<f2"),
    "bf16": np.dtype("<u2"),
    "int8": np.dtype("i1"),
    "float64": np.dtype("<f8"),
    "int64": np.dtype("<i8"),
    "int32": np.dtype("<i4"),
    "uint8": np.dtype("u1"),
}
_HANDED_OVER: Final = frozenset({np.dtype(np.float32), np.dtype(np.float16)})
_SIGNED: Final[dict[int, np.dtype[Any]]] = {2: np.dtype("<i2"), 4: np.dtype("<i4")}
_UNSIGNED: Final[dict[int, np.dtype[Any]]] = {2: np.dtype("<u2"), 4: np.dtype("<u4")}
# Bits of +inf: a pattern from here up (sign cleared) is Inf or NaN.
_INFINITY: Final[dict[str, int]] = {"fp32": 0x7F80_0000, "fp16": 0x7C00, "bf16": 0x7F80}


def stored_dtype(dtype: Dtype) -> np.dtype[Any]:
    """The numpy dtype, little-endian, that a logical dtype has on disk."""
    return _STORED[dtype]


def fill_value(dtype: Dtype) -> float | int:
    """What Zarr shows where nothing was written: NaN, 0x7FC0 (bf16), -128 (int8); 0 for integer side arrays."""
    fills: dict[str, float | int] = {
        "fp32": math.nan,
        "fp16": math.nan,
        "float64": math.nan,
        "bf16": 0x7FC0,
        "int8": -128,
    }
    return fills.get(dtype, 0)


@dataclass(frozen=True)
class StoredArray:
    """One array as it is stored: that of an `ArraySpec`, or the scales of an int8 one.

    `shape` is that of one record; a leading None marks a ragged array. A *row* is what is addressed singly: a whole
    record of a fixed array, one `[D]` row of a ragged `[L, D]` one.
    """

    name: str
    logical: Dtype
    shape: tuple[int | None, ...]
    layout: str = ""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The numpy dtype on disk."""
        return stored_dtype(self.logical)

    @property
    def ragged(self) -> bool:
        """Whether records differ in their number of rows."""
        return bool(self.shape) and self.shape[0] is None

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of one row."""
        return cast("tuple[int, ...]", self.shape[1:] if self.ragged else self.shape)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return math.prod(self.row_shape) * self.dtype.itemsize

    def fits(self, values: Array) -> bool:
        """Whether values have the dtype and the shape of one record on disk."""
        shape = values.shape[1:] if self.ragged and values.ndim else values.shape
        return values.dtype == self.dtype and values.ndim == len(self.shape) and shape == self.row_shape


def stored_arrays(specs: Sequence[ArraySpec]) -> tuple[StoredArray, ...]:
    """The arrays that records of these specs make on disk, sorted by name.

    Raises:
        BadInput: Two arrays of one name, counting the scales beside int8 arrays.
    """
    arrays = []
    for spec in specs:
        arrays.append(StoredArray(spec.name, spec.dtype, spec.shape, spec.layout))
        if spec.dtype == "int8":
            arrays.append(StoredArray(f"{spec.name}.scale", "fp32", spec.shape[-1:], "one per channel"))
    names = [array.name for array in arrays]
    for name in names:
        if names.count(name) > 1:
            raise BadInput(f"Two arrays would be called {name!r}.", "Give every array of a kind its own name.")
    return tuple(sorted(arrays, key=lambda array: array.name))


def record_bytes(spec: ArraySpec, rows: int | None = None) -> int:
    """Bytes that one record of this array takes, scales included; `rows` is needed where it is ragged.

    Raises:
        BadInput: A ragged array without `rows`.
    """
    total = 0
    for array in stored_arrays([spec]):
        if array.ragged and rows is None:
            raise BadInput(f"Array {spec.name!r} is ragged: its bytes depend on its rows.", "Give the number of rows.")
        total += array.row_bytes * (cast("int", rows) if array.ragged else 1)
    return total


def encode(values: Array, spec: ArraySpec) -> tuple[Array, Array | None]:
    """Stored values of one record's array, C-contiguous, and the scales `[D]` of an int8 array.

    Args:
        values: Features as float32 or float16, or as uint16 bit patterns for a bf16 array; side arrays in their own
            dtype. Shape as in `spec`.
        spec: What the array is declared to be.

    Raises:
        RecordRejected: Wrong shape or dtype, NaN or Inf among features, a value that overflows the storage dtype, or
            int8 for fewer than 32 rows.
    """
    _check_shape(values, spec)
    if spec.dtype not in FEATURE_DTYPES:
        if values.dtype.newbyteorder("=") != stored_dtype(spec.dtype).newbyteorder("="):
            raise _wrong_dtype(values, spec, spec.dtype)
        return np.asarray(values, stored_dtype(spec.dtype), order="C"), None
    if spec.dtype == "bf16" and values.dtype == np.uint16:
        stored = np.asarray(values, "<u2", order="C")
        _require_finite(stored, "bf16", spec)
        return stored, None
    if values.dtype not in _HANDED_OVER:
        raise _wrong_dtype(values, spec, "float32 or float16" + (" or uint16 bits" if spec.dtype == "bf16" else ""))
    if spec.dtype == "int8":
        return _quantise(np.asarray(values, "<f4", order="C"), spec)
    return _convert(values, spec), None


def decode(stored: Array, dtype: Dtype, scale: Array | None = None) -> Array:
    """A decoded copy of stored values: float32 for features, their own dtype for side arrays.

    Args:
        stored: Values as on disk, `[..., D]`.
        dtype: Their logical dtype.
        scale: float32 `[D]`, for int8.

    Raises:
        BadInput: int8 without its scales.
    """
    if dtype == "bf16":
        return (stored.astype("<u4") << 16).view("<f4")
    if dtype == "int8":
        if scale is None:
            raise BadInput("int8 values mean nothing without their scales.", "Read `<array>.scale` of the same record.")
        decoded: Array = stored.astype("<f4") * scale
        return decoded
    return stored.astype("<f4") if dtype == "fp16" else stored.copy()


def _check_shape(values: Array, spec: ArraySpec) -> None:
    shape = spec.shape
    if values.shape == shape:
        return
    if values.ndim != len(shape) or any(w is not None and w != got for w, got in zip(shape, values.shape, strict=True)):
        declared = "[" + ", ".join("L" if size is None else str(size) for size in shape) + "]"
        raise RecordRejected(
            f"Array {spec.name!r} has the shape {list(values.shape)}; its kind is declared as {declared}.",
            "All records of a kind share one shape; another shape needs another store.",
        )


def _wrong_dtype(values: Array, spec: ArraySpec, expected: str) -> RecordRejected:
    return RecordRejected(
        f"Array {spec.name!r}, stored as {spec.dtype}, comes as {values.dtype}.", f"Hand it over as {expected}."
    )


def _finite(stored: Array, dtype: str) -> bool:
    """Whether no value is NaN or Inf, read off its bits: two maxima are far cheaper than numpy's isfinite on halves."""
    width = stored.dtype.itemsize
    flat = stored.reshape(-1)
    signed, unsigned = flat.view(_SIGNED[width]), flat.view(_UNSIGNED[width])
    infinity = _INFINITY[dtype]
    negative = infinity | 1 << (8 * width - 1)
    for start in range(0, signed.size, _BLOCK):
        piece = slice(start, start + _BLOCK)
        # As signed integers the largest patterns are +Inf and positive NaNs; as unsigned ones, the negative ones.
        if np.maximum.reduce(signed[piece]) >= infinity or np.maximum.reduce(unsigned[piece]) >= negative:
            return False
    return True


def _require_finite(stored: Array, dtype: str, spec: ArraySpec) -> None:
    if not _finite(stored, dtype):
        raise RecordRejected(
            f"Array {spec.name!r} holds NaN or Inf.",
            "The model overflowed or the input is broken: compute in bf16 or fp32, or leave this video out.",
        )


def _convert(values: Array, spec: ArraySpec) -> Array:
    """float32 or float16 to fp32, fp16 or bf16, with the range checked."""
    if spec.dtype == "bf16":
        source = np.asarray(values, "<f4", order="C")
        bits = source.view("<u4")
        # Round to nearest, ties to even, as every framework does.
        stored: Array = ((bits + (np.uint32(0x7FFF) + ((bits >> 16) & np.uint32(1)))) >> 16).astype("<u2")
    else:
        source, dtype = values, _STORED[spec.dtype]
        with np.errstate(over="ignore") if values.dtype != dtype else nullcontext():
            stored = np.asarray(values, dtype, order="C")
    if spec.dtype == "bf16" or not _finite(stored, spec.dtype):
        if spec.dtype == "fp16" and values.dtype == np.float16 and not np.isnan(values).any():
            # It was made fp16 on the device, where values beyond its range become Inf.
            raise RecordRejected(
                f"Array {spec.name!r} holds Inf: it reaches beyond the 65504 of fp16, or the model overflowed.",
                "Store it with --dtype bf16; if that does not help, compute in bf16 or fp32 (--compute-dtype).",
            )
        _require_finite(np.asarray(source, "<f4", order="C"), "fp32", spec)
        if not _finite(stored, spec.dtype):
            largest = "65504" if spec.dtype == "fp16" else "3.39e38"
            raise RecordRejected(
                f"Array {spec.name!r} reaches {np.abs(source).max():.6g}, beyond the {largest} of {spec.dtype}.",
                "Store it with --dtype bf16." if spec.dtype == "fp16" else "Store it with --dtype fp32.",
            )
    return stored


def _quantise(values: Array, spec: ArraySpec) -> tuple[Array, Array]:
    rows = values.reshape(-1, values.shape[-1]) if values.ndim > 1 else values.reshape(1, -1)
    if len(rows) < LEAST_ROWS_FOR_INT8:
        raise RecordRejected(
            f"Array {spec.name!r} has {len(rows)} rows; int8, a scale per channel, needs {LEAST_ROWS_FOR_INT8}.",
            "Store it with --dtype fp16 or bf16.",
        )
    _require_finite(values, "fp32", spec)
    scale = np.abs(rows).max(axis=0) / np.float32(127)
    # A channel of zeros (or one whose scale underflows) has no scale; its codes are 0.
    safe = np.where(scale > 0, scale, np.float32(1))
    codes = np.clip(np.rint(rows / safe), -127, 127) * (scale > 0)
    return codes.astype("|i1").reshape(values.shape), scale.astype("<f4")
