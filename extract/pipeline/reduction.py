"""Reduction: records are pooled and projected before they are written, by the functions that `materialize` uses.

Pooling is for the tokens of frames; a projection for all features of videos and prompts, and for arrays of texts that
share a space with one of these. Other arrays of texts are not changed, nor are side arrays, but for a token grid, which
is rewritten.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

import numpy.typing as npt

from vfc.cache_schema.reduction.projection import Projection
from vfc.cache_schema.reduction.reduce import Reduction, reduce_record, reduced_spec
from vfc.cache_schema.values.dtypes import decode
from vfc.cache_schema.values.errors import BadInput
from vfc.cache_schema.values.layout import FRAME_MAJOR, PATCH_MAJOR, RAGGED_GRID, Layout
from vfc.cache_schema.values.record import FEATURE_DTYPES, ArraySpec, Dtype, Json, Key, Record

from .writer_thread import Writer

Specs = Mapping[str, tuple[ArraySpec, ...]]
Arrays = Mapping[str, npt.NDArray[Any]]

REDUCED = ("video", "prompted")
"""Kinds of records that are pooled and projected."""
FEW_ROWS: Mapping[str, Dtype] = {"prompted": "bf16", "text": "fp16"}
"""Kinds of records that are kept in another dtype where int8 was asked for."""


@dataclass(frozen=True)
class Reducer:
    """What happens to records between the model and the store.

    `specs`: kind -> arrays as the model gives them. `shared_spaces`: see `Backbone.shared_space`; arrays of one space
    get one basis, those of texts too. `fitted_on`, `mean`: what a pca is fitted on, and whether it subtracts the mean.
    `fitted_on` "0.1" is the rule of version 0.1: on all videos, less the mean, each array by itself, no texts.
    `projections`: array -> its projection, once it is known.
    """

    specs: Specs
    reduction: Reduction = field(default_factory=Reduction)
    shared_spaces: tuple[frozenset[str], ...] = ()
    fitted_on: Literal["train", "all", "0.1"] = "all"
    mean: bool = False
    projections: Mapping[str, Projection] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.reduction.pool and not any(self._pooled(spec) for specs in self._reduced() for spec in specs):
            names = ", ".join(spec.name for specs in self._reduced() for spec in specs)
            raise BadInput(
                f"--pool {self.reduction.pool} is for tokens of frames, and there are none: {names}.",
                "Leave --pool out, or give --layer for the tokens of a layer.",
            )
        self.stored_specs()

    def stored_specs(self) -> Specs:
        """Kind -> arrays as they are stored.

        int8 keeps a scale per channel, which is too much for the few rows of a prompt or a text: prompts stay bf16,
        texts fp16.

        Raises:
            BadInput: an array that cannot be shrunk as asked, by name.
        """
        return {kind: tuple(self._stored(kind, spec) for spec in specs) for kind, specs in self.specs.items()}

    @property
    def cells(self) -> int:
        """Tokens of a frame after pooling; 0 where nothing is pooled."""
        if self.reduction.pool in ("", "mean"):
            return int(bool(self.reduction.pool))
        rows, columns = self.reduction.pool.split("x")
        return int(rows) * int(columns)

    def rows(self, rows: Mapping[str, float]) -> dict[str, float]:
        """Array -> rows of ragged arrays after pooling, from those before."""
        grids = [spec.name for specs in self._reduced() for spec in specs if spec.layout == RAGGED_GRID]
        if not (grids and self.cells):
            return dict(rows)
        return {**rows, **dict.fromkeys(grids, rows["visual.seconds"] * self.cells)}

    def features(self) -> Mapping[str, int]:
        """The arrays that are projected, and how wide they are before."""
        wide = [spec for specs in self._reduced() for spec in specs if spec.dtype in FEATURE_DTYPES]
        widths = {spec.name: int(spec.shape[-1] or 0) for spec in wide}
        return widths | {name: widths[first] for first, names in self._shared(widths).items() for name in names}

    def bases(self) -> dict[str, tuple[str, ...]]:
        """The array that each basis is fitted on, and all arrays that it is for."""
        widths = self.features()
        shared = self._shared(widths)
        joined = {name for names in shared.values() for name in names}
        return shared | {name: (name,) for name in widths if name not in joined}

    def _shared(self, widths: Collection[str]) -> dict[str, tuple[str, ...]]:
        """The arrays of each shared space that one of the projected arrays is in, under the first such array."""
        if self.fitted_on == "0.1":
            return {}
        own = {spec.name for specs in self._reduced() for spec in specs}
        spaces = [(sorted(space & own), tuple(sorted(space))) for space in self.shared_spaces]
        return {arrays[0]: space for arrays, space in spaces if arrays and arrays[0] in widths}

    def recipe(self) -> dict[str, Json]:
        """Its share of the recipe; nothing where nothing is pooled or projected."""
        fields = self.reduction.to_json()
        if self.reduction.project and self.fitted_on != "0.1":
            if self.reduction.project.startswith("pca"):
                fields |= {"mean": "subtracted" if self.mean else "none", "fitted_on": self.fitted_on}
            if shared := [list(names) for names in self.bases().values() if len(names) > 1]:
                fields["one_basis"] = cast("Json", shared)
        return {"shrink": fields} if fields else {}

    def record(self, record: Record) -> Record:
        """A record made smaller; bf16 comes as bits and leaves as float32 where it changes.

        Raises:
            RecordRejected: its token grid is smaller than the pooled one.
        """
        if record.key.kind in REDUCED and (self.reduction.pool or self.projections):
            return replace(record, arrays=self._arrays(record.key, record.arrays))
        arrays = dict(record.arrays)
        for spec in self.specs[record.key.kind]:
            if self._projected_text(record.key.kind, spec) and self.projections:
                arrays[spec.name] = self.projections[spec.name].apply(_as_float(arrays[spec.name], spec))
        return replace(record, arrays=arrays)

    def pooled(self, record: Record) -> Arrays:
        """The arrays of a record as a projection takes them: features pooled, as float32.

        Raises:
            RecordRejected: see `record`.
        """
        return replace(self, projections={})._arrays(record.key, record.arrays)

    def _arrays(self, key: Key, arrays: Arrays) -> dict[str, npt.NDArray[Any]]:
        specs = self.specs[key.kind]
        values = {spec.name: _as_float(arrays[spec.name], spec) for spec in specs}
        pooled = [spec for spec in specs if self._pooled(spec) or spec.dtype not in FEATURE_DTYPES]
        others = [spec for spec in specs if spec not in pooled]
        return {
            **reduce_record(values, pooled, self.reduction, self.projections),
            **reduce_record(values, others, replace(self.reduction, pool=""), self.projections),
        }

    def _stored(self, kind: str, spec: ArraySpec) -> ArraySpec:
        if spec.dtype not in FEATURE_DTYPES:
            return spec
        if spec.dtype == "int8" and kind in FEW_ROWS:
            spec = replace(spec, dtype=FEW_ROWS[kind])
        projected = kind in REDUCED or self._projected_text(kind, spec)
        reduction = self.reduction if projected else Reduction()
        return reduced_spec(spec, reduction if self._pooled(spec) else replace(reduction, pool=""))

    def _projected_text(self, kind: str, spec: ArraySpec) -> bool:
        """Whether an array of texts goes through the basis of a video array."""
        return kind not in REDUCED and bool(self.reduction.project) and spec.name in self.features()

    def _reduced(self) -> list[tuple[ArraySpec, ...]]:
        return [self.specs[kind] for kind in REDUCED if kind in self.specs]

    @staticmethod
    def _pooled(spec: ArraySpec) -> bool:
        order = Layout.parse(spec.layout).order
        return order in (RAGGED_GRID, PATCH_MAJOR) or (order == FRAME_MAJOR and len(spec.shape) == 3)


class ReducingWriter:
    """A writer that makes records smaller first: in the thread that writes, beside the forward."""

    def __init__(self, writer: Writer, reducer: Reducer) -> None:
        self._writer, self.reducer = writer, reducer

    def __contains__(self, key: Key) -> bool:
        """See `Writer`."""
        return key in self._writer

    def add(self, record: Record) -> None:
        """See `Writer`."""
        self._writer.add(self.reducer.record(record))

    def commit(self) -> None:
        """See `Writer`."""
        self._writer.commit()


def _as_float(values: npt.NDArray[Any], spec: ArraySpec) -> npt.NDArray[Any]:
    if spec.dtype not in FEATURE_DTYPES or spec.dtype in ("fp32", "int8"):
        return values
    return decode(values, spec.dtype)
