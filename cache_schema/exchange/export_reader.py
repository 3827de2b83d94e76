"""Reading of exports: every record as it was in the original store, its checksum compared."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np

from vfc.cache_schema.annotations import Annotation, Annotations, read_annotations
from vfc.cache_schema.annotations.rows import annotation_files
from vfc.cache_schema.parts.zarr_format import checksum
from vfc.cache_schema.values.dtypes import StoredArray, stored_arrays
from vfc.cache_schema.values.errors import BadInput, RecordRejected
from vfc.cache_schema.values.recipe import Recipe, canonical, digest
from vfc.cache_schema.values.record import ArraySpec, Json, Key

from .archives import tensors_in
from .exports import FORMS
from .hdf5_archive import HDF5
from .sources import Array, reading

ABOUT, INDEX, BEGUN = "store.json", "index.jsonl", "export.json"


@dataclass(frozen=True)
class ExportedRecord:
    """One record of an export.

    `crcs`: crc32c of its stored arrays; `load` gives one of them; `files`: the files of arrays that are not in `path`.
    """

    key: Key
    metadata: Mapping[str, Json]
    path: Path
    arrays: Sequence[StoredArray]
    crcs: Mapping[str, int]
    load: Callable[[StoredArray], Array]
    files: Mapping[str, Path] = field(default_factory=dict)

    def stored(self, *, verify: bool = True) -> dict[str, Array]:
        """Its stored values by stored name.

        Raises:
            RecordRejected: a file that cannot be read, or that does not hold what was exported.
        """
        values_of = {}
        for array in self.arrays:
            path = self.files.get(array.name, self.path)
            values = reading(path, partial(self.load, array))
            if not array.fits(values) or (verify and checksum(np.ascontiguousarray(values)) != self.crcs[array.name]):
                raise RecordRejected(
                    f"{path}: array {array.name!r} of {self.key.name!r} is not what was exported.",
                    "Fetch the file again, or export the store again.",
                )
            values_of[array.name] = values
        return values_of


@dataclass(frozen=True)
class OpenedExport:
    """A finished export: its description, its records, and its annotations."""

    about: Mapping[str, Any]
    records: Sequence[ExportedRecord]
    annotations: Mapping[str, Annotations] = field(default_factory=dict)

    @property
    def kinds(self) -> dict[str, tuple[ArraySpec, ...]]:
        """The arrays of every kind."""
        return {kind: tuple(map(ArraySpec.from_json, specs)) for kind, specs in self.about["kinds"].items()}


def is_export(place: Path) -> bool:
    """Whether a file or folder was written by `vfc store export`, finished or not."""
    if place.is_dir():
        return (place / BEGUN).is_file() or (place / ABOUT).is_file()
    if place.suffix not in HDF5 or not h5py.is_hdf5(place):
        return False
    with h5py.File(place, "r") as file:
        return "vfc" in file.attrs


def open_export(place: Path) -> OpenedExport:
    """Open an export.

    Raises:
        BadInput: it did not finish, its description or index was changed since, or it points at files that are not
            there.
    """
    if not place.is_dir():
        return _from_hdf5(place)
    about, kinds = _described(place)
    rows = read_index(place)
    # Exports of earlier versions have no such digest.
    if about.get("index_digest", index_digest(rows)) != index_digest(rows):
        raise BadInput(
            f"{place / INDEX} is not as the export left it: cut short, changed, or being added to.",
            "Fetch that file again, or run `vfc store export` again: it goes on.",
        )
    records = [exported_record(place, row, kinds[row["kind"]]) for row in rows.values()]
    sets = {name: read_annotations(path) for name, path in annotation_files(place).items()}
    return OpenedExport(about, records, sets)


def _described(place: Path) -> tuple[dict[str, Any], dict[str, tuple[ArraySpec, ...]]]:
    """The description of a finished export in a folder, and its kinds."""
    try:
        about = json.loads((place / ABOUT).read_bytes())
        stored_digest = about.pop("digest", "")  # exports of earlier versions have none
        if stored_digest in ("", digest(about)) and Recipe(about["recipe"]).digest == about["recipe_digest"]:
            return about, {kind: tuple(map(ArraySpec.from_json, specs)) for kind, specs in about["kinds"].items()}
    except FileNotFoundError:
        raise BadInput(
            f"{place} is an export that did not finish.", "Run `vfc store export` again: it goes on."
        ) from None
    except (ValueError, LookupError, TypeError, AttributeError):
        pass
    raise BadInput(
        f"{place / ABOUT} is not as the export left it.", "Fetch that file again, or run `vfc store export` again."
    )


def read_index(place: Path) -> dict[Key, dict[str, Any]]:
    """The rows of `index.jsonl`, the last of each key; a line that was cut short by a kill is passed over."""
    rows = {}
    path = place / INDEX
    for line in path.read_bytes().split(b"\n") if path.is_file() else ():
        try:
            row = json.loads(line)
            rows[Key(row["kind"], row["name"], row["view"], row["prompt"])] = row
        except (ValueError, LookupError, TypeError):
            continue
    return rows


def index_digest(rows: Mapping[Key, Mapping[str, Any]]) -> str:
    """SHA-256 of the rows of an index, sorted by key, in hex."""
    return hashlib.sha256(b"\n".join(canonical(dict(rows[key])) for key in sorted(rows))).hexdigest()


def exported_record(place: Path, row: Mapping[str, Any], specs: Sequence[ArraySpec]) -> ExportedRecord:
    """The record of a row of the index of a folder."""
    key = Key(row["kind"], row["name"], row["view"], row["prompt"])
    crcs, arrays = row["crc32c"], stored_arrays(specs)
    if "files" not in row:
        path = place / row["file"]
        return ExportedRecord(key, row["metadata"], path, arrays, crcs, partial(_from_tensors, path, row["prefix"]))
    paths = {name: place / file for name, file in row["files"].items()}
    return ExportedRecord(key, row["metadata"], place, arrays, crcs, partial(_from_npy, paths), paths)


def _from_npy(paths: Mapping[str, Path], array: StoredArray) -> Array:
    values: Array = np.load(paths[array.name], mmap_mode="r", allow_pickle=False)
    if array.logical == "bf16":
        return (np.ascontiguousarray(values).view("<u4") >> 16).astype("<u2")
    if array.logical == "int8":
        scale = np.load(paths[f"{array.name}.scale"], allow_pickle=False)
        return np.rint(values / np.where(scale > 0, scale, np.float32(1))).astype("|i1")
    return values


def _from_tensors(path: Path, prefix: str, array: StoredArray) -> Array:
    status = path.stat()
    return _tensors(path, status.st_size, status.st_mtime_ns)[f"{prefix}/{array.name}"][1]


# Records of one file follow each other; its header is parsed once for them.
_tensors = lru_cache(maxsize=2)(lambda path, size, changed: tensors_in(path))


def _from_hdf5(place: Path) -> OpenedExport:
    file = h5py.File(place, "r")
    about = read_description(file)
    if about.get("format") != FORMS["hdf5"]:
        raise BadInput(f"{place} has the format {about.get('format')!r}.", f"This version reads {FORMS['hdf5']!r}.")
    kinds = {kind: tuple(map(ArraySpec.from_json, specs)) for kind, specs in about["kinds"].items()}
    records = [record for kind, specs in kinds.items() for record in _records_of(place, file, kind, specs)]
    sets = {}
    for name, lines in file.get("annotations", {}).items():
        rows = [json.loads(line) for line in lines.asstr()[:] if line.strip()]
        sets[name] = Annotations(tuple(Annotation(**row) for row in rows))
    return OpenedExport(about, records, sets)


# HDF5 keeps an attribute in a header of 64 KB; many prompts need more.
_LONGEST: Final = 60_000


def write_description(file: Any, about: Mapping[str, Json]) -> None:
    """Write the description of an export: the attribute `vfc`, or the data set of this name where it is too long."""
    text = json.dumps(about, ensure_ascii=False)
    file.attrs["vfc"] = text if len(text.encode()) < _LONGEST else ""
    if not file.attrs["vfc"]:
        file.create_dataset("vfc", data=text, dtype=h5py.string_dtype())


def read_description(file: Any) -> dict[str, Any]:
    """The inverse of `write_description`."""
    about: dict[str, Any] = json.loads(file.attrs["vfc"] or file["vfc"].asstr()[()])
    return about


def _records_of(place: Path, file: Any, kind: str, specs: Sequence[ArraySpec]) -> Iterator[ExportedRecord]:
    group, columns, arrays = file[kind], file[kind]["keys"], stored_arrays(specs)
    data = {array.name: opened(file, f"{kind}/{array.name}") for array in arrays}
    for dataset in data.values():
        _require_files(place, dataset, str(file.attrs["efile_prefix"]))
    offsets = {array.name: group[f"{array.name}.offsets"][:] for array in arrays if array.ragged}
    crcs = {array.name: columns["crc32c"][array.name][:] for array in arrays}
    prompts, metadata = columns["prompt"].asstr()[:], columns["metadata"].asstr()[:]

    def load(i: int, array: StoredArray) -> Array:
        if array.ragged:
            start, stop = offsets[array.name][i : i + 2]
            return np.asarray(data[array.name][start:stop])
        return np.asarray(data[array.name][i])

    for i, name in enumerate(columns["name"].asstr()[:]):
        key = Key(kind, str(name), int(columns["view"][i]), str(prompts[i]))
        sums = {array.name: int(crcs[array.name][i]) for array in arrays}
        yield ExportedRecord(key, json.loads(metadata[i]), place, arrays, sums, partial(load, i))


def opened(file: Any, name: str) -> Any:
    """A data set whose external files are named relative to the HDF5 file."""
    access = h5py.h5p.create(h5py.h5p.DATASET_ACCESS)
    access.set_efile_prefix(str(file.attrs["efile_prefix"]).encode())
    return h5py.Dataset(h5py.h5d.open(file.id, name.encode(), access))


def _require_files(place: Path, data: Any, prefix: str) -> None:
    """Refuse an HDF5 file whose store was moved or compacted since: HDF5 itself would say it record by record.

    Raises:
        BadInput: a file that it points at is not there.
    """
    for named in sorted({name for name, _, _ in data.external or ()}):
        path = Path(named) if not prefix else place.resolve().parent / named
        if not path.is_file():
            raise BadInput(
                f"{place} points at {path}, which is not there.",
                "The store must stay where it was, and as it was: export it again.",
            )
