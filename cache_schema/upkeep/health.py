"""verify: whether every byte is what was committed. repair: keep intact records, name those to make again."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from vfc.cache_schema import catalog
from vfc.cache_schema.annotations import read_annotations
from vfc.cache_schema.annotations.rows import annotation_files
from vfc.cache_schema.parts import disk
from vfc.cache_schema.parts.atomic_files import sync_folder
from vfc.cache_schema.parts.part import Fault, Part, check
from vfc.cache_schema.parts.part_writer import PartWriter
from vfc.cache_schema.reduction.frozen_blocks import check_tail
from vfc.cache_schema.reduction.projection import load_projection
from vfc.cache_schema.root import axis_names, declared, read_axis, read_kinds, read_root
from vfc.cache_schema.values.errors import Damaged, VfcError
from vfc.cache_schema.values.progress import Progress
from vfc.cache_schema.values.record import ArraySpec, Json, Key
from vfc.cache_schema.values.report import Report

from .inspecting import names_in
from .salvage import DamagedPart, SalvagedPart, salvage
from .stored import drop_parts, live_rows, maintenance_lock

_WORKER = "repair"


@dataclass(frozen=True)
class Verification(Report):
    """What `verify` found. `other` are faults of small files beside the parts."""

    path: str
    parts: int
    records: int
    bytes: int
    damaged: tuple[DamagedPart, ...]
    other: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.damaged and not self.other

    def to_json(self) -> dict[str, Json]:
        """As one JSON document."""
        return {"ok": self.ok, **super().to_json()}


def verify(root: Path, progress: Progress) -> Verification:
    """Read every byte of every part and compare it with what was committed; read the small files beside them.

    Raises:
        MissingPath, NotAStore: nothing there, or no store.
        Damaged: the recipe itself is not the one that was written.
    """
    read_root(root)
    saved = catalog.load(root)
    hit, records, size, kinds = [], 0, 0, set()
    folders = sorted(path for path in (root / "parts").iterdir() if path.is_dir())
    progress.begin("verify", len(folders), "parts")
    for folder in folders:
        faults = check(folder)
        if faults:
            hit.append(salvage(folder, faults, _kinds(root), saved))
            records += len(hit[-1].intact)
            kinds.add(hit[-1].info.kind)
        else:
            attributes = Part(folder).attributes
            kinds.add(attributes["kind"])
            records += 0 if attributes["tombstone"] else attributes["records"]
            size += sum(file["size"] for file in attributes["files"].values())
        progress.advance(note=folder.name if faults else "")
    damaged = [part.damage for part in hit] + _vanished(root, saved, {folder.name for folder in folders})
    return Verification(str(root), len(folders), records, size, tuple(damaged), tuple(_other_faults(root, kinds)))


def _kinds(root: Path) -> Mapping[str, tuple[ArraySpec, ...]]:
    try:
        return read_kinds(root)
    except Damaged:
        return {}


def _vanished(root: Path, saved: catalog.Catalog | None, present: set[str]) -> list[DamagedPart]:
    """Parts that the catalog names and that are missing, with records that no other part holds.

    A part that was compacted is missing too, but its records are in another part.
    """
    if saved is None or all(info.name in present for info in saved.parts):
        return []
    elsewhere = set(saved.key_bytes(saved.live_among(present).tolist()))
    # Parts that the catalog does not name: joined from missing ones, or tombstones.
    for name in present - {info.name for info in saved.parts}:
        with contextlib.suppress(Damaged):
            part = Part(root / "parts" / name)
            elsewhere.update(part.key(row).encode() for row in range(part.info.records))
    lost = []
    for info, rows in live_rows(saved):
        names = [] if info.name in present else saved.keys_of(info.name) or []
        keys = tuple(Key.decode(names[row]) for row in rows if names and names[row] not in elsewhere)
        if keys:
            lost.append(DamagedPart(info.name, info.kind, info.records, (Fault("", "the part is missing"),), keys, 0))
    return lost


def _other_faults(root: Path, kinds: Set[str]) -> list[str]:
    """What is wrong with the small files beside the parts, which hold records of these kinds."""
    checks: list[Callable[[], object]] = [partial(declared, root, kinds - {""})]
    checks += [partial(read_axis, root, axis) for axis in axis_names(root)]
    checks += [partial(read_annotations, path) for path in annotation_files(root).values()]
    checks += [partial(load_projection, root, name) for name in names_in(root / "projection", ".safetensors")]
    checks += [partial(check_tail, path) for path in sorted((root / "tail").glob("*.safetensors"))]
    faults = []
    for one in checks:
        try:
            one()
        except VfcError as error:
            faults.append(error.problem)
    return faults


@dataclass(frozen=True)
class Repair(Report):
    """What `repair` did. `redo` are the keys to make again; `unnamed` says of which parts others cannot be named."""

    path: str
    damaged: tuple[DamagedPart, ...]
    saved: int
    redo: tuple[Key, ...]
    unnamed: tuple[str, ...]
    quarantine: str
    other: tuple[str, ...]


def repair(root: Path, progress: Progress, *, drop: bool = False) -> Repair:
    """Take damaged parts out of a store: into `quarantine/`, or for good with `drop`.

    Intact records are written into a new part first, so that a kill in between loses nothing. The records to
    make again are named; running the extraction again makes them, since they are not committed any more.

    Raises:
        MissingPath, NotAStore: nothing there, or no store.
        Damaged: the recipe or the list of kinds is damaged, which cannot be repaired.
        Refused: another repair or compact is at work, or the disk is full; nothing is lost.
        ReadOnlyTarget: the store takes no writes.
    """
    read_root(root)
    kinds = read_kinds(root)
    with maintenance_lock(root):
        disk.clear_stale(root / "tmp", _WORKER)
        saved = catalog.load(root)
        folders = sorted(path for path in (root / "parts").iterdir() if path.is_dir())
        vanished = _vanished(root, saved, {folder.name for folder in folders})
        progress.begin("repair", len(folders), "parts")
        hit, saved_records, used = [], 0, set()
        for folder in folders:
            faults = check(folder)
            if faults:
                damaged = salvage(folder, faults, kinds, saved)
                used.add(damaged.info.kind)
                # Without the arrays it is not known which records are intact.
                declared(root, used - {""})
                saved_records += _rewritten(root, damaged)
                _take_out(root, folder, drop)
                hit.append(damaged)
            else:
                used.add(Part(folder).info.kind)
            progress.advance(note=folder.name if faults else "")
        after = catalog.current(root)
    lost = [one for damaged in hit if not damaged.info.tombstone for one in _in_doubt(damaged)]
    return Repair(
        path=str(root),
        damaged=(*(damaged.damage for damaged in hit), *vanished),
        saved=saved_records,
        redo=tuple(sorted({*_still_missing(after, lost), *(key for part in vanished for key in part.keys)})),
        unnamed=tuple(line for damaged in hit if (line := _unnamed(damaged))),
        quarantine="" if drop or not hit else str(root / "quarantine"),
        other=tuple(_other_faults(root, used)),
    )


def _rewritten(root: Path, damaged: SalvagedPart) -> int:
    """Write what is whole into a new part that counts as old as the damaged one; the number of records."""
    if not damaged.intact:
        return 0
    part = PartWriter(root, _WORKER, damaged.info.kind, damaged.arrays, {"repaired": damaged.info.name})
    try:
        for record in damaged.records():
            part.add(record.key, record.arrays, record.metadata)
    except BaseException:
        part.abandon()
        raise
    part.commit(damaged.info.committed_ns)
    return 0 if damaged.info.tombstone else len(damaged.intact)


def _take_out(root: Path, folder: Path, drop: bool) -> None:
    if drop:
        drop_parts(root, _WORKER, [folder.name])
        return
    disk.make_folder(root / "quarantine")
    disk.rename(folder, root / "quarantine" / folder.name)
    sync_folder(root / "quarantine")
    sync_folder(root / "parts")


def _in_doubt(damaged: SalvagedPart) -> list[tuple[Key, tuple[int, str]]]:
    """The keys of a damaged part that may be missing now, and how old its records are.

    Where its age cannot be read, even its intact records may be older than a deletion: all of its keys count as
    younger than any.
    """
    if damaged.dated:
        return [(key, damaged.info.order) for key in damaged.lost]
    return [(key, (sys.maxsize, "")) for key in damaged.keys if key is not None]


def _still_missing(after: catalog.Catalog, lost: list[tuple[Key, tuple[int, str]]]) -> list[Key]:
    """Of the keys that were lost with a part of some age, those that no part holds and none has deleted since."""
    deleted: dict[bytes, tuple[int, str]] = {}
    for i, info in enumerate(after.parts):
        if info.tombstone:
            for name in after.hashes[int(after.first[i]) : int(after.first[i + 1])]:
                deleted[name.tobytes()] = max(info.order, deleted.get(name.tobytes(), info.order))
    rows = after.locate([key.hash128() for key, _ in lost]).tolist()
    return [
        key
        for (key, order), row in zip(lost, rows, strict=True)
        if row < 0 and deleted.get(key.hash128(), (-1, "")) < order
    ]


def _unnamed(damaged: SalvagedPart) -> str:
    """What of a damaged part is lost and cannot be named, or nothing."""
    info = damaged.info
    if info.tombstone and damaged.unnamed:
        return f"{info.name}: the names of {damaged.unnamed} deleted records; they may show again"
    if info.tombstone and not damaged.dated:
        return f"{info.name}: when {info.records} records were deleted; they may show again"
    if damaged.unnamed or not info.records:
        return f"{info.name}: part of {damaged.unnamed or 'an unknown number of'} unnamed records"
    return ""
