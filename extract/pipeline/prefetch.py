"""From files to what the forward takes, ahead of it: clips decoded in processes, views and pixels in threads, in order.

A decoding or pixel error fails only that video, and an error of a prompt only that prompt.
"""

from __future__ import annotations

import functools
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Final, TypeVar, cast

from torch import Tensor

from vfc.cache_schema.values.errors import RecordRejected
from vfc.cache_schema.values.record import Json
from vfc.extract.backbone import Backbone, Prepared, PromptedBackbone, StreamingBackbone, TextBackbone
from vfc.extract.config import ExtractConfig
from vfc.extract.decode import ChunkReader, Clip, Decoders, Failure, Job
from vfc.extract.prompting.class_texts import ClassText

from .chunked import ChunkedVideo, Chunks, in_chunks
from .device_copy import pinned
from .forward import Ready, failed
from .source_files import SINGLE_FRAME, file_identity
from .stage_timer import StageTimer
from .work_item import WorkItem
from .writer_thread import FailedRecord

PIXEL_THREADS: Final = max(1, min(4, (os.cpu_count() or 1) // 2))

Item = TypeVar("Item")
Prompting = Callable[[str], Prepared]


def decode_workers(config: ExtractConfig) -> int:
    """How many processes decode: as set, else as `usual_workers` says."""
    return config.decode_workers or usual_workers(os.cpu_count() or 1)


def usual_workers(cores: int) -> int:
    """Two cores are left to the forward and the writer, where there are more than three; 32 at most."""
    return min(cores, max(2, cores - 2), 32)


def jobs_of(config: ExtractConfig, items: Iterable[WorkItem]) -> list[tuple[Job, tuple[WorkItem, ...]]]:
    """The jobs for the decoder, each with its work items: views of the same frames share one."""
    groups: dict[tuple[str, int, str, int | None], list[WorkItem]] = {}
    for item in items:
        groups.setdefault((item.video.name, item.view.clips, item.view.rule, item.view.seed), []).append(item)
    return [(_job(config, group[0]), tuple(group)) for group in groups.values()]


def _job(config: ExtractConfig, item: WorkItem) -> Job:
    video, view = item.video, item.view
    return Job(
        video.name,
        video.path,
        view.rule or config.frames,
        config.frames_per_clip * view.clips,
        config.stream,
        config.seed if view.seed is None else view.seed,
        video.start_seconds,
        video.end_seconds,
        fps=config.fps,
    )


@contextmanager
def decoded(
    jobs: Sequence[Job], workers: int, seconds_per_video: float
) -> Iterator[Iterator[tuple[Job, Clip | Failure]]]:
    """Each job with its clip, decoded ahead in processes that end with the block, however it is left."""
    clips = Decoders(workers, seconds_per_video).clips(jobs, ahead=2 * workers)
    try:
        yield clips
    finally:
        cast("Generator[object]", clips).close()


@contextmanager
def prefetch(
    config: ExtractConfig,
    backbone: Backbone,
    items: Sequence[WorkItem],
    timer: StageTimer,
    *,
    pin: bool = False,
    limit: int = 0,
) -> Iterator[Iterator[Ready | FailedRecord]]:
    """What the forward takes of each item, made ahead of it.

    Args:
        config: Settings of the run.
        backbone: Makes the pixels and the tokens of prompts.
        items: The work, in order.
        timer: Measures the waiting.
        pin: Whether tensors go to pinned memory.
        limit: Chunks of each video; 0: all. Videos in chunks are decoded only while they are encoded, in this order.
    """
    if in_chunks(config, backbone, items):
        with _chunked_videos(config, backbone, items, timer, pin=pin, limit=limit) as ready:
            yield ready
        return
    jobs = jobs_of(config, items)
    workers = min(decode_workers(config), len(jobs)) or 1
    prompting = prompting_of(backbone)
    with (
        ThreadPoolExecutor(PIXEL_THREADS, "vfc-pixels") as pool,
        decoded([job for job, _ in jobs], workers, config.seconds_per_video) as clips,
    ):
        pairs = ((item, clip) for (_, clip), (_, group) in zip(clips, jobs, strict=True) for item in group)

        def prepare(pair: tuple[WorkItem, Clip | Failure]) -> list[Ready | FailedRecord]:
            return ready_item(backbone, prompting, *pair, pin=pin)

        yield in_threads(pairs, prepare, pool, 2 * PIXEL_THREADS, timer)


@contextmanager
def _chunked_videos(
    config: ExtractConfig, backbone: Backbone, items: Sequence[WorkItem], timer: StageTimer, *, pin: bool, limit: int
) -> Iterator[Iterator[Ready | FailedRecord]]:
    assert isinstance(backbone, StreamingBackbone)
    chunking = backbone.chunking
    jobs = [replace(_job(config, item), chunk=chunking.frames, overlap=chunking.overlap) for item in items]
    reader = ChunkReader(Decoders(decode_workers(config), config.seconds_per_video), jobs)

    def prepare(item: WorkItem, chunk: Clip) -> tuple[Clip, Prepared]:
        view = item.view.change(chunk, item.video.name)
        prepared = backbone.pixels(view)
        return view, replace(prepared, tensors=pinned(prepared.tensors)) if pin else prepared

    def ready(pool: ThreadPoolExecutor) -> Iterator[Ready | FailedRecord]:
        for number, item in enumerate(items):
            path = item.video.path
            try:
                metadata: dict[str, Json] = {"file": file_identity(path)}
            except OSError as error:
                yield FailedRecord(item.key, f"{path} cannot be read: {error}", path)
                continue
            chunks = cast("Chunks", functools.partial(reader.chunks, number))
            video = ChunkedVideo(backbone, chunks, functools.partial(prepare, item), pool, timer, limit=limit)
            yield Ready(item.key, {}, metadata, path, chunks=video)

    with ThreadPoolExecutor(PIXEL_THREADS, "vfc-pixels") as pool:
        try:
            yield ready(pool)
        finally:
            reader.close()


def prompting_of(backbone: Backbone) -> Prompting | None:
    """How a prompt becomes tokens, each text once; None for a model that takes none."""
    return functools.lru_cache(4096)(backbone.prompt) if isinstance(backbone, PromptedBackbone) else None


def ready_item(
    backbone: Backbone, prompting: Prompting | None, item: WorkItem, clip: Clip | Failure, *, pin: bool = False
) -> list[Ready | FailedRecord]:
    """A decoded clip as the forward takes it; the records name size and SHA-256 of the file they came from.

    Raises:
        Refused: out of memory.
    """
    path = item.video.path
    if isinstance(clip, Failure):
        return [FailedRecord(key, clip.reason, path) for key in item.keys]
    try:
        view = item.view.change(clip, item.video.name)
        prepared = backbone.pixels(view)
        metadata = {**view.metadata(), **prepared.metadata, "file": file_identity(path)}
        if len(view.indices) > 1 and (view.indices == view.indices[0]).all():
            metadata[SINGLE_FRAME] = True
        tensors = pinned(prepared.tensors) if pin else prepared.tensors
    except Exception as error:
        return [failed(key, error, path) for key in item.keys]
    prompts, failures = _ready_prompts(prompting, item, metadata) if prompting else ([], [])
    if not (item.own or prompts):
        return [*failures]
    leading = list[Mapping[str, Tensor]]()
    if prompting and item.own:
        for text in item.leading:
            with suppress(RecordRejected):  # then the video's own record does not come with it
                leading.append(prompting(text).tensors)
    return [*failures, Ready(item.key, tensors, metadata, path, item.own, tuple(prompts), tuple(leading))]


def _ready_prompts(
    prompting: Prompting, item: WorkItem, metadata: Mapping[str, Json]
) -> tuple[list[Ready], list[FailedRecord]]:
    """The prompts of an item as tokens, and those that cannot be."""
    prompts, failures = list[Ready](), list[FailedRecord]()
    for prompt in item.prompts:
        key = item.prompt_key(prompt)
        try:
            tokens = prompting(prompt.text)
        except Exception as error:
            failures.append(failed(key, error, item.video.path))
            continue
        prompts.append(Ready(key, tokens.tensors, {**metadata, **tokens.metadata, "template": prompt.template}))
    return prompts, failures


def ready_text(backbone: TextBackbone, text: ClassText) -> Ready | FailedRecord:
    """A text as the forward takes it.

    Raises:
        Refused: out of memory.
    """
    try:
        prepared = backbone.tokens(text.text)
    except Exception as error:
        return failed(text.key, error, None)
    return Ready(text.key, prepared.tensors, {**prepared.metadata, "label": text.label, "template": text.template})


def in_threads(
    items: Iterator[Item],
    work: Callable[[Item], Sequence[Ready | FailedRecord]],
    pool: ThreadPoolExecutor,
    ahead: int,
    timer: StageTimer,
) -> Iterator[Ready | FailedRecord]:
    """`work` of every item, in order, at most `ahead` of them under way or waiting."""
    waiting: deque[Future[Sequence[Ready | FailedRecord]]] = deque()

    def finished() -> Sequence[Ready | FailedRecord]:
        with timer.measure("pixels"):
            return waiting.popleft().result()

    for item in timer.measure_each("decode", items):
        waiting.append(pool.submit(work, item))
        if len(waiting) > ahead:
            yield from finished()
    while waiting:
        yield from finished()
