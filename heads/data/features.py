"""One array of many records on the device: resident where it fits, else read from disk batch by batch.

Stored bytes become torch tensors without numpy conversions in between (numpy's half precision is 10 to 20 times
slower than torch's): bf16 is stored as uint16 and reinterpreted, int8 is multiplied by its scale on the device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from vfc.cache_schema.reader import StoreReader
from vfc.cache_schema.values.errors import BadInput
from vfc.cache_schema.values.record import FEATURE_DTYPES, ArraySpec, Key

from .placement import Placement, Resident, placed

STORED: Final = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "int8": torch.int8}
_LOAD_BYTES: Final = 64 << 20


class Rows(NamedTuple):
    """Float32 values `[M, ...]` of M records; `valid [M, L]` is True where a row is no padding (None: no padding)."""

    values: Tensor
    valid: Tensor | None = None


def servable(spec: ArraySpec) -> bool:
    """Whether an array is a feature array of fixed shape: `[D]`, `[T, D]` or `[T, N, D]`."""
    return spec.dtype in FEATURE_DTYPES and not spec.ragged and 1 <= len(spec.shape) <= 3


def sizes(spec: ArraySpec) -> tuple[int, ...]:
    """The shape of an array whose shape is fixed."""
    return cast("tuple[int, ...]", spec.shape)


def as_served(spec: ArraySpec, *, pool_tokens: bool) -> ArraySpec:
    """The array as a head gets it: float32, `[T, D]` for pooled tokens, `[1, D]` for one vector per clip."""
    shape = spec.shape
    if len(shape) == 1:
        shape = (1, *shape)
    elif pool_tokens and len(shape) == 3:
        shape = (shape[0], shape[2])
    return replace(spec, dtype="fp32", shape=shape)


class Features:
    """One array of a list of records, gathered by position in that list as float32 tensors on a device.

    With `pool_tokens`, `[T, N, D]` is averaged over N while it is read. A ragged array `[None, D]` is padded with zeros
    to the longest of the records, so that every batch has one shape. `placement`: on the device or in RAM (in the
    stored dtype, or in float32 once pooled), or on disk (`off`).

    Raises:
        MissingRecord: a key that the store does not hold.
        BadInput: values that are no numbers, by the name of the record.
    """

    def __init__(
        self,
        reader: StoreReader,
        keys: Sequence[Key],
        spec: ArraySpec,
        *,
        device: torch.device,
        pool_tokens: bool = True,
        resident: Resident = "auto",
    ) -> None:
        self._reader, self._keys, self._device = reader, keys, device
        self._records = reader.locate(keys)
        self._array, self._dtype = spec.name, STORED[spec.dtype]
        self._pool = pool_tokens and len(spec.shape) == 3
        self.spec = as_served(spec, pool_tokens=pool_tokens)
        self._lengths: Tensor | None = None
        self._stored_shape = sizes(spec)
        if spec.ragged:
            self._lengths = torch.tensor([reader.length(int(record), spec.name) for record in self._records])
            self._stored_shape = (max(self._lengths.tolist(), default=0), *self._stored_shape[1:])
        self.shape = self._stored_shape if spec.ragged else sizes(self.spec)
        self.tokens_per_frame = self._stored_shape[1] if len(spec.shape) == 3 else 1
        self._scale: Tensor | None = None
        if spec.dtype == "int8":
            self._scale = torch.empty(len(self), self._stored_shape[-1])
            reader.take(self._records, f"{spec.name}.scale", self._scale.numpy())
        itemsize = 4 if self._pool else self._dtype.itemsize
        self.placement: Placement = placed(len(self) * self.numbers * itemsize, device, resident)
        self._values: Tensor | None = None
        if self.placement != "off":
            self._values = self._load(torch.device("cpu") if self.placement == "ram" else device)

    def __len__(self) -> int:
        return len(self._records)

    @property
    def numbers(self) -> int:
        """Numbers per record, padding included."""
        return math.prod(self.shape)

    def gather(self, index: Tensor) -> Rows:
        """Records at `index [M]` (int64, CPU)."""
        if self._values is None:
            return self.finish(self._read(index, self._buffer(len(index))), index)
        values = self._values[index.to(self._values.device)].to(self._device, non_blocking=True)
        if not self._pool:
            values = self._decoded(values, index).view(len(index), *self.shape)
        return Rows(values, self._valid(index))

    def stage(self, index: Tensor, buffer: Tensor | None) -> tuple[Tensor, Tensor]:
        """Read records at `index` into `buffer` (None: a new one); the stored values, and the buffer to reuse."""
        if buffer is None or len(buffer) < len(index):
            buffer = self._buffer(len(index))
        self._reader.prefetch(self._records[index.numpy()], self._array)
        return self._read(index, buffer), buffer

    def finish(self, stored: Tensor, index: Tensor) -> Rows:
        """What `gather` gives, from what `stage` read."""
        values = self._decoded(stored.to(self._device, non_blocking=True), index)
        values = values.mean(dim=-2) if self._pool else values.view(len(index), *self.shape)
        finite(values, index, self._name)
        return Rows(values, self._valid(index))

    def _load(self, device: torch.device) -> Tensor:
        per_record = max(1, math.prod(self._stored_shape) * self._dtype.itemsize)
        step = max(1, min(len(self), _LOAD_BYTES // per_record))
        shape, dtype = (self.shape, torch.float32) if self._pool else (self._stored_shape, self._dtype)
        values = torch.empty((len(self), *shape), dtype=dtype, device=device)
        buffer = self._buffer(step)
        for start in range(0, len(self), step):
            index = torch.arange(start, min(start + step, len(self)))
            stored = self._read(index, buffer)
            if self._pool:
                stored = self.finish(stored, index).values
            else:
                finite(stored, index, self._name)
            values[start : start + len(index)].copy_(stored)
        return values

    def _buffer(self, count: int) -> Tensor:
        return torch.empty((count, *self._stored_shape), dtype=self._dtype, pin_memory=self._device.type == "cuda")

    def _read(self, index: Tensor, buffer: Tensor) -> Tensor:
        """Stored values of the records at `index`, in the front of `buffer`."""
        out = buffer[: len(index)]
        bits = out.view(torch.int16).numpy().view(np.uint16) if out.dtype == torch.bfloat16 else out.numpy()
        records = self._records[index.numpy()]
        if self._lengths is None:
            self._reader.take(records, self._array, bits)
        else:
            for padded, record in zip(bits, records.tolist(), strict=True):
                stored = self._reader.view(record, self._array)
                padded[: len(stored)] = stored
                padded[len(stored) :] = 0
        return out

    def _decoded(self, values: Tensor, index: Tensor) -> Tensor:
        return as_float(values, None if self._scale is None else self._scale[index])

    def _valid(self, index: Tensor) -> Tensor | None:
        if self._lengths is None:
            return None
        return (torch.arange(self.shape[0]) < self._lengths[index][:, None]).to(self._device)

    def _name(self, place: int) -> str:
        key = self._keys[place]
        variant = f"prompt {key.prompt!r}" if key.prompt else f"view {key.view}"
        return f"{self._array} of {key.name!r} ({variant})"


def as_float(values: Tensor, scale: Tensor | None) -> Tensor:
    """Float32 of stored values `[M, ..., D]`, times `scale [M, D]` of int8 ones."""
    if scale is None:
        return values.float()
    return values.float() * scale.to(values.device).view(len(values), *[1] * (values.ndim - 2), -1)


def finite(values: Tensor, index: Tensor, name: Callable[[int], str]) -> None:
    """Refuse values that are no numbers, by the name of the record that holds them.

    Raises:
        BadInput: NaN or an infinity in a record.
    """
    if not values.is_floating_point():
        return
    sums = values.flatten(1).sum(dim=1, dtype=torch.float32)
    if not torch.isfinite(sums).all():
        place = int(index[int((~torch.isfinite(sums)).nonzero()[0])])
        raise BadInput(
            f"{name(place)} holds values that are no numbers (NaN or infinite).",
            "See what else is wrong with `vfc store verify`; extract it again, or leave it out of --annotations.",
        )
