"""What every import shares: its report, the list of failures, annotations, reading back."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from vfc.cache_schema.annotations import Annotation
from vfc.cache_schema.parts.atomic_files import writing
from vfc.cache_schema.reader import open_store
from vfc.cache_schema.values.dtypes import stored_arrays
from vfc.cache_schema.values.errors import RecordRejected
from vfc.cache_schema.values.progress import Progress
from vfc.cache_schema.values.record import ArraySpec, Key
from vfc.cache_schema.values.report import Report
from vfc.cache_schema.writer import StoreWriter

from . import labels
from .options import ImportOptions
from .sources import Source

WORKER: Final = "import"

# What was read stays mapped, and counts as memory, until the reader lets go of it.
_MAPPED_BYTES: Final = 64 << 20


@dataclass(frozen=True)
class ImportReport(Report):
    """What an import did.

    `present` records were there already; `failed`: name and reason; `trimmed`: name, steps of features and of labels;
    `unlabelled`: names without a row of labels; `strangers`: rows of labels without a record; `unsplit`: names
    without a row of labels that lost their split; `splits`: for every
    split how many of the videos that it names have a record; `checked` records were read back; `notes`: how the source
    was read.
    """

    path: str
    source: str
    format: str
    added: int
    present: int
    checked: int
    failed: tuple[tuple[str, str], ...]
    trimmed: tuple[tuple[str, int, int], ...] = ()
    unlabelled: tuple[str, ...] = ()
    strangers: tuple[str, ...] = ()
    splits: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    arrays: tuple[ArraySpec, ...] = ()
    unsplit: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass
class Intake:
    """What became of the records of an import: added, present before, failed with the file and the reason."""

    added: list[Key] = field(default_factory=list)
    present: int = 0
    failed: list[tuple[Key, Path, str]] = field(default_factory=list)

    def add(self, writer: StoreWriter, key: Key, path: Path, add: Callable[[], None]) -> None:
        """Call `add`, which adds the record, unless the store holds its key; a record that is rejected is listed."""
        if key in writer:
            self.present += 1
            return
        try:
            add()
            self.added.append(key)
        except RecordRejected as error:
            self.failed.append((key, path, error.problem))


def list_failures(out: Path, failed: Sequence[tuple[Key, Path, str]]) -> None:
    """Append to `failures/import.jsonl` what is not listed there yet, in the words of extraction's own lists."""
    path = out / "failures" / f"{WORKER}.jsonl"
    listed = path.read_text("utf-8", errors="replace").splitlines() if path.is_file() else []
    lines = []
    for key, file, reason in failed:
        status = file.stat() if file.exists() else None
        size, changed = (status.st_size, status.st_mtime_ns) if status else (-1, -1)
        row = {"kind": key.kind, "name": key.name, "reason": reason, "size": size, "mtime_ns": changed}
        line = json.dumps({**row, "view": key.view, "prompt": key.prompt})
        lines += [line] if line not in listed else []
    if lines:
        with writing(path):
            path.parent.mkdir(exist_ok=True)
            with open(path, "a", encoding="utf-8") as file_:
                file_.write("\n".join(["", *lines, ""] if listed else [*lines, ""]))


def annotate(out: Path, source: Source, options: ImportOptions) -> ImportReport:
    """Bring annotations up to date; a report of that."""
    names = list(dict.fromkeys(key.name for key in open_store(out).keys("video")))
    rows: Mapping[str, Annotation] = {}
    strangers: list[str] = []
    unlabelled: list[str] = []
    otherwise = {name: Annotation(name) for name in names}
    if options.labels is not None:
        rows, strangers = labels.matched(labels.read_labels(options.labels), names)
        unlabelled = [name for name in names if name not in rows or not rows[name].label]
    elif not source.classes:
        otherwise |= labels.by_folder(names)
    unsplit = labels.update_annotations(out, "default", rows, otherwise)
    present, splits = set(names), {}
    for name, named in source.splits.items():
        rows_of_split = {row.name: row for row in named if row.name in present}
        # What an archive in pieces has brought before stays.
        labels.update_annotations(out, name, rows_of_split, {})
        splits[name] = (len(rows_of_split), len(named))
    names_and_splits = (tuple(unlabelled), tuple(strangers), splits)
    return ImportReport(str(out), "", source.format, 0, 0, 0, (), (), *names_and_splits, unsplit=unsplit)


def read_back(out: Path, keys: Sequence[Key], progress: Progress) -> int:
    """Read stored records and compare their checksums; how many.

    Raises:
        Damaged: bytes of a record are not what was committed.
    """
    progress.begin("verify", len(keys), "records")
    with open_store(out, verify="always") as reader:
        names = {kind: [array.name for array in stored_arrays(specs)] for kind, specs in reader.kinds.items()}
        mapped = 0
        for key in keys:
            for name in names[key.kind]:
                mapped += reader.view(key, name).nbytes
            if mapped > _MAPPED_BYTES:
                reader.close()
                mapped = 0
            progress.advance()
    return len(keys)
