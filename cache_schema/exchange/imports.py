"""Import of features made by others into a store; what cannot be used is listed, the rest is imported."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np

from vfc.cache_schema.root import read_root
from vfc.cache_schema.values.errors import BadInput, MissingPath, RecipeMismatch, RecordRejected
from vfc.cache_schema.values.layout import FRAME_MAJOR, STEPS
from vfc.cache_schema.values.progress import Progress
from vfc.cache_schema.values.recipe import Recipe, digest
from vfc.cache_schema.values.record import ArraySpec, Json, Key, Record
from vfc.cache_schema.writer import StoreWriter

from . import archives
from .import_report import WORKER, ImportReport, Intake, annotate, list_failures, read_back
from .mstcn import is_mstcn, mstcn, require_near
from .options import ImportOptions
from .sources import Array, Item, Source, content_digest, reading, require_features, time_first, turned


def import_foreign(source: Source, place: Path, out: Path, options: ImportOptions, progress: Progress) -> ImportReport:
    """Bring the items of a source into a store, those that it lacks; see `import_features`."""
    if options.fps is not None and not 0 < options.fps < 1e6:
        raise BadInput(f"--fps is {options.fps}.", "Give the steps per second of the features, as 15 or 29.97.")
    time = options.time if options.time != "auto" else "last" if source.format == "ms-tcn" else "first"
    first = _first(source, out, options, time, place)
    recipe = _recipe(source, options, time, first)
    specs = _specs(time_first(first.values, time), source, options)
    intake = Intake(failed=[(Key("video", name), path, reason) for name, path, reason in source.lost])
    trimmed: list[tuple[str, int, int]] = []
    progress.begin("import", len(source.items), "videos")
    with StoreWriter(out, recipe, worker=WORKER, circumstances={"source": str(place)}) as writer:
        writer.declare("video", specs)
        if source.classes:
            writer.bind("labels", "classes", {"names": list(source.classes)})

        def add(item: Item) -> None:
            record = _record(item, specs, options, time)
            writer.add(record)
            if "trimmed" in record.metadata:
                lengths = cast("dict[str, int]", record.metadata["trimmed"])
                trimmed.append((item.name, lengths["features"], lengths["labels"]))

        for item in source.items:
            intake.add(writer, Key("video", item.name), item.path, partial(add, item))
            progress.advance()
    list_failures(out, intake.failed)
    report = annotate(out, source, options)
    return dataclasses.replace(
        report,
        source=str(place),
        added=len(intake.added),
        present=intake.present,
        checked=read_back(out, intake.added, progress) if options.verify else 0,
        failed=tuple((key.name, reason) for key, _, reason in sorted(intake.failed)),
        trimmed=tuple(trimmed),
        arrays=specs,
    )


@dataclass(frozen=True)
class _First:
    """The item whose content identifies how all were made."""

    item: Item
    values: Array


def _first(source: Source, out: Path, options: ImportOptions, time: str, place: Path) -> _First:
    """The item that the store was begun with, else the first that can be read."""
    items = list(source.items)
    begun = _begun_with(out)
    if begun and not options.made_by:
        items = [item for item in items if item.name == begun]
        if not items:
            raise RecipeMismatch(
                f"{out} was begun with {begun!r}, which is not in {place}: nothing tells that both were made alike.",
                "Give another --out; or import both with one --made-by TEXT that says how they were made.",
            )
    reasons = []
    for item in items:
        try:
            values = reading(item.path, item.features)
            require_features(values, str(item.path))
            if item.labels is not None and not begun:
                _steps(item, values, time)
            return _First(item, values)
        except RecordRejected as error:
            reasons.append(error.problem)
    if not reasons:
        name, path, reason = source.lost[0] if source.lost else ("", place, "nothing is there")
        raise BadInput(f"Nothing in {place} can be imported: {reason} ({name or path})", "Check what SOURCE holds.")
    raise BadInput(f"None of the {len(items)} feature arrays can be read: {reasons[0]}", "Check --format, --dataset.")


def _begun_with(out: Path) -> str:
    """The item that the recipe of an imported store names; empty without such a store."""
    if not (out / "zarr.json").exists():
        return ""
    imported = read_root(out).fields.get("imported")
    return str(imported.get("told_by") or "") if isinstance(imported, dict) else ""


def _recipe(source: Source, options: ImportOptions, time: str, first: _First) -> Recipe:
    origin: dict[str, Json] = {"made_by": options.made_by, "digest": digest(options.made_by)}
    if not options.made_by:
        origin = {"told_by": first.item.name, "digest": content_digest(first.values)}
    imported: dict[str, Json] = {"format": source.format, "time": time, "dataset": options.dataset, **origin}
    if options.fps is not None:
        imported["fps"] = float(options.fps)
    return Recipe({"imported": imported, "storage": {"dtype": options.dtype or "fp16"}})


def _specs(values: Array, source: Source, options: ImportOptions) -> tuple[ArraySpec, ...]:
    layout = options.layout
    if layout == "auto":
        layout = {1: "vector", 2: STEPS, 3: FRAME_MAJOR}[values.ndim]  # type: ignore[assignment]
    axes = {"vector": (1,), STEPS: (2,), FRAME_MAJOR: (2, 3)}[layout]
    if values.ndim not in axes:
        raise BadInput(
            f"--layout {layout} does not fit features of shape {list(values.shape)}.",
            "vector is [D], steps is [T, D], frame-major is [T, D] or [T, N, D].",
        )
    dtype = options.dtype or "fp16"
    if layout != STEPS:
        if options.fps is not None or source.classes:
            raise BadInput(f"--fps and labels per frame need --layout steps, not {layout}.", "Leave --fps out.")
        return (ArraySpec(options.array, dtype, values.shape, "" if layout == "vector" else layout),)
    specs = [ArraySpec(options.array, dtype, (None, values.shape[1]), STEPS)]
    specs += [ArraySpec("labels", "int64", (None,), STEPS)] if source.classes else []
    specs += [ArraySpec("seconds", "float64", (None,), STEPS)] if options.fps is not None else []
    return tuple(specs)


def _record(item: Item, specs: Sequence[ArraySpec], options: ImportOptions, time: str) -> Record:
    """Read one item: features, labels and seconds of one length.

    Raises:
        RecordRejected: it cannot be read, or features and labels do not go together.
    """
    features = reading(item.path, item.features)
    metadata: dict[str, Json] = {}
    arrays: dict[str, Array] = {}
    if item.labels is not None:
        ids, steps = _steps(item, features, time)
        rows = min(len(ids), steps)
        if steps != len(ids):
            metadata["trimmed"] = {"features": steps, "labels": len(ids)}
        features = features[..., :rows] if time == "last" else features[:rows]
        arrays["labels"] = ids[:rows]
    arrays[specs[0].name] = turned(features, time, str(item.path))
    if options.fps is not None:
        arrays["seconds"] = np.arange(len(arrays[specs[0].name])) / options.fps
    return Record(Key("video", item.name), arrays, metadata)


def _steps(item: Item, features: Array, time: str) -> tuple[Array, int]:
    """Labels of an item, and how many steps its features have; about as many."""
    assert item.labels is not None
    ids = item.labels()
    steps = features.shape[-1 if time == "last" else 0] if features.ndim else 0
    require_near(item.name, steps, len(ids))
    return ids, steps


def source_at(place: Path, options: ImportOptions) -> Source:
    """What is to be imported from a path, by `--format` or by the look of it.

    Raises:
        MissingPath: nothing is there.
        BadInput: it is not what it is said to be.
    """
    if not place.exists():
        raise MissingPath(f"There is nothing at {place}.", "Give a folder of features, or an HDF5 file.")
    form = options.form
    if form == "export":
        raise BadInput(f"{place} was not written by `vfc store export`.", "Leave --format out, or give its folder.")
    if form == "auto":
        form = "ms-tcn" if place.is_dir() and is_mstcn(place) else "hdf5" if place.suffix in archives.HDF5 else "files"
    if form == "ms-tcn" and not is_mstcn(place):
        raise BadInput(
            f"{place} is no MS-TCN folder: it needs features/ and groundTruth/, mapping.txt or splits/.",
            "Give its folder, or leave --format out.",
        )
    if form == "files" and place.is_file() and place.suffix not in archives.FILES:
        raise BadInput(
            f"{place} is no file of features.",
            f"Give a file that ends in {', '.join(archives.FILES)} or {', '.join(archives.HDF5)}, or a folder.",
        )
    ways: dict[str, Callable[[], Source]] = {
        "ms-tcn": lambda: mstcn(place),
        "hdf5": lambda: archives.hdf5(place, options.dataset),
        "files": lambda: archives.files(place, options.dataset) if place.is_dir() else archives.archive(place),
    }
    return ways[form]()
