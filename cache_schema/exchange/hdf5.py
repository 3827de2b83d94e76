"""A store as one small HDF5 file whose data sets refer to the store's own shard files: nothing is copied."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np

from vfc.cache_schema import catalog
from vfc.cache_schema.annotations import read_annotations
from vfc.cache_schema.annotations.rows import annotation_files, as_lines
from vfc.cache_schema.parts.atomic_files import writing
from vfc.cache_schema.parts.disk import make_folder, remove
from vfc.cache_schema.parts.part import Part
from vfc.cache_schema.parts.shard_mmap import with_checked
from vfc.cache_schema.parts.zarr_format import chunk_name
from vfc.cache_schema.reader import StoreReader, open_store
from vfc.cache_schema.upkeep.stored import live_rows
from vfc.cache_schema.values.dtypes import StoredArray, stored_arrays
from vfc.cache_schema.values.errors import BadInput, Damaged, RecordRejected, Refused
from vfc.cache_schema.values.progress import Progress
from vfc.cache_schema.values.record import ArraySpec

from .export_reader import is_export, open_export, read_description, write_description
from .exports import ExportReport, chosen, described, identity, names, require_free, require_same

PREFIX: Final = "${ORIGIN}"
"""The `efile_prefix` to open a data set with: paths are relative to the folder of the HDF5 file."""

_MOST_SEGMENTS: Final = 2000
# HDF5 keeps the list of external files in one header message of at most 64 KB.


def export_hdf5(
    root: Path,
    out: Path,
    progress: Progress,
    *,
    arrays: Sequence[str] = (),
    absolute: bool = False,
    verify: bool = True,
) -> ExportReport:
    """Write an HDF5 file that shows the store's records, `/<kind>/<array>`, without copying them.

    Row i of `<kind>/<array>` `[n, ...]` is the record of row i of `<kind>/keys/name`, `view`, `prompt`, `metadata`
    (JSON). A ragged array is flat, `[sum L, ...]`; record i is the rows `<array>.offsets[i]` to `[i+1]`. Attributes
    say what values mean: `dtype` "bf16" is uint16 bits, "int8" is to be multiplied by `<array>.scale` `[n, D]`.

    Paths are relative to the folder of the HDF5 file, for `f.require_dataset(name, shape, dtype,
    efile_prefix="${ORIGIN}")` or the environment variable HDF5_EXTFILE_PREFIX; with `absolute` they work without, but
    not after a move. The file is good until the store is compacted or repaired. Run again, it is left as it is, or
    replaced where it no longer shows the store as it is.

    Raises:
        BadInput: something else is at `out` already.
        UnknownName: no such array.
        Damaged: a shard file that is missing, or whose size or index is not what was committed; or, with `verify`,
            records that HDF5 does not read as they were committed.
        Refused: more pieces than HDF5 can list (compact the store first), or a full disk.
        ReadOnlyTarget: the target takes no writes.
    """
    reader = open_store(root)
    kinds = chosen(reader, arrays)
    records = sum(len(reader.keys(kind)) for kind in kinds)
    shows = _shows(reader, out, kinds, absolute)
    present = records if shows and not _faults(out, verify, progress) else 0
    if not present:
        _write(reader, out, kinds, absolute, progress)
        for problem in _faults(out, verify, progress)[:1]:
            raise Damaged(problem, f"Run `vfc store verify {root}`.")
    size, checked = out.stat().st_size, records if verify else 0
    mended = records if shows is not None and not present else 0
    return ExportReport(str(out), "hdf5", records, names(kinds), 1, size, present, mended, checked)


def _shows(reader: StoreReader, out: Path, kinds: Mapping[str, Sequence[ArraySpec]], absolute: bool) -> bool | None:
    """Whether an HDF5 file describes the store as it is now; None without a file."""
    if not (out.is_file() and is_export(out)):
        require_free(out)
        return None
    with h5py.File(out, "r") as file:
        about = read_description(file)
        require_same(about, identity(reader, "hdf5", kinds), out)
        annotations = {name: lines.asstr()[:].tolist() for name, lines in file.get("annotations", {}).items()}
        same_paths = file.attrs["efile_prefix"] == ("" if absolute else PREFIX)
    return about == described(reader, "hdf5", kinds) and annotations == _annotations(reader) and same_paths


def _annotations(reader: StoreReader) -> dict[str, list[str]]:
    """The lines of every set of annotations."""
    return {name: as_lines(read_annotations(path)) for name, path in annotation_files(reader.root).items()}


def _faults(out: Path, verify: bool, progress: Progress) -> list[str]:
    """What HDF5 does not read as it was committed; without `verify`, only missing files."""
    try:
        export = open_export(out)
    except (BadInput, LookupError, OSError) as error:
        return [str(error)]
    faults = []
    progress.begin("verify", len(export.records) if verify else 0, "records")
    for record in export.records if verify else ():
        try:
            record.stored()
        except RecordRejected as error:
            faults.append(error.problem)
        progress.advance()
    return faults


def _write(
    reader: StoreReader, out: Path, kinds: Mapping[str, Sequence[ArraySpec]], absolute: bool, progress: Progress
) -> None:
    make_folder(out.resolve().parent)
    unfinished = out.with_name(f".{out.name}.unfinished")
    try:
        with writing(out):
            with h5py.File(unfinished, "w") as file:
                write_description(file, described(reader, "hdf5", kinds))
                file.attrs["efile_prefix"] = "" if absolute else PREFIX
                for kind, specs in kinds.items():
                    _write_kind(file.create_group(kind), reader, kind, specs, None if absolute else out, progress)
                for name, lines in _annotations(reader).items():
                    file.create_dataset(f"annotations/{name}", data=lines, dtype=h5py.string_dtype())
            os.replace(unfinished, out)
    finally:
        remove(unfinished)


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
    metadata = [json.dumps(part.metadata(row), ensure_ascii=False) for part, rows in parts for row in rows]
    text = h5py.string_dtype()
    columns = group.create_group("keys")
    columns.create_dataset("name", data=[key.name for key in keys], dtype=text)
    columns.create_dataset("prompt", data=[key.prompt for key in keys], dtype=text)
    columns.create_dataset("view", data=np.array([key.view for key in keys], np.int64))
    columns.create_dataset("metadata", data=metadata, dtype=text)
    for array in stored_arrays(specs):
        sums = [part.crcs(array.name)[rows] for part, rows in parts]
        columns.create_dataset(f"crc32c/{array.name}", data=np.concatenate([np.empty(0, np.uint32), *sums]))
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
