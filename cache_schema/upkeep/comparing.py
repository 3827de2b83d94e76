"""compare: what sets two stores apart, in recipe, keys and numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vfc.cache_schema.reader import StoreReader, open_store
from vfc.cache_schema.values.progress import Progress
from vfc.cache_schema.values.record import FEATURE_DTYPES, ArraySpec, Json, Key
from vfc.cache_schema.values.report import Report


@dataclass(frozen=True)
class ArrayDifference:
    """How far one array differs over all records that both stores hold.

    `equal` counts the records with equal decoded values. Features: `max_abs`, `rel_l2` = |here - there| / |here| over
    all values together, `cosine` of whole records, the smallest and the mean. Records of unequal shape, and unequal
    side arrays, count in `unlike` and not in the measures.
    """

    kind: str
    array: str
    records: int
    equal: int
    unlike: int
    max_abs: float
    rel_l2: float
    cosine_min: float
    cosine_mean: float


@dataclass(frozen=True)
class Comparison(Report):
    """What sets two stores apart.

    `identical`: the same keys, the same arrays, equal decoded values and metadata; the recipes may still differ, as
    they do after an export and an import.
    """

    here: str
    there: str
    same_recipe: bool
    recipe_difference: tuple[tuple[str, Json, Json], ...]
    only_here: tuple[Key, ...]
    only_there: tuple[Key, ...]
    arrays_only_here: tuple[str, ...]
    arrays_only_there: tuple[str, ...]
    arrays: tuple[ArrayDifference, ...]
    metadata_differs: int

    @property
    def identical(self) -> bool:
        """Whether both hold the same records with the same values."""
        apart = self.only_here or self.only_there or self.arrays_only_here or self.arrays_only_there
        return not apart and not self.metadata_differs and all(a.equal == a.records for a in self.arrays)

    def to_json(self) -> dict[str, Json]:
        """As one JSON document."""
        return {"identical": self.identical, **super().to_json()}


def compare(here: Path, there: Path, progress: Progress) -> Comparison:
    """Compare recipes, keys, and every value of every record that both stores hold.

    Raises:
        MissingPath, NotAStore: one of them is no store.
        Damaged: bytes of a record are not what was committed.
    """
    left, right = open_store(here), open_store(there)
    left_keys, right_keys = left.keys(), right.keys()
    shared = sorted(set(left_keys) & set(right_keys))
    names_left, names_right = _arrays(left), _arrays(right)
    sums = {name: _Sums() for name in names_left if name in names_right}
    metadata = 0
    progress.begin("compare", len(shared), "records")
    for key in shared:
        metadata += left.metadata(key) != right.metadata(key)
        for (kind, array), spec in names_left.items():
            if kind == key.kind and (kind, array) in sums:
                feature = spec.dtype in FEATURE_DTYPES and names_right[kind, array].dtype in FEATURE_DTYPES
                if spec.dtype == names_right[kind, array].dtype and _stored_equal(left, right, key, spec):
                    sums[kind, array].add_equal(left.read(key, array), feature)
                else:
                    sums[kind, array].add(left.read(key, array), right.read(key, array), feature)
        progress.advance()
    difference = left.recipe.difference(right.recipe)
    return Comparison(
        here=str(here),
        there=str(there),
        same_recipe=not difference,
        recipe_difference=tuple(difference),
        only_here=tuple(sorted(set(left_keys) - set(right_keys))),
        only_there=tuple(sorted(set(right_keys) - set(left_keys))),
        arrays_only_here=tuple(f"{kind}: {array}" for kind, array in sorted(names_left.keys() - names_right.keys())),
        arrays_only_there=tuple(f"{kind}: {array}" for kind, array in sorted(names_right.keys() - names_left.keys())),
        arrays=tuple(sums[name].summary(*name) for name in sorted(sums)),
        metadata_differs=metadata,
    )


def _arrays(reader: StoreReader) -> Mapping[tuple[str, str], ArraySpec]:
    return {(kind, spec.name): spec for kind, specs in reader.kinds.items() for spec in specs}


def _stored_equal(left: StoreReader, right: StoreReader, key: Key, spec: ArraySpec) -> bool:
    """Whether the bytes on disk are equal: far cheaper than to decode both."""
    names = [spec.name, f"{spec.name}.scale"] if spec.dtype == "int8" else [spec.name]
    views = [(left.view(key, name), right.view(key, name)) for name in names]
    return all(x.shape == y.shape and x.tobytes() == y.tobytes() for x, y in views)


@dataclass
class _Sums:
    """Running sums over the records of one array."""

    records: int = 0
    equal: int = 0
    unlike: int = 0
    max_abs: float = 0.0
    squares: float = 0.0
    difference: float = 0.0
    cosines: list[float] = field(default_factory=list)

    def add(self, left: npt.NDArray[Any], right: npt.NDArray[Any], feature: bool) -> None:
        """One record, decoded."""
        if left.shape == right.shape and np.array_equal(left, right, equal_nan=left.dtype.kind == "f"):
            self.add_equal(left, feature)
            return
        self.records += 1
        if left.shape != right.shape or not feature:
            self.unlike += 1
            return
        x, y = left.astype(np.float64).reshape(-1), right.astype(np.float64).reshape(-1)
        square, other = float(x @ x), float(y @ y)
        self.squares += square
        apart = x - y
        self.max_abs = max(self.max_abs, float(np.abs(apart).max()))
        self.difference += float(apart @ apart)
        length = math.sqrt(square * other)
        self.cosines.append(float(x @ y) / length if length else 0.0)

    def add_equal(self, values: npt.NDArray[Any], feature: bool) -> None:
        """One record that is the same on both sides."""
        self.records += 1
        self.equal += 1
        if feature:
            flat = values.reshape(-1)
            square = float(flat @ flat)
            self.squares += square if math.isfinite(square) else float(np.square(flat, dtype=np.float64).sum())
            self.cosines.append(1.0)

    def summary(self, kind: str, array: str) -> ArrayDifference:
        rel = math.sqrt(self.difference / self.squares) if self.squares else math.sqrt(self.difference)
        cosines = self.cosines or [1.0]
        mean = math.fsum(cosines) / len(cosines)
        return ArrayDifference(
            kind, array, self.records, self.equal, self.unlike, self.max_abs, rel, min(cosines), mean
        )
