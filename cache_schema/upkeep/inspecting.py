"""inspect: what a store holds, counted without reading features."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import numpy as np

from vfc.cache_schema import catalog
from vfc.cache_schema.annotations import Annotations, load, read_annotations
from vfc.cache_schema.annotations.rows import annotation_files
from vfc.cache_schema.content import identical_files
from vfc.cache_schema.parts.part import Part
from vfc.cache_schema.reader import StoreReader, open_store
from vfc.cache_schema.root import read_axes
from vfc.cache_schema.values.errors import UnknownName
from vfc.cache_schema.values.progress import Progress
from vfc.cache_schema.values.record import ArraySpec, Json, Key
from vfc.cache_schema.values.report import Report

from .stored import live_rows


@dataclass(frozen=True)
class KindSummary:
    """The records of one kind: how many count, in how many parts, their arrays, bytes of all files of these parts."""

    kind: str
    records: int
    parts: int
    bytes: int
    arrays: tuple[ArraySpec, ...]


@dataclass(frozen=True)
class AnnotationSummary:
    """One set of annotations: rows, classes, rows per split, digest."""

    name: str
    rows: int
    labels: int
    splits: Mapping[str, int]
    digest: str


@dataclass(frozen=True)
class Inspection(Report):
    """What a store holds.

    `duplicates` and `deleted` count records that are on disk and do not count any more. `identical`: files with the
    same bytes, (name, split) of each.
    """

    path: str
    digest: str
    recipe_digest: str
    recipe: Mapping[str, Json]
    kinds: tuple[KindSummary, ...]
    axes: Mapping[str, tuple[str, ...]]
    annotations: tuple[AnnotationSummary, ...]
    failures: tuple[Mapping[str, Json], ...]
    duplicates: int
    deleted: int
    identical: tuple[tuple[tuple[str, str], ...], ...]
    derived: tuple[str, ...]
    projections: tuple[str, ...]
    tails: tuple[str, ...]
    quarantined: tuple[str, ...]

    @property
    def records(self) -> int:
        """Records that count, of all kinds."""
        return sum(kind.records for kind in self.kinds)

    @property
    def bytes(self) -> int:
        """Bytes of all files of all parts."""
        return sum(kind.bytes for kind in self.kinds)

    def to_json(self) -> dict[str, Json]:
        """As one JSON document."""
        return cast("dict[str, Json]", {**asdict(self), "records": self.records, "bytes": self.bytes})


def inspect(root: Path, progress: Progress) -> Inspection:
    """Count and describe what a store holds, without reading features.

    Raises:
        MissingPath, NotAStore: nothing there, or no store.
        Damaged: a part whose table or metadata is damaged; `verify` says which.
    """
    reader = open_store(root)
    snapshot = catalog.current(root)
    progress.begin("inspect", len(snapshot.parts), "parts")
    records, parts, sizes = Counter[str](), Counter[str](), Counter[str]()
    for info, rows in live_rows(snapshot):
        records[info.kind] += len(rows)
        parts[info.kind] += 1
        files = Part(root / "parts" / info.name).attributes["files"]
        sizes[info.kind] += sum(file["size"] for file in files.values())
        progress.advance()
    kinds = tuple(
        KindSummary(kind, records[kind], parts[kind], sizes[kind], specs) for kind, specs in reader.kinds.items()
    )
    is_record = np.repeat(
        np.array([not info.tombstone for info in snapshot.parts], bool), [p.records for p in snapshot.parts]
    )
    hashes = snapshot.hashes[is_record]
    distinct = len(np.unique(np.ascontiguousarray(hashes).view("V16"))) if len(hashes) else 0
    return Inspection(
        path=str(root),
        digest=reader.digest,
        recipe_digest=reader.recipe.digest,
        recipe=reader.recipe.fields,
        kinds=kinds,
        axes={axis: tuple(ids) for axis, ids in read_axes(root).items()},
        annotations=tuple(_annotations(path) for path in annotation_files(root).values()),
        failures=tuple(open_failures(root, snapshot)),
        duplicates=len(hashes) - distinct,
        deleted=distinct - len(snapshot),
        identical=_identical(root, reader),
        derived=names_in(root / "derived"),
        projections=names_in(root / "projection", ".safetensors"),
        tails=names_in(root / "tail", ".safetensors"),
        quarantined=names_in(root / "quarantine"),
    )


def _identical(root: Path, reader: StoreReader) -> tuple[tuple[tuple[str, str], ...], ...]:
    try:
        annotations = load(root)
    except UnknownName:
        annotations = Annotations(())
    return tuple(identical_files(reader, annotations))


def names_in(folder: Path, suffix: str = "") -> tuple[str, ...]:
    """The names of what a folder holds, without the suffix, sorted."""
    paths = (path for path in folder.glob(f"*{suffix}") if not path.name.startswith("."))
    return tuple(sorted(path.name.removesuffix(suffix) for path in paths))


def _annotations(path: Path) -> AnnotationSummary:
    annotations = read_annotations(path)
    splits = Counter(row.split for row in annotations.rows if row.split)
    return AnnotationSummary(path.stem, len(annotations), len(annotations.labels()), dict(splits), annotations.digest)


def open_failures(root: Path, committed: catalog.Catalog) -> list[dict[str, Json]]:
    """The rows that were listed as failed (kind, name, reason ...), of records not committed; the last of each."""
    failed: dict[tuple[str, str, int, str], dict[str, Json]] = {}
    for path in sorted((root / "failures").glob("*.jsonl")):
        for line in path.read_text("utf-8", errors="replace").split("\n"):
            try:
                row = json.loads(line)
                failed[failed_record(row)] = row
            except (ValueError, LookupError, TypeError, AttributeError):
                continue  # cut short by a kill
    if failed:
        # Only now: naming a million keys takes seconds.
        for key in map(Key.decode, committed.key_bytes(committed.live().tolist())):
            # Where a prompt could not be filled in, the list has the template's id.
            for prompt in {key.prompt, key.prompt.partition("@")[0]}:
                failed.pop((key.kind, key.name, key.view, prompt), None)
    return [failed[name] for name in sorted(failed)]


def failed_record(row: Mapping[str, Json]) -> tuple[str, str, int, str]:
    """Which record a row of a list of failures is about: kind, name, view, prompt.

    Raises:
        LookupError, TypeError, ValueError, AttributeError: it is no such row.
    """
    view = row.get("view", 0)
    return str(row["kind"]), str(row["name"]), int(cast("int", view)), str(row.get("prompt", ""))
