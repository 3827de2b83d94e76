"""The text stream of a store: which array, which prompts, and rows of different length on the device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, cast

import numpy as np
import torch
from torch import Tensor

from vfc.cache_schema.protocol import fill_prompt, option_list, prompt_id, spoken
from vfc.cache_schema.reader import StoreReader
from vfc.cache_schema.values.errors import BadInput, MissingRecord, unknown_name
from vfc.cache_schema.values.layout import ArrayName
from vfc.cache_schema.values.record import FEATURE_DTYPES, ArraySpec, Key

from .features import STORED, Resident, as_float, finite
from .placement import placed
from .prefetch import Placement

KNOWN: Final = "known"
NO_TEXT: Final = "none"
SUPPORT, QUERY = "known-support", "known-query"


@dataclass(frozen=True)
class Wording:
    """Which prompted record goes with a video: under one prompt always, or as its place in an episode says.

    `prompt` is an id of the store, or `known`: a support video then has the record of `known-support` filled with its
    label, a query that of `known-query` filled with the classes of its episode, in the order of the episode.
    """

    spec: ArraySpec
    prompt: str
    templates: Mapping[str, str]

    @property
    def known(self) -> bool:
        """Whether the record depends on the episode."""
        return self.prompt == KNOWN

    def of_support(self, label: str) -> str:
        """The prompt of a support video of this class."""
        return prompt_id(SUPPORT, fill_prompt(self.templates[SUPPORT], {"label": spoken(label)}))

    def of_query(self, classes: Sequence[str]) -> str:
        """The prompt of every query of an episode."""
        return prompt_id(QUERY, fill_prompt(self.templates[QUERY], {"options": option_list(classes)}))


def find_text(reader: StoreReader, visual: ArraySpec, prompt: str) -> Wording | None:
    """The text stream that goes with a visual array: of the same layer, under the prompt asked for; None without text.

    A single prompt is the default; several are refused with the list. `none` leaves text out.

    Raises:
        UnknownName: no such prompt in the store.
        BadInput: several prompts, or text of other layers only.
    """
    arrays = {s.name: s for s in reader.kinds.get("prompted", ()) if _is_text(s)}
    if prompt == NO_TEXT or not arrays:
        if prompt not in ("", NO_TEXT):
            raise unknown_name("prompt in this store", prompt, ())
        return None
    same = str(ArrayName(ArrayName.parse(visual.name).tap or visual.name, "text"))
    if same not in arrays and (len(arrays) > 1 or "." in visual.name):
        raise BadInput(
            f"The store {reader.root} has text of {', '.join(sorted(arrays))}; none is of the layer of {visual.name}.",
            "Choose a layer that has both with --layer, or leave the text out with --prompt none.",
        )
    spec = arrays.get(same) or next(iter(arrays.values()))
    there = {key.prompt.split("@")[0] for key in reader.keys("prompted")}
    choices = sorted(there - {SUPPORT, QUERY}) + ([KNOWN] if {SUPPORT, QUERY} <= there else [])
    if prompt and prompt not in choices:
        raise unknown_name("prompt in this store", prompt, choices)
    if not prompt and len(choices) != 1:
        raise BadInput(
            f"The store {reader.root} holds text under several prompts: {', '.join(choices) or 'none that is whole'}.",
            "Choose one with --prompt, or leave the text out with --prompt none.",
        )
    return Wording(spec, prompt or choices[0], _templates(reader))


def _is_text(spec: ArraySpec) -> bool:
    return (
        ArrayName.parse(spec.name).stream == "text"
        and spec.dtype in FEATURE_DTYPES
        and spec.ragged
        and len(spec.shape) == 2
    )


def _templates(reader: StoreReader) -> dict[str, str]:
    bound = {name: content for name, content in reader.axes("prompt").items() if isinstance(content, dict)}
    return {name.split("@")[0]: str(cast("Any", content)["template"]) for name, content in bound.items()}


def locate_texts(reader: StoreReader, keys: Sequence[Key]) -> Any:
    """Where these records lie, as `reader.locate` has it.

    Raises:
        BadInput: one is not there, by name.
    """
    try:
        return reader.locate(keys)
    except MissingRecord as error:
        raise BadInput(
            f"The text stream is not whole: {error.problem}",
            "Extract the missing prompts (for known prompts, with the episode list that is asked here), "
            "or leave the text out with --prompt none.",
        ) from None


class Texts:
    """A ragged array of prompted records, gathered by position as float32 `[M, L, D]` and what of it is not padding.

    `L` is the longest of all records, so that every batch has one shape; padding is zeros.
    """

    def __init__(
        self,
        reader: StoreReader,
        keys: Sequence[Key],
        spec: ArraySpec,
        *,
        device: torch.device,
        resident: Resident = "auto",
    ) -> None:
        self._reader, self._keys, self._rows = reader, keys, locate_texts(reader, keys)
        self._spec, self._dtype, self._device = spec, STORED[spec.dtype], device
        self._lengths = torch.tensor([reader.length(int(row), spec.name) for row in self._rows])
        self.width = int(spec.shape[1] or 0)
        self.placement: Placement = self._place() if resident == "auto" else resident
        self._values: Tensor | None = None
        if self.placement != "off":
            target = torch.device("cpu") if self.placement == "ram" else device
            every = torch.arange(len(self))
            stored = self._read(every, None)
            finite(stored, every, self._name)
            self._values = stored.to(target)

    def __len__(self) -> int:
        return len(self._rows)

    @cached_property
    def longest(self) -> int:
        """Rows of the longest record."""
        return int(self._lengths.max()) if len(self) else 0

    def gather(self, index: Tensor) -> dict[str, Tensor]:
        """Records at `index [M]` (int64, CPU): `""` the values, `".valid"` what is not padding, `[M, L]`."""
        if self._values is None:
            return self.settle(self._read(index, None), index)
        values = self._values[index.to(self._values.device)].to(self._device, non_blocking=True)
        return self._masked(as_float(values, self._scale(index)), index)

    def stage(self, index: Tensor, memory: Tensor | None) -> tuple[Tensor, Tensor]:
        """Stored values of records, padded, in the front of `memory`."""
        if memory is None or len(memory) < len(index):
            memory = self._buffer(len(index))
        return self._read(index, memory), memory

    def settle(self, staged: Tensor, index: Tensor) -> dict[str, Tensor]:
        """What was staged, on the device."""
        values = as_float(staged.to(self._device, non_blocking=True), self._scale(index))
        finite(values, index, self._name)
        return self._masked(values, index)

    def _place(self) -> Placement:
        return placed(len(self) * self.longest * self.width * self._dtype.itemsize, self._device)

    def _buffer(self, count: int) -> Tensor:
        shape = (count, self.longest, self.width)
        return torch.zeros(shape, dtype=self._dtype, pin_memory=self._device.type == "cuda")

    def _read(self, index: Tensor, buffer: Tensor | None) -> Tensor:
        into = (self._buffer(len(index)) if buffer is None else buffer)[: len(index)]
        bits = into.view(torch.int16).numpy().view(np.uint16) if into.dtype == torch.bfloat16 else into.numpy()
        for place, row in enumerate(self._rows[index.numpy()].tolist()):
            stored = self._reader.view(row, self._spec.name)
            bits[place, : len(stored)] = stored
            bits[place, len(stored) :] = 0
        return into

    def _masked(self, values: Tensor, index: Tensor) -> dict[str, Tensor]:
        valid = torch.arange(self.longest)[None] < self._lengths[index][:, None]
        return {"": values, ".valid": valid.to(self._device)}

    def _scale(self, index: Tensor) -> Tensor | None:
        if self._spec.dtype != "int8":
            return None
        scale = torch.empty(len(index), self.width)
        self._reader.take(self._rows[index.numpy()], f"{self._spec.name}.scale", scale.numpy())
        return scale

    def _name(self, place: int) -> str:
        key = self._keys[place]
        return f"{self._spec.name} of {key.name!r} (prompt {key.prompt!r})"
