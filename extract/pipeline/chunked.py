"""Videos that go through the model chunk by chunk, so that a long one costs time but no memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import Final

import torch
from torch import Tensor

from vfc.cache_schema.values.record import Json
from vfc.extract.backbone import Backbone, Prepared, StreamingBackbone
from vfc.extract.config import ExtractConfig
from vfc.extract.decode import Clip
from vfc.extract.decode.sampling import fixed_count
from vfc.extract.frames.views import CLIPS_FROM

from .device_copy import Wait, begin_copy
from .stage_timer import StageTimer
from .work_item import WorkItem

SECONDS: Final = "seconds"
"""Side array of records that says when their rows are; times of single frames are then not kept."""

Chunks = Callable[[], Generator[Clip | None]]


def in_chunks(config: ExtractConfig, backbone: Backbone, items: Sequence[WorkItem]) -> bool:
    """Whether videos go through in chunks: where their number of frames differs, and the model supports it.

    Clips in time and augmented copies are made from all frames together.
    """
    return (
        isinstance(backbone, StreamingBackbone)
        and not fixed_count(config.frames)
        and all(item.view.number < CLIPS_FROM for item in items)
    )


class _Rows:
    """The rows of a record, in one tensor per array that doubles where it is full.

    A small tensor per window would lie between the large ones of the model, whose memory could then not be given back:
    half an hour of video took 270 MB so.
    """

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}
        self._length: dict[str, int] = {}
        self._last: Mapping[str, Tensor] = {}

    def append(self, part: Mapping[str, Tensor]) -> None:
        """Take the next rows. They may still be on their way from the device until those after them come."""
        self._take()
        self._last = part

    def joined(self) -> dict[str, Tensor]:
        """All rows."""
        self._take()
        return {name: buffer[: self._length[name]].clone() for name, buffer in self._buffers.items()}

    def _take(self) -> None:
        for name, rows in self._last.items():
            start = self._length.get(name, 0)
            end = self._length[name] = start + len(rows)
            buffer = self._buffers.get(name)
            if buffer is None or len(buffer) < end:
                larger = torch.empty((2 * end, *rows.shape[1:]), dtype=rows.dtype)
                if buffer is not None:
                    larger[:start] = buffer[:start]
                buffer = self._buffers[name] = larger
            buffer[start:end] = rows
        self._last = {}


class ChunkedVideo:
    """One work item whose chunks are decoded while it is encoded.

    `share`: about how much of the video was encoded so far, from 0 to 1.
    """

    def __init__(
        self,
        backbone: StreamingBackbone,
        chunks: Chunks,
        prepare: Callable[[Clip], tuple[Clip, Prepared]],
        pool: ThreadPoolExecutor,
        timer: StageTimer,
        *,
        limit: int = 0,
    ) -> None:
        """A video of which nothing is decoded yet.

        Args:
            backbone: What encodes it.
            chunks: See `read_chunks`.
            prepare: Gives the view of a chunk and its pixels, in a thread of `pool`.
            pool: The threads.
            timer: Measures the waiting.
            limit: Stop after this many chunks, as soon as there are rows; 0: take all.
        """
        self._backbone, self._chunks, self._prepare, self._pool = backbone, chunks, prepare, pool
        self._timer, self._limit = timer, limit
        self.share = 0.0
        self._encoded_chunks = 0
        self._metadata: dict[str, Json] = {}

    def encode(self) -> dict[str, Tensor]:
        """The arrays of the video's record, on the CPU.

        Raises:
            Undecodable: a chunk cannot be decoded.
            RecordRejected: it gives no rows.
        """
        with closing(self._chunks()) as chunks:
            while True:
                rows = _Rows()
                try:
                    for part in self._parts(chunks):
                        rows.append(part)
                except _Restart:
                    continue
                return rows.joined()

    def _parts(self, chunks: Iterator[Clip | None]) -> Iterator[dict[str, Tensor]]:
        """The rows of each chunk on the CPU; a GPU is at work on a chunk while the next one is sent to it."""
        complete: Wait | None = None
        for part in self._backbone.encode_stream(self._tensors(chunks)):
            if complete is not None:
                complete()
            rows, complete = begin_copy(part)
            yield rows
            if self._limit and self._encoded_chunks >= self._limit:
                break
        if complete is not None:
            complete()

    def metadata(self) -> dict[str, Json]:
        """What the record remembers; after `encode`."""
        return self._metadata

    def _tensors(self, chunks: Iterator[Clip | None]) -> Iterator[Mapping[str, Tensor]]:
        """Prepared chunks; while one is encoded, the next is prepared and the one after that decoded."""
        self._metadata, self._encoded_chunks, self.share = {}, 0, 0.0
        indices, seconds = list[int](), list[float]()
        waiting: deque[Future[tuple[Clip, Prepared]]] = deque()
        for chunk in self._timer.measure_each("decode", chunks, within="forward"):
            if chunk is None:
                raise _Restart
            repeated = self._backbone.chunking.overlap if indices else 0
            indices += chunk.indices[repeated:].tolist()
            seconds += chunk.seconds[repeated:].tolist()
            waiting.append(self._pool.submit(self._prepare, chunk))
            del chunk
            if len(waiting) > 1:
                yield self._finished(waiting.popleft())
        while waiting:
            yield self._finished(waiting.popleft())
        if SECONDS not in {spec.name for spec in self._backbone.specs()["video"]}:
            self._metadata |= {"indices": list(indices), "seconds": list(seconds)}

    def _finished(self, future: Future[tuple[Clip, Prepared]]) -> Mapping[str, Tensor]:
        with self._timer.measure("pixels", within="forward"):
            view, prepared = future.result()
        self._encoded_chunks += 1
        self.share += len(view.frames) / int(str(view.notes["frames"]))
        if not self._metadata:
            about = {name: value for name, value in view.metadata().items() if name not in ("indices", "seconds")}
            self._metadata = {**about, **prepared.metadata}
        return prepared.tensors


class _Restart(Exception):
    """All chunks come a second time."""
