"""Import of features made by others into a store; what cannot be used is listed, the rest is imported."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, cast

import numpy as np

from vfc.cache_schema.root import read_root
from vfc.cache_schema.values.errors import BadInput, MissingPath, RecipeMismatch, RecordRejected
from vfc.cache_schema.values.layout import FRAME_MAJOR, STEPS
from vfc.cache_schema.values.progress import Progress
from vfc.cache_schema.values.recipe import Recipe, digest
from vfc.cache_schema.values.record import ArraySpec, Json, Key, Record
from vfc.cache_schema.writer import StoreWriter

from . import archives, labels
from .hdf5_archive import HDF5, hdf5
from .import_report import WORKER, ImportReport, Intake, annotate, list_failures, read_back
from .matlab import matlab
from .mstcn import is_mstcn, mstcn
from .options import ImportOptions
from .rulstm import is_lmdb, rulstm
from .settle import Settled, require_near, settle
from .sources import Array, Item, Source, content_digest, reading, require_features, time_first, turned


def import_foreign(source: Source, place: Path, out: Path, options: ImportOptions, progress: Progress) -> ImportReport:
    """Bring the items of a source into a store, those that it lacks; see `import_features`."""
    if options.fps is not None and not 0 < options.fps < 1e6:
        raise BadInput(f"--fps is {options.fps}.", "Give the steps per second of the features, as 15 or 29.97.")
    rates = labels.frame_rates(options.labels) if options.labels and options.stride and not options.fps else {}
    if options.stride and not (options.fps or rates):
        raise BadInput("--stride is given without --fps.", "Say how many frames a second have: --fps 30.")
    source, settled = settle(source, options)
    first = _first(source, out, options, settled, place)
    recipe = _recipe(source, options, settled, first)
    specs = _specs(time_first(first.values, settled.time), source, options)
    is_new = not (out / "zarr.json").exists()
    intake = Intake(failed=[(Key("video", name), path, reason) for name, path, reason in source.lost])
    trimmed: list[tuple[str, int, int]] = []
    progress.begin("import", len(source.items), "videos")
    with StoreWriter(out, recipe, worker=WORKER, circumstances={"source": str(place)}) as writer:
        writer.declare("video", specs)
        if source.classes:
            writer.bind("labels", "classes", {"names": list(source.classes)})

        def add(item: Item) -> None:
            record = _record(item, specs, options, settled, rates)
            writer.add(record)
            if "trimmed" in record.metadata:
                lengths = cast("dict[str, int]", record.metadata["trimmed"])
                trimmed.append((item.name, lengths["features"], lengths["labels"]))

        for item in source.items:
            intake.add(writer, Key("video", item.name, item.view), item.path, partial(add, item))
            progress.advance()
    if is_new and not intake.added:
        # An empty store would keep its recipe, and refuse the line that reads the source as it should be.
        shutil.rmtree(out)
        raise BadInput(
            f"None of the {len(intake.failed)} items of {place} could be imported; nothing was written: "
            f"{intake.failed[0][2]}",
            "Check --time, --layout, --dtype and --dataset.",
        )
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
        notes=(*source.notes, *settled.notes, *_repeated_rows(time_first(first.values, settled.time))),
    )


@dataclass(frozen=True)
class _First:
    """The item whose content identifies how all were made."""

    item: Item
    values: Array


def _first(source: Source, out: Path, options: ImportOptions, settled: Settled, place: Path) -> _First:
    """The item that the store was begun with, else the first that can be read and is as wide as most are."""
    items = list(source.items)
    begun = _begun_with(out)
    if begun and not options.made_by:
        items = [item for item in items if item.name == begun][:1]
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
                _steps(item, values, settled)
            if not begun and values.ndim == 2 and settled.width not in (0, time_first(values, settled.time).shape[1]):
                raise RecordRejected(f"{item.path} has another width than most files.", "Take it out.")
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


def _repeated_rows(values: Array) -> list[str]:
    """A note where most rows are those before them: features of every frame that were computed once a second."""
    if values.ndim != 2 or len(values) < 2:
        return []
    repeated = int((values[1:] == values[:-1]).all(axis=1).sum())
    if 2 * repeated <= len(values):
        return []
    return [f"{repeated} of the {len(values)} rows of the first file repeat the row before; all of them are kept."]


def _recipe(source: Source, options: ImportOptions, settled: Settled, first: _First) -> Recipe:
    origin: dict[str, Json] = {"made_by": options.made_by, "digest": digest(options.made_by)}
    if not options.made_by:
        origin = {"told_by": first.item.name, "digest": content_digest(first.values)}
    imported: dict[str, Json] = {"format": source.format, "time": settled.time, "dataset": options.dataset, **origin}
    if options.fps is not None:
        imported["fps"] = float(options.fps)
    if options.stride is not None:
        imported |= {"stride": options.stride, "window": options.window or options.stride}
    if settled.ratio != 1:
        imported["steps_per_label"] = str(settled.ratio)
    return Recipe({"imported": imported, "storage": {"dtype": options.dtype or "fp16"}})


def _specs(values: Array, source: Source, options: ImportOptions) -> tuple[ArraySpec, ...]:
    layout = options.layout
    if layout in ("auto", "crops"):
        layout = {1: "vector", 2: STEPS, 3: FRAME_MAJOR}[values.ndim]  # type: ignore[assignment]
    axes = {"vector": (1,), STEPS: (2,), FRAME_MAJOR: (2, 3)}[layout]
    if values.ndim not in axes:
        raise BadInput(
            f"--layout {layout} does not fit features of shape {list(values.shape)}.",
            "vector is [D], steps is [T, D], frame-major is [T, D] or [T, N, D].",
        )
    dtype = options.dtype or "fp16"
    if layout != STEPS and source.streams:
        raise BadInput(
            f"{' and '.join(source.streams)} are streams of [T, D], and --layout {layout} is asked.",
            "Leave --layout out, or take one of them with --dataset.",
        )
    if layout != STEPS:
        if options.fps is not None or source.classes:
            raise BadInput(f"--fps and labels per frame need --layout steps, not {layout}.", "Leave --fps out.")
        return (ArraySpec(options.array, dtype, values.shape, "" if layout == "vector" else layout),)
    names = source.streams or (options.array,)
    # The widths of further streams are those of the first item that can be read.
    widths = [values.shape[1], *_widths(source, names[1:])]
    specs = [ArraySpec(name, dtype, (None, width), STEPS) for name, width in zip(names, widths, strict=True)]
    specs += [ArraySpec("labels", "int64", (None,), STEPS)] if source.classes else []
    timed = options.fps is not None or options.stride is not None or source.is_timed
    specs += [ArraySpec("seconds", "float64", (None,), STEPS)] if timed else []
    return tuple(specs)


def _widths(source: Source, streams: Sequence[str]) -> list[int]:
    widths: dict[str, int] = {}
    for item in source.items:
        for stream in streams:
            with contextlib.suppress(RecordRejected):
                values = reading(item.path, item.streams[stream])
                if values.ndim == 2 and values.size:
                    widths.setdefault(stream, values.shape[1])
        if len(widths) == len(streams):
            return [widths[stream] for stream in streams]
    raise BadInput(f"No video has all of the streams {', '.join(streams)}.", "Take one of them with --dataset.")


def _record(
    item: Item, specs: Sequence[ArraySpec], options: ImportOptions, settled: Settled, rates: Mapping[str, float]
) -> Record:
    """Read one item: features, labels and seconds of one length.

    Raises:
        RecordRejected: it cannot be read, or features and labels do not go together.
    """
    features = _as_steps(reading(item.path, item.features), specs[0])
    time = settled.time
    metadata: dict[str, Json] = {}
    arrays: dict[str, Array] = {}
    if item.labels is not None:
        ids, steps = _steps(item, features, settled)
        rows = min(len(ids), steps)
        if steps != len(ids):
            metadata["trimmed"] = {"features": steps, "labels": len(ids)}
        features = features[..., :rows] if time == "last" else features[:rows]
        arrays["labels"] = ids[:rows]
    arrays[specs[0].name] = turned(features, time, str(item.path))
    for name, load in item.streams.items():
        arrays[name] = turned(reading(item.path, load), time, str(item.path))
    steps = len(arrays[specs[0].name])
    if any(spec.name == "seconds" for spec in specs):
        arrays["seconds"] = _seconds(item, steps, options, rates)
    lengths = {name: len(values) for name, values in arrays.items()}
    if specs[0].layout == STEPS and len(set(lengths.values())) > 1:
        raise RecordRejected(f"{item.name!r} has arrays of different lengths: {lengths}.", "Extract it again.")
    return Record(Key("video", item.name, item.view), arrays, metadata)


def _as_steps(values: Array, spec: ArraySpec) -> Array:
    """A clip of one step whose only axis is D, as `squeeze` leaves it, is `[1, D]`."""
    one_step = spec.layout == STEPS and values.ndim == 1 and spec.shape[1:] == values.shape
    return values[None] if one_step else values


def _seconds(item: Item, steps: int, options: ImportOptions, rates: Mapping[str, float]) -> Array:
    """Times float64 `[T]`: those of the source, else the middle of the window of every step, else `t / fps`."""
    if item.seconds is not None:
        return item.seconds()
    rate = options.fps or labels.rate_of(item.name, rates)
    if rate is None:
        raise RecordRejected(f"{options.labels} says no fps of {item.name!r}.", "Give --fps.")
    if options.stride is None:
        return np.asarray(np.arange(steps) / rate)
    return np.asarray((np.arange(steps) * options.stride + (options.window or options.stride) / 2) / rate)


def _steps(item: Item, features: Array, settled: Settled) -> tuple[Array, int]:
    """Labels of an item, and how many steps its features have; about as many.

    Labels of another rate: step t has the label at the same time, that of the middle of the step.
    """
    assert item.labels is not None
    ids = item.labels()
    steps = features.shape[-1 if settled.time == "last" else 0] if features.ndim else 0
    require_near(item.name, steps, len(ids), settled.ratio)
    if settled.ratio != 1 and len(ids):
        places = ((np.arange(steps) + 0.5) / float(settled.ratio)).astype(np.int64)
        ids = ids[np.minimum(places, len(ids) - 1)]
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
    if place.suffix in archives.PICKLES:
        raise archives.refuse_pickle(place)
    if form == "auto":
        form = _form_of(place)
    if form == "ms-tcn" and not is_mstcn(place):
        raise BadInput(
            f"{place} is no MS-TCN folder: it needs features/ and groundTruth/, mapping.txt or splits/.",
            "Give its folder, or leave --format out.",
        )
    if form == "files" and place.is_file() and place.suffix not in archives.FILES:
        raise BadInput(
            f"{place} is no file of features.",
            f"Give a file that ends in {', '.join(archives.FILES)} or {', '.join(HDF5)}, or a folder.",
        )
    ways: dict[str, Callable[[], Source]] = {
        "ms-tcn": lambda: mstcn(place),
        "hdf5": lambda: hdf5(place, options.dataset),
        "lmdb": lambda: rulstm(place, options.dataset, options.fps),
        "matlab": lambda: matlab(place, options.dataset),
        "files": lambda: archives.files(place, options.dataset) if place.is_dir() else archives.archive(place),
    }
    return ways[form]()


def _form_of(place: Path) -> Literal["ms-tcn", "hdf5", "lmdb", "matlab", "files"]:
    if place.is_dir() and is_mstcn(place):
        return "ms-tcn"
    if is_lmdb(place):
        return "lmdb"
    if place.suffix in archives.MATLAB:
        return "matlab"
    return "hdf5" if place.suffix in HDF5 else "files"
