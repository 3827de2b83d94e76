"""From a video file to RGB frames: packet index, seek, colour, rotation, in worker processes that may hang or crash.

`read` finds the frames; `pool` makes sure that a decoding error fails only its own video.
"""

from __future__ import annotations

from .chunk_reader import ChunkReader
from .chunks import read_chunks
from .clip import Clip, Failure, Job, Undecodable
from .pool import Decoders
from .read import read_clip, read_job

__all__ = ["ChunkReader", "Clip", "Decoders", "Failure", "Job", "Undecodable", "read_chunks", "read_clip", "read_job"]
