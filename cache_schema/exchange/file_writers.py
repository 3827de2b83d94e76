"""How records become files: an npy file per array, or safetensors files of many records; each whole or not there."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any, Final, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from vfc.cache_schema.parts.atomic_files import writing
from vfc.cache_schema.parts.disk import make_folder, remove
from vfc.cache_schema.parts.zarr_format import SAFETENSORS, checksum
from vfc.cache_schema.upkeep.stored import StoredRecord
from vfc.cache_schema.values.dtypes import decode, stored_arrays
from vfc.cache_schema.values.record import ArraySpec, Json, Key

Row: TypeAlias = dict[str, Any]
"""One line of `index.jsonl`: a key, its metadata, its checksums, and the files of its arrays."""

_FILE_BYTES: Final = 256 << 20
_DTYPES: Final = {numpy_dtype: name for name, numpy_dtype in SAFETENSORS.items()}


class FileWriter(Protocol):
    """How records become files."""

    def add(self, record: StoredRecord, specs: Sequence[ArraySpec]) -> list[Row]:
        """Take a record; the rows of those that are on disk now: this one, some before it, or none yet."""

    def flush(self) -> list[Row]:
        """Write the records that are not on disk yet; their rows."""


def _row(record: StoredRecord, where: Mapping[str, Json], crcs: Mapping[str, int]) -> Row:
    return {**asdict(record.key), "metadata": json.loads(record.metadata), **where, "crc32c": dict(crcs)}


def _plain(record: StoredRecord, spec: ArraySpec) -> npt.NDArray[Any]:
    stored = record.arrays[spec.name]
    if spec.dtype in ("bf16", "int8"):
        return decode(stored, spec.dtype, record.arrays.get(f"{spec.name}.scale"))
    return stored


def _checksums(record: StoredRecord) -> dict[str, int]:
    return {name: checksum(values) for name, values in record.arrays.items()}


class NpyWriter:
    """One file per record and array, each under its name only when it is whole."""

    def __init__(self, out: Path, rows: Mapping[Key, Row]) -> None:
        self._out, self._rows = out, rows
        self._used = {f"{key.kind}/{self._name_in(key, row)}" for key, row in rows.items()}

    def add(self, record: StoredRecord, specs: Sequence[ArraySpec]) -> list[Row]:
        """Write one record."""
        key = record.key
        listed = self._rows.get(key)
        name = self._name_in(key, listed) if listed else _unused(self.path_name(key), key, self._used)
        files: dict[str, Json] = {}
        for spec in specs:
            files[spec.name] = file = f"{self.folder(key.kind, spec.name)}/{name}.npy"
            self._save(file, _plain(record, spec))
            if spec.dtype == "int8":
                scale = f"{spec.name}.scale"
                files[scale] = file = f"{self.folder(key.kind, scale)}/{name}.npy"
                self._save(file, record.arrays[scale])
        return [_row(record, {"files": files}, _checksums(record))]

    def flush(self) -> list[Row]:
        """Nothing is waiting to be written."""
        return []

    def folder(self, kind: str, array: str) -> str:
        """The folder of the files of an array."""
        return f"{kind}/{array}"

    def path_name(self, key: Key) -> str:
        """The name that the files of a record share, without `.npy`; empty where none can be made of its key."""
        return _path_name(key)

    def _name_in(self, key: Key, row: Row) -> str:
        """The name that a listed record's files share."""
        array, file = next(iter(row["files"].items()))
        return str(file).removeprefix(f"{self.folder(key.kind, array)}/").removesuffix(".npy")

    def _save(self, file: str, values: npt.NDArray[Any]) -> None:
        path = self._out / file
        make_folder(path.parent)
        unfinished = path.with_name(".unfinished")
        try:
            with writing(path):
                with open(unfinished, "wb") as opened:
                    np.save(opened, values, allow_pickle=False)
                os.replace(unfinished, path)
        except BaseException:
            remove(unfinished)
            raise


class SafetensorsWriter:
    """Gathers views of tensors and writes a file whenever there is enough for one; their bytes are not copied."""

    def __init__(self, out: Path, rows: Mapping[Key, Row]) -> None:
        self._out, self._kind, self._bytes = out, "", 0
        self._count = 1 + max((int(row["file"].split("-")[1].split(".")[0]) for row in rows.values()), default=-1)
        self._tensors: list[tuple[str, str, npt.NDArray[Any]]] = []
        self._rows: list[Row] = []
        self._used: set[str] = set()

    def add(self, record: StoredRecord, specs: Sequence[ArraySpec]) -> list[Row]:
        """Take a record; the rows of those that were written to make room for it."""
        full = self._tensors and (record.key.kind != self._kind or self._bytes + record.bytes > _FILE_BYTES)
        written = self.flush() if full else []
        self._kind = record.key.kind
        self._bytes += record.bytes
        prefix = _unused(_marked(record.key), record.key, self._used)
        for array in stored_arrays(specs):
            self._tensors.append((f"{prefix}/{array.name}", _DTYPES[array.dtype.str], record.arrays[array.name]))
        self._rows.append(_row(record, {"file": self._name(), "prefix": prefix}, _checksums(record)))
        return written

    def _name(self) -> str:
        return f"{self._kind}-{self._count:05}.safetensors"

    def flush(self) -> list[Row]:
        """Write the waiting records: length of the header, header, data, the widest dtypes first, so that all align."""
        if not self._tensors:
            return []
        header, at = {}, 0
        ordered = sorted(self._tensors, key=lambda tensor: -tensor[2].dtype.itemsize)
        for name, dtype, values in ordered:
            header[name] = {"dtype": dtype, "shape": list(values.shape), "data_offsets": [at, at + values.nbytes]}
            at += values.nbytes
        encoded = json.dumps(header, ensure_ascii=False).encode()
        encoded += b" " * (-len(encoded) % 8)
        unfinished = self._out / ".unfinished"
        try:
            with writing(self._out / self._name()):
                with open(unfinished, "wb") as file:
                    file.write(len(encoded).to_bytes(8, "little") + encoded)
                    for _, _, values in ordered:
                        file.write(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(unfinished, self._out / self._name())
        except BaseException:
            remove(unfinished)
            raise
        rows = self._rows
        self._tensors, self._rows, self._bytes, self._count, self._used = [], [], 0, self._count + 1, set()
        return rows


def _marked(key: Key) -> str:
    """The name of a record: its own, and view and prompt where there are any."""
    return key.name + (f"@{key.view}" if key.view else "") + (f"@{key.prompt}" if key.prompt else "")


def _path_name(key: Key) -> str:
    """The same, fit to be a path, or nothing."""
    name = _marked(key)
    parts = PurePosixPath(name).parts
    clean = "/".join(parts) == name and ".." not in parts and not name.startswith("/")
    harmless = not any(c in name for c in '\0\\:*?"<>|\n') and all(len(part.encode()) < 150 for part in parts)
    ambiguous = any(part.endswith(".npy") for part in parts[:-1])
    return name if key.kind != "text" and clean and harmless and not ambiguous else ""


def _unused(name: str, key: Key, used: set[str]) -> str:
    """The name, or the hash of the key where the name is empty or taken."""
    chosen_name = name if name and f"{key.kind}/{name}" not in used else key.hash128().hex()
    used.add(f"{key.kind}/{chosen_name}")
    return chosen_name
