"""One array of many records on the device: resident where it fits, else read from disk batch by batch.

Stored bytes become torch tensors without numpy conversions in between (numpy's half precision is 10 to 20 times
slower than torch's): bf16 is stored as uint16 and reinterpreted, int8 is multiplied by its scale on the device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Final, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vfc.cache_schema.reader import StoreReader
from vfc.cache_schema.values.devices import has_streams, on_device
from vfc.cache_schema.values.errors import BadInput
from vfc.cache_schema.values.record import Key

from .placement import Placement, Resident, placed
from .serving import Serving, grids

STORED: Final = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "int8": torch.int8}
_LOAD_BYTES: Final = 64 << 20


class Rows(NamedTuple):
    """Float32 values `[M, ...]` of M records; `valid` is True where a value is no padding (None: no padding).

    `valid` is `[M, L]` of rows or steps `[M, L, D]`, and `[M, T', N]` of tokens `[M, T', N, D]`.
    """

    values: Tensor
    valid: Tensor | None = None


class Features:
    """One array of a list of records, gathered by position in that list as float32 tensors on a device.

    `serving` says what of each record is read. Where records differ in length they are padded with zeros: rows and
    steps up to the longest of all records, so that every batch has one length; tokens of a step up to the largest of
    the batch. `placement`: on the device or in RAM (in the stored dtype, or in float32 once reduced), or on disk
    (`off`).

    Raises:
        MissingRecord: a key that the store does not hold.
        BadInput: values that are no numbers, by the name of the record.
    """

    bytes_read: ClassVar[int] = 0
    """Bytes of values that this process has read from stores."""

    def __init__(
        self,
        reader: StoreReader,
        keys: Sequence[Key],
        serving: Serving,
        *,
        device: torch.device,
        resident: Resident = "auto",
    ) -> None:
        self._reader, self._keys, self.device, self._serving = reader, keys, device, serving
        self._records = reader.locate(keys)
        self._array, self._dtype = serving.spec.name, STORED[serving.spec.dtype]
        self.spec = serving.served
        self._sizes = self._record_sizes()
        self._reduced = serving.reduces_records
        self._stored_shape = self._buffer_shape()
        self._scale: Tensor | None = None
        if serving.spec.dtype == "int8":
            self._scale = torch.empty(len(self), self._stored_shape[-1])
            reader.take(self._records, f"{self._array}.scale", self._scale.numpy())
            finite(self._scale, torch.arange(len(self)), self._name)
        self._unchecked = torch.ones(len(self), dtype=torch.bool)
        batch_reduced = not serving.spec.ragged and self.shape != self._stored_shape
        self._kept_reduced = self._reduced or (batch_reduced and math.prod(self.shape) < math.prod(self._stored_shape))
        itemsize = 4 if self._kept_reduced else self._dtype.itemsize
        self.placement: Placement = placed(len(self) * self.numbers * itemsize, device, resident)
        self._values: Tensor | None = None
        if self.placement != "off":
            self._values = self._load(torch.device("cpu") if self.placement == "ram" else device)

    def __len__(self) -> int:
        return len(self._records)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of a record as it is served, padded to the largest of all records."""
        largest = iter(self._sizes.amax(dim=0).tolist() if len(self._sizes) else [0, 0])
        return tuple(next(largest) if size is None else size for size in self.spec.shape)

    @property
    def numbers(self) -> int:
        """Numbers per record, padding included."""
        return math.prod(self.shape)

    def token_counts(self, index: Tensor) -> Tensor:
        """How many stored tokens the steps of each record at `index` are made of, `[M]`."""
        if self._serving.grid:
            return torch.from_numpy(grids(self._reader, self._records[index.numpy()], self._serving.grid)).prod(dim=1)
        return torch.full((len(index),), self.shape[0] * self._serving.tokens_per_step)

    def gather(self, index: Tensor) -> Rows:
        """Records at `index [M]` (int64, CPU)."""
        if self._values is None:
            stored = self._read_checked(index, self._buffer(len(index)))
        else:
            stored = self._values[on_device(index, self._values.device)]
        return self.finish(on_device(stored, self.device), index)

    @property
    def is_staged(self) -> bool:
        """Whether batches are staged ahead of time: from disk, and from RAM where a GPU copies while it computes."""
        return self.placement == "off" or (self.placement == "ram" and has_streams(self.device))

    def stage(self, index: Tensor, buffer: Tensor | None) -> tuple[Tensor, Tensor]:
        """Values at `index` on the host, in the front of `buffer` (None: a new one), and the buffer to reuse.

        Raises:
            BadInput: values that are no numbers, by the name of the record.
        """
        if buffer is None or len(buffer) < len(index):
            buffer = self._buffer(len(index))
        if self._values is not None:
            return torch.index_select(self._values, 0, index, out=buffer[: len(index)]), buffer
        self._reader.prefetch(self._records[index.numpy()], self._array)
        return self._read_checked(index, buffer), buffer

    def finish(self, staged: Tensor, index: Tensor) -> Rows:
        """What `gather` gives, from staged values on the device."""
        served = self._values is not None and self._kept_reduced
        return self._rows(staged if served else self._served(staged, index), index)

    def _record_sizes(self) -> Tensor:
        """`[M, 1]` rows or steps, or `[M, 2]` steps and tokens per step, of each record, as far as they differ."""
        serving = self._serving
        if not any(size is None for size in self.spec.shape):
            return torch.empty(len(self), 0, dtype=torch.int64)
        if serving.grid:
            grid = torch.from_numpy(grids(self._reader, self._records, serving.grid))
            sizes = torch.stack([grid[:, 0], grid[:, 1] * grid[:, 2]], dim=1)
            return sizes[:, [place for place, size in enumerate(self.spec.shape[:-1]) if size is None]]
        return torch.tensor([[self._reader.length(int(record), self._array)] for record in self._records])

    def _buffer_shape(self) -> tuple[int, ...]:
        """The shape of a record in a buffer: as stored where the array has a fixed shape, else as it is served."""
        spec = self._serving.spec
        return self.shape if spec.ragged else cast("tuple[int, ...]", spec.shape)

    def _load(self, device: torch.device) -> Tensor:
        per_record = max(1, math.prod(self._stored_shape) * self._dtype.itemsize)
        step = max(1, min(len(self), _LOAD_BYTES // per_record))
        shape, dtype = (self.shape, torch.float32) if self._kept_reduced else (self._stored_shape, self._dtype)
        values = torch.empty((len(self), *shape), dtype=dtype, device=device)
        buffer = self._buffer(step)
        for start in range(0, len(self), step):
            index = torch.arange(start, min(start + step, len(self)))
            stored = self._read(index, buffer)
            if self._kept_reduced:
                stored = self._served(stored.to(self.device), index)
            finite(stored, index, self._name)
            values[start : start + len(index)].copy_(stored)
        return values

    def _buffer(self, count: int) -> Tensor:
        """Host memory for `count` records: like the resident values, else as they are read."""
        pinned = has_streams(self.device)
        if self._values is not None:
            return torch.empty((count, *self._values.shape[1:]), dtype=self._values.dtype, pin_memory=pinned)
        dtype = torch.float32 if self._reduced else self._dtype
        return torch.empty((count, *self._stored_shape), dtype=dtype, pin_memory=pinned)

    def _read_checked(self, index: Tensor, buffer: Tensor) -> Tensor:
        """As `_read`; the values of each record are checked when it is read for the first time."""
        stored = self._read(index, buffer)
        if (new := self._unchecked[index]).any():
            finite(stored if new.all() else stored[new], index[new], self._name)
            self._unchecked[index] = False
        return stored

    def _read(self, index: Tensor, buffer: Tensor) -> Tensor:
        """The records at `index`, in the front of `buffer`: stored values, or served ones where records are reduced."""
        out = buffer[: len(index)]
        Features.bytes_read += out.nbytes
        records = self._records[index.numpy()]
        if not self._serving.spec.ragged:
            self._reader.take(records, self._array, _bits(out))
        elif self._reduced:
            for row, place in zip(out, index.tolist(), strict=True):
                served = self._reduce(place)
                row.zero_()[tuple(slice(size) for size in served.shape)] = served
        else:
            for padded, record, place in zip(_bits(out), records.tolist(), index.tolist(), strict=True):
                self._pad(padded, self._reader.view(record, self._array), place)
        return out

    def _reduce(self, place: int) -> Tensor:
        """One record as it is served, read and decoded alone."""
        record = int(self._records[place])
        stored = self._reader.view(record, self._array)
        copied = torch.empty(stored.shape, dtype=self._dtype)
        _bits(copied)[...] = stored
        values = as_float(copied[None], None if self._scale is None else self._scale[place][None])[0]
        grid = self._reader.view(record, self._serving.grid).tolist() if self._serving.grid else None
        return self._serving.of_record(values, grid)

    def _pad(self, padded: npt.NDArray[Any], stored: npt.NDArray[Any], place: int) -> None:
        """Write a ragged record into its row of a buffer, with zeros behind its rows, or its steps and tokens."""
        if not self._serving.grid:
            padded[: len(stored)] = stored
            padded[len(stored) :] = 0
            return
        steps, height, width = self._reader.view(int(self._records[place]), self._serving.grid).tolist()
        padded[:steps, : height * width] = stored.reshape(steps, height * width, -1)
        padded[steps:] = 0
        padded[:steps, height * width :] = 0

    def _served(self, values: Tensor, index: Tensor) -> Tensor:
        """Decoded and, where the array has a fixed shape, as the head gets them."""
        if self._reduced:
            return values
        decoded = as_float(values, None if self._scale is None else self._scale[index])
        return decoded if self._serving.spec.ragged else self._serving.of_batch(decoded)

    def _rows(self, values: Tensor, index: Tensor) -> Rows:
        if not self._sizes.shape[1]:
            return Rows(values)
        sizes, (steps, tokens) = self._sizes[index], (self.spec.shape[0], self.spec.shape[1])
        valid = torch.arange(values.shape[1]) < (sizes[:, :1] if steps is None else steps)
        if values.ndim == 4:
            # No step has more tokens than the largest of the batch.
            counts = sizes[:, -1:] if tokens is None else torch.full((len(sizes), 1), tokens)
            values = values[:, :, : int(counts.max())]
            valid = valid[..., None] & (torch.arange(values.shape[2]) < counts)[:, None]
        return Rows(values, on_device(valid, self.device))

    def _name(self, place: int) -> str:
        key = self._keys[place]
        variant = f"prompt {key.prompt!r}" if key.prompt else f"view {key.view}"
        return f"{self._array} of {key.name!r} ({variant})"


def _bits(values: Tensor) -> npt.NDArray[Any]:
    """The memory of a tensor as the store has it: bf16 as uint16."""
    return values.view(torch.int16).numpy().view(np.uint16) if values.dtype == torch.bfloat16 else values.numpy()


def as_float(values: Tensor, scale: Tensor | None) -> Tensor:
    """Float32 of stored values `[M, ..., D]`, times `scale [M, D]` of int8 ones."""
    if scale is None:
        return values.float()
    return values.float() * on_device(scale, values.device).view(len(values), *[1] * (values.ndim - 2), -1)


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
