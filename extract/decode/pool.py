"""Decoders: a pool of worker processes that can be killed, so that a decoding error fails only its own video.

One thread per worker sends it a job, waits for the clip until the time budget is spent, and replaces the process when
it hangs or dies. Clips come back through a pipe, directly into the array that is returned. There is no shared memory
and no temporary file, so nothing is left over after a crash.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

from vfc.cache_schema.values.errors import VfcError

from .clip import Clip, Failure, Job
from .process import Worker
from .read import read_job

Result = Clip | Failure


class Decoders:
    """Decodes jobs in `workers` processes (0: in this one), each job within `seconds_per_video` of wall-clock time.

    With 0 workers a decoder that hangs or crashes does so in this process; that is for tests and debugging.
    `memory_bytes` is the most address space one worker may take; by default an even share of the machine's memory,
    and at least 4 GiB.
    """

    def __init__(self, workers: int, seconds_per_video: float, *, memory_bytes: int | None = None) -> None:
        self.workers = workers
        self.seconds_per_video = seconds_per_video
        self.memory_bytes = memory_bytes if memory_bytes is not None else _share_of_memory(workers)

    def clips(self, jobs: Iterable[Job], ahead: int) -> Iterator[tuple[Job, Result]]:
        """Each job with its clip or its failure, in the order of `jobs`.

        At most `ahead` clips are being decoded or waiting in memory; fewer than `workers` leaves workers idle. `jobs`
        is read from other threads, one at a time. Closing the iterator (as an exception or an interrupt in the loop
        over it does) ends every worker process.

        Raises:
            Refused: a worker process cannot be started.
        """
        if self.workers == 0:
            for job in jobs:
                yield job, _in_this_process(job)
            return
        run = _Run(self, iter(jobs), max(1, ahead))
        try:
            yield from run.results()
        finally:
            run.close()


class _Run:
    """One call of `Decoders.clips`: its threads, and the queue between them and the caller."""

    def __init__(self, decoders: Decoders, jobs: Iterator[Job], ahead: int) -> None:
        self._jobs = jobs
        self._taking = threading.Lock()
        self._room = threading.Semaphore(ahead)
        self._change = threading.Condition()
        self._done: dict[int, tuple[Job, Result]] = {}
        self._taken = 0
        self._ending = False
        self._error: BaseException | None = None
        self._workers = [Worker(decoders) for _ in range(min(decoders.workers, ahead))]
        self._threads = [threading.Thread(target=self._work, args=(w,), daemon=True) for w in self._workers]
        for thread in self._threads:
            thread.start()

    def results(self) -> Iterator[tuple[Job, Result]]:
        """The results of the jobs, in order; raises errors that are not the fault of a video."""
        number = 0
        while True:
            with self._change:
                while number not in self._done and self._error is None and not self._over(number):
                    self._change.wait()
                if self._error is not None:
                    raise self._error
                if number not in self._done:
                    return
                result = self._done.pop(number)
            self._room.release()
            yield result
            number += 1

    def close(self) -> None:
        """End every worker process and every thread."""
        self._ending = True
        for worker in self._workers:
            worker.kill()
        for _ in self._threads:
            self._room.release()
        for thread in self._threads:
            thread.join()

    def _over(self, number: int) -> bool:
        return self._ending and number >= self._taken

    def _work(self, worker: Worker) -> None:
        try:
            # On Linux the kernel ends the process together with the thread that started it, so this thread starts it.
            worker.start()
            while (next_job := self._take()) is not None:
                number, job = next_job
                result = worker.decode(job)
                with self._change:
                    self._done[number] = job, result
                    self._change.notify_all()
        except BaseException as error:  # raised in `results`
            with self._change:
                self._error = self._error or error
        finally:
            worker.close()
            with self._change:
                self._change.notify_all()

    def _take(self) -> tuple[int, Job] | None:
        """The next job and its number, once there is room for its clip; None after the last."""
        self._room.acquire()
        with self._taking:
            job = None if self._ending else next(self._jobs, None)
            if job is not None:
                self._taken += 1
                return self._taken - 1, job
            self._ending = True
        self._room.release()
        return None


def _in_this_process(job: Job) -> Result:
    try:
        return read_job(job)
    except VfcError as error:
        return Failure(job.name, error.problem)
    except MemoryError:
        return Failure(job.name, "decoding it needs more memory than there is")


def _share_of_memory(workers: int) -> int:
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return 0
    with contextlib.suppress(OSError, ValueError):  # a container may have less memory than the machine
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return max(4 << 30, total // max(1, workers))
