"""Reduction of arrays: mean over tokens, a fixed projection, another dtype; at extraction or afterwards.

Plain functions on numpy arrays; an array's spec says how its rows are ordered. Extraction applies them before a record
is written, `materialize` to stored records; the numbers are the same.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from vfc.cache_schema.values.dtypes import LEAST_ROWS_FOR_INT8
from vfc.cache_schema.values.errors import BadInput
from vfc.cache_schema.values.layout import RAGGED_GRID, ArrayName
from vfc.cache_schema.values.record import FEATURE_DTYPES, ArraySpec, Dtype, Json
from vfc.cache_schema.values.settings import setting

from .pooling import parse_grid, pool_cells, pool_values, pooled_spec
from .projection import Projection, parse_projection

Array: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True)
class Reduction:
    """What to do, in this order: pool over tokens, project, change the dtype. Nothing is done unless it is named."""

    pool: str = setting(
        "", "Mean over tokens: `4x4` onto a grid per frame, `mean` over all tokens of a frame (or all frames)"
    )
    grid: str = setting("", "Rows x columns of the tokens of a frame, where it is no square: `8x14`")
    project: str = setting("", "`pca:256` or `random:256`: onto so many dimensions, fitted once and kept")
    fit_records: int = setting(256, "Records the projection is fitted on, the first by hash of the key")
    seed: int = setting(0, "Seed of a random projection")
    dtype: Dtype | None = setting(None, "Storage dtype of features", choices=FEATURE_DTYPES)
    project_mean: bool = setting(False, "Subtract the mean before a pca")
    project_fit: Literal["train", "all", "0.1"] | None = setting(
        None,
        "Videos a pca is fitted on: train (default where a split is known) or all (default elsewhere); "
        "0.1: as version 0.1, on all, less the mean, without one basis for frames and texts",
    )

    def __post_init__(self) -> None:
        pool_cells(self.pool)
        parse_grid(self.grid, "--grid")
        if self.project:
            parse_projection(self.project)
            if self.fit_records < 1 or self.seed < 0:
                raise BadInput(
                    f"A projection cannot be fitted on {self.fit_records} records with the seed {self.seed}.",
                    "Give --fit-records from 1 up, and --seed from 0 up.",
                )

    def to_json(self) -> dict[str, Json]:
        """As kept in a recipe: what is done, with what; what is not done is left out."""
        fields: dict[str, Json] = {"pool": self.pool, "grid": self.grid, "project": self.project, "dtype": self.dtype}
        if self.project:
            fields |= {"fit_records": self.fit_records, "seed": self.seed}
        return {name: value for name, value in fields.items() if value not in ("", None)}


def stored_fit(fields: Mapping[str, Any]) -> Literal["train", "all", "0.1"] | None:
    """`project_fit` by which a store with these fields in its recipe goes on; None where they do not say it."""
    if not fields.get("project"):
        return None
    return fields.get("fitted_on") if {"fitted_on", "mean", "one_basis"} & fields.keys() else "0.1"


def reduced_spec(spec: ArraySpec, reduction: Reduction) -> ArraySpec:
    """What a feature array looks like afterwards; its name stays.

    Raises:
        BadInput: it cannot be pooled, projected or kept as int8 as asked; the array is named.
    """
    spec = dataclasses.replace(pooled_spec(spec, reduction.pool, reduction.grid), dtype=reduction.dtype or spec.dtype)
    if reduction.project:
        _, width = parse_projection(reduction.project)
        if spec.shape[-1] is None or width > spec.shape[-1]:
            raise BadInput(
                f"Array {spec.name!r} has {spec.shape[-1]} dimensions; {reduction.project!r} asks for {width}.",
                f"Give --project with {spec.shape[-1]} dimensions or fewer, or leave the array out (--array).",
            )
        spec = dataclasses.replace(spec, shape=(*spec.shape[:-1], width))
    if spec.dtype == "int8" and not spec.ragged:
        rows = math.prod(size or 1 for size in spec.shape[:-1])
        if rows < LEAST_ROWS_FOR_INT8:
            raise BadInput(
                f"Array {spec.name!r} would have {rows} rows per record; int8 keeps a scale per channel and needs "
                f"{LEAST_ROWS_FOR_INT8}.",
                "Give --dtype fp16 or bf16, or pool less.",
            )
    return spec


def reduce_record(
    arrays: Mapping[str, Array],
    specs: Iterable[ArraySpec],
    reduction: Reduction,
    projections: Mapping[str, Projection] | None = None,
) -> dict[str, Array]:
    """All arrays of one record, made smaller; features float32 in and out, side arrays as they are.

    `specs` are those of the arrays to return, before the reduction. A token grid is a side array `<stream>.grid`,
    int64 `[3]`: frames, rows, columns; it is rewritten where its array was pooled. The dtype is left to the writer.

    Raises:
        BadInput, RecordRejected: see `pool_values`.
    """
    reduced: dict[str, Array] = {}
    for spec in specs:
        values = arrays[spec.name]
        if spec.dtype in FEATURE_DTYPES:
            if reduction.pool:
                values = pool_values(values, spec, reduction.pool, reduction.grid, _grid_beside(arrays, spec))
            if projections:
                values = projections[spec.name].apply(values)
        elif reduction.pool and ArrayName.parse(spec.name).side == "grid":
            cells = pool_cells(reduction.pool) or (1, 1)
            values = np.array([values[0], *cells], values.dtype)
        reduced[spec.name] = values
    return reduced


def _grid_beside(arrays: Mapping[str, Array], spec: ArraySpec) -> Sequence[int]:
    if spec.layout != RAGGED_GRID:
        return ()
    name = str(ArrayName("", ArrayName.parse(spec.name).stream, "grid"))
    if name not in arrays:
        raise BadInput(
            f"Array {spec.name!r} has the layout 'ragged grid' but no {name!r} beside it.", "Pooling needs the grid."
        )
    return [int(size) for size in arrays[name]]
