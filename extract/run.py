"""`vfc extract`: decode ahead, forward, write behind; resume, failures, bottleneck (DESIGN.md, section 6).

Records of several ranks, or of an interrupted run and the next, fit together because each is made from its key alone.
In deterministic mode they are the same bits, whoever makes them.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

import torch

from vfc.cache_schema.annotations import Annotations, load, write_annotations
from vfc.cache_schema.errors import UnknownName
from vfc.cache_schema.progress import Progress, Silent
from vfc.cache_schema.reader import open_store
from vfc.cache_schema.record import Json
from vfc.cache_schema.writer import StoreWriter

from .backbone import TextBackbone
from .behind import Behind, Lost
from .clock import Clock
from .config import ExtractConfig as ExtractConfig
from .failures import FailureList
from .forward import (
    PIXEL_THREADS,
    Encode,
    Ready,
    batch_size,
    decode_workers,
    decoded,
    forward,
    in_threads,
    job_of,
    ready_text,
    ready_video,
)
from .interrupts import Interrupted, Interrupts
from .launch import Place, place
from .numerics import numerics
from .plan import refuse_what_cannot_fit
from .summary import Summary as Summary
from .work import Work, survey


def extract(config: ExtractConfig, progress: Progress | None = None) -> Summary:
    """Make the records that the settings ask for and the store lacks.

    Ctrl-C and SIGTERM finish the record at hand, commit, and give a Summary with exit code 130 or 143.

    Raises:
        VfcError: bad input, another recipe, a full or read-only disk ... Whatever was made before is committed.
        Exception: an error that cost every record of the run: a bug, not bad videos.
    """
    progress = progress or Silent()
    here = place(config.rank, config.world_size)
    if here.said:
        progress.say(here.said)
    whole = survey(config, here, progress)
    work = whole.share(here)
    if not work.to_do:
        if (config.out / "zarr.json").exists():
            _annotate(config.out, whole.annotations, progress)
        return _summary(config, here, work, Clock())
    if work.there or work.failed:
        progress.say(f"{len(work.there)} records are there, {len(work.failed)} failed before, {work.to_do} to do.")
    refuse_what_cannot_fit(whole, config.out)
    with numerics(work.mode, config.threads):
        return _Run(config, here, whole, work, progress).run()


class _Run:
    """One run over a share of work that is not empty."""

    def __init__(self, config: ExtractConfig, here: Place, whole: Work, work: Work, progress: Progress) -> None:
        self.config, self.here, self.whole, self.work, self.progress = config, here, whole, work, progress
        self.worker = config.worker or f"r{here.rank}"
        self.clock = Clock()
        self.interrupts = Interrupts()

    def run(self) -> Summary:
        """Everything, with the store open."""
        config, signum = self.config, 0
        writer: StoreWriter | None = None
        behind: Behind | None = None
        with self.interrupts:
            try:
                writer = self._store()
                with writer, closing(FailureList(config.out, self.worker)) as failures:
                    self._declare(writer)
                    _annotate(config.out, self.whole.annotations, self.progress)
                    idle = max(config.part_seconds, 0.1)
                    behind = Behind(writer, failures, proven=bool(self.whole.there), idle_seconds=idle)
                    self._make(behind)
            except Interrupted as stop:
                signum = stop.signum
        written = writer.bytes_written if writer else 0
        return _summary(config, self.here, self.work, self.clock, behind, written, signum)

    def _make(self, behind: Behind) -> None:
        try:
            self.work.backbone.load()
            self.clock = Clock()
            self.progress.begin("extract", self.work.to_do)
            self._texts(behind)
            self._videos(behind)
            with self.interrupts.shielded(), self.clock.counts("write"):
                behind.finish()
        except Interrupted:
            self.interrupts.ignore()
            behind.finish(judge=False)
            raise
        except BaseException:
            self.interrupts.ignore()
            behind.abandon()
            raise

    def _store(self) -> StoreWriter:
        config = self.config
        return StoreWriter(
            config.out,
            self.work.recipe,
            worker=self.worker,
            part_bytes=int(config.part_mb * 1e6),
            part_seconds=config.part_seconds,
            circumstances=circumstances(self.work),
        )

    def _declare(self, writer: StoreWriter) -> None:
        for kind, specs in self.work.specs.items():
            writer.declare(kind, specs)
        for name, template in self.work.templates.items():
            writer.bind("template", name, template)

    def _texts(self, behind: Behind) -> None:
        backbone = self.work.backbone
        if self.work.texts:
            assert isinstance(backbone, TextBackbone)
            self._forward((ready_text(backbone, text) for text in self.work.texts), backbone.encode_texts, behind)

    def _videos(self, behind: Behind) -> None:
        backbone, jobs = self.work.backbone, [job_of(self.config, video) for video in self.work.videos]
        if not jobs:
            return
        workers = min(decode_workers(self.config), len(jobs))
        with (
            ThreadPoolExecutor(PIXEL_THREADS, "vfc-pixels") as pool,
            decoded(jobs, workers, self.config.seconds_per_video) as clips,
        ):
            items = in_threads(clips, lambda one: ready_video(backbone, *one), pool, 2 * PIXEL_THREADS, self.clock)
            self._forward(items, backbone.encode_videos, behind)

    def _forward(self, items: Iterator[Ready | Lost], encode: Encode, behind: Behind) -> None:
        size = batch_size(self.config, self.work.mode)
        batch: list[Ready] = []
        for item in items:
            if isinstance(item, Lost):
                behind.put(item)
                self._advance(1, behind)
                continue
            batch.append(item)
            if len(batch) == size:
                self._keep(batch, encode, behind)
                batch = []
        if batch:
            self._keep(batch, encode, behind)

    def _keep(self, batch: list[Ready], encode: Encode, behind: Behind) -> None:
        with self.interrupts.shielded():
            with self.clock.counts("forward"), torch.inference_mode():
                made = forward(encode, batch)
            with self.clock.counts("write"):
                for item in made:
                    behind.put(item)
            self._advance(len(batch), behind)

    def _advance(self, count: int, behind: Behind) -> None:
        lost = f", {len(behind.lost)} failed" if behind.lost else ""
        self.progress.advance(count, note=f"bound by {self.clock.bottleneck() or 'decode'}{lost}")


def _summary(
    config: ExtractConfig,
    here: Place,
    work: Work,
    clock: Clock,
    behind: Behind | None = None,
    written: int = 0,
    signum: int = 0,
) -> Summary:
    exists = (config.out / "zarr.json").exists()
    lost = behind.lost if behind else []
    done, appeared = (behind.kept, behind.there) if behind else (0, 0)
    digest = ""
    if exists:
        with closing(open_store(config.out, verify="never")) as reader:
            digest = reader.digest
    return Summary(
        out=str(config.out),
        rank=here.rank,
        world_size=here.world_size,
        mode=work.mode,
        device=str(work.device),
        done=done,
        skipped=len(work.there) + appeared,
        failed=tuple((item.key.name, item.reason) for item in lost),
        failed_before=tuple((item.name, item.reason) for item in work.failed),
        left=work.to_do - done - appeared - len(lost),
        seconds=clock.elapsed if behind else 0.0,
        shares=clock.shares() if behind else {},
        bytes=written,
        digest=digest,
        signum=signum,
    )


def _annotate(store: Path, annotations: Annotations, progress: Progress) -> None:
    """Bring `annotations/default.jsonl` up to date: rows of this collection, and those of others as they were."""
    try:
        held = load(store, "default")
    except UnknownName:
        held = Annotations(())
    rows = {row.name: row for row in held.rows} | {row.name: row for row in annotations.rows}
    wanted = Annotations(tuple(rows.values()))
    if wanted.digest != held.digest:
        write_annotations(store, "default", wanted)
        progress.say(f"annotations/default.jsonl: {len(wanted)} rows ({wanted.digest[:12]}).")


def circumstances(work: Work) -> dict[str, Json]:
    """Where and on what this run computes: kept beside the parts, never compared."""
    found: dict[str, Json] = {
        "vfc": version("vfc"),
        "host": platform.node(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "device": str(work.device),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "torch_threads": torch.get_num_threads(),
    }
    if work.device.type == "cuda":
        found |= {"gpu": torch.cuda.get_device_name(work.device), "cuda": torch.version.cuda}
    return found
