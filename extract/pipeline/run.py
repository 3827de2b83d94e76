"""`vfc extract`: decode ahead, forward, write behind; resume, failures, bottleneck (DESIGN.md, section 6).

Records of several ranks, or of an interrupted run and the next, fit together because each is made from its key alone.
In deterministic mode they are the same bits, whoever makes them.
"""

from __future__ import annotations

import platform
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

import torch

from vfc.cache_schema.annotations import Annotations, load, write_annotations
from vfc.cache_schema.reader import open_store
from vfc.cache_schema.values.errors import UnknownName
from vfc.cache_schema.values.progress import Progress, Silent
from vfc.cache_schema.values.record import Json
from vfc.cache_schema.writer import StoreWriter
from vfc.extract.backbone import TextBackbone
from vfc.extract.config import ExtractConfig as ExtractConfig
from vfc.extract.models.determinism import determinism

from .device_copy import Carrier
from .failures import FailureList
from .fit_projection import with_projections
from .forward import Encode, Ready, batch_size, batches, forward, of_texts, of_videos
from .plan import refuse_what_cannot_fit
from .prefetch import arriving, ready_text
from .publish_tail import publish_tail, with_tail
from .ranks import Place, place
from .reduction import ShrinkingWriter
from .signals import Interrupted, Interrupts
from .stage_timer import Clock
from .summary import Summary as Summary
from .summary import shown
from .worklist import Work, survey
from .writer_thread import Behind, Lost, Made


def extract(config: ExtractConfig, progress: Progress | None = None, *, projections: Path | None = None) -> Summary:
    """Make the records that the settings ask for and the store lacks.

    Ctrl-C and SIGTERM finish the record at hand, commit, and give a Summary with exit code 130 or 143.

    Args:
        config: What to make.
        progress: Who is told.
        projections: A store whose projections are taken over, instead of new ones being fitted.

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
            _add_tail(config, work, progress)
        return _summary(config, here, work, Clock())
    if work.there or work.failed:
        progress.say(f"{len(work.there)} records are there, {len(work.failed)} failed before, {work.to_do} to do.")
    refuse_what_cannot_fit(whole, config.out)
    with determinism(work.mode, config.threads):
        return _Run(config, here, whole, work, progress, projections).run()


class _Run:
    """One run over a share of work that is not empty."""

    def __init__(
        self,
        config: ExtractConfig,
        here: Place,
        whole: Work,
        work: Work,
        progress: Progress,
        projections: Path | None,
    ) -> None:
        self.projections = projections
        self.config, self.here, self.whole, self.work, self.progress = config, here, whole, work, progress
        self.worker = config.worker or f"r{here.rank}"
        self.clock = Clock()
        self.interrupts = Interrupts()
        self.carrier = Carrier(work.device)
        self.under_way: list[Made | Lost] = []

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
                    _add_tail(config, self.work, self.progress)
                    _annotate(config.out, self.whole.annotations, self.progress)
                    idle = min(max(config.part_seconds, 0.1), threading.TIMEOUT_MAX)
                    smaller = ShrinkingWriter(writer, self.work.shrinking)
                    behind = Behind(smaller, failures, proven=bool(self.whole.there), idle_seconds=idle)
                    self._make(behind, smaller)
            except Interrupted as stop:
                signum = stop.signum
        written = writer.bytes_written if writer else 0
        return _summary(config, self.here, self.work, self.clock, self.carrier, behind, written, signum)

    def _make(self, behind: Behind, smaller: ShrinkingWriter) -> None:
        try:
            if self.work.visits or self.work.texts:
                self.work.backbone.load()
                smaller.shrinking = with_projections(self.config, self.work, self.progress, self.projections)
            self.clock = Clock()
            self.progress.begin("extract", self.work.to_do)
            for lost in self.work.hopeless:
                behind.put(lost)
                self._advance(1, behind)
            self._texts(behind)
            self._videos(behind)
            with self.interrupts.shielded(), self.clock.counts("write"):
                behind.finish()
        except Interrupted:
            self.interrupts.ignore()
            self._hand_over([], behind)
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
            part_bytes=int(min(config.part_mb * 1e6, sys.maxsize)),
            part_seconds=config.part_seconds,
            circumstances=circumstances(self.work),
        )

    def _declare(self, writer: StoreWriter) -> None:
        for kind, specs in self.work.specs.items():
            writer.declare(kind, specs)
        for axis, name, content in self.work.axes:
            writer.bind(axis, name, content)

    def _texts(self, behind: Behind) -> None:
        backbone = self.work.backbone
        if self.work.texts:
            assert isinstance(backbone, TextBackbone)
            self._forward((ready_text(backbone, text) for text in self.work.texts), of_texts(backbone), behind)

    def _videos(self, behind: Behind) -> None:
        backbone, visits = self.work.backbone, self.work.visits
        if visits:
            with arriving(self.config, backbone, visits, self.clock, pin=self.carrier.late) as items:
                self._forward(items, of_videos(backbone), behind)

    def _forward(self, items: Iterator[Ready | Lost], encode: Encode, behind: Behind) -> None:
        for batch in batches(items, batch_size(self.config, self.work.mode)):
            if isinstance(batch, Lost):
                behind.put(batch)
                self._advance(1, behind)
                continue
            with self.interrupts.shielded():
                with self.clock.counts("forward"), torch.inference_mode():
                    made = forward(encode, batch, self.carrier)
                self._hand_over(made, behind)
        with self.interrupts.shielded():
            self._hand_over([], behind)

    def _hand_over(self, made: list[Made | Lost], behind: Behind) -> None:
        """Give what was made to the writer; on a GPU that of the batch before, while this one is under way."""
        if self.carrier.late:
            made, self.under_way = self.under_way, made
        with self.clock.counts("forward"):
            for item in made:
                if isinstance(item, Made) and item.wait is not None:
                    item.wait()
        with self.clock.counts("write"):
            for item in made:
                behind.put(item)
        if made:
            self._advance(len(made), behind)

    def _advance(self, count: int, behind: Behind) -> None:
        lost = f", {len(behind.lost)} failed" if behind.lost else ""
        self.progress.advance(count, note=f"bound by {self.clock.bottleneck() or 'decode'}{lost}")


def _summary(
    config: ExtractConfig,
    here: Place,
    work: Work,
    clock: Clock,
    carrier: Carrier | None = None,
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
        failed=tuple((shown(item.key), item.reason) for item in lost),
        failed_before=tuple((shown(item.key), item.reason) for item in work.failed),
        left=work.to_do - done - appeared - len(lost),
        seconds=clock.elapsed if behind else 0.0,
        shares=clock.shares() if behind else {},
        waited=min(1.0, max(0.0, 1 - (carrier.busy() - clock.moved) / clock.elapsed)) if behind and carrier else 0.0,
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


def _add_tail(config: ExtractConfig, work: Work, progress: Progress) -> None:
    if config.tail is not None and publish_tail(
        config.out, with_tail(work.backbone, config.model, config.tail), config.tail
    ):
        progress.say(f"tail/blocks-{config.tail}.safetensors: blocks {config.tail} and above.")


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
