"""Video and Collection: the videos to extract, and their names."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from vfc.cache_schema.annotations import Annotation, Annotations

VIDEO_SUFFIXES: Final = frozenset(
    ".3g2 .3gp .asf .avi .divx .f4v .flv .gif .m2ts .m2v .m4v .mkv .mov .mp4 .mpe .mpeg .mpg .mts .mxf .ogm .ogv .rm "
    ".rmvb .ts .vob .webm .wmv .y4m".split()
)


@dataclass(frozen=True)
class Video:
    """One video, or one segment of a video.

    `name`: the name in the key of its records, the path below the collection's root with forward slashes in Unicode
    NFC; of a segment `<path>#t=<start>-<end>`. `path`: the file, or the folder of its numbered pictures; it need not
    exist (a listed file that is missing is extracted as a failure, and listed). `group` names the source that it was
    cut from. An empty label, split or group means that it is not known.
    """

    name: str
    path: Path
    label: str = ""
    split: str = ""
    start_seconds: float | None = None
    end_seconds: float | None = None
    group: str = ""


@dataclass(frozen=True)
class Collection:
    """Videos sorted by name (as UTF-8), every name once.

    `skipped`: suffix -> number of files that are no videos. `missing`: names of listed videos whose file does not
    exist; they are among `videos`. `notes`: how the collection was read, as lines for the user. `formats`: (list file,
    the format it was read as).
    """

    videos: tuple[Video, ...]
    skipped: Mapping[str, int] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    formats: tuple[tuple[str, str], ...] = ()

    def annotations(self) -> Annotations:
        """Labels, splits and times, one row per video."""
        rows = (Annotation(v.name, v.label, v.split, "", v.start_seconds, v.end_seconds, v.group) for v in self.videos)
        return Annotations(tuple(rows))


def is_video(name: str) -> bool:
    """Whether a file name has the suffix of a video."""
    return os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES


def name_of(relative: str) -> str:
    r"""The name for a path below the root: in Unicode NFC, so that it is the same on every file system.

    Bytes that are not UTF-8 are escaped (`caf\xe9.mp4`).
    """
    return unicodedata.normalize("NFC", os.fsencode(relative).decode("utf-8", "backslashreplace"))


def has_file(folder: Path, name: str) -> bool:
    """Whether `folder` holds the file of a name, however its path is spelled there; see `name_of`."""
    if (folder / name).exists():
        return True
    if name.isascii() and "\\" not in name:
        return False
    first, _, rest = name.partition("/")
    entries = [entry for entry in os.listdir(folder) if name_of(entry) == first] if folder.is_dir() else []
    return any(has_file(folder / entry, rest) if rest else True for entry in entries)


def stem_of(path: str) -> str:
    """The file name in `path` (with forward slashes) without the suffix of a video."""
    name = path.rpartition("/")[2]
    return os.path.splitext(name)[0] if is_video(name) else name


def folder_label(name: str) -> str:
    """The class of a video by its name: the immediate parent folder, empty at the root."""
    return name.rpartition("/")[0].rpartition("/")[2]


def some(names: Sequence[str], most: int = 3) -> str:
    """The first few of `names`, with `...` where there are more."""
    return ", ".join(names[:most]) + (" ..." if len(names) > most else "")
