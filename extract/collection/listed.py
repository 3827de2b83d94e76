"""A collection from list files: every row looked up on disk, every name once."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from vfc.cache_schema.annotations import segment
from vfc.cache_schema.values.errors import BadInput

from .class_names import named_numbers, read_class_names
from .document import NO_OPTIONS, Document, ListOptions, NoVideoList, label_error
from .formats import formats, recognise
from .lines import read_lines
from .listing import Listing, Row, name_numbered_classes, split_in_name
from .lookup import Lookup
from .tables import read_csv, read_jsonl
from .video import Collection, Video, folder_label, name_of, some

_TABLES: Final = {".csv": read_csv, ".tsv": read_csv, ".jsonl": read_jsonl, ".ndjson": read_jsonl}
_LIST_SUFFIXES: Final = _TABLES.keys() | {".txt", ".lst", ".list", ".json"}
_SPLIT_WORD: Final = re.compile(
    r"train(ing)?|eval(uation)?|valid(ation|ate)?|val|test(ing)?|dev(elopment)?(?![a-z])", re.IGNORECASE
)


@dataclass(frozen=True)
class _Entry:
    """A row with the video it means; `exists`: whether its file was located."""

    row: Row
    video: Video
    exists: bool

    def __str__(self) -> str:
        return f"as {', '.join(filter(None, (self.video.label, self.video.split))) or 'no label'} ({self.row.where})"


def read_listing(file: Path, options: ListOptions = NO_OPTIONS) -> Listing:
    """Read a list of videos; the format follows from its content, then from its suffix, its name and its lines.

    Raises:
        BadInput: a file that cannot be read, or a malformed line, with file and line number.
        UnknownName: a --label that the list does not have.
    """
    text = _text(file)
    suffix = file.suffix.lower()
    listing = recognise(Document(file, text, options))
    if listing is None and suffix == ".json":
        raise NoVideoList(f"{file} is JSON.", _json_remedy(text))
    if listing is None and suffix in _TABLES:
        listing = _TABLES[suffix](file, text, options.label)
    elif listing is None:
        listing = read_lines(file, text)
    if not listing.rows:
        raise BadInput(f"{file} lists no video.", "Give a list with at least one line.")
    if options.label and not listing.labels:
        raise label_error(file, options.label, ())
    return listing


def _text(file: Path) -> str:
    try:
        # A lone carriage return ends a line too: old spreadsheets write so.
        return file.read_bytes().decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise BadInput(f"{file} is not UTF-8 text (byte {error.start}).", "Save it as UTF-8.") from None
    except OSError as error:
        raise BadInput(f"{file} cannot be read: {error.strerror}.", "Give a readable list of videos.") from error


def is_official(file: Path) -> bool:
    """Whether a file is a list in the form of a data set; raises as `read_listing` does."""
    return file.is_file() and recognise(Document(file, _text(file))) is not None


def _json_remedy(text: str) -> str:
    json_formats = "; ".join(f"{each.name} ({each.sign})" for each in formats() if "JSON" in each.sign)
    return (
        f"Give a JSONL file (one object per line), a CSV, a list of lines, or the JSON of: {json_formats}. "
        f"This one begins {text.strip()[:60]!r}."
    )


def list_files(folder: Path) -> list[Path]:
    """The files directly in `folder` whose names say which split they list."""
    files = (path for path in folder.iterdir() if path.suffix.lower() in _LIST_SUFFIXES and path.is_file())
    return sorted(path for path in files if split_in_name(path.stem) or re.search(r"split[123]$", path.stem))


def collect_listed(
    files: Sequence[Path],
    root: Path | None,
    options: ListOptions = NO_OPTIONS,
    *,
    whole_folder: bool = False,
    must_exist: bool = True,
) -> Collection:
    """The videos that list files name, looked up below `root`.

    Args:
        files: The lists.
        root: Folder that the listed paths start from; None: that of the first list.
        options: What the user added to the lists.
        whole_folder: Whether the lists are all that were in a folder: those that are no lists of videos, and those
            without labels beside others with labels, are left out then.
        must_exist: Whether one of the videos must be there.

    Raises:
        BadInput: lists of several splits, a malformed line, a video listed in two ways, none of the files exists.
    """
    listings, notes = _read(files, options, whole_folder)
    if len(files) > 1:
        _refuse_several_splits([listing.file for listing in listings])
    if root is None:
        root = next((listing.folder for listing in listings if listing.folder), files[0].parent)
    rows, more_notes = _rows(listings, options, alone=len(files) == 1)
    kinds = tuple((str(listing.file), listing.kind) for listing in listings)
    collection = located(rows, root, must_exist=must_exist)
    return replace(collection, notes=(*notes, *more_notes, *collection.notes), formats=kinds)


def listed_rows(sources: Sequence[Path], options: ListOptions = NO_OPTIONS) -> list[Row]:
    """The rows of lists, or of the lists in a folder, with splits and names of classes; no video is looked up.

    Raises:
        BadInput: as `collect_listed`.
    """
    whole_folder = len(sources) == 1 and sources[0].is_dir()
    files = list_files(sources[0]) if whole_folder else list(sources)
    if not files:
        raise BadInput(f"{sources[0]} holds no list of videos.", "Give the lists of the data set, or their folder.")
    listings, _ = _read(files, options, whole_folder)
    return list(_rows(listings, options, alone=len(files) == 1)[0])


def located(rows: Sequence[Row], root: Path, *, must_exist: bool) -> Collection:
    """The videos of rows below `root`, those without a file among `missing`.

    Raises:
        BadInput: a video listed in two ways, none of the files exists.
    """
    entries = _entries(rows, root, must_exist)
    missing = [name for name, entry in entries.items() if not entry.exists]
    notes = []
    if len(missing) == len(entries) and must_exist:
        raise BadInput(
            f"None of the {len(entries)} listed videos is below {root}: no {some(missing)}.",
            "Say with --root which folder the listed paths start from.",
        )
    if len(rows) > len(entries):
        notes.append(f"{len(rows) - len(entries)} lines repeat others and count once.")
    if missing and must_exist:
        notes.append(_missing_note([entries[name].video for name in missing], len(entries)))
    videos = tuple(entries[name].video for name in sorted(entries))
    return Collection(videos, missing=tuple(sorted(missing)), notes=tuple(notes))


def _missing_note(videos: Sequence[Video], total: int) -> str:
    """How many listed videos have no file, and of which classes."""
    counts = Counter(video.label for video in videos if video.label).most_common()
    classes = ", ".join(f"{label} {count}" for label, count in counts[:5]) + (" ..." if len(counts) > 5 else "")
    by_class = f" By class: {classes}." if len(counts) > 1 else ""
    names = some([video.name for video in videos])
    return f"{len(videos)} of {total} listed videos are missing and will fail: {names}.{by_class}"


def _read(files: Sequence[Path], options: ListOptions, whole_folder: bool) -> tuple[list[Listing], list[str]]:
    """The lists that are read, and notes about those that are left out."""
    listings, notes, errors = list[Listing](), list[str](), list[NoVideoList]()
    for file in files:
        try:
            listings.append(read_listing(file, options))
        except NoVideoList as error:
            if not whole_folder:
                raise
            errors.append(error)
            notes.append(f"Left out: {error.problem}")
    if not listings:
        raise errors[0]
    if whole_folder:
        notes += _remove_repeated(listings)
    unlabelled = [listing for listing in listings if listing.is_unlabelled and not listing.is_table]
    if whole_folder and 0 < len(unlabelled) < len(listings):
        for listing in unlabelled:
            listings.remove(listing)
            notes.append(f"Left out: the {len(listing.rows)} videos of {listing.file.name} have no labels.")
    return listings, notes


def _remove_repeated(listings: list[Listing]) -> list[str]:
    """Take out lists whose rows all stand in another one (answers to a test list); a note for each."""
    contents = {id(listing): {(row.path, row.label) for row in listing.rows} for listing in listings}
    repeated = [
        listing
        for listing in listings
        if not listing.is_table and "answer" in listing.file.stem.lower()
        if any(contents[id(listing)] <= contents[id(other)] for other in listings if other is not listing)
    ]
    for listing in repeated:
        listings.remove(listing)
    return [f"Left out: {listing.file.name} repeats another list." for listing in repeated]


def _rows(listings: Sequence[Listing], options: ListOptions, *, alone: bool) -> tuple[tuple[Row, ...], list[str]]:
    """The rows of all lists, with splits of file names and names of classes; and notes on how they were read."""
    if not alone or not listings[0].is_table:  # a single table says splits in its rows alone
        listings = [listing.with_split_of_file_name() for listing in listings]
    rows = tuple(row for listing in listings for row in listing.rows)
    numbers = {row.number for row in rows if row.number}
    if options.class_list is not None and numbers:
        names = named_numbers(numbers, read_class_names(options.class_list))
        rows = tuple(replace(row, label=names.get(row.number, row.label), number="") for row in rows)
    rows, notes = name_numbered_classes(rows)
    summaries = [listing.summary() for listing in listings]
    return rows, list(dict.fromkeys([*summaries, *(note for each in listings for note in each.notes), *notes]))


def _entries(rows: Sequence[Row], root: Path, must_exist: bool) -> dict[str, _Entry]:
    """Name -> its first row, in the order of the rows; raises BadInput where a later row says something else.

    A row without a label, as in a list of test videos, yields to one with a label.
    """
    lookup = Lookup(root, rows, any_path=not must_exist)
    entries: dict[str, _Entry] = {}
    for row in rows:
        entry = _entry(row, lookup)
        first = entries.setdefault(entry.video.name, entry)
        if first.video == entry.video:
            continue
        if replace(first.video, label="") == replace(entry.video, label="") and "" in (first.row.label, row.label):
            entries[entry.video.name] = first if first.row.label else entry
            continue
        raise BadInput(
            f"{entry.video.name!r} is listed twice: {first} and {entry}.",
            "List every video once; the lists of another split belong to another run of --annotations.",
        )
    return entries


def _entry(row: Row, lookup: Lookup) -> _Entry:
    located = lookup.locate(row)
    path = lookup.expected_path(row) if located is None else located
    name, start, end = name_of(path), row.start_seconds, row.end_seconds
    label = row.label or ("" if row.search == "id" else folder_label(name))
    if start is not None or end is not None:
        name = segment(name, start or 0.0, end)
    return _Entry(row, Video(name, lookup.root / path, label, row.split, start, end, row.group), located is not None)


def _refuse_several_splits(files: Sequence[Path]) -> None:
    """Lists of split 1 and of split 2 contradict each other; their names show which ones belong together.

    Names that differ in more than numbers belong together where no two of them are of the same split.
    """
    families: defaultdict[str, list[Path]] = defaultdict(list)
    for file in files:
        hmdb = re.fullmatch(r".+_test_split(\d)", file.stem)
        family = f"*split{hmdb[1]}" if hmdb else _SPLIT_WORD.sub("*", file.stem)
        families[family + file.suffix].append(file)
    shapes = {re.sub(r"\d+", "#", family) for family in families}
    splits = [split_in_name(file.stem) for members in families.values() for file in members]
    each_split_once = len(set(splits)) == len(splits) and all(splits)
    if len(families) > 1 and (len(shapes) < len(families) or not each_split_once):
        folder = files[0].parent
        raise BadInput(
            f"{folder} holds lists of several splits: {', '.join(sorted(families))}.",
            f"Give one, in quotation marks: --videos '{folder / min(families)}'.",
        )
