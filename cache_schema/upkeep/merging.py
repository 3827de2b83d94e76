"""merge: several stores of one recipe into one."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from vfc.cache_schema import catalog
from vfc.cache_schema.annotations import Annotation, Annotations, read_annotations, write_annotations
from vfc.cache_schema.annotations.rows import annotation_files
from vfc.cache_schema.parts import disk
from vfc.cache_schema.parts.atomic_files import create_file, replace_file
from vfc.cache_schema.parts.part import Part
from vfc.cache_schema.parts.zarr_format import METADATA
from vfc.cache_schema.reduction.projection import Projection, load_projection
from vfc.cache_schema.root import bind_axis, bind_kind, create_root, declared, read_axes, read_kinds, read_root
from vfc.cache_schema.values.dtypes import stored_arrays
from vfc.cache_schema.values.errors import BadInput, RecipeMismatch
from vfc.cache_schema.values.progress import Progress
from vfc.cache_schema.values.recipe import canonical
from vfc.cache_schema.values.report import Report
from vfc.cache_schema.writer import StoreWriter

from .circumstances import as_text
from .compacting import PART_BYTES
from .inspecting import failed_record, names_in, open_failures
from .stored import StoredPart, live_rows

_NAMED: Final = 20
"""Most records that a refusal names."""


@dataclass(frozen=True)
class Merge(Report):
    """What `merge` did: records taken from every source, those that were there already, conflicting annotations."""

    path: str
    taken: tuple[int, ...]
    present: tuple[int, ...]
    records: int
    conflicts: tuple[str, ...]


def merge(sources: Sequence[Path], out: Path, progress: Progress, *, part_bytes: int = PART_BYTES) -> Merge:
    """Bring the records of several stores of one recipe into one store, which is made or added to.

    Records are copied as they are stored. Where two stores hold one key, its checksums must be equal. Run again after
    an interruption, it takes up where it stopped. Annotations are joined: of two rows for one name the first counts,
    and the name is reported. Derived stores are not copied; `materialize` makes them anew.

    Raises:
        RecipeMismatch: a store was made in another way, or its records were projected in another way; the
            difference is in the message. Or two stores hold one key with other values; the records are named.
            Nothing was written.
        AxisMismatch: a kind, prompt, view or text id means different things in two of them.
        Damaged: bytes of a record are not what was committed; `repair` that store first.
        Refused, ReadOnlyTarget: the target is full or takes no writes.
    """
    if not sources or out.resolve() in {source.resolve() for source in sources}:
        raise BadInput("merge needs stores to read and another one to write.", "Give --out a folder of its own.")
    recipe = read_root(sources[0])
    targets = [out] if (out / METADATA).exists() else []
    for store in (*targets, *sources[1:]):
        read_root(store).require_equal(recipe, str(store))
    _require_same_projections([*sources, out])
    _require_same_records([*targets, *sources])
    create_root(out, recipe)
    for source in sources:
        for kind, specs in read_kinds(source).items():
            bind_kind(out, kind, specs)
        for axis, ids in read_axes(source).items():
            for name, content in ids.items():
                bind_axis(out, axis, name, content)
        _copy_missing(source, out, ("projection", "tail"))
    disk.clear_stale(out / "tmp", "merge")
    counts = [_copy_records(source, out, progress, part_bytes) for source in sources]
    conflicts = _join_annotations(sources, out)
    _join_failures(sources, out)
    return Merge(
        path=str(out),
        taken=tuple(copied for copied, _ in counts),
        present=tuple(present for _, present in counts),
        records=len(catalog.current(out)),
        conflicts=tuple(conflicts),
    )


def _copy_records(source: Path, out: Path, progress: Progress, part_bytes: int) -> tuple[int, int]:
    """Copy what `out` does not hold yet; how many records were copied, and how many `out` held already."""
    snapshot = catalog.current(source)
    arrays = {kind: stored_arrays(specs) for kind, specs in read_kinds(source).items()}
    copied = present = 0
    progress.begin(f"merge {source}", len(snapshot), "records")
    with StoreWriter(
        out,
        read_root(source),
        worker="merge",
        part_bytes=part_bytes,
        part_seconds=math.inf,
        circumstances={"source": as_text(source.absolute())},
    ) as writer:
        for info, rows in live_rows(snapshot):
            if not rows:
                continue
            stored = StoredPart(source / "parts" / info.name, arrays[info.kind])
            for row in rows:
                if stored.part.key(row) in writer:
                    present += 1
                else:
                    record = stored.record(row)
                    writer.add_stored(record.key, record.arrays, json.loads(record.metadata))
                    copied += 1
                progress.advance()
    return copied, present


def _require_same_projections(stores: Sequence[Path]) -> None:
    """Refuse records of different projections: the recipe says how one is fitted, not on what."""
    first: dict[str, tuple[Projection, Path]] = {}
    for store in stores:
        for array in names_in(store / "projection", ".safetensors"):
            projection = load_projection(store, array)
            assert projection is not None
            other, where = first.setdefault(array, (projection, store))
            if not projection.same_as(other):
                raise RecipeMismatch(
                    f"{array!r} went through one projection in {where} and through another in {store}: "
                    f"projection/{array}.safetensors, {other.digest[:12]} and {projection.digest[:12]}.",
                    "Their numbers do not mix: extract into one store, or with one projection/ folder copied first.",
                )


def _require_same_records(stores: Sequence[Path]) -> None:
    """Refuse stores of which two hold one key with other values; checksums are compared."""
    first: dict[bytes, tuple[bytes, Path]] = {}
    conflicts: list[tuple[str, Path, Path]] = []
    for store in stores:
        snapshot = catalog.current(store)
        kinds = declared(store, {info.kind for info in snapshot.parts if not info.tombstone})
        arrays = {kind: stored_arrays(specs) for kind, specs in kinds.items()}
        for info, rows in live_rows(snapshot):
            if not rows:
                continue
            part = Part(store / "parts" / info.name)
            crcs = np.stack([part.crcs(array.name) for array in arrays[info.kind]], axis=1)
            for row in rows:
                name, sums = part.table["hashes"][row].tobytes(), crcs[row].tobytes()
                other, where = first.setdefault(name, (sums, store))
                if sums != other:
                    conflicts.append((str(part.key(row)), where, store))
    if conflicts:
        names = ", ".join(name for name, _, _ in conflicts[:_NAMED])
        more = f" and {len(conflicts) - _NAMED} more" if len(conflicts) > _NAMED else ""
        _, one, other_store = conflicts[0]
        raise RecipeMismatch(
            f"{len(conflicts)} records have one name and other values in two stores (first in {one} and in "
            f"{other_store}): {names}{more}.",
            "Nothing was written. Merge stores of one collection, or extract the others below a root of their own.",
        )


def _copy_missing(source: Path, out: Path, folders: Sequence[str]) -> None:
    for folder in folders:
        for path in sorted((source / folder).glob("*")):
            if path.is_file() and not path.name.startswith("."):
                create_file(out / folder / path.name, path.read_bytes())


def _join_annotations(sources: Sequence[Path], out: Path) -> list[str]:
    """Join the annotations of one name; the names of rows on which two stores disagree."""
    conflicts = []
    folders = [out, *sources]
    for name in sorted({name for folder in folders for name in annotation_files(folder)}):
        rows: dict[str, Annotation] = {}
        for folder in folders:
            path = folder / "annotations" / f"{name}.jsonl"
            for row in read_annotations(path).rows if path.is_file() else ():
                if rows.setdefault(row.name, row) != row:
                    conflicts.append(f"{name}: {row.name}")
        write_annotations(out, name, Annotations(tuple(rows.values())))
    return conflicts


def _join_failures(sources: Sequence[Path], out: Path) -> None:
    """List in `out` what failed in a source and is not committed in `out`."""
    committed = catalog.current(out)
    listed = {failed_record(row) for row in open_failures(out, committed)}
    lines = []
    for source in sources:
        for row in open_failures(source, committed):
            if failed_record(row) not in listed:
                listed.add(failed_record(row))
                lines.append(canonical(row) + b"\n")
    if lines:
        path = out / "failures" / "merge.jsonl"
        replace_file(path, (path.read_bytes() if path.is_file() else b"") + b"".join(lines))
