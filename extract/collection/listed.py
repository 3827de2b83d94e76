"""A collection from list files: every row looked up on disk, every name once."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vfc.cache_schema.annotations import segment
from vfc.cache_schema.values.errors import BadInput

from .lines import read_lines
from .listing import Listing, Row, name_numbered_classes, split_in_name
from .lookup import Lookup
from .tables import read_csv, read_jsonl
from .video import Collection, Video, folder_label, name_of, some

_TABLES: Final = {".csv": read_csv, ".tsv": read_csv, ".jsonl": read_jsonl, ".ndjson": read_jsonl}
_LIST_SUFFIXES: Final = _TABLES.keys() | {".txt", ".lst", ".list"}
_SPLIT_WORD: Final = re.compile(
    r"train(ing)?|eval(uation)?|valid(ation)?|val|test(ing)?|dev(elopment)?(?![a-z])", re.IGNORECASE
)


@dataclass(frozen=True)
class _Entry:
    """A row with the video it means; `exists`: whether its file was located."""

    row: Row
    video: Video
    exists: bool

    def __str__(self) -> str:
        return f"as {', '.join(filter(None, (self.video.label, self.video.split))) or 'no label'} ({self.row.where})"


def read_listing(file: Path) -> Listing:
    """Read a CSV, JSONL or published list file; the format follows from its suffix, its name and its lines.

    Raises:
        BadInput: a file that cannot be read, or a malformed line, with file and line number.
    """
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"{file} is not UTF-8 text (byte {error.start}).", "Save it as UTF-8.") from None
    except OSError as error:
        raise BadInput(f"{file} cannot be read: {error.strerror}.", "Give a readable list of videos.") from error
    suffix = file.suffix.lower()
    if suffix == ".json":
        raise BadInput(f"{file} is JSON.", "Give a JSONL file (one object per line), a CSV, or a list of lines.")
    listing = _TABLES.get(suffix, read_lines)(file, text)
    if not listing.rows:
        raise BadInput(f"{file} lists no video.", "Give a list with at least one line.")
    return listing


def list_files(folder: Path) -> list[Path]:
    """The files directly in `folder` whose names say which split they list."""
    files = (path for path in folder.iterdir() if path.suffix.lower() in _LIST_SUFFIXES and path.is_file())
    return sorted(path for path in files if split_in_name(path.stem) or re.search(r"split[123]$", path.stem))


def collect_listed(files: Sequence[Path], root: Path) -> Collection:
    """The videos that list files name, looked up below `root`.

    Raises:
        BadInput: lists of several splits, a malformed line, a video listed in two ways, none of the files exists.
    """
    _refuse_several_splits(files)
    notes, rows = _read_rows(files)
    entries = _entries(rows, root)
    missing = [name for name, entry in entries.items() if not entry.exists]
    if len(missing) == len(entries):
        raise BadInput(
            f"None of the {len(entries)} listed videos is below {root}: no {some(missing)}.",
            "Say with --root which folder the listed paths start from.",
        )
    if len(rows) > len(entries):
        notes.append(f"{len(rows) - len(entries)} lines repeat others and count once.")
    if missing:
        notes.append(f"{len(missing)} of {len(entries)} listed videos are missing and will fail: {some(missing)}.")
    videos = tuple(entries[name].video for name in sorted(entries))
    return Collection(videos, missing=tuple(sorted(missing)), notes=tuple(notes))


def _read_rows(files: Sequence[Path]) -> tuple[list[str], tuple[Row, ...]]:
    """Notes on how the files were read, and all of their rows, with splits of file names and names of classes."""
    listings = [read_listing(file) for file in files]
    if len(files) > 1 or not listings[0].is_table:  # a single table says splits in its rows alone
        listings = [listing.with_split_of_file_name() for listing in listings]
    rows, notes = name_numbered_classes(row for listing in listings for row in listing.rows)
    summaries = [listing.summary() for listing in listings]
    return [*summaries, *(note for listing in listings for note in listing.notes), *notes], rows


def _entries(rows: Sequence[Row], root: Path) -> dict[str, _Entry]:
    """Name -> its first row, in the order of the rows; raises BadInput where a later row says something else."""
    lookup = Lookup(root, rows)
    entries: dict[str, _Entry] = {}
    for row in rows:
        entry = _entry(row, lookup)
        first = entries.setdefault(entry.video.name, entry)
        if first.video != entry.video:
            raise BadInput(
                f"{entry.video.name!r} is listed twice: {first} and {entry}.",
                "List every video once; the lists of another split belong to another run of --annotations.",
            )
    return entries


def _entry(row: Row, lookup: Lookup) -> _Entry:
    located = lookup.locate(row)
    path = lookup.expected_path(row) if located is None else located
    name, start, end = name_of(path), row.start_seconds, row.end_seconds
    label = row.label or folder_label(name)
    if start is not None or end is not None:
        name = segment(name, start or 0.0, end)
    return _Entry(row, Video(name, lookup.root / path, label, row.split, start, end, row.group), located is not None)


def _refuse_several_splits(files: Sequence[Path]) -> None:
    """Lists of split 1 and of split 2 contradict each other; their names show which ones belong together."""
    families: defaultdict[str, list[str]] = defaultdict(list)
    for file in files:
        hmdb = re.fullmatch(r".+_test_split(\d)", file.stem)
        family = f"*split{hmdb[1]}" if hmdb else _SPLIT_WORD.sub("*", file.stem)
        families[family + file.suffix].append(file.name)
    if len(families) > 1:
        folder = files[0].parent
        raise BadInput(
            f"{folder} holds lists of several splits: {', '.join(sorted(families))}.",
            f"Give one, in quotation marks: --videos '{folder / min(families)}'.",
        )
