"""A store as a folder: one npy file per record and array, or safetensors files of many records.

`index.jsonl` says which record is where; `store.json` holds the recipe and what the arrays are, and is written last,
so that a folder without it is an export that did not finish.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from vfc.cache_schema import catalog
from vfc.cache_schema.disk import make_folder
from vfc.cache_schema.dtypes import decode, stored_arrays
from vfc.cache_schema.progress import Progress
from vfc.cache_schema.publish import replace_file, writing
from vfc.cache_schema.reader import StoreReader, open_store
from vfc.cache_schema.record import ArraySpec, Json, Key
from vfc.cache_schema.upkeep.stored import StoredPart, StoredRecord, live_rows

from .exports import Export, chosen, described, key_json, names, require_free

_FILE_BYTES: Final = 256 << 20
_DTYPES: Final[Mapping[str, str]] = {
    "fp32": "F32",
    "fp16": "F16",
    "bf16": "BF16",
    "int8": "I8",
    "float64": "F64",
    "int64": "I64",
    "int32": "I32",
    "uint8": "U8",
}
"""Names that safetensors gives to our dtypes."""


def export_npy(root: Path, out: Path, progress: Progress, *, arrays: Sequence[str] = ()) -> Export:
    """Write `<kind>/<array>/<name>.npy` for every record, `@<view>` and `@<prompt>` added where there are any.

    fp32, fp16 and side arrays keep their dtype; bf16 and int8, which npy does not know or which need their scales,
    become float32. A name that cannot be a path (a text, `..`) is replaced by its hash; `index.jsonl` tells.

    Raises:
        BadInput: something is at `out` already.
        UnknownName: no such array.
        Damaged: bytes of a record are not what was committed.
        Refused, ReadOnlyTarget: the target is full or takes no writes.
    """
    used: set[str] = set()

    def write(record: StoredRecord, specs: Sequence[ArraySpec]) -> dict[str, Json]:
        name = _unused(_path_name(record.key), record.key, used)
        files: dict[str, Json] = {}
        for spec in specs:
            file = f"{record.key.kind}/{spec.name}/{name}.npy"
            _save(out / file, _plain(record, spec))
            files[spec.name] = file
        return {"files": files}

    return _export(root, out, progress, arrays, "npy", write)


def export_safetensors(root: Path, out: Path, progress: Progress, *, arrays: Sequence[str] = ()) -> Export:
    """Write `<kind>-00000.safetensors` and so on, about 256 MB each, tensors called `<name>/<array>`.

    Values are the stored ones: bf16 as bfloat16, int8 with `<array>.scale` beside it.

    Raises:
        BadInput: something is at `out` already.
        UnknownName: no such array.
        Damaged: bytes of a record are not what was committed.
        Refused, ReadOnlyTarget: the target is full or takes no writes.
    """
    writer = _TensorFiles(out)

    def write(record: StoredRecord, specs: Sequence[ArraySpec]) -> dict[str, Json]:
        return writer.add(record, specs)

    return _export(root, out, progress, arrays, "safetensors", write, writer.flush)


def _export(
    root: Path,
    out: Path,
    progress: Progress,
    arrays: Sequence[str],
    form: str,
    write: Callable[[StoredRecord, Sequence[ArraySpec]], dict[str, Json]],
    finish: Callable[[], None] = lambda: None,
) -> Export:
    require_free(out)
    reader = open_store(root)
    kinds = chosen(reader, arrays)
    make_folder(out)
    progress.begin(f"export {form}", sum(len(reader.keys(kind)) for kind in kinds), "records")
    records = 0
    with writing(out), open(out / "index.jsonl", "w", encoding="utf-8") as index:
        for record, specs in _records(reader, kinds):
            row = {**key_json(record.key), "metadata": json.loads(record.metadata), **write(record, specs)}
            index.write(json.dumps(row, ensure_ascii=False) + "\n")
            records += 1
            progress.advance()
        finish()
    about = described(reader, f"vfc {form} export 1", kinds)
    replace_file(out / "store.json", json.dumps(about, indent=1, ensure_ascii=False).encode())
    files = [path for path in out.rglob("*") if path.is_file()]
    return Export(str(out), form, records, names(kinds), len(files), sum(path.stat().st_size for path in files))


def _records(
    reader: StoreReader, kinds: Mapping[str, Sequence[ArraySpec]]
) -> Iterator[tuple[StoredRecord, Sequence[ArraySpec]]]:
    for info, rows in live_rows(catalog.current(reader.root)):
        if info.kind in kinds and rows:
            stored = StoredPart(reader.root / "parts" / info.name, stored_arrays(kinds[info.kind]))
            for row in rows:
                yield stored.record(row), kinds[info.kind]


def _plain(record: StoredRecord, spec: ArraySpec) -> npt.NDArray[Any]:
    stored = record.arrays[spec.name]
    if spec.dtype in ("bf16", "int8"):
        return decode(stored, spec.dtype, record.arrays.get(f"{spec.name}.scale"))
    return stored


def _save(path: Path, values: npt.NDArray[Any]) -> None:
    make_folder(path.parent)
    with writing(path), open(path, "xb") as file:
        np.save(file, values, allow_pickle=False)


class _TensorFiles:
    """Gathers views of tensors and writes a file whenever there is enough for one; their bytes are not held twice."""

    def __init__(self, out: Path) -> None:
        self._out, self._kind, self._count, self._bytes = out, "", 0, 0
        self._tensors: list[tuple[str, str, npt.NDArray[Any]]] = []
        self._used: set[str] = set()

    def add(self, record: StoredRecord, specs: Sequence[ArraySpec]) -> dict[str, Json]:
        """Take a record; where its tensors will be."""
        if self._tensors and (record.key.kind != self._kind or self._bytes + record.bytes > _FILE_BYTES):
            self.flush()
        self._kind = record.key.kind
        self._bytes += record.bytes
        prefix = _unused(_marked(record.key), record.key, self._used)
        for array in stored_arrays(specs):
            self._tensors.append((f"{prefix}/{array.name}", _DTYPES[array.logical], record.arrays[array.name]))
        return {"file": self._name(), "prefix": prefix}

    def _name(self) -> str:
        return f"{self._kind}-{self._count:05}.safetensors"

    def flush(self) -> None:
        """Write what was gathered: length of the header, header, data, the widest dtypes first, so that all align."""
        if not self._tensors:
            return
        header, at = {}, 0
        ordered = sorted(self._tensors, key=lambda tensor: -tensor[2].dtype.itemsize)
        for name, dtype, values in ordered:
            header[name] = {"dtype": dtype, "shape": list(values.shape), "data_offsets": [at, at + values.nbytes]}
            at += values.nbytes
        told = json.dumps(header, ensure_ascii=False).encode()
        told += b" " * (-len(told) % 8)
        with writing(self._out / self._name()), open(self._out / self._name(), "xb") as file:
            file.write(len(told).to_bytes(8, "little") + told)
            for _, _, values in ordered:
                file.write(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)
        self._tensors, self._bytes, self._count = [], 0, self._count + 1


def _marked(key: Key) -> str:
    """The name of a record: its own, and view and prompt where there are any."""
    return key.name + (f"@{key.view}" if key.view else "") + (f"@{key.prompt}" if key.prompt else "")


def _path_name(key: Key) -> str:
    """The same, fit to be a path, or nothing."""
    parts = PurePosixPath(key.name).parts
    clean = "/".join(parts) == key.name and ".." not in parts and not key.name.startswith("/")
    harmless = not any(c in key.name for c in '\0\\:*?"<>|\n') and all(len(part.encode()) < 150 for part in parts)
    ambiguous = any(part.endswith(".npy") for part in parts[:-1])
    return _marked(key) if key.kind != "text" and clean and harmless and not ambiguous else ""


def _unused(name: str, key: Key, used: set[str]) -> str:
    """The name, or the hash of the key where the name is empty or taken."""
    chosen_name = name if name and f"{key.kind}/{name}" not in used else key.hash128().hex()
    used.add(f"{key.kind}/{chosen_name}")
    return chosen_name
