"""One worker process, seen from the pool: started, given a job, timed, killed, replaced."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from typing import IO, Final, Protocol

from vfc.cache_schema.values.errors import Refused

from .clip import Clip, Failure, Job, Undecodable
from .messages import Budget, BudgetSpent, PipeClosed, job_to_json, receive, receive_clip, send

START_SECONDS: Final = 120.0
"""How long a worker process may take to import what it needs, on a machine that is busy with other things."""
_ATTEMPTS: Final = 3
_DYING_SECONDS: Final = 10.0


class Limits(Protocol):
    """What a worker process may use: wall-clock seconds per video, bytes of address space."""

    seconds_per_video: float
    memory_bytes: int


class Worker:
    """A worker process and the ends of its pipes; replaced by a new process whenever it had to be killed.

    All methods but `kill` belong to one thread.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._process: subprocess.Popen[bytes] | None = None
        self._printed: IO[bytes] | None = None
        self._guard = threading.Lock()
        self._killed = False

    def start(self) -> None:
        """Start the process and wait until it can take a job; nothing where it runs, or was killed for good.

        Raises:
            Refused: it does not start, not even when tried again.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            with self._guard:
                if self._killed or self._process is not None:
                    return
                try:
                    self._printed = tempfile.TemporaryFile()  # noqa: SIM115 (outlives this function)
                    self._process = self._launch(self._printed)
                except OSError as error:
                    raise _cannot_start(str(error)) from error
            try:
                receive(self._pipes()[1], Budget(START_SECONDS))
            except (PipeClosed, BudgetSpent) as error:
                printed = self._last_words()
                code = self._end()
                if attempt == _ATTEMPTS:
                    raise _cannot_start(printed or f"it ends with status {code}") from error

    def decode(self, job: Job) -> Clip | Failure:
        """The clip of `job`, or why there is none, when the time budget is spent at the latest."""
        budget = Budget(self._limits.seconds_per_video)
        try:
            read = self._hand_over(job)
            message = receive(read, budget)
            if "failed" in message:
                return Failure(job.name, message["failed"])
            return receive_clip(read, message, budget)
        except BudgetSpent:
            self._end()
            spent = f"{self._limits.seconds_per_video:g} s"
            return Failure(job.name, f"decoding it took longer than the {spent} that a video may take")
        except PipeClosed:
            return Failure(job.name, self._cause_of_death())

    def begin(self, job: Job) -> None:
        """Let the process decode the first chunk of `job`, which it then keeps until `chunks` takes it."""
        self._hand_over(job)

    def chunks(self) -> Iterator[Clip | None]:
        """The chunks of the job that was begun, see `read_chunks`; the time budget is that of each.

        Raises:
            Undecodable: no further one comes.
        """
        whole = False
        try:
            while True:
                budget = Budget(self._limits.seconds_per_video)
                read = self._pipes()[1]
                message = receive(read, budget)
                whole = "failed" in message or "ended" in message
                if "failed" in message:
                    raise Undecodable(message["failed"])
                if "ended" in message:
                    return
                yield None if "again" in message else receive_clip(read, message, budget)
        except BudgetSpent:
            spent = f"{self._limits.seconds_per_video:g} s"
            raise Undecodable(f"decoding the next of its frames took longer than {spent}") from None
        except PipeClosed:
            raise Undecodable(self._cause_of_death()) from None
        finally:
            if not whole:  # what it would still send belongs to a job that nobody wants any more
                self._end()

    def give_up(self) -> None:
        """End the process, and with it the job that was begun; the next job gets a new one."""
        self._end()

    def _hand_over(self, job: Job) -> int:
        """Give `job` to a process that takes it; the pipe to read from. One that died before is no fault of the job."""
        for _ in range(_ATTEMPTS):
            self.start()
            try:
                write, read = self._pipes()
                send(write, job_to_json(job))
                receive(read, Budget(START_SECONDS))
                return read
            except (PipeClosed, BudgetSpent):
                if self._killed:
                    raise PipeClosed from None
                self._end()
        raise _cannot_start("it ends before it takes a job")

    def kill(self) -> None:
        """End the process for good, from any thread; the thread that waits for it sees its pipe close."""
        with self._guard:
            self._killed = True
            if self._process is not None:
                self._process.kill()

    def close(self) -> None:
        """End the process for good and let go of its pipes."""
        self.kill()
        self._end()

    def _launch(self, printed: IO[bytes]) -> subprocess.Popen[bytes]:
        limits = (str(os.getpid()), str(self._limits.memory_bytes))
        # The process finds packages where this one does (and nowhere else), and leaves the cores to its siblings.
        paths = os.pathsep.join(path for path in sys.path if path)
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "vfc.extract.decode.worker", *limits],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=printed,
            bufsize=0,
            env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )

    def _pipes(self) -> tuple[int, int]:
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise PipeClosed
        return process.stdin.fileno(), process.stdout.fileno()

    def _cause_of_death(self) -> str:
        printed = self._last_words()
        code = self._end(_DYING_SECONDS)
        if self._killed or code is None:
            return "the run ended before it was decoded"
        if code >= 0:
            return f"its decoder ended the process with exit status {code}" + (f" ({printed})" if printed else "")
        name = signal.Signals(-code).name if -code in {*signal.Signals} else f"signal {-code}"
        hint = "; the system does that when memory runs out" if -code == signal.SIGKILL else ""
        return f"its decoder process was ended by {name}{hint}"

    def _last_words(self) -> str:
        """The last line that the process printed."""
        if self._printed is None:
            return ""
        self._printed.seek(max(0, self._printed.seek(0, os.SEEK_END) - 2000))
        lines = self._printed.read().decode(errors="replace").strip().splitlines()
        return lines[-1].strip() if lines else ""

    def _end(self, patience: float = 0.0) -> int | None:
        """Kill the process unless it ends by itself within `patience` seconds; its exit status."""
        process = self._process
        if process is None:
            return None
        try:
            code = process.wait(patience) if patience else process.poll()
        except subprocess.TimeoutExpired:
            code = None
        if code is None:
            process.kill()
            code = process.wait()
        with self._guard:
            self._process = None
        for stream in (process.stdin, process.stdout, self._printed):
            if stream is not None:
                stream.close()
        self._printed = None
        return code


def _cannot_start(why: str) -> Refused:
    return Refused(
        f"A decoder process cannot be started: {why}.", "Free memory or processes, or give fewer decode workers."
    )
