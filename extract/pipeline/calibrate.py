"""What a few videos take, measured before a run; and how many rows ragged arrays have, told or measured."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch

from vfc.cache_schema.values.progress import Progress
from vfc.cache_schema.values.record import Key
from vfc.extract.backbone import PromptedBackbone
from vfc.extract.config import ExtractConfig
from vfc.extract.decode import Clip, Failure

from .chunked import streamed
from .forward import Encode, Ready, forward, of_videos
from .prefetch import PIXEL_THREADS, arriving, decode_workers, decoded, jobs_of, prompting_of, ready_visit
from .stage_timer import Clock
from .summary import shown
from .work_item import Visit
from .worklist import Work
from .writer_thread import Lost, Made

CALIBRATED: Final = 4
"""Videos that a plan decodes and forwards; the first one warms up and is not timed."""
PIECES: Final = 3
"""So many pieces of each, of videos that come piece by piece."""
ASKED_OF: Final = 8
"""So many prompts of so many videos are counted to foretell the rows of text."""
USUAL_SIZE: Final = (360, 640)
"""Height and width of frames that have not been seen yet."""


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


def calibrate(config: ExtractConfig, work: Work, progress: Progress) -> tuple[Calibration | None, dict[str, float]]:
    """Times and memory of the first videos by hash (the same on every call), and the rows of their ragged arrays."""
    first = sorted({visit.video.name for visit in work.visits}, key=lambda name: Key("video", name).hash128())
    tried = [visit for visit in work.visits if visit.video.name in first[:CALIBRATED]]
    if streamed(config, work.backbone, work.visits):
        return _in_pieces(config, work, tried, progress)
    grouped = jobs_of(config, tried)
    progress.begin("calibrate", len(grouped), "clips")
    clips: list[tuple[Clip | Failure, float]] = []
    # One process and nothing else at work, so that the time between two clips is that of a decoder.
    with decoded([job for job, _ in grouped], 1, config.seconds_per_video) as arrived:
        watch = _Watch()
        for _, clip in arrived:
            clips.append((clip, watch.lap()))
    watch = _Watch()
    work.backbone.load()
    load = watch.lap()
    prompting, encode = prompting_of(work.backbone), of_videos(work.backbone)
    taken: dict[str, dict[str, float]] = {}
    rows: dict[str, list[float]] = {}
    for (job, visits), (clip, decoding) in zip(grouped, clips, strict=True):
        watch = _Watch()
        items = [item for visit in visits for item in ready_visit(work.backbone, prompting, visit, clip)]
        pixels = watch.lap()
        made = [one for item in items for one in _forward_one(encode, item)]
        forwarding = watch.lap()
        records = [one.record for one in made if isinstance(one, Made)]
        if records:
            spent = taken.setdefault(job.name, {"decode": 0.0, "pixels": 0.0, "forward": 0.0})
            for stage, seconds in zip(spent, (decoding, pixels, forwarding), strict=True):
                spent[stage] += seconds
        for record in records:
            for name, array in work.shrinking.pooled(record).items():
                rows.setdefault(name, []).append(len(array))
        for one in made:
            if isinstance(one, Lost):
                progress.say(f"{shown(one.key)} would fail: {one.reason}")
        progress.advance()
    return _measured(work, taken, rows, load, progress)


def _in_pieces(
    config: ExtractConfig, work: Work, tried: Sequence[Visit], progress: Progress
) -> tuple[Calibration | None, dict[str, float]]:
    """The first pieces of the videos, and from them what whole videos would take."""
    progress.begin("calibrate", len(tried), "videos")
    watch, clock = _Watch(), Clock()
    work.backbone.load()
    load = watch.lap()
    taken: dict[str, dict[str, float]] = {}
    rows: dict[str, list[float]] = {}
    with arriving(config, work.backbone, tried, clock, limit=PIECES) as items:
        for item in items:
            watch, before = _Watch(), dict(clock.seconds)
            made = _forward_one(of_videos(work.backbone), item)
            waited = {stage: clock.seconds[stage] - before[stage] for stage in ("decode", "pixels")}
            spent = {**waited, "forward": watch.lap() - sum(waited.values())}
            for one in made:
                if isinstance(one, Lost):
                    progress.say(f"{shown(one.key)} would fail: {one.reason}")
                elif isinstance(item, Ready) and item.stream is not None:
                    share = item.stream.share
                    total = taken.setdefault(one.record.key.name, dict.fromkeys(spent, 0.0))
                    for stage, seconds in spent.items():
                        total[stage] += seconds / share
                    for name, array in work.shrinking.pooled(one.record).items():
                        rows.setdefault(name, []).append(len(array) / share)
            progress.advance()
    return _measured(work, taken, rows, load, progress)


def _measured(
    work: Work,
    taken: Mapping[str, Mapping[str, float]],
    rows: Mapping[str, Sequence[float]],
    load: float,
    progress: Progress,
) -> tuple[Calibration | None, dict[str, float]]:
    if not taken:
        progress.say("None of the videos tried could be used, so there is no estimate.")
        return None, {}
    timed = list(taken.values())[1:] or list(taken.values())
    medians = {stage: statistics.median(spent[stage] for spent in timed) for stage in timed[0]}
    on_device = torch.cuda.max_memory_allocated(work.device) if work.device.type == "cuda" else 0
    measured = Calibration(len(taken), load, **medians, memory=_peak_memory(), device_memory=on_device)
    return measured, {name: statistics.mean(counts) for name, counts in rows.items()}


def foretold(work: Work) -> dict[str, float]:
    """Array -> mean rows of ragged arrays, as far as the model can tell without a video: for frames of usual size."""
    backbone = work.backbone
    if not isinstance(backbone, PromptedBackbone):
        return {}
    texts = [prompt.text for visit in work.visits[:ASKED_OF] for prompt in visit.prompts[:ASKED_OF]] or [""]
    counted = [backbone.rows(*USUAL_SIZE, text) for text in texts]
    return work.shrinking.rows({name: statistics.mean(one[name] for one in counted) for name in counted[0]})


class _Watch:
    def __init__(self) -> None:
        self._began = time.perf_counter()

    def lap(self) -> float:
        """Seconds since it was made or last asked."""
        began, self._began = self._began, time.perf_counter()
        return self._began - began


def _forward_one(encode: Encode, item: Ready | Lost) -> list[Made | Lost]:
    if isinstance(item, Lost):
        return [item]
    with torch.inference_mode():
        return forward(encode, [item])


def estimated(config: ExtractConfig, work: Work, measured: Calibration) -> float:
    """The slowest of the stages that run beside each other, for all videos."""
    slowest = max(measured.decode / decode_workers(config), measured.pixels / PIXEL_THREADS, measured.forward)
    return slowest * len({visit.video.name for visit in work.visits})


def _peak_memory() -> int:
    """The most memory this process has held, in bytes; 0 where the system does not say."""
    try:
        import resource
        import sys
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
