"""From decoded clips and texts to records: pixels in threads, the forward here, one bad video at a time.

Whatever a video does to the pixels or the model costs that video, save for errors after which no other can succeed:
memory that is not there, a device that has given up.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import numpy.typing as npt
import torch

from vfc.cache_schema.errors import Refused, VfcError
from vfc.cache_schema.record import Json, Key, Record

from .backbone import Backbone, TextBackbone
from .behind import Lost, Made
from .clock import Clock
from .collection import Video
from .config import ExtractConfig
from .decode import Clip, Decoders, Failure, Job
from .numerics import Mode
from .texts import Text

PIXEL_THREADS: Final = max(1, min(4, (os.cpu_count() or 1) // 2))
FAST_BATCH: Final = 8

Item = TypeVar("Item")
Encode = Callable[[Sequence[Mapping[str, torch.Tensor]]], list[dict[str, torch.Tensor]]]


@dataclass(frozen=True)
class Ready:
    """What a forward takes: tensors on the CPU, and what the record will remember."""

    key: Key
    tensors: Mapping[str, torch.Tensor]
    metadata: Mapping[str, Json]
    source: Path | None = None


def decode_workers(config: ExtractConfig) -> int:
    """How many processes decode: as asked, else one per core, 8 at most."""
    return config.decode_workers or min(8, os.cpu_count() or 1)


def batch_size(config: ExtractConfig, mode: Mode) -> int:
    """How many videos are forwarded at once; in deterministic mode each is alone."""
    return 1 if mode == "deterministic" else config.batch or FAST_BATCH


def job_of(config: ExtractConfig, video: Video) -> Job:
    """What a decoder is asked for one video."""
    return Job(
        video.name,
        video.path,
        config.frames,
        config.num_frames,
        config.stream,
        config.seed,
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


def ready_video(backbone: Backbone, job: Job, clip: Clip | Failure) -> Ready | Lost:
    """A decoded clip as the forward takes it; the record will name the very bytes of the file it came from.

    Raises:
        Refused: out of memory.
    """
    key = Key("video", job.name)
    if isinstance(clip, Failure):
        return Lost(key, clip.reason, job.path)
    try:
        prepared = backbone.pixels(clip)
        metadata = {**clip.metadata(), **prepared.metadata, "file": file_identity(job.path)}
    except Exception as error:
        return lost(key, error, job.path)
    return Ready(key, prepared.tensors, metadata, job.path)


def ready_text(backbone: TextBackbone, text: Text) -> Ready | Lost:
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
    items: Iterator[Item], work: Callable[[Item], Ready | Lost], pool: ThreadPoolExecutor, ahead: int, clock: Clock
) -> Iterator[Ready | Lost]:
    """`work` of every item, in order, at most `ahead` of them under way or waiting."""
    waiting: deque[Future[Ready | Lost]] = deque()
    for item in clock.each("decode", items):
        waiting.append(pool.submit(work, item))
        if len(waiting) > ahead:
            with clock.counts("pixels"):
                done = waiting.popleft().result()
            yield done
    while waiting:
        with clock.counts("pixels"):
            done = waiting.popleft().result()
        yield done


def forward(encode: Encode, batch: Sequence[Ready]) -> list[Made | Lost]:
    """The records of a batch, in its order. A batch that fails is tried again one by one.

    Raises:
        Refused: out of memory.
        torch.AcceleratorError: the device has given up.
    """
    try:
        outputs = encode([item.tensors for item in batch])
        arrays = [{name: host(tensor) for name, tensor in output.items()} for output in outputs]
    except Exception as error:
        if len(batch) > 1 and not _fatal(error):
            return [made for item in batch for made in forward(encode, [item])]
        return [lost(item.key, error, item.source) for item in batch]
    return [
        Made(Record(item.key, found, item.metadata), item.source) for item, found in zip(batch, arrays, strict=True)
    ]


def host(tensor: torch.Tensor) -> npt.NDArray[Any]:
    """A tensor as the store takes it: numpy, bfloat16 as its uint16 bits."""
    tensor = tensor.detach().contiguous().cpu()
    return tensor.view(torch.uint16).numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()


def lost(key: Key, error: Exception, source: Path | None) -> Lost:
    """The loss of one record to `error`, unless that error is the end of the run.

    Raises:
        Refused: out of memory.
        torch.AcceleratorError: the device has given up.
    """
    if isinstance(error, torch.AcceleratorError):
        raise error
    if _out_of_memory(error):
        raise Refused(
            f"Out of memory at the {key.kind} record of {key.name!r}: {str(error).splitlines()[0]}",
            "What was made before is kept. Give a smaller --batch, fewer --decode-workers or --num-frames, or "
            "--compute-dtype bf16, and run the same command again.",
        ) from error
    reason = str(error).replace("\n", " ") if isinstance(error, VfcError) else f"{type(error).__name__}: {error}"
    return Lost(key, reason, source, error)


def _fatal(error: Exception) -> bool:
    return isinstance(error, torch.AcceleratorError) or _out_of_memory(error)


def _out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


def file_identity(path: Path) -> dict[str, Json]:
    """Size in bytes and SHA-256 of a file."""
    status = os.stat(path)
    return {"size": status.st_size, "sha256": _sha256(path, status.st_size, status.st_mtime_ns)}


# Segments of one file follow each other in a collection.
@functools.lru_cache(maxsize=64)
def _sha256(path: Path, size: int, mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
