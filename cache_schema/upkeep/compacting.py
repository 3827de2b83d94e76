"""compact: many small parts into few, without what no longer counts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vfc.cache_schema import catalog
from vfc.cache_schema.parts import disk
from vfc.cache_schema.parts.part import Part, PartInfo
from vfc.cache_schema.parts.part_writer import PartWriter
from vfc.cache_schema.root import declared, read_root
from vfc.cache_schema.values.dtypes import StoredArray, stored_arrays
from vfc.cache_schema.values.progress import Progress
from vfc.cache_schema.values.recipe import canonical
from vfc.cache_schema.values.record import Json
from vfc.cache_schema.values.report import Report

from .stored import StoredPart, drop_parts, live_rows, maintenance_lock

PART_BYTES = 128 << 20


@dataclass(frozen=True)
class Compaction(Report):
    """What `compact` did; `dropped` counts duplicates and deleted records whose bytes were removed."""

    path: str
    parts_before: int
    parts_after: int
    records: int
    dropped: int
    bytes_before: int
    bytes_after: int


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
    with maintenance_lock(root):
        disk.clear_stale(root / "tmp", "compact")
        before = catalog.current(root)
        kinds = _kinds(root, before)
        sources = [_Source(info, rows, _part_bytes(root, info)) for info, rows in live_rows(before)]
        groups = list(_groups(sources, part_bytes))
        progress.begin("compact", sum(len(source.rows) for group in groups for source in group), "records")
        for group in groups:
            _join(root, group, kinds[group[0].info.kind], progress)
            drop_parts(root, "compact", [source.info.name for source in group])
        # The parts that held what a tombstone hides are removed now, so nothing shows again.
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


def _kinds(root: Path, snapshot: catalog.Catalog) -> dict[str, tuple[StoredArray, ...]]:
    """The stored arrays of every kind; those with records must be declared."""
    return {k: stored_arrays(specs) for k, specs in declared(root, {info.kind for info in snapshot.parts}).items()}


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
    distinct: dict[bytes, Json] = {}
    for source in group:
        one = Part(root / "parts" / source.info.name).attributes["circumstances"]
        for each in one["sources"] if isinstance(one.get("sources"), list) else [one]:
            distinct[canonical(each)] = each
    return list(distinct.values())
