"""Streams: videos in chunks, one after the other, decoded in processes of their own a chunk ahead of the reader.

A process that has a chunk ready waits until it is read, so nobody ever holds more than a few of them. While one video
is read, the first chunk of the next is decoded already.
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
    """Pieces of the videos of `jobs`. All methods belong to one thread; `close` ends the processes."""

    def __init__(self, decoders: Decoders, jobs: Sequence[Job]) -> None:
        self._jobs = jobs
        self._idle = [Worker(decoders) for _ in range(min(decoders.workers, PROCESSES, len(jobs)))]
        self._begun: dict[int, Worker] = {}
        self._inside = decoders.workers == 0

    def chunks(self, number: int) -> Iterator[Clip | None]:
        """The chunks of job `number`, see `read_chunks`; one video is read at a time, any number of times.

        Raises:
            Undecodable: it gives no further chunk.
            Refused: a process cannot be started.
        """
        if self._inside:
            yield from _in_this_process(self._jobs[number])
            return
        worker = self._begun.pop(number, None) or self._take(number)
        try:
            if self._idle and number + 1 < len(self._jobs) and number + 1 not in self._begun:
                self._begun[number + 1] = ahead = self._idle.pop()
                ahead.begin(self._jobs[number + 1])
            yield from worker.chunks()
        finally:
            self._idle.append(worker)

    def close(self) -> None:
        """End every process."""
        for worker in (*self._idle, *self._begun.values()):
            worker.close()

    def _take(self, number: int) -> Worker:
        """A worker that has begun job `number`; one that waits with another video gives that up."""
        if not self._idle:
            _, worker = self._begun.popitem()
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
