"""All files below a folder. Links are followed; loops and duplicate links are left out."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vfc.cache_schema.values.errors import BadInput, MissingPath

from .frame_folder import frame_files
from .video import folder_label, is_video


@dataclass(frozen=True)
class Tree:
    """The files below a folder.

    `videos`: paths relative to the folder, with forward slashes, sorted; `frame_folders`: those of them that are
    folders of numbered pictures. `skipped`: suffix -> number of other files.
    `duplicate_links`: links to one of the videos in a folder of the same name; they are not among `videos`.
    """

    videos: tuple[str, ...]
    skipped: Counter[str]
    duplicate_links: tuple[str, ...]
    frame_folders: tuple[str, ...] = ()


@dataclass(frozen=True)
class _File:
    relative: str
    real: str
    linked: bool
    frames: bool = False


def walk(root: Path) -> Tree:
    """All videos below `root`; other files are counted by suffix, hidden ones as `hidden`.

    Raises:
        MissingPath: there is no such folder.
        BadInput: a folder that cannot be listed.
    """
    skipped: Counter[str] = Counter()
    files = []
    for file in _files(root, "", os.path.realpath(root), False, frozenset()):
        name = file.relative.rpartition("/")[2]
        if name.startswith("."):
            skipped["hidden"] += 1
        elif file.frames or is_video(name):
            files.append(file)
        else:
            skipped[os.path.splitext(name)[1].lower()] += 1
    # A file counts once per class: a link to it from a folder of another name makes it a video of that class too.
    first_path: dict[tuple[str, str], str] = {}
    duplicates = []
    for file in sorted(files, key=lambda f: (f.linked, f.relative)):
        if first_path.setdefault((file.real, folder_label(file.relative)), file.relative) != file.relative:
            duplicates.append(file.relative)
    folders = sorted({file.relative for file in files if file.frames} & set(first_path.values()))
    return Tree(tuple(sorted(first_path.values())), skipped, tuple(sorted(duplicates)), tuple(folders))


def _files(folder: Path, relative: str, real: str, linked: bool, parents: frozenset[str]) -> Iterator[_File]:
    """Files below `folder`, whose real path is `real`; `parents` are the real paths of the folders above it."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except FileNotFoundError:
        raise MissingPath(f"There is no folder {folder}.", "Give an existing folder with videos.") from None
    except OSError as error:
        raise BadInput(f"The folder {folder} cannot be listed: {error.strerror}.", "Make it readable.") from error
    frames = frozenset(frame_files(entry.name for entry in entries) if relative else ())
    if frames:
        yield _File(relative, real, linked, frames=True)
    for entry in entries:
        if entry.name in frames:
            continue
        is_link = entry.is_symlink()
        entry_real = os.path.realpath(entry.path) if is_link else os.path.join(real, entry.name)
        entry_relative = f"{relative}/{entry.name}" if relative else entry.name
        if not entry.is_dir():
            yield _File(entry_relative, entry_real, linked or is_link)
        elif not entry.name.startswith(".") and entry_real not in parents | {real}:
            yield from _files(Path(entry.path), entry_relative, entry_real, linked or is_link, parents | {real})
