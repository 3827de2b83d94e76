"""The process in which one video at a time is decoded: `python -m vfc.extract.decode.worker`.

A pool starts it, hands it jobs through standard input and takes clips from standard output (see `wire`). It imports
av and numpy, never torch. It ends when the pool does, however that ends: at the end of standard input, even in the
middle of a job, and on Linux by a signal of the kernel where the decoder does not let Python run.
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
    """Serve jobs until the pool is gone; `parent` is its process id, `memory_bytes` the most this process may use."""
    # Whoever interrupts the run interrupts the pool, which then ends this process.
    for interruption in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(interruption, signal.SIG_IGN)
    _die_with(parent)
    _bound_memory(memory_bytes)
    jobs_in = os.dup(sys.stdin.fileno())
    clips_out = os.dup(sys.stdout.fileno())
    # Whatever a library prints must not end up between the messages.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    jobs: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(jobs_in, jobs), daemon=True).start()
    with contextlib.suppress(PipeClosed):
        send(clips_out, {"ready": True})
        while True:
            job = jobs.get()
            send(clips_out, {"taken": True})
            _serve(job, clips_out)


def _listen(fd: int, jobs: queue.SimpleQueue[dict[str, Any]]) -> None:
    with contextlib.suppress(PipeClosed):
        while True:
            jobs.put(receive(fd))
    os._exit(0)


def _serve(message: dict[str, Any], fd: int) -> None:
    job = job_from_json(message)
    try:
        if job.chunk:
            for chunk in read_chunks(job, threads=1):
                if chunk is None:
                    send(fd, {"again": True})
                else:
                    send_clip(fd, chunk)
            send(fd, {"ended": True})
            return
        clip = read_job(job, threads=1)  # the other cores belong to the other workers
    except PipeClosed:
        raise
    except VfcError as error:
        send(fd, {"failed": error.problem})
    except MemoryError:
        send(fd, {"failed": "decoding it needs more memory than one decoder may take"})
    except Exception as error:  # a fault of a decoder costs one video
        send(fd, {"failed": f"decoding it failed: {type(error).__name__}: {error}"})
    else:
        send_clip(fd, clip)


def _die_with(parent: int) -> None:
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def _bound_memory(most: int) -> None:
    """Make running out of memory an error in here, or at least end this process rather than the run."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000")
        if most > 0:
            with contextlib.suppress(OSError, ValueError):
                resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
