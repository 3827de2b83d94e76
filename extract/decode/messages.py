"""Messages between a pool and its worker processes: a length, JSON, then the pixels as bytes, through pipes."""

from __future__ import annotations

import json
import os
import select
import struct
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np

from vfc.cache_schema.values.record import Json

from .clip import Clip, Job

_LENGTH: Final = struct.Struct("<I")
_POLL_SECONDS: Final = 0.5


class PipeClosed(Exception):
    """The process at the other end has closed the pipe."""


class BudgetSpent(Exception):
    """The time budget was spent before a message arrived."""


class Budget:
    """Seconds that may be spent waiting; time during which this process was stopped or suspended does not count."""

    def __init__(self, seconds: float) -> None:
        self.left = seconds

    def wait(self, poll: select.poll) -> bool:
        """Whether there is something to read, waiting at most half a second.

        Raises:
            BudgetSpent: there is nothing to read, and the budget is spent.
        """
        before = time.monotonic()
        if poll.poll(min(max(self.left, 0.0), _POLL_SECONDS) * 1000):
            return True
        if self.left <= 0:
            raise BudgetSpent
        self.left -= min(time.monotonic() - before, 2 * _POLL_SECONDS)
        return False


def send(fd: int, message: dict[str, Json], payload: memoryview | None = None) -> None:
    """Write one message, then the bytes of `payload`.

    Raises:
        PipeClosed: the other end is closed.
    """
    text = json.dumps(message).encode()
    try:
        for part in (memoryview(_LENGTH.pack(len(text)) + text), payload):
            rest = part
            while rest:
                rest = rest[os.write(fd, rest) :]
    except OSError as error:
        raise PipeClosed from error


def receive(fd: int, budget: Budget | None = None) -> dict[str, Any]:
    """Read one message, without its payload.

    Raises:
        PipeClosed: the other end is closed.
        BudgetSpent: the time budget is spent.
    """
    length = bytearray(_LENGTH.size)
    fill(fd, memoryview(length), budget)
    text = bytearray(_LENGTH.unpack(length)[0])
    fill(fd, memoryview(text), budget)
    message: dict[str, Any] = json.loads(text)
    return message


def fill(fd: int, view: memoryview, budget: Budget | None = None) -> None:
    """Read into the whole of `view`, straight from the pipe; raises as `receive` does."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    while view:
        if budget is not None and not budget.wait(poll):
            continue
        try:
            count = os.readv(fd, [view])
        except OSError as error:
            raise PipeClosed from error
        if count == 0:
            raise PipeClosed
        view = view[count:]


def job_to_json(job: Job) -> dict[str, Json]:
    """`job` as JSON; names that are not valid Unicode become JSON escapes."""
    return {**asdict(job), "path": str(job.path)}


def job_from_json(data: dict[str, Any]) -> Job:
    """The inverse of `job_to_json`."""
    return Job(**{**data, "path": Path(data["path"])})


def send_clip(fd: int, clip: Clip) -> None:
    """Write a clip; raises as `send` does."""
    header: dict[str, Json] = {
        "shape": list(clip.frames.shape),
        "seconds": clip.seconds.tolist(),
        "indices": clip.indices.tolist(),
        "fps": clip.fps,
        "total_frames": clip.total_frames,
        "notes": dict(clip.notes),
        "name": clip.name,
    }
    send(fd, header, clip.frames.data.cast("B"))


def receive_clip(fd: int, header: dict[str, Any], budget: Budget | None = None) -> Clip:
    """The clip whose header has been read; raises as `receive` does."""
    frames = np.empty(header["shape"], dtype=np.uint8)
    fill(fd, frames.data.cast("B"), budget)
    return Clip(
        frames,
        np.array(header["seconds"], dtype=np.float64),
        np.array(header["indices"], dtype=np.int64),
        header["fps"],
        header["total_frames"],
        header["notes"],
        header["name"],
    )
