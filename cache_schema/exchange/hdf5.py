"""A store as one small HDF5 file whose data sets point at the store's own shard files: nothing is copied."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np

from vfc.cache_schema import catalog
from vfc.cache_schema.disk import make_folder, remove
from vfc.cache_schema.dtypes import StoredArray, stored_arrays
from vfc.cache_schema.errors import Refused
from vfc.cache_schema.layout import chunk_name
from vfc.cache_schema.mapping import with_checked
from vfc.cache_schema.part import Part
from vfc.cache_schema.progress import Progress
from vfc.cache_schema.publish import writing
from vfc.cache_schema.reader import StoreReader, open_store
from vfc.cache_schema.record import ArraySpec
from vfc.cache_schema.upkeep.stored import live_rows

from .exports import Export, chosen, described, names, require_free

PREFIX: Final = "${ORIGIN}"
"""The `efile_prefix` to open a data set with: paths are relative to the folder of the HDF5 file."""

_MOST_SEGMENTS: Final = 2000
# HDF5 keeps the list of external files in one header message of at most 64 KB.


def export_hdf5(
    root: Path, out: Path, progress: Progress, *, arrays: Sequence[str] = (), absolute: bool = False
) -> Export:
    """Write an HDF5 file that shows the store's records, `/<kind>/<array>`, without copying them.

    Row i of `<kind>/<array>` `[n, ...]` is the record of row i of `<kind>/keys/name`, `view`, `prompt`, `metadata`
    (JSON). A ragged array is flat, `[sum L, ...]`; record i is the rows `<array>.offsets[i]` to `[i+1]`. Attributes
    say what values mean: `dtype` "bf16" is uint16 bits, "int8" is to be multiplied by `<array>.scale` `[n, D]`.

    Paths are relative to the folder of the HDF5 file, for `f.require_dataset(name, shape, dtype,
    efile_prefix="${ORIGIN}")` or the environment variable HDF5_EXTFILE_PREFIX; with `absolute` they work without, but
    not after a move. The file is good until the store is compacted or repaired.

    Raises:
        BadInput: something is at `out` already.
        UnknownName: no such array.
        Damaged: a shard file that is missing, or whose size or index is not what was committed.
        Refused: more pieces than HDF5 can list (compact the store first), or a full disk.
        ReadOnlyTarget: the target takes no writes.
    """
    require_free(out)
    reader = open_store(root)
    kinds = chosen(reader, arrays)
    make_folder(out.resolve().parent)
    unfinished = out.with_name(f".{out.name}.unfinished")
    try:
        with writing(out):
            with h5py.File(unfinished, "w") as file:
                file.attrs["vfc"] = json.dumps(described(reader, "vfc hdf5 export 1", kinds), ensure_ascii=False)
                file.attrs["efile_prefix"] = "" if absolute else PREFIX
                for kind, specs in kinds.items():
                    _write_kind(file.create_group(kind), reader, kind, specs, None if absolute else out, progress)
            os.replace(unfinished, out)
    finally:
        remove(unfinished)
    return Export(str(out), "hdf5", sum(len(reader.keys(kind)) for kind in kinds), names(kinds), 1, out.stat().st_size)


def _write_kind(
    group: Any, reader: StoreReader, kind: str, specs: Sequence[ArraySpec], out: Path | None, progress: Progress
) -> None:
    parts = [
        (Part(reader.root / "parts" / info.name), rows)
        for info, rows in live_rows(catalog.current(reader.root))
        if info.kind == kind and rows
    ]
    progress.begin(f"export {kind}", len(parts), "parts")
    keys = [part.key(row) for part, rows in parts for row in rows]
    told = [json.dumps(part.metadata(row), ensure_ascii=False) for part, rows in parts for row in rows]
    text = h5py.string_dtype()
    columns = group.create_group("keys")
    columns.create_dataset("name", data=[key.name for key in keys], dtype=text)
    columns.create_dataset("prompt", data=[key.prompt for key in keys], dtype=text)
    columns.create_dataset("view", data=np.array([key.view for key in keys], np.int64))
    columns.create_dataset("metadata", data=told, dtype=text)
    for array in stored_arrays(specs):
        _point(group, array, parts, len(keys), out)
    progress.advance(len(parts))


def _point(
    group: Any, array: StoredArray, parts: Sequence[tuple[Part, list[int]]], records: int, out: Path | None
) -> None:
    """One data set over the shard files of all parts, without the rows that no longer count."""
    segments: list[tuple[str, int, int]] = []
    lengths: list[int] = []
    for part, rows in parts:
        with_checked(part.shard_file(array), lambda *_: None) if part.shard_file(array).shard.rows else None
        path = part.folder.resolve() / array.name / chunk_name(array)
        named = str(path) if out is None else Path(os.path.relpath(path, out.resolve().parent)).as_posix()
        offsets = part.offsets(array.name) if array.ragged else np.arange(part.info.records + 1)
        lengths.extend((offsets[row + 1] - offsets[row]).item() for row in rows)
        for first, last in _runs(rows):
            start, stop = int(offsets[first]) * array.row_bytes, int(offsets[last + 1]) * array.row_bytes
            if stop > start:
                segments.append((named, start, stop - start))
    if len(segments) > _MOST_SEGMENTS:
        raise Refused(
            f"Array {array.name!r} lies in {len(segments)} pieces; HDF5 can point at {_MOST_SEGMENTS}.",
            "Run `vfc store compact` with larger parts first, or export to npy or safetensors.",
        )
    rows_total = sum(lengths) if array.ragged else records
    data = group.create_dataset(
        array.name,
        shape=(rows_total, *array.row_shape),
        dtype=array.dtype,
        external=segments or None,
        efile_prefix=PREFIX if out is not None and segments else None,
    )
    data.attrs["dtype"], data.attrs["layout"] = array.logical, array.layout
    if array.ragged:
        group.create_dataset(f"{array.name}.offsets", data=np.cumsum([0, *lengths], dtype=np.int64))


def _runs(rows: Iterable[int]) -> Iterator[tuple[int, int]]:
    """First and last of every run of neighbours in an ascending list."""
    for _, run in groupby(enumerate(rows), key=lambda pair: pair[1] - pair[0]):
        members = [row for _, row in run]
        yield members[0], members[-1]
