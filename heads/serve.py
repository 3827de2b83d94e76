"""From a store to the device: one array of many videos, resident where it fits, else read ahead by a thread.

Stored bytes become torch tensors without numpy conversions in between (numpy's half precision is 10 to 20 times
slower than torch's): bf16 lies as uint16 and is reinterpreted, int8 is multiplied by its scale on the device.
"""

from __future__ import annotations

import math
import os
import queue
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Final, Literal, cast

import numpy as np
import torch
from torch import Tensor

from vfc.cache_schema.errors import BadInput, UnknownName, unknown_name
from vfc.cache_schema.reader import StoreReader
from vfc.cache_schema.record import FEATURE_DTYPES, ArraySpec, Key

Placement = Literal["device", "ram", "off"]
_STORED: Final = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "int8": torch.int8}
_LOAD_BYTES: Final = 64 << 20
_SHARE_OF_MEMORY: Final = 0.5


def choose_array(reader: StoreReader, kind: str = "video", *, array: str = "", layer: str = "") -> ArraySpec:
    """The visual array to read: as named, else of the layer, else `frames`, else the only one there is.

    Candidates are feature arrays of fixed shape: `[D]`, `[T, D]` or `[T, N, D]`.

    Raises:
        UnknownName: none fits; those there are are listed.
        BadInput: several fit.
    """
    specs = [spec for spec in reader.kinds.get(kind, ()) if _servable(spec)]
    named = {spec.name: spec for spec in specs}
    if array:
        if array not in named:
            raise unknown_name(f"{kind} array of fixed shape", array, named)
        return named[array]
    layers = {name.split(".")[0].removeprefix("layer") for name in named if "." in name}
    if layer and layer not in layers:
        raise unknown_name("layer in this store", layer, layers)
    if not layer and "frames" in named:
        return named["frames"]
    stem = layer if layer == "norm" else f"layer{layer}"
    fit = [spec for spec in specs if not layer or spec.name.split(".")[0] == stem]
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


def _servable(spec: ArraySpec) -> bool:
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
        resident: Literal["auto", "ram", "device", "off"] = "auto",
    ) -> None:
        self._reader = reader
        self._rows = reader.locate(keys)
        self._stored, self._dtype = spec, _STORED[spec.dtype]
        self._device = device
        self._pool = pool_tokens and len(spec.shape) == 3
        self.spec = as_served(spec, pool_tokens=pool_tokens)
        self._shape, self._stored_shape = sizes(self.spec), sizes(spec)
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
            return self._convert(self._read(index, self._buffer(len(index))), index)
        values = self._values[index.to(self._values.device)].to(self._device, non_blocking=True)
        return values if self._pool else self._decoded(values, index).view(len(index), *self._shape)

    def stream(self, plans: Iterable[tuple[object, Tensor]], ahead: int = 2) -> Generator[tuple[object, Tensor]]:
        """For each (anything, index): (the same, `gather(index)`), in order.

        From disk, a thread reads `ahead` batches in advance into a ring of reused buffers (pinned where the device is a
        GPU), and takes the next plan from `plans` itself. The tensor is valid until the next one is asked for.
        """
        if self._values is not None:
            for plan, index in plans:
                yield plan, self.gather(index)
            return
        with _Ahead(self, plans, ahead) as batches:
            yield from batches

    def _place(self) -> Placement:
        wanted = len(self) * math.prod(self._shape) * (4 if self._pool else self._dtype.itemsize)
        if self._device.type == "cuda" and wanted <= _SHARE_OF_MEMORY * torch.cuda.mem_get_info(self._device)[0]:
            return "device"
        return "ram" if wanted <= _SHARE_OF_MEMORY * _available_memory() else "off"

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
            values[start : start + len(index)].copy_(self._convert(stored, index) if self._pool else stored)
        return values

    def _buffer(self, count: int) -> Tensor:
        return torch.empty((count, *self._stored_shape), dtype=self._dtype, pin_memory=self._device.type == "cuda")

    def _read(self, index: Tensor, buffer: Tensor) -> Tensor:
        """Stored values of the records at `index`, in the front of `buffer`."""
        into = buffer[: len(index)]
        bits = into.view(torch.int16).numpy().view(np.uint16) if into.dtype == torch.bfloat16 else into.numpy()
        self._reader.take(self._rows[index.numpy()], self._stored.name, bits)
        return into

    def _advise(self, index: Tensor) -> None:
        self._reader.prefetch(self._rows[index.numpy()], self._stored.name)

    def _convert(self, stored: Tensor, index: Tensor) -> Tensor:
        values = self._decoded(stored.to(self._device, non_blocking=True), index)
        return values.mean(dim=-2) if self._pool else values.view(len(index), *self._shape)

    def _decoded(self, values: Tensor, index: Tensor) -> Tensor:
        if self._scale is None:
            return values.float()
        scale = self._scale[index].to(values.device)
        return values.float() * scale.view(len(index), *[1] * (values.ndim - 2), -1)


class _Ahead:
    """The look-ahead thread of one stream and its ring of buffers."""

    def __init__(self, features: Features, plans: Iterable[tuple[object, Tensor]], ahead: int) -> None:
        self._features = features
        self._plans = iter(plans)
        self._free: queue.SimpleQueue[Tensor | None] = queue.SimpleQueue()
        self._ready: queue.SimpleQueue[tuple[object, Tensor, Tensor, Tensor] | BaseException | None] = (
            queue.SimpleQueue()
        )
        for _ in range(ahead + 1):
            self._free.put(torch.empty(0))
        self._thread = threading.Thread(target=self._run, name="vfc-read-ahead", daemon=True)

    def __enter__(self) -> Iterator[tuple[object, Tensor]]:
        self._thread.start()
        return self._batches()

    def __exit__(self, *_: object) -> None:
        self._free.put(None)
        self._thread.join()

    def _run(self) -> None:
        try:
            for plan, index in self._plans:
                buffer = self._free.get()
                if buffer is None:
                    return
                if len(buffer) < len(index):
                    buffer = self._features._buffer(len(index))
                self._features._advise(index)
                self._ready.put((plan, index, self._features._read(index, buffer), buffer))
            self._ready.put(None)
        except BaseException as error:  # handed over, raised again where the batch is asked for
            self._ready.put(error)

    def _batches(self) -> Iterator[tuple[object, Tensor]]:
        while (item := self._ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            plan, index, stored, buffer = item
            values = self._features._convert(stored, index)
            if values.is_cuda:
                # The copy out of the pinned buffer is asynchronous; the buffer is free when it has run.
                torch.cuda.current_stream(values.device).synchronize()
            yield plan, values
            self._free.put(buffer)


def _available_memory() -> int:
    """Bytes of free memory, by the system's own count."""
    with suppress(OSError, ValueError):
        with open("/proc/meminfo", encoding="ascii") as file:
            fields = dict(line.split(":", 1) for line in file)
        return int(fields["MemAvailable"].split()[0]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
