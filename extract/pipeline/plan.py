"""`vfc plan`: what a run would make, how large, how long; and the check that stops what cannot fit."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from vfc.cache_schema.values.dtypes import record_bytes
from vfc.cache_schema.values.errors import Refused
from vfc.cache_schema.values.progress import Progress, Silent
from vfc.cache_schema.values.record import ArraySpec, Json
from vfc.extract.config import PlanConfig
from vfc.extract.models.determinism import determinism

from .calibrate import Calibration, calibrate, counted_frames, estimated, predicted_rows
from .ranks import find_rank
from .worklist import WorkList, build_work_list

_BESIDE: Final = 1024
"""Bytes of the key, metadata and checksums of a record, roughly."""


@dataclass(frozen=True)
class Array:
    """One array of a planned kind. `rows`: of a ragged array, counted, measured or None; `bytes`: of one record."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]
    rows: float | None
    bytes: int

    @property
    def unknown(self) -> bool:
        """Whether the array is ragged and nothing says how many rows it has; `bytes` are then of one row."""
        return None in self.shape and self.rows is None


@dataclass(frozen=True)
class Kind:
    """The records of one kind: counts, bytes of one and of all that are to do; `there`: stored and unchanged."""

    kind: str
    arrays: tuple[Array, ...]
    wanted: int
    there: int
    changed: int
    failed: int
    to_do: int
    record_bytes: int
    total_bytes: int


@dataclass(frozen=True)
class Plan:
    """What `vfc extract` with these settings would do.

    `seconds`: of this many ranks together; None if not measured. `no_weights`: why the model's weights cannot be read;
    then there is no estimate of time and memory, and `recipe` is empty. Empty where they are there.
    """

    model: str
    recipe: Mapping[str, Json]
    device: str
    mode: str
    out: str
    kinds: tuple[Kind, ...]
    free_bytes: int
    world_size: int
    calibration: Calibration | None
    seconds: float | None
    no_weights: str = ""

    @property
    def total_bytes(self) -> int:
        """Of all records to do."""
        return sum(kind.total_bytes for kind in self.kinds)

    def to_json(self) -> dict[str, Any]:
        """As printed with --json."""
        return {**asdict(self), "total_bytes": self.total_bytes}

    def lines(self) -> list[str]:
        """For a person."""
        lines = [f"{self.model} on {self.device}, {self.mode} mode, into {self.out}"]
        for kind in self.kinds:
            counts = f"{kind.wanted} wanted, {kind.there} there, {kind.failed} failed before, {kind.to_do} to do"
            counts += f", {kind.changed} changed since (--refresh makes them again)" if kind.changed else ""
            lines.append(f"{kind.kind}: {counts}")
            for array in kind.arrays:
                shape = ", ".join("L" if size is None else str(size) for size in array.shape)
                size = f"{_size(array.bytes)} per record" + (
                    f" with L = {array.rows:.4g}" if array.rows is not None else ""
                )
                if array.unknown:
                    size = f"{_size(array.bytes)} per row; how many rows a video gives is not known"
                lines.append(f"  {array.name} [{shape}] {array.dtype}: {size}")
        least = "At least " if any(array.unknown for kind in self.kinds for array in kind.arrays) else ""
        least_rows = " (one row per record where it is not known; without --no-calibrate it is measured)"
        lines.append(
            f"{least}{_size(self.total_bytes)} to write{least and least_rows}, {_size(self.free_bytes)} free at "
            f"{self.out}"
        )
        if self.calibration is not None and self.seconds is not None:
            times = self.calibration
            ranks = f" with {self.world_size} ranks" if self.world_size > 1 else ""
            lines.append(
                f"About {_duration(self.seconds)}{ranks}: per video {times.decode:.3g} s decode in one process, "
                f"{times.pixels:.3g} s pixels, {times.forward:.3g} s forward ({times.videos} videos measured)"
            )
            device = f", {_size(times.device_memory)} on the device" if times.device_memory else ""
            lines.append(f"Memory: {_size(times.memory)}{device} at most while measuring")
        if self.no_weights:
            lines.append(f"No estimate of time and memory, which need the weights: {self.no_weights}")
        return lines


def plan(config: PlanConfig, progress: Progress | None = None) -> Plan:
    """Look at videos, model and store, and say what a run would do. Writes nothing.

    Records and bytes follow from the configuration of the model; weights are needed for time and memory alone.

    Raises:
        Refused: the records cannot fit on the disk, or the model not in memory.
        VfcError: whatever would stop the run itself.
    """
    progress = progress or Silent()
    rank = find_rank(config.rank, config.world_size)
    work = build_work_list(config, rank, progress, needs_weights=False)
    calibration: Calibration | None = None
    rows = predicted_rows(work, counted_frames(config, work))
    if config.calibrate and work.items and not work.no_weights:
        with determinism(work.mode, config.threads):
            calibration, measured_rows = calibrate(config, work, progress)
            rows |= measured_rows
    refuse_what_cannot_fit(work, config.out, rows)
    seconds = None
    if calibration is not None:
        seconds = estimated(config, work, calibration) / rank.world_size + calibration.load
    return Plan(
        model=config.model,
        recipe=work.recipe.fields,
        device=str(work.device),
        mode=work.mode,
        out=str(config.out),
        kinds=tuple(_kinds(work, rows)),
        free_bytes=free_bytes(config.out),
        world_size=rank.world_size,
        calibration=calibration,
        seconds=seconds,
        no_weights=work.no_weights,
    )


def refuse_what_cannot_fit(work: WorkList, out: Path, rows: Mapping[str, float] | None = None) -> None:
    """Stop before the first byte where the records of all ranks take more than the disk has.

    Args:
        work: What is to do, of all ranks.
        out: Where it goes.
        rows: Array -> mean rows, for ragged arrays; they count as one row where it is not known.

    Raises:
        Refused: with the arithmetic.
    """
    kinds = [kind for kind in _kinds(work, predicted_rows(work) if rows is None else rows) if kind.to_do]
    needed, free = sum(kind.total_bytes for kind in kinds), free_bytes(out)
    if needed > free:
        sums = " + ".join(f"{kind.to_do} {kind.kind} records of {_size(kind.record_bytes)}" for kind in kinds)
        raise Refused(
            f"{sums} take {_size(needed)}, but {_size(free)} are free at {out}.",
            f"Free {_size(needed - free)} or give an --out on another disk; fewer layers or frames, or --dtype int8, "
            "make the records smaller.",
        )


def free_bytes(out: Path) -> int:
    """Free bytes on the disk that `out` is or would be on."""
    folder = out.absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _kinds(work: WorkList, rows: Mapping[str, float]) -> Iterator[Kind]:
    to_do = work.counts()
    for kind, specs in work.specs.items():
        arrays = tuple(_array(spec, rows) for spec in specs)
        each = sum(array.bytes for array in arrays)
        yield Kind(
            kind=kind,
            arrays=arrays,
            wanted=work.requested[kind],
            there=sum(key.kind == kind for key in work.stored),
            changed=sum(key.kind == kind for key in work.changed),
            failed=sum(failed.kind == kind for failed in work.failed),
            to_do=to_do[kind],
            record_bytes=each,
            total_bytes=to_do[kind] * (each + _BESIDE),
        )


def _array(spec: ArraySpec, rows: Mapping[str, float]) -> Array:
    if not spec.ragged:
        return Array(spec.name, spec.dtype, spec.shape, None, record_bytes(spec))
    mean = rows.get(spec.name)
    return Array(spec.name, spec.dtype, spec.shape, mean, record_bytes(spec, round(mean or 1)))


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.4g} {unit}"
        count /= 1000
    return f"{count:.4g} TB"


def _duration(seconds: float) -> str:
    rounded = max(1, round(seconds))
    hours, minutes = divmod(rounded // 60, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rounded % 60} s" if minutes else f"{rounded} s"
