"""From a store to the device: one array of many videos, resident where it fits, else read ahead by a thread.

Stored bytes become torch tensors without numpy conversions in between (numpy's half precision is 10 to 20 times
slower than torch's): bf16 lies as uint16 and is reinterpreted, int8 is multiplied by its scale on the device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Final, Literal, cast

import numpy as np
import torch
from torch import Tensor

from vfc.cache_schema.reader import StoreReader
from vfc.cache_schema.values.errors import BadInput, UnknownName, unknown_name
from vfc.cache_schema.values.layout import ArrayName
from vfc.cache_schema.values.record import FEATURE_DTYPES, ArraySpec, Key

from .placement import placed
from .prefetch import Placement, stream

Resident = Literal["auto", "ram", "device", "off"]
STORED: Final = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "int8": torch.int8}
_LOAD_BYTES: Final = 64 << 20


def choose_array(
    reader: StoreReader, kind: str = "video", *, array: str = "", layer: str = "", tokens: bool = False
) -> ArraySpec:
    """The visual array to read: as named, else of the layer, else `frames`, else the only one there is.

    With `tokens`, arrays `[T, N, D]` go before `frames`.
    Candidates are feature arrays of fixed shape: `[D]`, `[T, D]` or `[T, N, D]`.

    Raises:
        UnknownName: none fits; those there are are listed.
        BadInput: several fit; an array that is not of the layer.
    """
    specs = [spec for spec in reader.kinds.get(kind, ()) if servable(spec)]
    named = {spec.name: spec for spec in specs}
    if array:
        if array not in named:
            raise unknown_name(f"{kind} array of fixed shape", array, named)
        if layer and ArrayName.parse(array).layer != layer:
            raise BadInput(f"--array {array} is not of --layer {layer}.", "Give one of the two.")
        return named[array]
    layers = {name: ArrayName.parse(name).layer for name in named}
    if layer and layer not in layers.values():
        raise unknown_name("stored layer", layer, set(layers.values()) - {""})
    if not layer and "frames" in named and not (tokens and any(len(spec.shape) == 3 for spec in specs)):
        return named["frames"]
    fit = [spec for spec in specs if (layers[spec.name] == layer if layer else spec.name != "frames")]
    fit = fit or [spec for spec in specs if not layer]
    if not fit:
        held = ", ".join(sorted(spec.name for spec in reader.kinds.get(kind, ())))
        raise UnknownName(
            f"The store {reader.root} holds no feature array of fixed shape under the kind {kind!r}.",
            f"It holds: {held or 'nothing'}.",
        )
    if len(fit) > 1:
        raise BadInput(
            f"Several arrays of {reader.root} could be meant: {', '.join(sorted(s.name for s in fit))}.",
            "Choose one with --array NAME, or a layer with --layer.",
        )
    return fit[0]


def servable(spec: ArraySpec) -> bool:
    """Whether an array is a feature array of fixed shape: `[D]`, `[T, D]` or `[T, N, D]`."""
    return spec.dtype in FEATURE_DTYPES and not spec.ragged and 1 <= len(spec.shape) <= 3


def sizes(spec: ArraySpec) -> tuple[int, ...]:
    """The shape of an array whose shape is fixed."""
    return cast("tuple[int, ...]", spec.shape)


def as_served(spec: ArraySpec, *, pool_tokens: bool) -> ArraySpec:
    """The array as a head sees it: float32, `[T, D]` for pooled tokens, `[1, D]` for one vector per clip."""
    shape = spec.shape
    if len(shape) == 1:
        shape = (1, *shape)
    elif pool_tokens and len(shape) == 3:
        shape = (shape[0], shape[2])
    return replace(spec, dtype="fp32", shape=shape)


class Features:
    """One array of a list of records, gathered by position in that list as float32 tensors on a device.

    With `pool_tokens`, `[T, N, D]` is averaged over N while it is read. `placement` tells where the values rest:
    on the device or in RAM (in the stored dtype, or in float32 once pooled), or on disk (`off`).
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
        self._reader, self._keys = reader, keys
        self._rows = reader.locate(keys)
        self._stored, self._dtype = spec, STORED[spec.dtype]
        self._device = device
        self._pool = pool_tokens and len(spec.shape) == 3
        self.spec = as_served(spec, pool_tokens=pool_tokens)
        self._shape, self._stored_shape = sizes(self.spec), sizes(spec)
        self.tokens_per_frame = self._stored_shape[1] if len(spec.shape) == 3 else 1
        self._scale = self._scales()
        self.placement: Placement = self._place() if resident == "auto" else resident
        self._values: Tensor | None = None
        if self.placement != "off":
            self._values = self._load(torch.device("cpu") if self.placement == "ram" else device)

    def __len__(self) -> int:
        return len(self._rows)

    def gather(self, index: Tensor) -> Tensor:
        """Records at `index [M]` (int64, CPU), as float32 `[M, *shape]` on the device."""
        if self._values is None:
            return self._settled(self._read(index, self._buffer(len(index))), index)
        values = self._values[index.to(self._values.device)].to(self._device, non_blocking=True)
        return values if self._pool else self._decoded(values, index).view(len(index), *self._shape)

    def stream(self, plans: Iterable[tuple[object, Tensor]], ahead: int = 2) -> Generator[tuple[object, Tensor]]:
        """For each (anything, index): (the same, `gather(index)`), in order; see `ahead.stream`."""
        source = Served(self)
        with closing(stream({"": source}, ((plan, {"": index}) for plan, index in plans), ahead)) as batches:
            for plan, found in batches:
                yield plan, found[""]

    def _place(self) -> Placement:
        return placed(len(self) * math.prod(self._shape) * (4 if self._pool else self._dtype.itemsize), self._device)

    def _scales(self) -> Tensor | None:
        if self._stored.dtype != "int8":
            return None
        scale = torch.empty(len(self), self._stored_shape[-1])
        self._reader.take(self._rows, f"{self._stored.name}.scale", scale.numpy())
        return scale

    def _load(self, device: torch.device) -> Tensor:
        per_record = math.prod(self._stored_shape) * self._dtype.itemsize
        step = max(1, min(len(self), _LOAD_BYTES // per_record))
        shape, dtype = (self._shape, torch.float32) if self._pool else (self._stored_shape, self._dtype)
        values = torch.empty((len(self), *shape), dtype=dtype, device=device)
        buffer = self._buffer(step)
        for start in range(0, len(self), step):
            index = torch.arange(start, min(start + step, len(self)))
            stored = self._read(index, buffer)
            if self._pool:
                values[start : start + len(index)].copy_(self._settled(stored, index))
            else:
                finite(stored, index, self._name)
                values[start : start + len(index)].copy_(stored)
        return values

    def _buffer(self, count: int) -> Tensor:
        return torch.empty((count, *self._stored_shape), dtype=self._dtype, pin_memory=self._device.type == "cuda")

    def _read(self, index: Tensor, buffer: Tensor) -> Tensor:
        """Stored values of the records at `index`, in the front of `buffer`."""
        into = buffer[: len(index)]
        bits = into.view(torch.int16).numpy().view(np.uint16) if into.dtype == torch.bfloat16 else into.numpy()
        self._reader.take(self._rows[index.numpy()], self._stored.name, bits)
        return into

    def _stage(self, index: Tensor, buffer: Tensor | None) -> tuple[Tensor, Tensor]:
        if buffer is None or len(buffer) < len(index):
            buffer = self._buffer(len(index))
        self._reader.prefetch(self._rows[index.numpy()], self._stored.name)
        return self._read(index, buffer), buffer

    def _settled(self, stored: Tensor, index: Tensor) -> Tensor:
        values = self._decoded(stored.to(self._device, non_blocking=True), index)
        values = values.mean(dim=-2) if self._pool else values.view(len(index), *self._shape)
        finite(values, index, self._name)
        return values

    def _decoded(self, values: Tensor, index: Tensor) -> Tensor:
        return as_float(values, None if self._scale is None else self._scale[index])

    def _name(self, place: int) -> str:
        key = self._keys[place]
        return f"{self._stored.name} of {key.name!r} (view {key.view})"


class Served:
    """`Features` as a source for `ahead.stream`."""

    def __init__(self, features: Features) -> None:
        self.placement = features.placement
        self._features = features

    def gather(self, index: Tensor) -> dict[str, Tensor]:
        """See `ahead.Source`."""
        return {"": self._features.gather(index)}

    def stage(self, index: Tensor, memory: Tensor | None) -> tuple[Tensor, Tensor]:
        """See `ahead.Source`."""
        return self._features._stage(index, memory)

    def settle(self, staged: Tensor, index: Tensor) -> dict[str, Tensor]:
        """See `ahead.Source`."""
        return {"": self._features._settled(staged, index)}


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
