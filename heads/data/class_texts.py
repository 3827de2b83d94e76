"""What a store knows of classes by their names: its `text` records, by template and label."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from vfc.cache_schema.annotations.lists import spelling
from vfc.cache_schema.reader import StoreReader
from vfc.cache_schema.values.devices import on_device
from vfc.cache_schema.values.errors import BadInput, MissingRecord, unknown_name
from vfc.cache_schema.values.recipe import digest
from vfc.cache_schema.values.record import FEATURE_DTYPES, ArraySpec, Json, Key

from .store_view import CLASS_TEXTS

EVERY: Final = "all"
"""What `--template` says for the mean over all templates."""


@dataclass(frozen=True)
class ClassTexts:
    """The text records of classes: `arrays`: role -> array; `keys`: template -> spelling of a class -> record.

    `templates`: template id -> text, of those in use; an array that can be averaged is averaged over them.
    """

    reader: StoreReader
    arrays: Mapping[str, ArraySpec]
    keys: Mapping[str, Mapping[str, Key]]
    templates: Mapping[str, str]

    @classmethod
    def read(
        cls, reader: StoreReader, arrays: Mapping[str, ArraySpec], chosen: Sequence[str], names: Iterable[str]
    ) -> ClassTexts:
        """The texts of the classes `names`: of the templates `chosen` (ids, texts, or `all`), else of the only one.

        Raises:
            UnknownName: no such template.
            BadInput: none was chosen, and there are several; several for an array that cannot be averaged.
            MissingRecord: none of the classes has a text.
        """
        if not arrays:
            return cls(reader, arrays, {}, {})
        keys: dict[str, dict[str, Key]] = {}
        for key in reader.keys("text"):
            metadata = reader.metadata(key)
            label, template = str(metadata.get("label") or key.name), str(metadata.get("template") or "")
            keys.setdefault(template, {})[spelling(label)] = key
        texts = {name: str(text) for name, text in reader.axes("template").items()}
        templates = _templates(reader, keys, texts, chosen, set(map(spelling, names)))
        fixed = next((spec for spec in arrays.values() if not _averaged(spec)), None)
        if len(templates) > 1 and fixed is not None:
            raise BadInput(
                f"{fixed.name} of {len(templates)} templates cannot be averaged: {', '.join(templates)}.",
                "Choose one of them with --template.",
            )
        return cls(reader, arrays, keys, {template: texts.get(template, "") for template in templates})

    @property
    def identity(self) -> dict[str, Json]:
        """The templates in use and the digest of their texts; empty where no class texts are read."""
        if not self.arrays:
            return {}
        return {"templates": [*self.templates], "templates_digest": digest(dict(self.templates))}

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
            BadInput: values that are no numbers.
        """
        self.require(names)
        tensors: dict[str, Tensor] = {}
        for role, spec in self.arrays.items():
            values = [[self._values(template, name, spec) for name in names] for template in self.templates]
            if _averaged(spec):
                unit = [functional.normalize(torch.stack(rows), dim=-1) for rows in values]
                tensors[role] = torch.stack(unit).mean(dim=0)
            elif spec.ragged:
                tensors[role] = pad_sequence(values[0], batch_first=True)
                lengths = torch.tensor([len(rows) for rows in values[0]])
                tensors[f"{role}.valid"] = torch.arange(int(lengths.max())) < lengths[:, None]
            else:
                tensors[role] = torch.stack(values[0])
        return {role: on_device(values, device) for role, values in tensors.items()}

    def require(self, names: Sequence[str]) -> None:
        """Check that every class has a text of every template in use.

        Raises:
            MissingRecord: a class without one, by name.
        """
        for template in self.templates:
            without = [name for name in names if spelling(name) not in self.keys[template]]
            if without:
                raise MissingRecord(
                    f"{len(without)} of {len(names)} classes have no text of the template {template!r} in "
                    f"{self.reader.root}: {', '.join(without[:5])}.",
                    CLASS_TEXTS,
                )

    def _values(self, template: str, name: str, spec: ArraySpec) -> Tensor:
        values = self.reader.read(self.keys[template][spelling(name)], spec.name)
        if spec.dtype in FEATURE_DTYPES and not np.isfinite(values).all():
            raise BadInput(
                f"{spec.name} of the class {name!r} holds values that are no numbers (NaN or infinite).",
                "See what else is wrong with `vfc store verify`; extract the texts again.",
            )
        return torch.from_numpy(np.array(values))


def _templates(
    reader: StoreReader,
    keys: Mapping[str, Mapping[str, Key]],
    texts: Mapping[str, str],
    chosen: Sequence[str],
    classes: set[str],
) -> list[str]:
    """The ids of the templates in use."""
    ids = {text: name for name, text in texts.items()}
    # Sentences and classes of other data sets are texts too; they have none of these classes.
    stored = sorted(template for template, labels in keys.items() if classes & labels.keys() or not classes)
    if [*chosen] == [EVERY]:
        return stored
    if chosen:
        templates = [ids.get(template, template) for template in chosen]
        for template in templates:
            if template not in keys:
                raise unknown_name("template of class texts in this store", template, keys)
        return templates
    if len(stored) > 1:
        listed = ", ".join(
            f"{template} ({texts[template]!r})" if texts.get(template) else template for template in stored
        )
        raise BadInput(
            f"The store {reader.root} holds class texts of {len(stored)} templates: {listed}.",
            "Choose one with --template ID, or average over all of them with --template all.",
        )
    if not stored:
        raise MissingRecord(f"None of the {len(classes)} classes has a text in {reader.root}.", CLASS_TEXTS)
    return stored


def _averaged(spec: ArraySpec) -> bool:
    """Whether an array is averaged over templates."""
    return spec.dtype in FEATURE_DTYPES and not spec.ragged
