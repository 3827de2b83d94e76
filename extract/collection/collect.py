"""`collect`: whatever a user points at, as one sorted list of named videos."""

from __future__ import annotations

import glob
import itertools
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from vfc.cache_schema.annotations import class_list, segment
from vfc.cache_schema.annotations.lists import spelling
from vfc.cache_schema.values.errors import BadInput, MissingPath, suggestion, unknown_name

from .listing import SPLIT_PATTERNS, TABLES, Listing, Row, name_classes, read_listing, split_in_name, with_split_of_name
from .lookup import Lookup
from .tree import walk
from .video import VIDEO_SUFFIXES, Collection, Video, folder_label, is_video, name_of, some

_LISTS: Final = TABLES | {".txt", ".lst", ".list"}
_OFFICIAL: Final = re.compile(r".+_test_split(\d)")
_ANY_SPLIT: Final = re.compile("|".join(SPLIT_PATTERNS.values()), re.IGNORECASE)
_TOKEN: Final = re.compile(r"(train|val|test)(\d+)")


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
            a CSV or JSONL (`path,label,split,start_seconds,end_seconds`), a published list file, or a folder or a
            pattern (`lists/*list01.txt`) of those, whose names tell the split.
        root: folder that names are relative to and listed paths start from (default: that of the videos or of the
            list; of a pattern the folder before its first wildcard).
        include: keep these classes only.
        exclude: leave these classes out.
        classes: name of a built-in class list: its splits are given to its classes, others are left out.

    Raises:
        MissingPath: nothing is there.
        BadInput: no video, a malformed line, a video listed in two ways, none of the listed files found.
        UnknownName: a class or class list that does not exist.
    """
    if root is not None and not root.is_dir():
        raise MissingPath(f"There is no folder {root} to look for listed videos in.", "Give an existing --root.")
    collection = _read(Path(source), root)
    if classes is not None:
        collection = _with_classes(collection, classes)
    videos = _chosen(collection.videos, include, exclude)
    names = {video.name for video in videos}
    return replace(collection, videos=videos, missing=tuple(name for name in collection.missing if name in names))


def _read(source: Path, root: Path | None) -> Collection:
    if source.is_dir():
        lists = _list_files(source)
        if root is not None and lists:
            return _from_lists(lists, root)
        return _from_tree(source, root, lists)
    if source.exists():
        if is_video(source.name):
            return Collection(_named([source], root or source.parent))
        return _from_lists([source], root or source.parent)
    matching = sorted(map(Path, glob.glob(str(source)))) if glob.has_magic(str(source)) else []
    if matching and all(is_video(path.name) for path in matching):
        plain = next(folder for folder in source.parents if not glob.has_magic(str(folder)))
        return Collection(_named(matching, root or plain))
    if not matching:
        near = suggestion(source.name, [p.name for p in source.parent.iterdir()]) if source.parent.is_dir() else ""
        raise MissingPath(
            f"There is no folder or file {source}.{near}", "Give a folder of videos, a CSV, a JSONL or a list file."
        )
    return _from_lists(matching, root or source.parent)


def _list_files(folder: Path) -> list[Path]:
    """The files right in `folder` whose names say which split they list."""
    files = (path for path in folder.iterdir() if path.suffix.lower() in _LISTS and path.is_file())
    return sorted(
        path for path in files if split_in_name(path.stem) or path.stem.endswith(("split1", "split2", "split3"))
    )


# --- folders ---------------------------------------------------------------------------------------------------------


def _from_tree(folder: Path, root: Path | None, lists: list[Path]) -> Collection:
    if root is not None and not folder.absolute().is_relative_to(root.absolute()):
        raise _outside(folder, root)
    tree = walk(folder)
    if not tree.videos:
        raise _no_video(folder, tree.skipped, lists)
    videos = _named([folder / relative for relative in tree.videos], root or folder)
    notes = []
    if tree.doubles:
        notes.append(f"{len(tree.doubles)} links to videos found anyway are left out: {some(list(tree.doubles))}.")
    return Collection(videos, dict(tree.skipped), (), tuple(notes))


def _named(files: Iterable[Path], root: Path) -> tuple[Video, ...]:
    """Videos by their places below `root`, sorted by name; their classes are the folders they lie in."""
    above = os.path.join(os.path.abspath(root), "")
    videos = []
    for file in files:
        place = os.path.abspath(file)
        if not place.startswith(above):
            raise _outside(file, root)
        name = name_of(place.removeprefix(above).replace(os.sep, "/"))
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


def _no_video(folder: Path, skipped: Counter[str], lists: list[Path]) -> BadInput:
    if lists:
        return BadInput(
            f"{folder} holds lists ({some([path.name for path in lists])}), but no video.",
            "Say with --root where the listed videos are.",
        )
    if not skipped:
        return BadInput(f"The folder {folder} is empty.", "Give a folder with videos.")
    counted = ", ".join(f"{count} {suffix or 'without suffix'}" for suffix, count in sorted(skipped.items()))
    return BadInput(f"There is no video in {folder}: {counted}.", f"Videos are: {' '.join(sorted(VIDEO_SUFFIXES))}.")


# --- lists -----------------------------------------------------------------------------------------------------------


def _from_lists(files: list[Path], root: Path) -> Collection:
    _refuse_several_splits(files)
    listings = [read_listing(file) for file in files]
    listings = [x if len(files) == 1 and x.is_table else with_split_of_name(x) for x in listings]
    rows = name_classes(row for listing in listings for row in listing.rows)
    lookup = Lookup(root, rows)
    found: dict[str, tuple[Video, Row]] = {}
    missing: list[str] = []
    again = 0
    for row in rows:
        place = lookup.find(row)
        video = _video(row, root, place if place is not None else lookup.written(row))
        before = found.setdefault(video.name, (video, row))
        if before[0] != video:
            raise _listed_twice(before, (video, row))
        again += before[1] is not row
        if place is None and before[1] is row:
            missing.append(video.name)
    if len(missing) == len(found):
        raise BadInput(
            f"None of the {len(found)} listed videos is below {root}: no {some(missing)}.",
            "Say with --root which folder the listed paths start from.",
        )
    notes = [_summary(listing) for listing in listings] + [note for listing in listings for note in listing.notes]
    if again:
        notes.append(f"{again} lines repeat others and count once.")
    if missing:
        notes.append(f"{len(missing)} of {len(found)} listed videos are missing and will fail: {some(missing)}.")
    videos = sorted((video for video, _ in found.values()), key=lambda video: video.name)
    return Collection(tuple(videos), {}, tuple(sorted(missing)), tuple(notes))


def _video(row: Row, root: Path, place: str) -> Video:
    name = name_of(place)
    start, end = row.start_seconds, row.end_seconds
    if start is not None or end is not None:
        name = segment(name, start or 0.0, end)
    return Video(name, root / place, row.label or folder_label(name_of(place)), row.split, start, end)


def _listed_twice(one: tuple[Video, Row], other: tuple[Video, Row]) -> BadInput:
    def told(video: Video, row: Row) -> str:
        said = ", ".join(part for part in (video.label, video.split) if part) or "no label"
        return f"as {said} ({row.where})"

    return BadInput(
        f"{one[0].name!r} is listed twice: {told(*one)} and {told(*other)}.",
        "List every video once; the lists of another split belong to another run of --annotations.",
    )


def _summary(listing: Listing) -> str:
    splits = Counter(row.split for row in listing.rows)
    parts = ", ".join(f"{split} {count}" if split else str(count) for split, count in sorted(splits.items()))
    return f"{listing.file.name} read as {listing.kind!r}: {parts} videos."


def _refuse_several_splits(files: list[Path]) -> None:
    """Lists of split 1 and of split 2 contradict each other; which ones belong together shows from their names."""
    families: defaultdict[str, list[str]] = defaultdict(list)
    for file in files:
        official = re.fullmatch(r".+_test_split(\d)", file.stem)
        family = (
            f"*split{official[1]}"
            if official
            else re.sub(r"(train(ing)?|valid(ation)?|val|test(ing)?)", "*", file.stem)
        )
        families[family + file.suffix].append(file.name)
    if len(families) > 1:
        raise BadInput(
            f"{files[0].parent} holds lists of several splits: {', '.join(sorted(families))}.",
            f"Give one, in quotation marks: --videos '{files[0].parent / min(families)}'.",
        )


# --- classes ---------------------------------------------------------------------------------------------------------


def _with_classes(collection: Collection, classes: str) -> Collection:
    """Splits by a built-in list; where classes are numbered tokens (`train7`), the list's names for them too."""
    listed = class_list(classes)
    split_of = {spelling(name): split for split, names in listed.items() for name in names}
    kept = []
    for video in collection.videos:
        label = video.label
        token = _TOKEN.fullmatch(label)
        if token and classes == "ssv2-otam" and int(token[2]) < len(listed[token[1]]):
            label = listed[token[1]][int(token[2])]
        if spelling(label) in split_of:
            kept.append(replace(video, label=label, split=split_of[spelling(label)]))
    if not kept:
        labels = sorted({video.label for video in collection.videos} - {""})
        raise BadInput(
            f"No class of the collection is in the list {classes}: {some(labels) if labels else 'it has no classes'}.",
            "Leave --classes out, or give another built-in list.",
        )
    notes = collection.notes
    if len(kept) < len(collection.videos):
        left = len(collection.videos) - len(kept)
        notes = (*notes, f"{left} of {len(collection.videos)} videos are of classes outside of {classes}: left out.")
    return replace(collection, videos=tuple(kept), notes=notes)


def _chosen(videos: tuple[Video, ...], include: Sequence[str], exclude: Sequence[str]) -> tuple[Video, ...]:
    labels = {video.label for video in videos} - {""}
    for name in (*include, *exclude):
        if name not in labels:
            raise unknown_name("class", name, labels)
    wanted = set(include or labels | {""}) - set(exclude)
    kept = tuple(video for video in videos if video.label in wanted)
    if not kept:
        raise BadInput("--include and --exclude leave no class.", f"The classes are: {', '.join(sorted(labels))}.")
    return kept
