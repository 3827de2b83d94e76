"""`vfc plan`: what a run would make, how large, how long; and the check that stops what cannot fit."""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch

from vfc.cache_schema.dtypes import record_bytes
from vfc.cache_schema.errors import Refused
from vfc.cache_schema.progress import Progress, Silent
from vfc.cache_schema.record import ArraySpec, Json

from .behind import Lost, Made
from .config import ExtractConfig, PlanConfig
from .decode import Clip, Failure, Job
from .forward import PIXEL_THREADS, Ready, decode_workers, decoded, forward, job_of, ready_video
from .launch import place
from .numerics import numerics
from .work import Work, survey, video_key

CALIBRATED: Final = 4
"""Videos that a plan decodes and forwards; the first one warms up and is not timed."""

_BESIDE: Final = 1024
"""Bytes that keys, metadata and checksums of a record take, roughly."""


@dataclass(frozen=True)
class Array:
    """One array of a planned kind. `rows`: of a ragged array, measured or None; `bytes`: of one record."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]
    rows: float | None
    bytes: int


@dataclass(frozen=True)
class Kind:
    """The records of one kind: how many are wanted, there, failed before, to do; what one and what all to do take."""

    kind: str
    arrays: tuple[Array, ...]
    wanted: int
    there: int
    failed: int
    to_do: int
    record_bytes: int
    total_bytes: int


@dataclass(frozen=True)
class Calibration:
    """What a few videos took: medians in seconds per video, and the most memory in bytes.

    `decode` is of one decoding process, `memory` of this process (0 where the system does not say), `device_memory`
    of the GPU.
    """

    videos: int
    load: float
    decode: float
    pixels: float
    forward: float
    memory: int
    device_memory: int


@dataclass(frozen=True)
class Plan:
    """What `vfc extract` with these settings would do. `seconds`: of this many ranks together; None if not measured."""

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

    @property
    def total_bytes(self) -> int:
        """Of all records to do."""
        return sum(kind.total_bytes for kind in self.kinds)

    def to_json(self) -> dict[str, Any]:
        """As printed with --json."""
        return {**asdict(self), "total_bytes": self.total_bytes}

    def lines(self) -> list[str]:
        """For a person."""
        said = [f"{self.model} on {self.device}, {self.mode} mode, into {self.out}"]
        for kind in self.kinds:
            counts = f"{kind.wanted} wanted, {kind.there} there, {kind.failed} failed before, {kind.to_do} to do"
            said.append(f"{kind.kind}: {counts}")
            for array in kind.arrays:
                shape = ", ".join("L" if size is None else str(size) for size in array.shape)
                rows = f" with L = {array.rows:.4g}" if array.rows else " and row" if "L" in shape else ""
                said.append(f"  {array.name} [{shape}] {array.dtype}: {_size(array.bytes)} per record{rows}")
        said.append(f"{_size(self.total_bytes)} to write, {_size(self.free_bytes)} free at {self.out}")
        if self.calibration is not None and self.seconds is not None:
            found = self.calibration
            ranks = f" with {self.world_size} ranks" if self.world_size > 1 else ""
            said.append(
                f"About {_duration(self.seconds)}{ranks}: per video {found.decode:.3g} s decode in one process, "
                f"{found.pixels:.3g} s pixels, {found.forward:.3g} s forward ({found.videos} videos measured)"
            )
            device = f", {_size(found.device_memory)} on the device" if found.device_memory else ""
            said.append(f"Memory: {_size(found.memory)}{device} at most while measuring")
        return said


def plan(config: PlanConfig, progress: Progress | None = None) -> Plan:
    """Look at videos, model and store, and say what a run would do. Writes nothing.

    Raises:
        Refused: the records cannot fit on the disk, or the model not in memory.
        VfcError: whatever would stop the run itself.
    """
    progress = progress or Silent()
    here = place(config.rank, config.world_size)
    work = survey(config, here, progress)
    measured: Calibration | None = None
    rows: dict[str, float] = {}
    if config.calibrate and work.videos:
        with numerics(work.mode, config.threads):
            measured, rows = _calibrate(config, work, progress)
    refuse_what_cannot_fit(work, config.out, rows)
    return Plan(
        model=config.model,
        recipe=work.recipe.fields,
        device=str(work.device),
        mode=work.mode,
        out=str(config.out),
        kinds=tuple(_kinds(work, rows)),
        free_bytes=free_bytes(config.out),
        world_size=here.world_size,
        calibration=measured,
        seconds=None if measured is None else _seconds(config, work, measured) / here.world_size + measured.load,
    )


def refuse_what_cannot_fit(work: Work, out: Path, rows: Mapping[str, float] | None = None) -> None:
    """Stop before the first byte where the records of all ranks take more than the disk has.

    Args:
        work: What is to do, of all ranks.
        out: Where it goes.
        rows: Array -> mean rows, for ragged arrays; they count as one row where it is not known.

    Raises:
        Refused: with the arithmetic.
    """
    kinds = [kind for kind in _kinds(work, rows or {}) if kind.to_do]
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


def _kinds(work: Work, rows: Mapping[str, float]) -> Iterator[Kind]:
    to_do = {"video": len(work.videos), "text": len(work.texts)}
    for kind, specs in work.specs.items():
        arrays = tuple(_array(spec, rows) for spec in specs)
        each = sum(array.bytes for array in arrays)
        yield Kind(
            kind=kind,
            arrays=arrays,
            wanted=work.wanted[kind],
            there=sum(key.kind == kind for key in work.there),
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


def _calibrate(config: ExtractConfig, work: Work, progress: Progress) -> tuple[Calibration | None, dict[str, float]]:
    """Times and memory of the first videos by hash (the same on every call), and the rows of their ragged arrays."""
    chosen = sorted(work.videos, key=lambda video: video_key(video).hash128())[:CALIBRATED]
    progress.begin("calibrate", len(chosen), "videos")
    clips: list[tuple[Job, Clip | Failure, float]] = []
    # One process and nothing else at work, so that the time between two clips is that of a decoder.
    with decoded([job_of(config, video) for video in chosen], 1, config.seconds_per_video) as arriving:
        watch = _Watch()
        for job, clip in arriving:
            clips.append((job, clip, watch.lap()))
    watch = _Watch()
    work.backbone.load()
    load = watch.lap()
    taken: dict[str, list[float]] = {"decode": [], "pixels": [], "forward": []}
    made: list[Made] = []
    for job, clip, decoding in clips:
        watch = _Watch()
        item = ready_video(work.backbone, job, clip)
        pixels = watch.lap()
        outcome = _forward_one(work, item)
        if isinstance(outcome, Made):
            made.append(outcome)
            for stage, seconds in zip(taken, (decoding, pixels, watch.lap()), strict=True):
                taken[stage].append(seconds)
        else:
            progress.say(f"{job.name} would fail: {outcome.reason}")
        progress.advance()
    if not made:
        progress.say("None of the videos tried could be used, so there is no estimate.")
        return None, {}
    medians = {stage: statistics.median(values[1:] or values) for stage, values in taken.items()}
    on_device = torch.cuda.max_memory_allocated(work.device) if work.device.type == "cuda" else 0
    measured = Calibration(len(made), load, **medians, memory=_peak_memory(), device_memory=on_device)
    names = made[0].record.arrays
    return measured, {name: statistics.mean(len(one.record.arrays[name]) for one in made) for name in names}


class _Watch:
    def __init__(self) -> None:
        self._began = time.perf_counter()

    def lap(self) -> float:
        """Seconds since it was made or last asked."""
        began, self._began = self._began, time.perf_counter()
        return self._began - began


def _forward_one(work: Work, item: Ready | Lost) -> Made | Lost:
    if isinstance(item, Lost):
        return item
    with torch.inference_mode():
        return forward(work.backbone.encode_videos, [item])[0]


def _seconds(config: ExtractConfig, work: Work, measured: Calibration) -> float:
    """The slowest of the stages that run beside each other, for all videos."""
    slowest = max(measured.decode / decode_workers(config), measured.pixels / PIXEL_THREADS, measured.forward)
    return slowest * len(work.videos)


def _peak_memory() -> int:
    """The most memory this process has held, in bytes; 0 where the system does not say."""
    try:
        import resource
        import sys
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.4g} {unit}"
        count /= 1000
    return f"{count:.4g} TB"


def _duration(seconds: float) -> str:
    whole = max(1, round(seconds))
    hours, minutes = divmod(whole // 60, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"
