"""One worker process as the pool uses it: start it, send it a job, limit its time, kill and replace it."""

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
"""How long a worker process may take to start and import its libraries on a busy machine."""
_ATTEMPTS: Final = 3
_EXIT_SECONDS: Final = 10.0


class Limits(Protocol):
    """What a worker process may use: wall-clock seconds per video, bytes of address space."""

    seconds_per_video: float
    memory_bytes: int


class Worker:
    """A worker process and its pipes; a process that had to be killed is replaced by a new one.

    All methods but `kill` belong to one thread.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._process: subprocess.Popen[bytes] | None = None
        self._stderr: IO[bytes] | None = None
        self._guard = threading.Lock()
        self._killed = False

    def start(self) -> None:
        """Start the process and wait until it is ready; does nothing where it runs already, or after `kill`.

        Raises:
            Refused: it does not start after several attempts.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            with self._guard:
                if self._killed or self._process is not None:
                    return
                try:
                    self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 (outlives this function)
                    self._process = self._spawn(self._stderr)
                except OSError as error:
                    raise _cannot_start(str(error)) from error
            try:
                receive(self._pipes()[1], Budget(START_SECONDS))
            except (PipeClosed, BudgetSpent) as error:
                last_line = self._last_line()
                code = self._end()
                if attempt == _ATTEMPTS:
                    raise _cannot_start(last_line or f"it ends with status {code}") from error

    def decode(self, job: Job) -> Clip | Failure:
        """The clip of `job` or its failure, at the latest when the time budget is spent."""
        budget = Budget(self._limits.seconds_per_video)
        try:
            read = self._send_job(job)
            message = receive(read, budget)
            if "failed" in message:
                return Failure(job.name, message["failed"])
            return receive_clip(read, message, budget)
        except BudgetSpent:
            self._end()
            spent = f"{self._limits.seconds_per_video:g} s"
            return Failure(job.name, f"decoding it took longer than the {spent} that a video may take")
        except PipeClosed:
            return Failure(job.name, self._exit_reason())

    def begin(self, job: Job) -> None:
        """Let the process decode the first chunk of `job`; it waits there until `chunks` reads it."""
        self._send_job(job)

    def chunks(self) -> Iterator[Clip | None]:
        """The chunks of the job that was begun, see `read_chunks`; the time budget is for each chunk.

        Raises:
            Undecodable: no further chunk can be decoded.
        """
        ended = False
        try:
            while True:
                budget = Budget(self._limits.seconds_per_video)
                read = self._pipes()[1]
                message = receive(read, budget)
                ended = "failed" in message or "ended" in message
                if "failed" in message:
                    raise Undecodable(message["failed"])
                if "ended" in message:
                    return
                yield None if "again" in message else receive_clip(read, message, budget)
        except BudgetSpent:
            spent = f"{self._limits.seconds_per_video:g} s"
            raise Undecodable(f"decoding the next of its frames took longer than {spent}") from None
        except PipeClosed:
            raise Undecodable(self._exit_reason()) from None
        finally:
            if not ended:  # the process would go on sending chunks of this job
                self._end()

    def give_up(self) -> None:
        """End the process and the job that was begun; the next job gets a new process."""
        self._end()

    def _send_job(self, job: Job) -> int:
        """Send `job` to a process that accepts it; the pipe to read from. A process that died before is replaced."""
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
        """End the process for good, from any thread; a thread that waits for it sees its pipe close."""
        with self._guard:
            self._killed = True
            if self._process is not None:
                self._process.kill()

    def close(self) -> None:
        """End the process for good and close its pipes."""
        self.kill()
        self._end()

    def _spawn(self, stderr: IO[bytes]) -> subprocess.Popen[bytes]:
        limits = (str(os.getpid()), str(self._limits.memory_bytes))
        # Import packages from the same places as this process; one thread each, as there is a process per core.
        paths = os.pathsep.join(path for path in sys.path if path)
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "vfc.extract.decode.worker", *limits],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            bufsize=0,
            env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )

    def _pipes(self) -> tuple[int, int]:
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise PipeClosed
        return process.stdin.fileno(), process.stdout.fileno()

    def _exit_reason(self) -> str:
        last_line = self._last_line()
        code = self._end(_EXIT_SECONDS)
        if self._killed or code is None:
            return "the run ended before it was decoded"
        if code >= 0:
            return f"its decoder ended the process with exit status {code}" + (f" ({last_line})" if last_line else "")
        name = signal.Signals(-code).name if -code in {*signal.Signals} else f"signal {-code}"
        hint = "; the system does that when memory runs out" if -code == signal.SIGKILL else ""
        return f"its decoder process was ended by {name}{hint}"

    def _last_line(self) -> str:
        """The last line that the process printed."""
        if self._stderr is None:
            return ""
        self._stderr.seek(max(0, self._stderr.seek(0, os.SEEK_END) - 2000))
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()
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
        for stream in (process.stdin, process.stdout, self._stderr):
            if stream is not None:
                stream.close()
        self._stderr = None
        return code


def _cannot_start(why: str) -> Refused:
    return Refused(
        f"A decoder process cannot be started: {why}.", "Free memory or processes, or give fewer decode workers."
    )
