"""From a video file to RGB frames: packet index, seek, colour, rotation, in processes that may hang or crash.

`read` says how frames are found, `pool` how a bad video is kept from doing harm.
"""

from __future__ import annotations

from .clip import Clip, Failure, Job, Undecodable
from .pieces import read_pieces
from .pool import Decoders
from .read import read_clip, read_job
from .streams import Streams

__all__ = ["Clip", "Decoders", "Failure", "Job", "Streams", "Undecodable", "read_clip", "read_job", "read_pieces"]
