"""Streaming: a video that goes through the model piece by piece, so that its length costs time but no memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

import torch
from torch import Tensor

from vfc.cache_schema.values.record import Json
from vfc.extract.backbone import Backbone, Prepared, StreamingBackbone
from vfc.extract.config import ExtractConfig
from vfc.extract.decode import Clip
from vfc.extract.decode.sampling import fixed_count
from vfc.extract.frames.views import CLIPS_FROM

from .stage_timer import Clock
from .work_item import Visit

SECONDS: Final = "seconds"
"""Side array of records that say when their rows are; times of single frames are then not kept."""

Pieces = Callable[[], Iterator[Clip | None]]


def streamed(config: ExtractConfig, backbone: Backbone, visits: Sequence[Visit]) -> bool:
    """Whether videos go through piece by piece: where their number of frames is their own, and the model can.

    Clips in time and augmented copies are made from all frames together.
    """
    return (
        isinstance(backbone, StreamingBackbone)
        and not fixed_count(config.frames)
        and all(visit.view.number < CLIPS_FROM for visit in visits)
    )


class Streamed:
    """One visit whose pieces are decoded while it is encoded.

    `share`: about how much of the video was encoded so far, from 0 to 1.
    """

    def __init__(
        self,
        backbone: StreamingBackbone,
        pieces: Pieces,
        prepare: Callable[[Clip], tuple[Clip, Prepared]],
        pool: ThreadPoolExecutor,
        clock: Clock,
        *,
        limit: int = 0,
    ) -> None:
        """A video, not yet looked at.

        Args:
            backbone: What encodes it.
            pieces: See `read_chunks`.
            prepare: What becomes of each in a thread of `pool`: the view, and pixels.
            pool: Where that is done.
            clock: Which waiting is counted by.
            limit: Stop after so many pieces, as soon as there are rows; 0: take all.
        """
        self._backbone, self._pieces, self._prepare, self._pool = backbone, pieces, prepare, pool
        self._clock, self._limit = clock, limit
        self.share = 0.0
        self._taken = 0
        self._told: dict[str, Json] = {}

    def encode(self) -> dict[str, Tensor]:
        """The arrays of the video's record, on the CPU.

        Raises:
            Undecodable: a piece does not come.
            RecordRejected: it gives no rows.
        """
        pieces = self._pieces()
        try:
            while True:
                try:
                    parts = list(self._parts(pieces))
                    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
                except _Again:
                    continue
        finally:
            pieces.close()  # type: ignore[attr-defined]

    def _parts(self, pieces: Iterator[Clip | None]) -> Iterator[dict[str, Tensor]]:
        for part in self._backbone.encode_stream(self._tensors(pieces)):
            yield {name: rows.cpu() for name, rows in part.items()}
            if self._limit and self._taken >= self._limit:
                return

    def metadata(self) -> dict[str, Json]:
        """What the record will remember; after `encode`."""
        return self._told

    def _tensors(self, pieces: Iterator[Clip | None]) -> Iterator[Mapping[str, Tensor]]:
        """Prepared pieces; while one is encoded, the next is prepared and the one after that decoded."""
        self._told, self._taken, self.share = {}, 0, 0.0
        indices, seconds = list[int](), list[float]()
        waiting: deque[Future[tuple[Clip, Prepared]]] = deque()
        for piece in self._clock.each("decode", pieces, within="forward"):
            if piece is None:
                raise _Again
            again = self._backbone.chunking.overlap if indices else 0
            indices += piece.indices[again:].tolist()
            seconds += piece.seconds[again:].tolist()
            waiting.append(self._pool.submit(self._prepare, piece))
            del piece
            if len(waiting) > 1:
                yield self._finished(waiting.popleft())
        while waiting:
            yield self._finished(waiting.popleft())
        if SECONDS not in {spec.name for spec in self._backbone.specs()["video"]}:
            self._told |= {"indices": list(indices), "seconds": list(seconds)}

    def _finished(self, future: Future[tuple[Clip, Prepared]]) -> Mapping[str, Tensor]:
        with self._clock.counts("pixels", within="forward"):
            seen, prepared = future.result()
        self._taken += 1
        self.share += len(seen.frames) / int(str(seen.notes["frames"]))
        if not self._told:
            about = {name: value for name, value in seen.metadata().items() if name not in ("indices", "seconds")}
            self._told = {**about, **prepared.metadata}
        return prepared.tensors


class _Again(Exception):
    """All pieces come a second time."""
