"""Side arrays of the served steps: their times, the sizes of their grid."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from vfc.cache_schema.reader import StoreReader
from vfc.cache_schema.values.errors import UnknownName
from vfc.cache_schema.values.layout import ArrayName
from vfc.cache_schema.values.record import ArraySpec, Key

from .features import Rows
from .serving import Serving, in_steps


def side_array(reader: StoreReader, serving: Serving, field: str, keys: Sequence[Key]) -> Rows:
    """The side array `field` (`seconds`, `grid`) beside the array that `serving` reads, of the records `keys`.

    A side array with one value per step is made of the same segments as the steps: `[M, T', ...]`, zeros behind the
    steps of a shorter record, and a mask `[M, T']` (None without padding). Others are given as stored, `[M, ...]`.
    Values keep their precision (float64, int64).

    Raises:
        UnknownName: the array has no such side array, with those that the store holds.
    """
    spec = _side_of(reader, serving.spec, field)
    values = [_of_record(reader, serving, spec, key) for key in keys]
    lengths = torch.tensor([len(value) for value in values])
    padded = pad_sequence(values, batch_first=True)
    valid = torch.arange(padded.shape[1]) < lengths[:, None]
    return Rows(padded, None if bool(valid.all()) else valid)


def _of_record(reader: StoreReader, serving: Serving, spec: ArraySpec, key: Key) -> Tensor:
    values = torch.from_numpy(np.array(reader.read(key, spec.name)))
    if not spec.ragged or serving.steps is None or serving.as_stored:
        return values
    return in_steps(values, serving.steps, serving.rule)


def _side_of(reader: StoreReader, array: ArraySpec, field: str) -> ArraySpec:
    """`visual.seconds` beside `layer31.visual`; `seconds` beside an array that is alone in its stream (`frames`)."""
    specs = {spec.name: spec for spec in reader.kinds["video"]}
    for name in (str(ArrayName("", ArrayName.parse(array.name).stream, field)), field):
        if name in specs:
            return specs[name]
    raise UnknownName(
        f"{array.name} of {reader.root} has no side array {field!r}.",
        f"The store holds: {', '.join(sorted(specs))}.",
    )
