"""compact: many small parts into few, without what no longer counts. merge: several stores of one recipe into one."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

from vfc.cache_schema import catalog
from vfc.cache_schema.annotations import Annotation, Annotations, read_annotations, write_annotations
from vfc.cache_schema.parts import disk
from vfc.cache_schema.parts.atomic_files import create_file, replace_file
from vfc.cache_schema.parts.part import Part, PartInfo
from vfc.cache_schema.parts.part_writer import PartWriter
from vfc.cache_schema.reduction.projection import Projection, load_projection
from vfc.cache_schema.root import bind_axis, bind_kind, create_root, declared, read_axis, read_kinds, read_root
from vfc.cache_schema.values.dtypes import StoredArray, stored_arrays
from vfc.cache_schema.values.errors import BadInput, RecipeMismatch
from vfc.cache_schema.values.progress import Progress
from vfc.cache_schema.values.recipe import canonical
from vfc.cache_schema.values.record import Json

from .inspecting import failed_record, names_in, open_failures
from .stored import StoredPart, alone, drop_parts, live_rows

PART_BYTES = 128 << 20


@dataclass(frozen=True)
class Compaction:
    """What `compact` did; `dropped` counts duplicates and deleted records whose bytes are gone now."""

    path: str
    parts_before: int
    parts_after: int
    records: int
    dropped: int
    bytes_before: int
    bytes_after: int

    def to_json(self) -> dict[str, Json]:
        """As one JSON document."""
        return cast("dict[str, Json]", asdict(self))


@dataclass(frozen=True)
class _Source:
    """A part with its rows that count and the bytes of its files."""

    info: PartInfo
    rows: list[int]
    bytes: int


def compact(root: Path, progress: Progress, *, part_bytes: int = PART_BYTES) -> Compaction:
    """Merge parts of less than half of `part_bytes`, and drop duplicates, deleted records and tombstones.

    Writers and readers may go on meanwhile (a reader that is open may have to be opened again). New parts are
    committed before old ones are dropped, so that a kill in between leaves duplicates and loses nothing; the next
    call goes on from there. The digest stays the same.

    Raises:
        MissingPath, NotAStore: nothing there, or no store.
        Damaged: bytes of a record are not what was committed; `repair` first. The parts around it stay as they are.
        Refused: another compact or repair is at work, or the disk is full; nothing is lost.
        ReadOnlyTarget: the store takes no writes.
    """
    read_root(root)
    with alone(root):
        disk.clear_stale(root / "tmp", "compact")
        before = catalog.current(root)
        kinds = _kinds(root, before)
        sources = [_Source(info, rows, _part_bytes(root, info)) for info, rows in live_rows(before)]
        groups = list(_groups(sources, part_bytes))
        progress.begin("compact", sum(len(source.rows) for group in groups for source in group), "records")
        for group in groups:
            _join(root, group, kinds[group[0].info.kind], progress)
            drop_parts(root, "compact", [source.info.name for source in group])
        # What a tombstone hides was in parts that are gone now, so nothing shows again.
        drop_parts(root, "compact", [source.info.name for source in sources if source.info.tombstone])
        after = catalog.current(root)
    dropped = sum(source.info.records - len(source.rows) for source in sources if not source.info.tombstone)
    return Compaction(
        path=str(root),
        parts_before=len(before.parts),
        parts_after=len(after.parts),
        records=len(after),
        dropped=dropped,
        bytes_before=sum(source.bytes for source in sources),
        bytes_after=sum(_part_bytes(root, info) for info in after.parts),
    )


def _kinds(root: Path, found: catalog.Catalog) -> dict[str, tuple[StoredArray, ...]]:
    """The arrays on disk of every kind, those that are held among them."""
    return {k: stored_arrays(specs) for k, specs in declared(root, {info.kind for info in found.parts}).items()}


def _part_bytes(root: Path, info: PartInfo) -> int:
    files = Part(root / "parts" / info.name).attributes["files"]
    return sum(int(file["size"]) for file in files.values())


def _groups(sources: Sequence[_Source], part_bytes: int) -> Iterator[list[_Source]]:
    """Parts to be joined: of one kind, neighbours in order of commit, no tombstone between them.

    A joined part counts as old as its oldest source. That is right for every record only while no tombstone of an age
    in between names it; and a tombstone that is committed just now, by a writer that saw the sources, is younger.
    """
    kinds = sorted({source.info.kind for source in sources})
    for kind in kinds:
        group: list[_Source] = []
        for source in sources:
            if source.info.tombstone:
                yield from _worthwhile(group)
                group = []
            elif source.info.kind == kind:
                has_dead = len(source.rows) < source.info.records
                if not has_dead and source.bytes >= part_bytes // 2:
                    continue
                group.append(source)
                if sum(member.bytes for member in group) >= part_bytes:
                    yield from _worthwhile(group)
                    group = []
        yield from _worthwhile(group)


def _worthwhile(group: list[_Source]) -> Iterator[list[_Source]]:
    if len(group) > 1 or any(len(source.rows) < source.info.records for source in group):
        yield group


def _join(root: Path, group: Sequence[_Source], arrays: Sequence[StoredArray], progress: Progress) -> None:
    """Commit one part that holds the records of a group that count."""
    if not any(source.rows for source in group):
        return
    part = PartWriter(root, "compact", group[0].info.kind, arrays, {"sources": _circumstances(root, group)})
    try:
        for source in group:
            stored = StoredPart(root / "parts" / source.info.name, arrays)
            for row in source.rows:
                record = stored.record(row)
                part.add(record.key, record.arrays, record.metadata)
                progress.advance()
    except BaseException:
        part.abandon()
        raise
    part.commit(min(source.info.committed_ns for source in group))


def _circumstances(root: Path, group: Sequence[_Source]) -> list[Json]:
    """The circumstances of the sources, each once; those of parts joined before are carried over."""
    found: dict[bytes, Json] = {}
    for source in group:
        one = Part(root / "parts" / source.info.name).attributes["circumstances"]
        for told in one["sources"] if isinstance(one.get("sources"), list) else [one]:
            found[canonical(told)] = told
    return list(found.values())


@dataclass(frozen=True)
class Merge:
    """What `merge` did: records taken from every source, those that were there already, conflicting annotations."""

    path: str
    taken: tuple[int, ...]
    present: tuple[int, ...]
    records: int
    conflicts: tuple[str, ...]

    def to_json(self) -> dict[str, Json]:
        """As one JSON document."""
        return cast("dict[str, Json]", asdict(self))


def merge(sources: Sequence[Path], out: Path, progress: Progress, *, part_bytes: int = PART_BYTES) -> Merge:
    """Bring the records of several stores of one recipe into one store, which is made or added to.

    Records are copied as they are stored. Where two stores hold one key, the first given counts. Run again after an
    interruption, it takes up where it stopped. Annotations are joined: of two rows for one name the first counts, and
    the name is reported. Derived stores are not copied; `materialize` makes them anew.

    Raises:
        RecipeMismatch: a store was made in another way, or its records went through another projection; the
            difference is in the message. Nothing was written.
        AxisMismatch: a kind, prompt, view or text id means different things in two of them.
        Damaged: bytes of a record are not what was committed; `repair` that store first.
        Refused, ReadOnlyTarget: the target is full or takes no writes.
    """
    if not sources or out.resolve() in {source.resolve() for source in sources}:
        raise BadInput("merge needs stores to read and another one to write.", "Give --out a folder of its own.")
    recipe = read_root(sources[0])
    for source in sources[1:]:
        read_root(source).require_equal(recipe, str(source))
    _require_same_projections([*sources, out])
    create_root(out, recipe)
    for source in sources:
        for kind, specs in read_kinds(source).items():
            bind_kind(out, kind, specs)
        for axis in names_in(source / "axes", "*.json", "-"):
            for name, content in read_axis(source, axis).items():
                bind_axis(out, axis, name, content)
        _copy_missing(source, out, ("projection", "tail"))
    disk.clear_stale(out / "tmp", "merge")
    counts = [_take_over(source, out, progress, part_bytes) for source in sources]
    conflicts = _join_annotations(sources, out)
    _join_failures(sources, out)
    return Merge(
        path=str(out),
        taken=tuple(taken for taken, _ in counts),
        present=tuple(present for _, present in counts),
        records=len(catalog.current(out)),
        conflicts=tuple(conflicts),
    )


def _take_over(source: Path, out: Path, progress: Progress, part_bytes: int) -> tuple[int, int]:
    """Copy what `out` does not hold yet; records taken, records there already."""
    there = catalog.current(source)
    kinds = _kinds(source, there)
    target = catalog.current(out)
    stamp, taken, present = target.latest, 0, 0
    open_parts: dict[str, PartWriter] = {}
    progress.begin(f"merge {source}", len(there), "records")

    def commit(kind: str) -> None:
        nonlocal stamp, taken
        stamp = max(time.time_ns(), stamp + 1)
        part = open_parts.pop(kind)
        part.commit(stamp)
        taken += len(part)

    try:
        for info, rows in live_rows(there):
            if info.tombstone:
                continue
            stored = StoredPart(source / "parts" / info.name, kinds[info.kind])
            for row in rows:
                progress.advance()
                if target.find(stored.part.key(row).hash128()) >= 0:
                    present += 1
                    continue
                if info.kind not in open_parts:
                    open_parts[info.kind] = PartWriter(
                        out, "merge", info.kind, kinds[info.kind], {"source": str(source)}
                    )
                record = stored.record(row)
                open_parts[info.kind].add(record.key, record.arrays, record.metadata)
                if open_parts[info.kind].bytes >= part_bytes:
                    commit(info.kind)
        for kind in list(open_parts):
            commit(kind)
    finally:
        for part in open_parts.values():
            part.abandon()
    return taken, present


def _require_same_projections(stores: Sequence[Path]) -> None:
    """Refuse records that went through different projections: the recipe says how one is fitted, not on what."""
    first: dict[str, tuple[Projection, Path]] = {}
    for store in stores:
        for array in names_in(store / "projection", "*.safetensors"):
            found = load_projection(store, array)
            assert found is not None
            other, where = first.setdefault(array, (found, store))
            if not found.same_as(other):
                raise RecipeMismatch(
                    f"{array!r} went through one projection in {where} and through another in {store}: "
                    f"projection/{array}.safetensors, {other.digest[:12]} and {found.digest[:12]}.",
                    "Their numbers do not mix: extract into one store, or with one projection/ folder copied first.",
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
    for name in sorted({path.stem for folder in folders for path in (folder / "annotations").glob("*.jsonl")}):
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
    known = {failed_record(row) for row in open_failures(out, committed)}
    lines = []
    for source in sources:
        for row in open_failures(source, committed):
            if failed_record(row) not in known:
                known.add(failed_record(row))
                lines.append(canonical(row) + b"\n")
    if lines:
        path = out / "failures" / "merge.jsonl"
        replace_file(path, (path.read_bytes() if path.is_file() else b"") + b"".join(lines))
