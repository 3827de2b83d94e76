"""The content of the files that the records of a store were made from, by the SHA-256 in their metadata."""

from __future__ import annotations

from .annotations import Annotations, source
from .reader import StoreReader


def content_digests(reader: StoreReader) -> dict[str, str]:
    """Name of a video -> SHA-256 of the file that its records were made from, where they say it."""
    kind = "video" if "video" in reader.kinds else "prompted"
    digests: dict[str, str] = {}
    for key in reader.keys(kind):
        file = None if key.name in digests else reader.metadata(key).get("file")
        if isinstance(file, dict) and "sha256" in file:
            digests[key.name] = str(file["sha256"])
    return digests


def identical_files(reader: StoreReader, annotations: Annotations) -> list[tuple[tuple[str, str], ...]]:
    """Files with the same bytes under several names: (name, split) of each, sorted; segments count as their file."""
    splits = {source(row.name): row.split for row in annotations.rows}
    names: dict[str, set[str]] = {}
    for name, digest in content_digests(reader).items():
        names.setdefault(digest, set()).add(source(name))
    groups = [sorted(same) for same in names.values() if len(same) > 1]
    return sorted(tuple((name, splits.get(name, "")) for name in same) for same in groups)
