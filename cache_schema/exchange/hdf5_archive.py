"""Archives of features in HDF5: one data set per video, or one array with an index of names beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, TypeAlias

import h5py
import numpy as np

from vfc.cache_schema.values.errors import BadInput, unknown_name

from .sources import Array, Item, Source, reading

HDF5: Final = (".h5", ".hdf5", ".hdf", ".he5")

Spans: TypeAlias = "tuple[tuple[int, int | None], ...]"
"""The rows of each name of an index: start and stop, or one row and None."""


def hdf5(path: Path, dataset: str) -> Source:
    """An HDF5 archive: one data set per video, or one array with an index of names beside it.

    Data sets are called by their path; where all of them have one last name (`<video>/features`), by what is
    before it. `dataset` chooses among several last names. An index is a data set of N strings; the array beside it has
    N rows, or is laid end to end with a data set of N lengths or N + 1 offsets.

    Raises:
        BadInput: no HDF5 file, or several arrays that fit.
    """
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise BadInput(f"{path} is no HDF5 file: {error}.", "Fetch it again.") from None
    datasets: dict[str, Any] = {}

    def visit(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset) and node.shape is not None:
            datasets[name] = node

    file.visititems(visit)
    indexed = _indexed(path, datasets, dataset)
    if indexed is not None:
        return Source("hdf5 array", tuple(indexed))
    numeric = sorted(name for name, node in datasets.items() if node.dtype.kind == "f" and node.ndim)
    videos = _one_per_video(path, numeric, dataset)
    items = [
        Item(video, path, partial(reading, path, partial(_whole, datasets[name]))) for name, video in videos.items()
    ]
    return Source("hdf5", tuple(items))


def _one_per_video(path: Path, numeric: Sequence[str], dataset: str) -> dict[str, str]:
    """Data set -> name of the video, for the chosen ones."""
    heads: dict[str, list[str]] = {}
    for name in numeric:
        heads.setdefault(name.rpartition("/")[2], []).append(name)
    if dataset and dataset not in heads:
        raise unknown_name(f"data set in {path}", dataset, heads)
    if not numeric:
        raise BadInput(f"{path} holds no floating-point data set.", "Give an archive with one data set per video.")
    if not dataset and len(heads) > 1 and len({len(each) for each in heads.values()}) == 1 < len(min(heads.values())):
        raise BadInput(
            f"Every video in {path} has {len(heads)} data sets: {', '.join(sorted(heads)[:8])}.",
            "Say which: --dataset NAME.",
        )
    last = dataset or (next(iter(heads)) if len(heads) == 1 and len(numeric) > 1 else "")
    if not last:
        return {name: name for name in numeric}
    return {name: name.rpartition("/")[0] or name for name in heads[last]}


def _whole(node: Any) -> Array:
    return np.asarray(node[()])


def _rows(node: Any, start: int, stop: int | None) -> Array:
    return np.asarray(node[start] if stop is None else node[start:stop])


@dataclass(frozen=True)
class _Index:
    """A data set of names and the array whose rows they name.

    `spans`: the rows of each name, and the data set that says so; several where several data sets fit.
    """

    names: str
    array: str
    spans: Mapping[Spans, str]


def _indexed(path: Path, datasets: Mapping[str, Any], dataset: str) -> Iterator[Item] | None:
    """The items of an archive that is one array and an index of names; None if it is not."""
    candidates = _indexes(datasets, dataset)
    if not candidates:
        return None
    index = _only_index(path, candidates)
    names = [each.decode() if isinstance(each, bytes) else str(each) for each in datasets[index.names][()]]
    return (
        Item(name, path, partial(reading, path, partial(_rows, datasets[index.array], *span)))
        for name, span in zip(names, next(iter(index.spans)), strict=True)
    )


def _indexes(datasets: Mapping[str, Any], dataset: str) -> list[_Index]:
    """Every pair of names and array whose lengths fit."""
    columns = {name: node for name, node in datasets.items() if node.ndim == 1}
    counts = {name: node[()] for name, node in columns.items() if node.dtype.kind in "iu"}
    names = {name: len(node) for name, node in columns.items() if node.dtype.kind in "OS" and len(node)}
    arrays = {name: len(node) for name, node in datasets.items() if node.dtype.kind == "f" and node.ndim}
    if dataset:
        arrays = {name: rows for name, rows in arrays.items() if name.rpartition("/")[2] == dataset}
    pairs = [
        _Index(index, array, _spans(count, rows, counts))
        for index, count in names.items()
        for array, rows in arrays.items()
    ]
    return [pair for pair in pairs if pair.spans]


def _only_index(path: Path, candidates: Sequence[_Index]) -> _Index:
    """The one way to read an archive.

    Raises:
        BadInput: several arrays fit, or several data sets could say which rows belong to a name.
    """
    if len(candidates) > 1:
        pairs = ", ".join(f"{index.array} by {index.names}" for index in candidates)
        raise BadInput(f"{path} can be read in several ways: {pairs}.", "Say which array: --dataset NAME.")
    (index,) = candidates
    if len(index.spans) > 1:
        raise BadInput(
            f"{path} can be read in several ways: {' or '.join(sorted(index.spans.values()))} may say how many rows "
            f"of {index.array} each of {index.names} has.",
            "Leave one of them out of the file.",
        )
    return index


def _spans(names: int, rows: int, counts: Mapping[str, Array]) -> dict[Spans, str]:
    """Which rows belong to each name: one each, or by offsets or lengths among the whole-number data sets.

    Every way that fits, and the data set that says so.
    """
    if names == rows:
        return {tuple((i, None) for i in range(names)): ""}
    ways: dict[Spans, str] = {}
    for name, values in counts.items():
        ends = values if len(values) == names + 1 else np.concatenate([[0], np.cumsum(values, dtype=np.int64)])
        if len(ends) == names + 1 and ends[0] == 0 and ends[-1] == rows and (np.diff(ends.astype(np.int64)) >= 0).all():
            ways.setdefault(tuple((int(a), int(b)) for a, b in pairwise(ends)), name)
    return ways
