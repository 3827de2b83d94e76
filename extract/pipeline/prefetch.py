"""From files to what the forward takes: clips decoded ahead in processes, views and pixels in threads, in order.

Whatever a video does to its decoder or to the pixels costs that video, and whatever a prompt does that prompt.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Final, TypeVar, cast

from torch import Tensor

from vfc.cache_schema.values.errors import RecordRejected
from vfc.cache_schema.values.record import Json
from vfc.extract.backbone import Backbone, Prepared, PromptedBackbone, StreamingBackbone, TextBackbone
from vfc.extract.config import ExtractConfig
from vfc.extract.decode import ChunkReader, Clip, Decoders, Failure, Job
from vfc.extract.prompting.class_texts import ClassText

from .chunked import Streamed, streamed
from .device_copy import pinned
from .forward import Asked, Ready, lost
from .stage_timer import Clock
from .work_item import Visit
from .writer_thread import Lost

PIXEL_THREADS: Final = max(1, min(4, (os.cpu_count() or 1) // 2))

Item = TypeVar("Item")
Prompting = Callable[[str], Prepared]


def decode_workers(config: ExtractConfig) -> int:
    """How many processes decode: as asked, else one per core, 8 at most."""
    return config.decode_workers or min(8, os.cpu_count() or 1)


def jobs_of(config: ExtractConfig, visits: Iterable[Visit]) -> list[tuple[Job, tuple[Visit, ...]]]:
    """What a decoder is asked, and the visits it is asked for: views of the same frames share them."""
    found: dict[tuple[str, int, str, int | None], list[Visit]] = {}
    for visit in visits:
        look = visit.view
        found.setdefault((visit.video.name, look.clips, look.rule, look.seed), []).append(visit)
    return [(_job(config, group[0]), tuple(group)) for group in found.values()]


def _job(config: ExtractConfig, visit: Visit) -> Job:
    video, look = visit.video, visit.view
    return Job(
        video.name,
        video.path,
        look.rule or config.frames,
        config.num_frames * look.clips,
        config.stream,
        config.seed if look.seed is None else look.seed,
        video.start_seconds,
        video.end_seconds,
    )


@contextmanager
def decoded(
    jobs: Sequence[Job], workers: int, seconds_per_video: float
) -> Iterator[Iterator[tuple[Job, Clip | Failure]]]:
    """Each job with its clip, decoded ahead in processes that are gone when this is left, however it is left."""
    clips = Decoders(workers, seconds_per_video).clips(jobs, ahead=2 * workers)
    try:
        yield clips
    finally:
        cast("Generator[object]", clips).close()


@contextmanager
def arriving(
    config: ExtractConfig,
    backbone: Backbone,
    visits: Sequence[Visit],
    clock: Clock,
    *,
    pin: bool = False,
    limit: int = 0,
) -> Iterator[Iterator[Ready | Lost]]:
    """What the forward takes of each visit, made ahead; `pin`: in pinned memory.

    Videos that come piece by piece are decoded only as they are encoded, in the order in which they are given;
    `limit`: so many pieces of each.
    """
    if streamed(config, backbone, visits):
        with _in_pieces(config, backbone, visits, clock, pin=pin, limit=limit) as items:
            yield items
        return
    grouped = jobs_of(config, visits)
    workers = min(decode_workers(config), len(grouped)) or 1
    prompting = prompting_of(backbone)
    with (
        ThreadPoolExecutor(PIXEL_THREADS, "vfc-pixels") as pool,
        decoded([job for job, _ in grouped], workers, config.seconds_per_video) as clips,
    ):
        each = ((visit, clip) for (_, clip), (_, group) in zip(clips, grouped, strict=True) for visit in group)

        def made(one: tuple[Visit, Clip | Failure]) -> list[Ready | Lost]:
            return ready_visit(backbone, prompting, *one, pin=pin)

        yield in_threads(each, made, pool, 2 * PIXEL_THREADS, clock)


@contextmanager
def _in_pieces(
    config: ExtractConfig, backbone: Backbone, visits: Sequence[Visit], clock: Clock, *, pin: bool, limit: int
) -> Iterator[Iterator[Ready | Lost]]:
    assert isinstance(backbone, StreamingBackbone)
    chunking = backbone.chunking
    jobs = [replace(_job(config, visit), chunk=chunking.frames, overlap=chunking.overlap) for visit in visits]
    reader = ChunkReader(Decoders(decode_workers(config), config.seconds_per_video), jobs)

    def prepare(visit: Visit, piece: Clip) -> tuple[Clip, Prepared]:
        seen = visit.view.change(piece, visit.video.name)
        prepared = backbone.pixels(seen)
        return seen, replace(prepared, tensors=pinned(prepared.tensors)) if pin else prepared

    def items(pool: ThreadPoolExecutor) -> Iterator[Ready | Lost]:
        for number, visit in enumerate(visits):
            path = visit.video.path
            try:
                about: dict[str, Json] = {"file": file_identity(path)}
            except OSError as error:
                yield Lost(visit.key, f"{path} cannot be read: {error}", path)
                continue
            pieces = functools.partial(reader.chunks, number)
            stream = Streamed(backbone, pieces, functools.partial(prepare, visit), pool, clock, limit=limit)
            yield Ready(visit.key, {}, about, path, stream=stream)

    with ThreadPoolExecutor(PIXEL_THREADS, "vfc-pixels") as pool:
        try:
            yield items(pool)
        finally:
            reader.close()


def prompting_of(backbone: Backbone) -> Prompting | None:
    """How a prompt becomes tokens, each text once; None for a model that takes none."""
    return functools.lru_cache(4096)(backbone.prompt) if isinstance(backbone, PromptedBackbone) else None


def ready_visit(
    backbone: Backbone, prompting: Prompting | None, visit: Visit, clip: Clip | Failure, *, pin: bool = False
) -> list[Ready | Lost]:
    """A decoded clip as the forward takes it; records will name the very bytes of the file they came from.

    Raises:
        Refused: out of memory.
    """
    path = visit.video.path
    if isinstance(clip, Failure):
        return [Lost(key, clip.reason, path) for key in visit.keys]
    try:
        seen = visit.view.change(clip, visit.video.name)
        prepared = backbone.pixels(seen)
        metadata = {**seen.metadata(), **prepared.metadata, "file": file_identity(path)}
        tensors = pinned(prepared.tensors) if pin else prepared.tensors
    except Exception as error:
        return [lost(key, error, path) for key in visit.keys]
    asked, found = list[Asked](), list[Ready | Lost]()
    leading = list[Mapping[str, Tensor]]()
    if prompting is not None:
        for prompt in visit.prompts:
            try:
                told = prompting(prompt.text)
            except Exception as error:
                found.append(lost(visit.asked(prompt), error, path))
                continue
            more = {**metadata, **told.metadata, "template": prompt.template}
            asked.append(Asked(visit.asked(prompt), told.tensors, more))
        for text in visit.leading if visit.own else ():
            with suppress(RecordRejected):  # then the video's own record does not come with it
                leading.append(prompting(text).tensors)
    if visit.own or asked:
        found.append(Ready(visit.key, tensors, metadata, path, visit.own, tuple(asked), tuple(leading)))
    return found


def ready_text(backbone: TextBackbone, text: ClassText) -> Ready | Lost:
    """A text as the forward takes it.

    Raises:
        Refused: out of memory.
    """
    try:
        prepared = backbone.tokens(text.text)
    except Exception as error:
        return lost(text.key, error, None)
    return Ready(text.key, prepared.tensors, {**prepared.metadata, "label": text.label, "template": text.template})


def in_threads(
    items: Iterator[Item],
    work: Callable[[Item], Sequence[Ready | Lost]],
    pool: ThreadPoolExecutor,
    ahead: int,
    clock: Clock,
) -> Iterator[Ready | Lost]:
    """`work` of every item, in order, at most `ahead` of them under way or waiting."""
    waiting: deque[Future[Sequence[Ready | Lost]]] = deque()
    for item in clock.each("decode", items):
        waiting.append(pool.submit(work, item))
        if len(waiting) > ahead:
            with clock.counts("pixels"):
                done = waiting.popleft().result()
            yield from done
    while waiting:
        with clock.counts("pixels"):
            done = waiting.popleft().result()
        yield from done


def file_identity(path: Path) -> dict[str, Json]:
    """Size in bytes and SHA-256 of a file."""
    status = os.stat(path)
    return {"size": status.st_size, "sha256": _sha256(path, status.st_size, status.st_mtime_ns)}


# Segments of one file follow each other in a collection.
@functools.lru_cache(maxsize=64)
def _sha256(path: Path, size: int, mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
