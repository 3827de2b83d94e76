"""`collect`: a folder, a file, a pattern or lists as one sorted list of named videos."""

from __future__ import annotations

import glob
import itertools
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from vfc.cache_schema.annotations import class_list, near_equal_warning
from vfc.cache_schema.annotations.lists import spelling
from vfc.cache_schema.values.errors import BadInput, MissingPath, suggestion, unknown_name

from .listed import collect_listed, list_files
from .tree import walk
from .video import VIDEO_SUFFIXES, Collection, Video, folder_label, is_video, name_of, some

_NUMBERED_CLASS: Final = re.compile(r"(train|val|test)(\d+)")


def collect(
    source: Path,
    *,
    root: Path | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    classes: str | None = None,
) -> Collection:
    """Read a collection.

    Args:
        source: a folder of videos (class = immediate parent folder, none at the root), one video or a pattern of them,
            a CSV or JSONL (`path,label,split,start_seconds,end_seconds,group`), a published list file, or a folder or a
            pattern (`lists/*list01.txt`) of list files, whose names say the split.
        root: folder that names are relative to and listed paths start from (default: that of the videos or of the
            list; of a pattern the folder before its first wildcard).
        include: keep these classes only.
        exclude: leave these classes out.
        classes: name of a built-in class list: its splits are given to its classes, others are left out.

    Raises:
        MissingPath: there is no such folder or file.
        BadInput: no video, a malformed line, a video listed in two ways, none of the listed files exists.
        UnknownName: a class or class list that does not exist.
    """
    if root is not None and not root.is_dir():
        raise MissingPath(f"There is no folder {root} to look for listed videos in.", "Give an existing --root.")
    collection = _read(Path(source), root)
    if classes is not None:
        collection = _with_class_list(collection, classes)
    videos = _selected(collection.videos, include, exclude)
    names = {video.name for video in videos}
    warning = near_equal_warning(video.label for video in videos)
    notes = (*collection.notes, *([warning] if warning else []))
    missing = tuple(name for name in collection.missing if name in names)
    return replace(collection, videos=videos, missing=missing, notes=notes)


def _read(source: Path, root: Path | None) -> Collection:
    if source.is_dir():
        lists = list_files(source)
        return collect_listed(lists, root) if root is not None and lists else _from_folder(source, root, lists)
    if source.exists():
        files, folder = [source], source.parent
    elif glob.has_magic(str(source)):
        files = sorted(map(Path, glob.glob(str(source))))
        folder = next(parent for parent in source.parents if not glob.has_magic(str(parent)))
    else:
        files, folder = [], source.parent
    if not files:
        hint = suggestion(source.name, [p.name for p in source.parent.iterdir()]) if source.parent.is_dir() else ""
        raise MissingPath(
            f"There is no folder or file {source}.{hint}", "Give a folder of videos, a CSV, a JSONL or a list file."
        )
    if all(is_video(file.name) for file in files):
        return Collection(_named(files, root or folder))
    return collect_listed(files, root or source.parent)


# --- folders ---------------------------------------------------------------------------------------------------------


def _from_folder(folder: Path, root: Path | None, lists: Sequence[Path]) -> Collection:
    if root is not None and not folder.absolute().is_relative_to(root.absolute()):
        raise _outside(folder, root)
    tree = walk(folder)
    if not tree.videos:
        raise _no_video(folder, tree.skipped, lists)
    videos = _named([folder / relative for relative in tree.videos], root or folder)
    notes = []
    if links := tree.duplicate_links:
        notes.append(f"{len(links)} links to videos of the same class are left out: {some(links)}.")
    return Collection(videos, dict(tree.skipped), (), tuple(notes))


def _named(files: Iterable[Path], root: Path) -> tuple[Video, ...]:
    """Videos named by their paths below `root`, sorted by name; their classes are the folders they lie in."""
    prefix = os.path.join(os.path.abspath(root), "")
    videos = []
    for file in files:
        path = os.path.abspath(file)
        if not path.startswith(prefix):
            raise _outside(file, root)
        name = name_of(path.removeprefix(prefix).replace(os.sep, "/"))
        videos.append(Video(name, file, folder_label(name)))
    videos.sort(key=lambda video: video.name)
    for one, other in itertools.pairwise(videos):
        if one.name == other.name:
            raise BadInput(
                f"Two files have the name {one.name!r}, spelled with different Unicode.", "Rename one of them."
            )
    return tuple(videos)


def _outside(path: Path, root: Path) -> BadInput:
    return BadInput(f"{path} does not lie in the --root {root}.", "Leave --root out, or give a folder above.")


def _no_video(folder: Path, skipped: Counter[str], lists: Sequence[Path]) -> BadInput:
    if lists:
        return BadInput(
            f"{folder} holds lists ({some([path.name for path in lists])}), but no video.",
            "Say with --root where the listed videos are.",
        )
    if not skipped:
        return BadInput(f"The folder {folder} is empty.", "Give a folder with videos.")
    counts = ", ".join(f"{count} {suffix or 'without suffix'}" for suffix, count in sorted(skipped.items()))
    return BadInput(f"There is no video in {folder}: {counts}.", f"Videos are: {' '.join(sorted(VIDEO_SUFFIXES))}.")


# --- classes ---------------------------------------------------------------------------------------------------------


def _with_class_list(collection: Collection, classes: str) -> Collection:
    """Splits by a built-in list; where classes are numbered (`train7`), the list's names for them too."""
    names = class_list(classes)
    split_of = {spelling(name): split for split, in_split in names.items() for name in in_split}
    videos = []
    for video in collection.videos:
        label = video.label
        numbered = _NUMBERED_CLASS.fullmatch(label) if classes == "ssv2-otam" else None
        if numbered and int(numbered[2]) < len(names[numbered[1]]):
            label = names[numbered[1]][int(numbered[2])]
        if spelling(label) in split_of:
            videos.append(replace(video, label=label, split=split_of[spelling(label)]))
    if not videos:
        labels = sorted({video.label for video in collection.videos} - {""})
        raise BadInput(
            f"No class of the collection is in the list {classes}: {some(labels) if labels else 'it has no classes'}.",
            "Leave --classes out, or give another built-in list.",
        )
    notes, total = collection.notes, len(collection.videos)
    if len(videos) < total:
        notes += (f"{total - len(videos)} of {total} videos are of classes outside of {classes}: left out.",)
    return replace(collection, videos=tuple(videos), notes=notes)


def _selected(videos: tuple[Video, ...], include: Sequence[str], exclude: Sequence[str]) -> tuple[Video, ...]:
    labels = {video.label for video in videos} - {""}
    for name in (*include, *exclude):
        if name not in labels:
            raise unknown_name("class", name, labels)
    selected = set(include or labels | {""}) - set(exclude)
    videos = tuple(video for video in videos if video.label in selected)
    if not videos:
        raise BadInput("--include and --exclude leave no class.", f"The classes are: {', '.join(sorted(labels))}.")
    return videos
