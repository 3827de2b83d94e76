"""What a store knows of classes by their names: its `text` records, by template and label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from vfc.cache_schema.annotations.lists import spelling
from vfc.cache_schema.reader import StoreReader
from vfc.cache_schema.values.errors import BadInput, MissingRecord, unknown_name
from vfc.cache_schema.values.record import FEATURE_DTYPES, ArraySpec, Key

from .store_view import CLASS_TEXTS


@dataclass(frozen=True)
class ClassTexts:
    """The text records of classes: `arrays`: role -> array; `keys`: template -> spelling of a class -> record.

    `templates`: those asked for, by id; none: all that every class has a text of.
    """

    reader: StoreReader
    arrays: Mapping[str, ArraySpec]
    keys: Mapping[str, Mapping[str, Key]]
    templates: tuple[str, ...]

    @classmethod
    def read(cls, reader: StoreReader, arrays: Mapping[str, ArraySpec], templates: Sequence[str]) -> ClassTexts:
        """The records of a store; `templates` are ids or texts.

        Raises:
            UnknownName: no such template.
        """
        keys: dict[str, dict[str, Key]] = {}
        for key in reader.keys("text") if arrays else ():
            metadata = reader.metadata(key)
            label, template = str(metadata.get("label") or key.name), str(metadata.get("template") or "")
            keys.setdefault(template, {})[spelling(label)] = key
        ids = {str(text): name for name, text in reader.axes("template").items()}
        chosen = tuple(ids.get(template, template) for template in templates) if arrays else ()
        for template in chosen:
            if template not in keys:
                raise unknown_name("template of class texts in this store", template, keys)
        return cls(reader, arrays, keys, chosen)

    @property
    def specs(self) -> dict[str, ArraySpec]:
        """Role -> array of one class, as the head gets it: float32, or whole numbers as they are."""
        return {
            role: replace(spec, dtype="fp32") if spec.dtype in FEATURE_DTYPES else spec
            for role, spec in self.arrays.items()
        }

    def of(self, names: Sequence[str], device: torch.device) -> dict[str, Tensor]:
        """What is known of these classes, in their order: role -> `[C, ...]`, `<role>.valid [C, L]` of padded rows.

        Raises:
            MissingRecord: a class without a text.
            BadInput: several templates for an array that cannot be averaged.
        """
        templates = self.require(names)
        tensors: dict[str, Tensor] = {}
        for role, spec in self.arrays.items():
            values = [[self._values(template, name, spec) for name in names] for template in templates]
            if _averaged(spec):
                unit = [functional.normalize(torch.stack(rows), dim=-1) for rows in values]
                tensors[role] = torch.stack(unit).mean(dim=0)
            elif spec.ragged:
                tensors[role] = pad_sequence(values[0], batch_first=True)
                lengths = torch.tensor([len(rows) for rows in values[0]])
                tensors[f"{role}.valid"] = torch.arange(int(lengths.max())) < lengths[:, None]
            else:
                tensors[role] = torch.stack(values[0])
        return {role: values.to(device) for role, values in tensors.items()}

    def require(self, names: Sequence[str]) -> list[str]:
        """The templates in use, of which every class has a text; raises as `of`."""
        if not self.arrays:
            return []
        missing = {
            template: [name for name in names if spelling(name) not in self.keys[template]]
            for template in (self.templates or sorted(self.keys))
        }
        complete = [template for template, names_ in missing.items() if not names_]
        if not complete or (self.templates and len(complete) < len(self.templates)):
            lacking = [(template, names_) for template, names_ in missing.items() if names_]
            template, without = min(lacking, key=lambda pair: len(pair[1]))
            raise MissingRecord(
                f"{len(without)} of {len(names)} classes have no text of the template {template!r} in "
                f"{self.reader.root}: {', '.join(without[:5])}.",
                CLASS_TEXTS,
            )
        fixed = next((spec for spec in self.arrays.values() if not _averaged(spec)), None)
        if len(complete) > 1 and fixed is not None:
            raise BadInput(
                f"{fixed.name} of {len(complete)} templates cannot be averaged: {', '.join(complete)}.",
                "Choose one of them with --template.",
            )
        return complete

    def _values(self, template: str, name: str, spec: ArraySpec) -> Tensor:
        values = self.reader.read(self.keys[template][spelling(name)], spec.name)
        if spec.dtype in FEATURE_DTYPES and not np.isfinite(values).all():
            raise BadInput(
                f"{spec.name} of the class {name!r} holds values that are no numbers (NaN or infinite).",
                "See what else is wrong with `vfc store verify`; extract the texts again.",
            )
        return torch.from_numpy(np.array(values))


def _averaged(spec: ArraySpec) -> bool:
    """Whether an array is averaged over templates."""
    return spec.dtype in FEATURE_DTYPES and not spec.ragged
