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

from vfc.cache_schema.annotations import SPLITS, near_equal_warning
from vfc.cache_schema.annotations import class_list as built_in_classes
from vfc.cache_schema.annotations.lists import spelling
from vfc.cache_schema.annotations.names import split_name
from vfc.cache_schema.values.errors import BadInput, MissingPath, suggestion, unknown_name

from .document import NO_OPTIONS, ListOptions
from .frame_folder import is_frame_folder
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
    label: str | None = None,
    class_list: Path | None = None,
    split_folders: bool = True,
) -> Collection:
    """Read a collection.

    Args:
        source: a folder of videos (class = immediate parent folder, none at the root; folders `train`, `val` and `test`
            on top say the split), one video or a pattern of them, a CSV or JSONL
            (`path,label,split,start_seconds,end_seconds,group`), a published list file, or a folder or a pattern
            (`lists/*list01.txt`) of list files, whose names say the split. A folder of numbered pictures is a video.
        root: folder that names are relative to and listed paths start from (default: that of the videos or of the
            list; of a pattern the folder before its first wildcard).
        include: keep these classes only.
        exclude: leave these classes out.
        classes: name of a built-in class list: its splits are given to its classes, others are left out.
        label: which label counts, of a list that has several (EPIC-KITCHENS: verb, noun, action), or a column.
        class_list: file with the names of numbered classes.
        split_folders: whether folders `train`, `val`, `test` on top of a tree say the split.

    Raises:
        MissingPath: there is no such folder or file.
        BadInput: no video, a malformed line, a video listed in two ways, none of the listed files exists.
        UnknownName: a class or class list that does not exist.
    """
    if root is not None and not root.is_dir():
        raise MissingPath(f"There is no folder {root} to look for listed videos in.", "Give an existing --root.")
    options = ListOptions(label or "", class_list)
    collection = read_sources([Path(source)], root, options, split_folders=split_folders)
    return selected(collection, include, exclude, classes)


def selected(
    collection: Collection, include: Sequence[str] = (), exclude: Sequence[str] = (), classes: str | None = None
) -> Collection:
    """The classes of a collection that the arguments of `collect` choose; raises as `collect` does."""
    if classes is not None:
        collection = _with_class_list(collection, classes)
    videos = _of_classes(collection.videos, include, exclude)
    names = {video.name for video in videos}
    warning = near_equal_warning(video.label for video in videos)
    notes = (*collection.notes, *([warning] if warning else []))
    missing = tuple(name for name in collection.missing if name in names)
    return replace(collection, videos=videos, missing=missing, notes=notes)


def read_sources(
    sources: Sequence[Path],
    root: Path | None = None,
    options: ListOptions = NO_OPTIONS,
    *,
    split_folders: bool = True,
    must_exist: bool = True,
) -> Collection:
    """Every video of a folder, a file, a pattern, or of several list files together; see `collect`.

    `must_exist`: whether one of the listed videos must be there.
    """
    if len(sources) == 1 and sources[0].is_dir():
        return _read_folder(sources[0], root, options, split_folders, must_exist)
    files = [file for source in sources for file in _files(source)]
    if all(is_video(file.name) for file in files):
        folder = next(p for p in sources[0].parents if not glob.has_magic(str(p)))
        return _with_split_folders(Collection(_named(files, root or folder)), split_folders and len(files) > 1)
    _refuse_shards(files)
    return collect_listed(files, root, options, must_exist=must_exist)


def _read_folder(
    folder: Path, root: Path | None, options: ListOptions, split_folders: bool, must_exist: bool
) -> Collection:
    lists = list_files(folder)
    if (folder / "meta/info.json").is_file():  # LeRobot
        return collect_listed([folder / "meta/info.json"], root, options, must_exist=must_exist)
    if lists and (root is not None or not (must_exist or walk(folder).videos)):
        return collect_listed(lists, root, options, whole_folder=True, must_exist=must_exist)
    if options.label or options.class_list:
        flag = "--label" if options.label else "--class-list"
        raise BadInput(f"{flag} is given, and {folder} is read as a folder of videos.", f"Leave {flag} out.")
    return _from_folder(folder, root, lists, split_folders)


def _files(source: Path) -> list[Path]:
    """A file, or the files of a pattern, sorted."""
    files = [source] if source.exists() else sorted(map(Path, glob.glob(str(source))))
    if files and (source.exists() or glob.has_magic(str(source))):
        return files
    hint = suggestion(source.name, [p.name for p in source.parent.iterdir()]) if source.parent.is_dir() else ""
    raise MissingPath(
        f"There is no folder or file {source}.{hint}", "Give a folder of videos, a CSV, a JSONL or a list file."
    )


def _refuse_shards(files: Sequence[Path]) -> None:
    for file in files:
        if file.is_dir():
            raise BadInput(f"{file} is a folder beside files.", "Give one folder alone, or list files.")
        if file.suffix.lower() == ".tar":
            raise BadInput(
                f"{file} is a WebDataset shard; videos are not read out of a tar.",
                f"Unpack the shards: mkdir videos; tar -xf {file.name} -C videos; then give --videos videos.",
            )


# --- folders ---------------------------------------------------------------------------------------------------------


def _from_folder(folder: Path, root: Path | None, lists: Sequence[Path], split_folders: bool) -> Collection:
    if root is not None and not folder.absolute().is_relative_to(root.absolute()):
        raise _outside(folder, root)
    if is_frame_folder(folder) and not any(entry.is_dir() for entry in folder.iterdir()):
        return Collection(_named([folder], root or folder.absolute().parent))
    tree = walk(folder)
    if not tree.videos:
        raise _no_video(folder, tree.skipped, lists)
    videos = _named([folder / relative for relative in tree.videos], root or folder)
    notes = []
    if links := tree.duplicate_links:
        notes.append(f"{len(links)} links to videos of the same class are left out: {some(links)}.")
    if tree.frame_folders:
        notes.append(f"{len(tree.frame_folders)} folders of numbered pictures are videos: {some(tree.frame_folders)}.")
    return _with_split_folders(Collection(videos, dict(tree.skipped), (), tuple(notes)), split_folders, folder)


def _with_split_folders(collection: Collection, split_folders: bool, top: Path | None = None) -> Collection:
    """Splits by the folders on top, where all of these are called train, val or test; they are no classes then.

    `top`: the folder below which they lie, if not that of the names.
    """
    videos = collection.videos
    above = os.path.join(os.path.abspath(top), "") if top else ""
    below = [os.path.abspath(v.path).removeprefix(above) if top else v.name for v in videos]
    words = [path.replace(os.sep, "/").partition("/")[0] if os.sep in path else "" for path in below]
    splits = {word: _split_of_folder(word) for word in set(words)}
    if not all(splits.values()) or not split_folders:
        return collection
    named = tuple(
        replace(video, split=splits[word], label="" if folder_label(video.name) == word else video.label)
        for video, word in zip(videos, words, strict=True)
    )
    counts = ", ".join(f"{word}: {split} {words.count(word)}" for word, split in sorted(splits.items()))
    note = f"The folders on top are the splits ({counts} videos); --no-split-folders takes them as folders only."
    return replace(collection, videos=named, notes=(*collection.notes, note))


def _split_of_folder(name: str) -> str:
    """`train`, `val` or `test` for a folder called so, also in copies (`val_256`, `videos_train`); else nothing."""
    word = re.sub(r"^(videos?|frames|rawframes)[_-]|[_-]\d+p?x?$", "", name.lower())
    split = split_name(word)
    return split if split in SPLITS else ""


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
    names = built_in_classes(classes)
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


def _of_classes(videos: tuple[Video, ...], include: Sequence[str], exclude: Sequence[str]) -> tuple[Video, ...]:
    labels = {video.label for video in videos} - {""}
    for name in (*include, *exclude):
        if name not in labels:
            raise unknown_name("class", name, labels)
    selected = set(include or labels | {""}) - set(exclude)
    videos = tuple(video for video in videos if video.label in selected)
    if not videos:
        raise BadInput("--include and --exclude leave no class.", f"The classes are: {', '.join(sorted(labels))}.")
    return videos
