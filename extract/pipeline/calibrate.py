"""What a few videos cost, measured before a run; and how many rows ragged arrays have, predicted or measured."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import torch

from vfc.cache_schema.values.devices import peak_memory
from vfc.cache_schema.values.progress import Progress
from vfc.cache_schema.values.record import Key
from vfc.extract.backbone import CountingBackbone, PromptedBackbone
from vfc.extract.config import ExtractConfig
from vfc.extract.decode import Clip, Failure
from vfc.extract.decode.count import count_frames
from vfc.extract.decode.sampling import fixed_count
from vfc.extract.models.memory import load_model

from .chunked import in_chunks
from .device_copy import DeviceToHost
from .forward import BatchSize, Ready, batch_size, batches, forward, of_videos
from .prefetch import PIXEL_THREADS, decode_workers, decoded, jobs_of, prefetch, prompting_of, ready_item
from .stage_timer import StageTimer
from .summary import record_name
from .work_item import WorkItem
from .worklist import WorkList
from .writer_thread import FailedRecord, FinishedRecord

CALIBRATED: Final = 4
"""Videos that a plan decodes and forwards, where the run takes them singly; the first one warms up and is not timed.

Where it takes batches: two of those; the first one warms up.
"""
CHUNKS: Final = 3
"""Chunks of each, of videos that come in chunks."""
PROMPTS_COUNTED: Final = 8
"""Prompts of as many videos whose tokens are counted to predict the rows of text."""
USUAL_SIZE: Final = (360, 640)
"""Height and width of frames that were not decoded yet."""


@dataclass(frozen=True)
class Calibration:
    """What a few videos cost: medians in seconds per video, and the peak of memory in bytes.

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


@dataclass
class _Measurements:
    """Seconds of each video by stage, and rows of each ragged array, one per record. The first `warming` warm up."""

    work: WorkList
    progress: Progress
    warming: int = 1
    load: float = 0.0
    seconds: dict[str, dict[str, float]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(float)))
    rows: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def add(
        self, name: str, seconds: Mapping[str, float], records: Sequence[FinishedRecord | FailedRecord], share: float
    ) -> None:
        """The cost of a `share` (0 to 1) of a video; one of which every record failed does not count."""
        for record in records:
            if isinstance(record, FailedRecord):
                self.progress.say(f"{record_name(record.key)} would fail: {record.reason}")
                continue
            for array, values in self.work.reducer.pooled(record.record).items():
                self.rows[array].append(len(values) / share)
        if any(isinstance(record, FinishedRecord) for record in records):
            for stage, spent in seconds.items():
                self.seconds[name][stage] += spent / share
        self.progress.advance()

    def result(self) -> tuple[Calibration | None, dict[str, float]]:
        """Medians without the videos that warm up, and mean rows by array."""
        if not self.seconds:
            self.progress.say("None of the videos tried could be used, so there is no estimate.")
            return None, {}
        timed = list(self.seconds.values())[self.warming :] or list(self.seconds.values())
        medians = {stage: statistics.median(spent[stage] for spent in timed) for stage in timed[0]}
        device = self.work.device
        on_device = peak_memory(device)
        calibration = Calibration(
            len(self.seconds), self.load, **medians, memory=_peak_memory(), device_memory=on_device
        )
        return calibration, {name: statistics.mean(counts) for name, counts in self.rows.items()}


def calibrate(config: ExtractConfig, work: WorkList, progress: Progress) -> tuple[Calibration | None, dict[str, float]]:
    """Times and memory of the first videos by hash (the same on every call), and the rows of their ragged arrays."""
    first = _first_names(work)
    chunked = in_chunks(config, work.backbone, work.items)
    size = 1 if chunked else batch_size(config, work.mode)
    items = [item for item in work.items if item.video.name in first[: CALIBRATED if size == 1 else 2 * size]]
    measurements = _Measurements(work, progress, warming=size)
    measure = _measure_chunks if chunked else _measure_clips
    measure(config, items, measurements)
    return measurements.result()


def _measure_clips(config: ExtractConfig, items: Sequence[WorkItem], measurements: _Measurements) -> None:
    """Whole clips: all are decoded first, by one process and with nothing else running, then forwarded in batches."""
    work, backbone = measurements.work, measurements.work.backbone
    jobs = jobs_of(config, items)
    measurements.progress.begin("calibrate", len(jobs), "clips")
    clips: list[tuple[Clip | Failure, float]] = []
    with decoded([job for job, _ in jobs], 1, config.seconds_per_video) as stream:
        laps = _Laps()
        for _, clip in stream:
            clips.append((clip, laps.lap()))
    laps = _Laps()
    load_model(backbone, work.device)
    measurements.load = laps.lap()
    prompting, device_to_host = prompting_of(backbone), DeviceToHost(work.device)
    waiting, costs = list[Ready | FailedRecord](), dict[str, dict[str, float]]()
    for (job, group), (clip, decoding) in zip(jobs, clips, strict=True):
        laps = _Laps()
        for item in group:
            waiting += ready_item(backbone, prompting, item, clip, pin=device_to_host.asynchronous)
        cost = costs.setdefault(job.name, {"decode": 0.0, "pixels": 0.0})
        cost["decode"] += decoding
        cost["pixels"] += laps.lap()
    size = BatchSize(batch_size(config, work.mode), measurements.progress.say)
    for batch in batches(waiting, size):
        laps = _Laps()
        items_of_batch = [batch] if isinstance(batch, FailedRecord) else batch
        records = _forward(work, items_of_batch, device_to_host, size)
        each = laps.lap() / len(items_of_batch)
        names = [item.key.name for item in items_of_batch]
        for name in dict.fromkeys(names):
            own = [record for record in records if record.key.name == name]
            measurements.add(name, {**costs.pop(name, {}), "forward": each * names.count(name)}, own, 1.0)


def _measure_chunks(config: ExtractConfig, items: Sequence[WorkItem], measurements: _Measurements) -> None:
    """The first chunks of the videos, and from them what whole videos would cost."""
    work = measurements.work
    measurements.progress.begin("calibrate", len(items), "videos")
    laps, timer, device_to_host = _Laps(), StageTimer(), DeviceToHost(work.device)
    load_model(work.backbone, work.device)
    measurements.load = laps.lap()
    with prefetch(config, work.backbone, items, timer, pin=device_to_host.asynchronous, limit=CHUNKS) as stream:
        for ready in stream:
            laps, before = _Laps(), dict(timer.seconds)
            records = _forward(work, [ready], device_to_host)
            waited = {stage: timer.seconds[stage] - before[stage] for stage in ("decode", "pixels")}
            seconds = {**waited, "forward": laps.lap() - sum(waited.values())}
            share = ready.chunks.share if isinstance(ready, Ready) and ready.chunks is not None else 1.0
            measurements.add(ready.key.name, seconds, records, share)


def _forward(
    work: WorkList,
    items: Sequence[Ready | FailedRecord],
    device_to_host: DeviceToHost,
    size: BatchSize | None = None,
) -> list[FinishedRecord | FailedRecord]:
    """The records of a batch, complete on the host."""
    ready = [item for item in items if isinstance(item, Ready)]
    if not ready:
        return [item for item in items if isinstance(item, FailedRecord)]
    with torch.inference_mode():
        records = forward(of_videos(work.backbone), ready, device_to_host, size)
    device_to_host.wait()
    return records


class _Laps:
    """Seconds since this was made, then since each `lap`."""

    def __init__(self) -> None:
        self._began = time.perf_counter()

    def lap(self) -> float:
        began, self._began = self._began, time.perf_counter()
        return self._began - began


def predicted_rows(work: WorkList, frames: Sequence[int] = ()) -> dict[str, float]:
    """Array -> mean rows of ragged arrays, as far as the model knows without decoding a video.

    `frames`: the numbers of frames of a few videos. Rows of language models are for frames of usual size.
    """
    backbone = work.backbone
    if isinstance(backbone, PromptedBackbone):
        prompts = [prompt.text for item in work.items[:PROMPTS_COUNTED] for prompt in item.prompts[:PROMPTS_COUNTED]]
        counts = [backbone.rows(*USUAL_SIZE, text, n) for text in prompts or [""] for n in frames or (None,)]
        return work.reducer.rows(_means(counts))
    if isinstance(backbone, CountingBackbone) and frames:
        return work.reducer.rows(_means([backbone.rows_of(count) for count in frames]))
    return {}


def _means(counts: Sequence[Mapping[str, int]]) -> dict[str, float]:
    return {name: statistics.mean(count[name] for count in counts) for name in counts[0]}


def counted_frames(config: ExtractConfig, work: WorkList) -> list[int]:
    """The numbers of frames of the first videos by hash, where they differ from video to video; without decoding."""
    if fixed_count(config.frames):
        return []
    first = set(_first_names(work)[:CALIBRATED])
    jobs = jobs_of(config, [item for item in work.items if item.video.name in first])
    return [count for job, _ in jobs if (count := count_frames(job))]


def _first_names(work: WorkList) -> list[str]:
    """Names of the videos by hash: the same order on every call."""
    return sorted({item.video.name for item in work.items}, key=lambda name: Key("video", name).hash128())


def estimated(config: ExtractConfig, work: WorkList, measured: Calibration) -> float:
    """Seconds for all videos: the slowest of the stages that run in parallel."""
    slowest = max(measured.decode / decode_workers(config), measured.pixels / PIXEL_THREADS, measured.forward)
    return slowest * len({item.video.name for item in work.items})


def _peak_memory() -> int:
    """The peak of this process's memory, in bytes; 0 where the system does not say."""
    try:
        import resource
        import sys
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
