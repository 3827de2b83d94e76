"""ChunkReader: videos in chunks, one video after the other, decoded in worker processes one chunk ahead of the reader.

A process that has a chunk ready waits until it is read, so memory holds only a few. While one video is read, the first
chunk of the next is decoded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from vfc.cache_schema.values.errors import VfcError

from .chunks import read_chunks
from .clip import Clip, Job, Undecodable
from .pool import Decoders
from .process import Worker

PROCESSES = 2
"""One for the video that is read, one for the next."""


class ChunkReader:
    """Chunks of the videos of `jobs`. All methods belong to one thread; `close` ends the processes."""

    def __init__(self, decoders: Decoders, jobs: Sequence[Job]) -> None:
        self._jobs = jobs
        self._idle = [Worker(decoders) for _ in range(min(decoders.workers, PROCESSES, len(jobs)))]
        self._started: dict[int, Worker] = {}
        self._inside = decoders.workers == 0

    def chunks(self, number: int) -> Iterator[Clip | None]:
        """The chunks of job `number`, see `read_chunks`; one video is read at a time, any number of times.

        Raises:
            Undecodable: no further chunk can be decoded.
            Refused: a process cannot be started.
        """
        if self._inside:
            yield from _in_this_process(self._jobs[number])
            return
        worker = self._started.pop(number, None) or self._take(number)
        try:
            if self._idle and number + 1 < len(self._jobs) and number + 1 not in self._started:
                self._started[number + 1] = ahead = self._idle.pop()
                ahead.begin(self._jobs[number + 1])
            yield from worker.chunks()
        finally:
            self._idle.append(worker)

    def close(self) -> None:
        """End every process."""
        for worker in (*self._idle, *self._started.values()):
            worker.close()

    def _take(self, number: int) -> Worker:
        """A worker that has started job `number`; where all are busy, one gives up the job that it started."""
        if not self._idle:
            _, worker = self._started.popitem()
            worker.give_up()
        else:
            worker = self._idle.pop()
        try:
            worker.begin(self._jobs[number])
        except BaseException:
            self._idle.append(worker)
            raise
        return worker


def _in_this_process(job: Job) -> Iterator[Clip | None]:
    try:
        yield from read_chunks(job)
    except VfcError as error:
        raise Undecodable(error.problem) from error
    except MemoryError as error:
        raise Undecodable("decoding it needs more memory than there is") from error
