"""How many frames a rule chooses from a video: from its packets, or else its header. Nothing is decoded."""

from __future__ import annotations

import av

from vfc.cache_schema.values.errors import VfcError

from .clip import Job
from .packets import packet_index
from .read import opened, select


def count_frames(job: Job) -> int | None:
    """The frames that `read_job` would give; by the header's own count where packets do not show it, None without one.

    Segments and view clips of the job are counted as they would be read.
    """
    try:
        with opened(job) as (container, video):
            index = packet_index(container, video)
            if index is not None:
                return len(select(job, video, index.pts).indices)
            rate = float(video.average_rate or video.guessed_rate or 0)
            length = float(video.duration * video.time_base) if video.duration and video.time_base else 0.0
            length = length or (container.duration or 0) / av.time_base
            total = video.frames or round(length * rate)
            return len(select(job, video, [None] * total).indices) if total else None
    except (VfcError, av.FFmpegError, OSError):
        return None
