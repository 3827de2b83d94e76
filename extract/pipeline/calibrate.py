"""What a few videos cost, measured before a run; and how many rows ragged arrays have, predicted or measured."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import torch

from vfc.cache_schema.values.progress import Progress
from vfc.cache_schema.values.record import Key
from vfc.extract.backbone import PromptedBackbone
from vfc.extract.config import ExtractConfig
from vfc.extract.decode import Clip, Failure
from vfc.extract.models.memory import load_model

from .chunked import in_chunks
from .forward import Ready, forward, of_videos
from .prefetch import PIXEL_THREADS, decode_workers, decoded, jobs_of, prefetch, prompting_of, ready_item
from .stage_timer import StageTimer
from .summary import record_name
from .work_item import WorkItem
from .worklist import WorkList
from .writer_thread import FailedRecord, FinishedRecord

CALIBRATED: Final = 4
"""Videos that a plan decodes and forwards; the first one warms up and is not timed."""
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
    """Seconds of each video by stage, and rows of each ragged array, one per record."""

    work: WorkList
    progress: Progress
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
        """Medians without the first video, and mean rows by array."""
        if not self.seconds:
            self.progress.say("None of the videos tried could be used, so there is no estimate.")
            return None, {}
        timed = list(self.seconds.values())[1:] or list(self.seconds.values())
        medians = {stage: statistics.median(spent[stage] for spent in timed) for stage in timed[0]}
        device = self.work.device
        on_device = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
        calibration = Calibration(
            len(self.seconds), self.load, **medians, memory=_peak_memory(), device_memory=on_device
        )
        return calibration, {name: statistics.mean(counts) for name, counts in self.rows.items()}


def calibrate(config: ExtractConfig, work: WorkList, progress: Progress) -> tuple[Calibration | None, dict[str, float]]:
    """Times and memory of the first videos by hash (the same on every call), and the rows of their ragged arrays."""
    first = sorted({item.video.name for item in work.items}, key=lambda name: Key("video", name).hash128())
    items = [item for item in work.items if item.video.name in first[:CALIBRATED]]
    measurements = _Measurements(work, progress)
    measure = _measure_chunks if in_chunks(config, work.backbone, work.items) else _measure_clips
    measure(config, items, measurements)
    return measurements.result()


def _measure_clips(config: ExtractConfig, items: Sequence[WorkItem], measurements: _Measurements) -> None:
    """Whole clips: all are decoded first, by one process and with nothing else running, then forwarded."""
    backbone = measurements.work.backbone
    jobs = jobs_of(config, items)
    measurements.progress.begin("calibrate", len(jobs), "clips")
    clips: list[tuple[Clip | Failure, float]] = []
    with decoded([job for job, _ in jobs], 1, config.seconds_per_video) as stream:
        laps = _Laps()
        for _, clip in stream:
            clips.append((clip, laps.lap()))
    laps = _Laps()
    load_model(backbone, measurements.work.device)
    measurements.load = laps.lap()
    prompting = prompting_of(backbone)
    for (job, group), (clip, decoding) in zip(jobs, clips, strict=True):
        laps = _Laps()
        ready = [one for item in group for one in ready_item(backbone, prompting, item, clip)]
        pixels = laps.lap()
        records = [record for one in ready for record in _forward(measurements.work, one)]
        seconds = {"decode": decoding, "pixels": pixels, "forward": laps.lap()}
        measurements.add(job.name, seconds, records, 1.0)


def _measure_chunks(config: ExtractConfig, items: Sequence[WorkItem], measurements: _Measurements) -> None:
    """The first chunks of the videos, and from them what whole videos would cost."""
    work = measurements.work
    measurements.progress.begin("calibrate", len(items), "videos")
    laps, timer = _Laps(), StageTimer()
    load_model(work.backbone, work.device)
    measurements.load = laps.lap()
    with prefetch(config, work.backbone, items, timer, limit=CHUNKS) as stream:
        for ready in stream:
            laps, before = _Laps(), dict(timer.seconds)
            records = _forward(work, ready)
            waited = {stage: timer.seconds[stage] - before[stage] for stage in ("decode", "pixels")}
            seconds = {**waited, "forward": laps.lap() - sum(waited.values())}
            share = ready.chunks.share if isinstance(ready, Ready) and ready.chunks is not None else 1.0
            measurements.add(ready.key.name, seconds, records, share)


def _forward(work: WorkList, item: Ready | FailedRecord) -> list[FinishedRecord | FailedRecord]:
    if isinstance(item, FailedRecord):
        return [item]
    with torch.inference_mode():
        return forward(of_videos(work.backbone), [item])


class _Laps:
    """Seconds since this was made, then since each `lap`."""

    def __init__(self) -> None:
        self._began = time.perf_counter()

    def lap(self) -> float:
        began, self._began = self._began, time.perf_counter()
        return self._began - began


def predicted_rows(work: WorkList) -> dict[str, float]:
    """Array -> mean rows of ragged arrays, as far as the model knows without a video: for frames of usual size."""
    backbone = work.backbone
    if not isinstance(backbone, PromptedBackbone):
        return {}
    prompts = [prompt.text for item in work.items[:PROMPTS_COUNTED] for prompt in item.prompts[:PROMPTS_COUNTED]]
    counts = [backbone.rows(*USUAL_SIZE, text) for text in prompts or [""]]
    return work.reducer.rows({name: statistics.mean(count[name] for count in counts) for name in counts[0]})


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
