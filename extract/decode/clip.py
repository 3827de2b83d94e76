"""Job, Clip, Failure: the input and the output of a decoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vfc.cache_schema.values.record import Json


@dataclass(frozen=True)
class Job:
    """One clip to decode: which file, which frames (the arguments of `read_clip`), under which name to report it.

    `chunk`, `overlap`: for `read_chunks`, the number of frames per chunk, and how many of them repeat the end of the
    chunk before; chunk 0: all frames are one clip. `fps`: frame rate of a folder of pictures, which do not say it.
    """

    name: str
    path: Path
    rule: str
    num_frames: int
    stream: int | None = None
    seed: int = 0
    start_seconds: float | None = None
    end_seconds: float | None = None
    chunk: int = 0
    overlap: int = 0
    fps: float | None = None


@dataclass(frozen=True)
class Clip:
    """The chosen frames of one video.

    `frames`: RGB, uint8 `[T, H, W, 3]`, upright. `seconds`: when each is shown on the clock of the file, float64
    `[T]`. `indices`: their numbers in presentation order, counted from 0 over the whole video, int64 `[T]`. `fps`:
    mean frame rate. `total_frames`: how many frames a decoder delivers, which may differ from the header. `notes`:
    further metadata (see `metadata`). `name`: of the video, as in the job.
    """

    frames: npt.NDArray[np.uint8]
    seconds: npt.NDArray[np.float64]
    indices: npt.NDArray[np.int64]
    fps: float
    total_frames: int
    notes: Mapping[str, Json] = field(default_factory=dict)
    name: str = ""

    def metadata(self) -> dict[str, Json]:
        """The metadata of a record of this clip, as JSON.

        `indices`, `seconds`, `fps`, `total_frames`, `height`, `width`, and of the notes `stream`, `codec`, `rotation`
        (degrees counter-clockwise, already applied; `mirrored` where the file asks for that too), `repeated` (how many
        times the last frame was repeated because the video is too short). Only where they apply: `header_frames`
        (where the header says another number), `seconds_from` ("frame rate" where the file's own times do not rise;
        where the rate of pictures is from), `window` (the segment of the video), `damage` (what could not be
        decoded), `frames` (how many were read, of a video that was read in chunks).
        """
        return {
            "indices": self.indices.tolist(),
            "seconds": self.seconds.tolist(),
            "fps": self.fps,
            "total_frames": self.total_frames,
            "height": self.frames.shape[1],
            "width": self.frames.shape[2],
            **self.notes,
        }


class Undecodable(Exception):
    """No further chunk of a video can be decoded; the message says why, in one line."""


@dataclass(frozen=True)
class Failure:
    """A video that could not be decoded, and why, in one line."""

    name: str
    reason: str
