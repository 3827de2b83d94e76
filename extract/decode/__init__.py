"""From a video file to RGB frames: packet index, seek, colour, rotation, in processes that may hang or crash.

`read` says how frames are found, `pool` how a bad video is kept from doing harm.
"""

from __future__ import annotations

from .clip import Clip, Failure, Job
from .pool import Decoders
from .read import read_clip, read_job

__all__ = ["Clip", "Decoders", "Failure", "Job", "read_clip", "read_job"]
