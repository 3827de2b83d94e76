"""The list of videos: from a folder, a CSV or JSONL, or published split lists."""

from __future__ import annotations

from .collect import collect
from .video import Collection, Video, has_file

__all__ = ["Collection", "Video", "collect", "has_file"]
