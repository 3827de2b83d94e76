"""`vfc extract`: prefetch, forward, write in a thread; resume, failures, bottleneck (DESIGN.md, section 6).

Records of several ranks, or of an interrupted run and the next, fit together because each is made from its key alone.
In deterministic mode they are the same bits, whoever makes them.
"""

from __future__ import annotations

import platform
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from vfc.cache_schema.annotations import Annotations, load, source, update_rows, write_annotations
from vfc.cache_schema.content import identical_files
from vfc.cache_schema.reader import open_store
from vfc.cache_schema.upkeep.circumstances import as_text
from vfc.cache_schema.values.devices import current, description
from vfc.cache_schema.values.errors import UnknownName
from vfc.cache_schema.values.progress import Progress, Silent
from vfc.cache_schema.values.record import Json
from vfc.cache_schema.writer import StoreWriter
from vfc.extract.backbone import TextBackbone
from vfc.extract.collection import has_file
from vfc.extract.config import ExtractConfig as ExtractConfig
from vfc.extract.models.checkpoint import Checkpoint
from vfc.extract.models.determinism import determinism
from vfc.extract.models.memory import load_model

from .device_copy import DeviceToHost
from .failures import FailureList
from .fit_projection import with_projections
from .forward import BatchSize, Encode, Ready, batch_size, batches, forward, of_texts, of_videos
from .plan import refuse_what_cannot_fit
from .prefetch import prefetch, ready_text
from .publish_tail import publish_tail, with_tail
from .ranks import Rank, find_rank
from .reduction import ReducingWriter
from .signals import Interrupted, Interrupts
from .source_files import is_changed, single_frame_clips
from .stage_timer import StageTimer
from .summary import Summary as Summary
from .summary import record_name
from .worklist import WorkList, build_work_list
from .writer_thread import FailedRecord, FinishedRecord, WriterThread


def extract(config: ExtractConfig, progress: Progress | None = None, *, projections: Path | None = None) -> Summary:
    """Make the records that the settings ask for and the store lacks.

    Ctrl-C, SIGTERM and SIGHUP finish the current record, commit, and give a Summary with exit code 128 + signal.

    Args:
        config: What to make.
        progress: Where to report.
        projections: A store whose projections are used, instead of new ones being fitted.

    Raises:
        VfcError: bad input, another recipe, a full or read-only disk ... Finished records are committed.
        Exception: an error that failed every record of the run: a bug, not bad videos.
    """
    progress = progress or Silent()
    rank = find_rank(config.rank, config.world_size)
    if rank.description:
        progress.say(rank.description)
    all_work = build_work_list(config, rank, progress)
    run = _Run(config, rank, all_work, progress, projections)
    work = run.work
    if not work.to_do:
        return run.nothing_to_do()
    if work.stored or work.failed:
        progress.say(f"{len(work.stored)} records are there, {len(work.failed)} failed before, {work.to_do} to do.")
    refuse_what_cannot_fit(all_work, config.out)
    with determinism(work.mode, config.threads), current(work.device):
        return run.run()


class _Run:
    """One run over the share of one rank."""

    def __init__(
        self, config: ExtractConfig, rank: Rank, all_work: WorkList, progress: Progress, projections: Path | None
    ) -> None:
        self.config, self.rank, self.all_work, self.progress = config, rank, all_work, progress
        self.work, self.projections = all_work.share(rank), projections
        self.worker = config.worker or f"r{rank.number}"
        self.timer = StageTimer()
        self.interrupts = Interrupts()
        self.device_to_host = DeviceToHost(self.work.device)
        self.in_copy: list[FinishedRecord | FailedRecord] = []
        self.annotations, self.gone = Annotations(()), tuple[str, ...]()

    def nothing_to_do(self) -> Summary:
        """Labels and tail are brought up to date all the same, where there is a store."""
        if (self.config.out / "zarr.json").exists():
            self._annotate()
            self._add_tail()
        return self._summary(None)

    def run(self) -> Summary:
        """Everything, with the store open."""
        config, signum = self.config, 0
        writer: StoreWriter | None = None
        thread: WriterThread | None = None
        with self.interrupts:
            try:
                writer = self._store()
                with writer, closing(FailureList(config.out, self.worker)) as failures:
                    self._declare(writer)
                    self._add_tail()
                    self._annotate()
                    idle = min(max(config.part_seconds, 0.1), threading.TIMEOUT_MAX)
                    reducing = ReducingWriter(writer, self.work.reducer)
                    thread = WriterThread(
                        reducing,
                        failures,
                        proven=bool(self.all_work.stored or self.all_work.replaced),
                        idle_seconds=idle,
                    )
                    self._make(thread, reducing, writer)
            except Interrupted as stop:
                signum = stop.signum
        return self._summary(thread, writer.bytes_written if writer else 0, signum)

    def _make(self, thread: WriterThread, reducing: ReducingWriter, writer: StoreWriter) -> None:
        try:
            if self.work.items or self.work.texts:
                load_model(self.work.backbone, self.work.device)
                reducing.reducer = with_projections(self.config, self.work, self.progress, self.projections)
            # Not before the model is there: a load that fails must not cost the records of before.
            writer.delete(key for key in self.work.replaced if key in writer)
            self.timer = StageTimer()
            self.progress.begin("extract", self.work.to_do)
            for record in self.work.unfillable:
                thread.put(record)
                self._advance(1, thread)
            self._texts(thread)
            self._videos(thread)
            with self.interrupts.shielded(), self.timer.measure("write"):
                thread.finish()
        except Interrupted:
            self.interrupts.ignore()
            self._hand_over([], thread)
            thread.finish(judge=False)
            raise
        except BaseException:
            self.interrupts.ignore()
            thread.abandon()
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
            commit_thread=True,
        )

    def _declare(self, writer: StoreWriter) -> None:
        for kind, specs in self.work.specs.items():
            writer.declare(kind, specs)
        for axis, name, content in self.work.axes:
            writer.bind(axis, name, content)

    def _texts(self, thread: WriterThread) -> None:
        backbone = self.work.backbone
        if self.work.texts:
            assert isinstance(backbone, TextBackbone)
            self._forward((ready_text(backbone, text) for text in self.work.texts), of_texts(backbone), thread)

    def _videos(self, thread: WriterThread) -> None:
        backbone, items = self.work.backbone, self.work.items
        if items:
            pin = self.device_to_host.asynchronous
            with prefetch(self.config, backbone, items, self.timer, pin=pin) as ready:
                self._forward(ready, of_videos(backbone), thread)

    def _forward(self, items: Iterator[Ready | FailedRecord], encode: Encode, thread: WriterThread) -> None:
        size = BatchSize(batch_size(self.config, self.work.mode), self.progress.say)
        for batch in batches(items, size):
            if isinstance(batch, FailedRecord):
                thread.put(batch)
                self._advance(1, thread)
                continue
            with self.interrupts.shielded():
                with self.timer.measure("forward"), torch.inference_mode():
                    records = forward(encode, batch, self.device_to_host, size)
                self._hand_over(records, thread)
        with self.interrupts.shielded():
            self._hand_over([], thread)

    def _hand_over(self, records: list[FinishedRecord | FailedRecord], thread: WriterThread) -> None:
        """Give records to the writer; on a GPU those of the batch before, while these are still being copied."""
        if self.device_to_host.asynchronous:
            records, self.in_copy = self.in_copy, records
        with self.timer.measure("forward"):
            for record in records:
                if isinstance(record, FinishedRecord) and record.wait is not None:
                    record.wait()
        with self.timer.measure("write"):
            for record in records:
                thread.put(record)
        if records:
            self._advance(len(records), thread)

    def _advance(self, count: int, thread: WriterThread) -> None:
        failed = f", {len(thread.failed)} failed" if thread.failed else ""
        self.progress.advance(count, note=f"bound by {self.timer.bottleneck() or 'decode'}{failed}")

    def _annotate(self) -> None:
        """Bring `annotations/default.jsonl` up to date with the collection; say what becomes of other rows."""
        store, root = self.config.out, self.all_work.root
        try:
            before = load(store, "default")
        except UnknownName:
            before = Annotations(())
        result = update_rows(
            before,
            self.all_work.annotations,
            lambda name: has_file(root, name),
            prune=self.config.prune,
            same_content=self._same_content,
        )
        self.gone = () if self.config.prune else result.gone
        self.annotations = result.annotations
        if result.unsplit:
            self.progress.say(f"{len(result.unsplit)} videos below {root} are not in this list: they lose their split.")
        for old, new in result.moved:
            self.progress.say(f"{old} is now {new}: the old row has no label any more.")
        if self.config.prune and result.gone:
            self.progress.say(f"{len(result.gone)} annotations without a file below {root} are removed.")
        if self.annotations.digest != before.digest:
            write_annotations(store, "default", self.annotations)
            digest = self.annotations.digest[:12]
            self.progress.say(f"annotations/default.jsonl: {len(self.annotations)} rows ({digest}).")

    def _same_content(self, old: str, new: str) -> bool:
        """Whether the file that is `new` now is the one that the records of `old` were made from."""
        with closing(open_store(self.config.out, verify="never")) as reader:
            kind = "video" if "video" in reader.kinds else "prompted"
            key = next((key for key in reader.keys(kind) if key.name == old), None)
            file = reader.metadata(key).get("file") if key else None
        return bool(file) and not is_changed(self.all_work.root / source(new), {"file": file}, check_content=True)

    def _add_tail(self) -> None:
        config, k = self.config, self.config.tail
        if k is not None and publish_tail(config.out, with_tail(self.work.backbone, config.model, k), k):
            self.progress.say(f"tail/blocks-{k}.safetensors: blocks {k} and above.")

    def _summary(self, thread: WriterThread | None, num_bytes: int = 0, signum: int = 0) -> Summary:
        work, timer = self.work, self.timer
        summary = Summary(
            out=str(self.config.out),
            rank=self.rank.number,
            world_size=self.rank.world_size,
            mode=work.mode,
            device=str(work.device),
            skipped=len(work.stored),
            failed_before=tuple((record_name(item.key), item.reason) for item in work.failed),
            changed=tuple(map(record_name, work.changed)),
            refreshed=len(work.replaced),
            gone=self.gone,
            left=work.to_do,
            bytes=num_bytes,
            signum=signum,
        )
        if (self.config.out / "zarr.json").exists():
            with closing(open_store(self.config.out, verify="never")) as reader:
                summary = replace(
                    summary,
                    identical=tuple(identical_files(reader, self.annotations)),
                    single_frame=tuple(map(record_name, single_frame_clips(reader, work.views))),
                    digest=reader.digest,
                )
        if thread is None:
            return summary
        idle = 1 - (self.device_to_host.busy() - timer.moved) / timer.elapsed
        return replace(
            summary,
            done=thread.written,
            skipped=len(work.stored) + thread.already_stored,
            failed=tuple((record_name(item.key), item.reason) for item in thread.failed),
            left=work.to_do - thread.written - thread.already_stored - len(thread.failed),
            seconds=timer.elapsed,
            shares=timer.shares(),
            waited=min(1.0, max(0.0, idle)),
        )


def circumstances(work: WorkList) -> dict[str, Json]:
    """Where and on what this run computes: stored beside the parts, never compared.

    `checkpoint` and `videos` are the absolute paths of the weights and of the folder of the videos.
    """
    about: dict[str, Json] = {
        "vfc": version("vfc"),
        "host": platform.node(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "device": str(work.device),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "torch_threads": torch.get_num_threads(),
        "videos": as_text(work.root.resolve()),
    }
    weights = _weights_path(work.backbone)
    if weights is not None:
        about["checkpoint"] = as_text(weights.absolute())
    return about | description(work.device)


def _weights_path(backbone: Any) -> Path | None:
    """The folder or the file of the weights, where the family says it."""
    checkpoint = getattr(backbone, "checkpoint", None)
    if isinstance(checkpoint, Checkpoint):
        return checkpoint.file or checkpoint.folder
    place = getattr(backbone, "place", None)
    return place if isinstance(place, Path) else None
