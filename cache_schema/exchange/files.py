"""A store as a folder: one npy file per record and array, safetensors files of many records, or as toolkits read it.

`export.json` says of what store; `index.jsonl` says which record is where, with its checksums, and grows as records
are written, so that a run that was killed is gone on with; `store.json` holds the recipe and what the arrays are, and
is written last: a folder without it is an export that did not finish.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Final, Literal

from vfc.cache_schema import catalog
from vfc.cache_schema.annotations.rows import annotation_files
from vfc.cache_schema.parts.atomic_files import replace_file, writing
from vfc.cache_schema.parts.disk import make_folder
from vfc.cache_schema.reader import StoreReader, open_store
from vfc.cache_schema.upkeep.stored import StoredPart, live_rows
from vfc.cache_schema.values.dtypes import stored_arrays
from vfc.cache_schema.values.errors import BadInput, Damaged, RecordRejected
from vfc.cache_schema.values.progress import Progress
from vfc.cache_schema.values.recipe import digest
from vfc.cache_schema.values.record import ArraySpec, Json, Key

from .detection import DetectionWriter, describe_features, vectors
from .export_reader import ABOUT, BEGUN, INDEX, exported_record, index_digest, read_index
from .exports import ExportReport, chosen, described, identity, names, require_free, require_same
from .file_writers import FileWriter, NpyWriter, Row, SafetensorsWriter


def export_files(
    root: Path,
    out: Path,
    progress: Progress,
    form: Literal["npy", "safetensors", "detection"],
    *,
    arrays: Sequence[str] = (),
    verify: bool = True,
) -> ExportReport:
    """Write a folder; run again, it writes what is new or not as it should be.

    npy: `<kind>/<array>/<name>.npy` for every record, `@<view>` and `@<prompt>` added where there are any. fp32, fp16
    and side arrays keep their dtype; bf16 and int8, which npy does not know or which need their scales, become
    float32, the scales beside them. A name that cannot be a path (a text, `..`) is replaced by its hash; `index.jsonl`
    says which.

    safetensors: `<kind>-00000.safetensors` and so on, about 256 MB each, tensors called `<name>/<array>`. Values are
    the stored ones: bf16 as bfloat16, int8 with `<array>.scale` beside it. What is new goes into further files.

    detection: see `detection`; one array of one vector per step.

    Raises:
        BadInput: something else is at `out` already; no array, or several, have one vector per step (detection).
        UnknownName: no such array.
        Damaged: bytes of a record are not what was committed, or not what was written.
        Refused, ReadOnlyTarget: the target is full or takes no writes.
    """
    reader = open_store(root)
    kinds = chosen(reader, arrays)
    if form == "detection":
        kinds = vectors(reader, arrays)
    listed = _begin(reader, out, form, kinds)
    writer: FileWriter = _WRITERS[form](out, listed)
    total = sum(len(reader.keys(kind)) for kind in kinds)
    progress.begin(f"export {form}", total, "records")
    present = mended = 0
    with writing(out), open(out / INDEX, "ab") as file:
        index = _Index(file, out, kinds, verify)
        for stored, number, crcs in _records(reader, kinds):
            key = stored.part.key(number)
            row = listed.get(key)
            if row is not None and row["crc32c"] == crcs and _is_intact(out, row, kinds[key.kind], verify):
                present += 1
            else:
                mended += row is not None
                index.add(writer.add(stored.record(number), kinds[key.kind]))
            progress.advance()
        index.add(writer.flush())
    if form == "detection":
        describe_features(reader, out, kinds["video"][0], read_index(out))
    _finish(reader, out, {**described(reader, form, kinds), "index_digest": index_digest(read_index(out))})
    files = [path for path in out.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    checked = index.written + present if verify else 0
    return ExportReport(str(out), form, total, names(kinds), len(files), size, present, mended, checked)


_WRITERS: Final[Mapping[str, Callable[[Path, Mapping[Key, Row]], FileWriter]]] = {
    "npy": NpyWriter,
    "safetensors": SafetensorsWriter,
    "detection": DetectionWriter,
}


class _Index:
    """`index.jsonl`, open for appending: what it names is on disk, and with `verify` was read back."""

    def __init__(self, file: IO[bytes], out: Path, kinds: Mapping[str, Sequence[ArraySpec]], verify: bool) -> None:
        self._file, self._out, self._kinds, self._verify = file, out, kinds, verify
        self.written = 0

    def add(self, rows: Sequence[Row]) -> None:
        """List records that were written. Raises Damaged where one is not what was written."""
        for row in rows if self._verify else ():
            try:
                exported_record(self._out, row, self._kinds[row["kind"]]).stored()
            except RecordRejected as error:
                raise Damaged(error.problem, "The disk does not keep what is written: try another one.") from None
        self._file.write(b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows))
        self._file.flush()
        self.written += len(rows)


def _begin(reader: StoreReader, out: Path, form: str, kinds: Mapping[str, Sequence[ArraySpec]]) -> dict[Key, Row]:
    """Make the folder, or check that it is an export of this store; the rows of its index."""
    about = identity(reader, form, kinds)
    if not (out / BEGUN).is_file():
        require_free(out)
        make_folder(out)
        replace_file(out / BEGUN, json.dumps(about, indent=1, ensure_ascii=False).encode())
        return {}
    try:
        begun = dict(json.loads((out / BEGUN).read_bytes()))
    except (ValueError, TypeError):
        raise BadInput(f"{out / BEGUN} is not as the export left it.", "Give --out a new path.") from None
    require_same(begun, about, out)
    rows = read_index(out)
    gone = [key for key in rows if key not in reader]
    if gone:
        raise BadInput(
            f"{out} holds {len(gone)} records that the store no longer has, {gone[0].name!r} among them.",
            "Give --out a new path.",
        )
    listed = (out / INDEX).read_bytes() if (out / INDEX).is_file() else b""
    if not listed.endswith(b"\n") and listed:
        with writing(out):
            os.truncate(out / INDEX, listed.rfind(b"\n") + 1)
    return rows


def _is_intact(out: Path, row: Row, specs: Sequence[ArraySpec], verify: bool) -> bool:
    try:
        exported_record(out, row, specs).stored(verify=verify)
    except RecordRejected:
        return False
    return True


def _finish(reader: StoreReader, out: Path, about: Mapping[str, Json]) -> None:
    """Annotations as they are now; the description last."""
    for path in annotation_files(reader.root).values():
        replace_file(out / "annotations" / path.name, path.read_bytes())
    content = {**about, "digest": digest(dict(about))}
    replace_file(out / ABOUT, json.dumps(content, indent=1, ensure_ascii=False).encode())


def _records(
    reader: StoreReader, kinds: Mapping[str, Sequence[ArraySpec]]
) -> Iterator[tuple[StoredPart, int, dict[str, int]]]:
    """Part, row and checksums of every record, which need not be read for that."""
    for info, rows in live_rows(catalog.current(reader.root)):
        if info.kind in kinds and rows:
            arrays = stored_arrays(kinds[info.kind])
            stored = StoredPart(reader.root / "parts" / info.name, arrays)
            for row in rows:
                yield stored, row, {array.name: int(stored.part.crcs(array.name)[row]) for array in arrays}
