"""Every file below a folder, links followed, loops and doubles left out."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vfc.cache_schema.values.errors import BadInput, MissingPath

from .video import folder_label, is_video


@dataclass(frozen=True)
class Tree:
    """`videos`: paths relative to the root, with forward slashes, sorted. `doubles`: links to videos among them."""

    videos: tuple[str, ...]
    skipped: Counter[str]
    doubles: tuple[str, ...]


@dataclass(frozen=True)
class _File:
    relative: str
    real: str
    linked: bool


def walk(root: Path) -> Tree:
    """All videos below `root`; other files are counted by suffix, hidden ones as `hidden`.

    A link to a video of the same folder name (that is, class) that is found anyway is left out as a double.

    Raises:
        MissingPath: there is no such folder.
        BadInput: a folder that cannot be listed.
    """
    skipped: Counter[str] = Counter()
    found = []
    for file in _files(root, "", os.path.realpath(root), False, frozenset()):
        name = file.relative.rpartition("/")[2]
        if name.startswith("."):
            skipped["hidden"] += 1
        elif is_video(name):
            found.append(file)
        else:
            skipped[os.path.splitext(name)[1].lower()] += 1
    held: dict[tuple[str, str], str] = {}
    doubles = []
    for file in sorted(found, key=lambda f: (f.linked, f.relative)):
        place = (file.real, folder_label(file.relative))
        if held.setdefault(place, file.relative) != file.relative:
            doubles.append(file.relative)
    return Tree(tuple(sorted(held.values())), skipped, tuple(sorted(doubles)))


def _files(folder: Path, relative: str, real: str, linked: bool, above: frozenset[str]) -> Iterator[_File]:
    """Files below `folder`, whose real path is `real`; `above` are the real paths of the folders it lies in."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except FileNotFoundError:
        raise MissingPath(f"There is no folder {folder}.", "Give an existing folder with videos.") from None
    except OSError as error:
        raise BadInput(f"The folder {folder} cannot be listed: {error.strerror}.", "Make it readable.") from error
    for entry in entries:
        is_link = entry.is_symlink()
        real_path = os.path.realpath(entry.path) if is_link else os.path.join(real, entry.name)
        below = f"{relative}/{entry.name}" if relative else entry.name
        if entry.is_dir():
            if not entry.name.startswith(".") and real_path not in above | {real}:
                yield from _files(Path(entry.path), below, real_path, linked or is_link, above | {real})
        else:
            yield _File(below, real_path, linked or is_link)
