"""The process in which one video at a time is decoded: `python -m vfc.extract.decode.worker`.

A pool starts it, sends it jobs through standard input and reads clips from standard output (see `messages`). It
imports av and numpy, never torch. It ends whenever the pool ends: at the end of standard input, even in the middle of a
job, and on Linux by a signal of the kernel where the decoder does not let Python run.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import queue
import resource
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from vfc.cache_schema.values.errors import VfcError

from .chunks import read_chunks
from .messages import PipeClosed, job_from_json, receive, send, send_clip
from .read import read_job

_PR_SET_PDEATHSIG = 1


def main(parent: int, memory_bytes: int) -> None:
    """Serve jobs until the pool is gone; `parent` is its process id, `memory_bytes` the most it may use."""
    # An interrupt ends the pool, which then ends this process.
    for interruption in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(interruption, signal.SIG_IGN)
    _end_with_parent(parent)
    _limit_memory(memory_bytes)
    jobs_in = os.dup(sys.stdin.fileno())
    clips_out = os.dup(sys.stdout.fileno())
    # Output that a library prints must not mix with the messages.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    jobs: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(jobs_in, jobs), daemon=True).start()
    with contextlib.suppress(PipeClosed):
        send(clips_out, {"ready": True})
        while True:
            job = jobs.get()
            send(clips_out, {"accepted": True})
            _serve(job, clips_out)


def _listen(fd: int, jobs: queue.SimpleQueue[dict[str, Any]]) -> None:
    with contextlib.suppress(PipeClosed):
        while True:
            jobs.put(receive(fd))
    os._exit(0)


def _serve(message: dict[str, Any], fd: int) -> None:
    """Decode one job and send its clip or its chunks, or why that failed."""
    job = job_from_json(message)
    try:
        # One thread: the other cores belong to the other workers.
        if not job.chunk:
            send_clip(fd, read_job(job, threads=1))
            return
        for chunk in read_chunks(job, threads=1):
            if chunk is None:
                send(fd, {"again": True})
            else:
                send_clip(fd, chunk)
        send(fd, {"ended": True})
    except PipeClosed:
        raise
    except VfcError as error:
        send(fd, {"failed": error.problem})
    except MemoryError:
        send(fd, {"failed": "decoding it needs more memory than one decoder may take"})
    except Exception as error:  # an error of a decoder fails one video
        send(fd, {"failed": f"decoding it failed: {type(error).__name__}: {error}"})


def _end_with_parent(parent: int) -> None:
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def _limit_memory(most: int) -> None:
    """Make too much memory an error in this process, and this process the first that the system ends."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000")
        if most > 0:
            with contextlib.suppress(OSError, ValueError):
                resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
