"""What a head wants, found in a store: an array for each role, and what the store knows of each class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from vfc.cache_schema.annotations.lists import spelling
from vfc.cache_schema.reader import StoreReader
from vfc.cache_schema.values.errors import BadInput, MissingRecord, UnknownName, VfcError, unknown_name
from vfc.cache_schema.values.record import FEATURE_DTYPES, ArraySpec, Key
from vfc.heads.data.features import choose_array

from .config import Config
from .contract import Wants

_TEXTS: Final = "Extract the class names with the store's model: vfc extract ... --texts classes --template TEXT."


@dataclass(frozen=True)
class Arrays:
    """The stored arrays of each role, as declared."""

    clips: Mapping[str, ArraySpec]
    classes: Mapping[str, ArraySpec]


def find_arrays(reader: StoreReader, wants: Wants, config: Config, *, tokens: bool) -> Arrays:
    """The arrays that a head wants.

    Raises:
        UnknownName: one is not there, with the head's remedy if it has one.
        BadInput: several could be meant; --array or --layer for a head that says itself what it reads.
    """
    if (config.array or config.layer) and None not in wants.clips.values():
        named = ", ".join(str(name) for name in wants.clips.values())
        raise BadInput(
            f"This head reads {named}; --array and --layer change nothing.", "Leave them out, or set the head's flags."
        )
    clips, classes = {}, {}
    there = {spec.name for spec in reader.kinds.get("video", ())}
    preferred = next((name for name in wants.prefer if name in there), "")
    for role, name in wants.clips.items():
        array, layer = (name, "") if name is not None else (config.array, config.layer)
        if not (array or layer):
            array = preferred
        try:
            clips[role] = choose_array(reader, array=array, layer=layer, tokens=tokens)
        except UnknownName as error:
            if role not in wants.optional:
                raise _remedied(error, wants.remedy) from None
    held = {spec.name: spec for spec in reader.kinds.get("text", ())}
    for role, name in wants.classes.items():
        if name in held and any(True for key in reader.keys("text")):
            classes[role] = held[name]
        elif role not in wants.optional:
            raise UnknownName(
                f"The store {reader.root} has no {name!r} of the class names; it has of texts: "
                f"{', '.join(sorted(held)) or 'nothing'}.",
                wants.remedy or _TEXTS,
            )
    return Arrays(clips, classes)


def _remedied(error: VfcError, remedy: str) -> VfcError:
    return type(error)(error.problem, remedy) if remedy else error


class ClassTexts:
    """What a store knows of classes by their names: its `text` records, by template and label."""

    def __init__(self, reader: StoreReader, specs: Mapping[str, ArraySpec], templates: Sequence[str]) -> None:
        self._reader, self._specs, self._wanted = reader, specs, templates
        self._keys: dict[str, dict[str, Key]] = {}
        for key in reader.keys("text") if specs else ():
            about = reader.metadata(key)
            label, template = str(about.get("label") or key.name), str(about.get("template") or "")
            self._keys.setdefault(template, {})[spelling(label)] = key

    @property
    def specs(self) -> dict[str, ArraySpec]:
        """Role -> array of one class, as the head gets it: float32, or whole numbers as they are."""
        return {role: _served(spec) for role, spec in self._specs.items()}

    def require(self, names: Sequence[str]) -> None:
        """Refuse classes of which nothing is known; raises as `of`."""
        if self._specs:
            self._templates(names)

    def of(self, names: Sequence[str], device: torch.device) -> dict[str, Tensor]:
        """What is known of these classes, in their order; see `contract.Batch.classes`.

        Raises:
            MissingRecord: a class without a text.
            UnknownName: no such template.
            BadInput: several templates for an array that cannot be averaged.
        """
        if not self._specs:
            return {}
        used = self._templates(names)
        found: dict[str, Tensor] = {}
        for role, spec in self._specs.items():
            averaged = spec.dtype in FEATURE_DTYPES and not spec.ragged
            if len(used) > 1 and not averaged:
                raise BadInput(
                    f"{spec.name} of {len(used)} templates cannot be averaged: {', '.join(used)}.",
                    "Choose one of them with --template.",
                )
            values = [[self._values(used[t], name, spec) for name in names] for t in range(len(used))]
            if averaged:
                found[role] = torch.stack([functional.normalize(torch.stack(rows), dim=-1) for rows in values]).mean(0)
            elif spec.ragged:
                found[role] = pad_sequence(values[0], batch_first=True)
                lengths = torch.tensor([len(rows) for rows in values[0]])
                found[f"{role}.valid"] = torch.arange(int(lengths.max())) < lengths[:, None]
            else:
                found[role] = torch.stack(values[0])
        return {role: values_.to(device) for role, values_ in found.items()}

    def _values(self, template: str, name: str, spec: ArraySpec) -> Tensor:
        values = self._reader.read(self._keys[template][spelling(name)], spec.name)
        if spec.dtype in FEATURE_DTYPES and not np.isfinite(values).all():
            raise BadInput(
                f"{spec.name} of the class {name!r} holds values that are no numbers (NaN or infinite).",
                "See what else is wrong with `vfc store verify`; extract the texts again.",
            )
        return torch.from_numpy(np.array(values))

    def _templates(self, names: Sequence[str]) -> list[str]:
        """The templates asked for, or all that every class has a text of."""
        meaning = {str(text): name for name, text in self._reader.axes("template").items()}
        asked = [meaning.get(template, template) for template in self._wanted]
        for template in asked:
            if template not in self._keys:
                raise unknown_name("template of class texts in this store", template, self._keys)
        missing = {
            template: [name for name in names if spelling(name) not in self._keys[template]]
            for template in (asked or sorted(self._keys))
        }
        used = [template for template, lost in missing.items() if not lost]
        if not used or (asked and len(used) < len(asked)):
            template, lost = min(((t, lost) for t, lost in missing.items() if lost), key=lambda pair: len(pair[1]))
            raise MissingRecord(
                f"{len(lost)} of {len(names)} classes have no text of the template {template!r} in "
                f"{self._reader.root}: {', '.join(lost[:5])}.",
                _TEXTS,
            )
        return used


def _served(spec: ArraySpec) -> ArraySpec:
    return replace(spec, dtype="fp32") if spec.dtype in FEATURE_DTYPES else spec
