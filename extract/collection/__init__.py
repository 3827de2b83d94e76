"""The list of videos: from a folder, a CSV or JSONL, or published split lists."""

from __future__ import annotations

from vfc.extract.collection.collect import collect, read_sources, selected
from vfc.extract.collection.document import ListOptions
from vfc.extract.collection.listed import is_official
from vfc.extract.collection.video import Collection, Video, has_file

__all__ = ["Collection", "ListOptions", "Video", "collect", "has_file", "is_official", "read_sources", "selected"]
