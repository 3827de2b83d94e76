"""The rows of annotations: names, labels, splits, folds and times; read, written by rename, hashed."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
import re
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from vfc.cache_schema.parts.atomic_files import replace_file
from vfc.cache_schema.values.errors import BadInput, MissingPath, unknown_name
from vfc.cache_schema.values.recipe import canonical
from vfc.cache_schema.values.record import Json

from .names import SPLITS, require_split, split_name

_SEGMENT: Final = re.compile(r"(?P<file>.+)#t=\d+(\.\d+)?-(\d+(\.\d+)?)?")


def segment(path: str, start_seconds: float, end_seconds: float | None) -> str:
    """The name of a stretch of a file: `<path>#t=<start>-<end>`, the end left out where it is the file's."""
    end = "" if end_seconds is None else _decimal(end_seconds)
    return f"{path}#t={_decimal(start_seconds)}-{end}"


def source(name: str) -> str:
    """The file that a name speaks of: the path before `#t=` of a segment, the name itself otherwise."""
    match = _SEGMENT.fullmatch(name)
    return match["file"] if match else name


def _decimal(seconds: float) -> str:
    return f"{seconds:.6f}".rstrip("0").rstrip(".")


@dataclass(frozen=True)
class Annotation:
    """What is known about one video, or one segment of a video.

    `name` is the name in the key of its records. `start_seconds`, `end_seconds` bound a segment, in seconds from the
    start of the file. The usual spellings of the splits train, val and test are read as these. `group` names the
    source of a video: a random split keeps a group together (see `groups`). An empty label, split, fold or group is
    one that is not known.
    """

    name: str
    label: str = ""
    split: str = ""
    fold: str = ""
    start_seconds: float | None = None
    end_seconds: float | None = None
    group: str = ""

    def __post_init__(self) -> None:
        problem = _fault(self)
        if problem:
            raise BadInput(f"An annotation of {self.name!r} cannot be used: {problem}.", _ROW_RULE)
        object.__setattr__(self, "split", split_name(self.split))
        for field in ("start_seconds", "end_seconds"):
            value = getattr(self, field)
            object.__setattr__(self, field, None if value is None else float(value))


_FIELDS: Final = tuple(field.name for field in dataclasses.fields(Annotation))
_TEXTS: Final = ("name", "label", "split", "fold", "group")
_ROW_RULE: Final = (
    'A row is {"name": "path/of/video.mp4", "label": "...", "split": "train", "fold": "...", '
    '"start_seconds": 0.0, "end_seconds": 1.5, "group": "..."}; only the name is required.'
)


def _fault(row: Annotation) -> str:
    """What is wrong with the values of a row, or nothing."""
    for field in _TEXTS:
        value = getattr(row, field)
        if not isinstance(value, str):
            return f"{field} is {value!r}, not a string"
        if any("\ud800" <= letter <= "\udfff" for letter in value):
            return f"{field} {value!r} is not valid Unicode"
    if not row.name:
        return "its name is empty"
    times = {field: getattr(row, field) for field in ("start_seconds", "end_seconds")}
    for field, value in times.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is not None and not (number and math.isfinite(value) and value >= 0):
            return f"{field} is {value!r}, not a number of seconds from 0 up"
    start, end = times.values()
    if end is not None and end <= (start or 0.0):
        return f"it ends at {end} s, not after its start at {start or 0.0} s"
    return ""


def _digested(row: Annotation) -> dict[str, Json]:
    """The fields of a row that its digest covers; without a group they are those of version 0.1."""
    return {field: value for field, value in asdict(row).items() if field != "group" or value}


@dataclass(frozen=True)
class Annotations:
    """All rows, sorted by name (as UTF-8), every name once."""

    rows: tuple[Annotation, ...]

    def __post_init__(self) -> None:
        rows = tuple(sorted(self.rows, key=lambda row: row.name))
        twice = next((a.name for a, b in itertools.pairwise(rows) if a.name == b.name), None)
        if twice is not None:
            raise BadInput(
                f"{twice!r} is annotated twice.", "Every name stands once; keep another set in another file."
            )
        object.__setattr__(self, "rows", rows)

    def __hash__(self) -> int:
        return hash(self.digest)

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the canonical rows in order, in hex; all fields spelled out, but an empty `group` left out."""
        return hashlib.sha256(b"".join(canonical(_digested(row)) + b"\n" for row in self.rows)).hexdigest()

    def splits(self) -> list[str]:
        """The split names in use, `train`, `val`, `test` first."""
        used = {row.split for row in self.rows} - {""}
        return [s for s in SPLITS if s in used] + sorted(used - set(SPLITS))

    def labels(self) -> list[str]:
        """The class names in use, sorted as UTF-8."""
        return sorted({row.label for row in self.rows} - {""})

    def of_split(self, split: str) -> Annotations:
        """The rows of one split; `all` is every row. Raises UnknownName: no row has this split."""
        if split == "all":
            return self
        if split not in self.splits():
            raise unknown_name("split", split, [*self.splits(), "all"])
        return Annotations(tuple(row for row in self.rows if row.split == split))

    def by_label(self) -> dict[str, list[str]]:
        """Class name -> names of its videos, both sorted as UTF-8; rows without a label are left out."""
        videos: dict[str, list[str]] = {label: [] for label in self.labels()}
        for row in self.rows:
            if row.label:
                videos[row.label].append(row.name)
        return videos


def read_annotations(path: Path, *, any_split: bool = True) -> Annotations:
    """Read a JSONL file of rows; blank lines are skipped. Without `any_split`, only train, val and test are splits.

    Raises:
        MissingPath: there is no such file.
        BadInput: a malformed line, an unknown field, a name twice; file and line are named.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise MissingPath(
            f"There is no annotations file {path}.", "Give a JSONL file, or a name below annotations/."
        ) from None
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is not UTF-8 text (byte {error.start}).", "Save it as UTF-8.") from None
    first_seen: dict[str, int] = {}
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        row = _row(line, f"{path}, line {number}", any_split)
        if row.name in first_seen:
            raise BadInput(
                f"{path}, line {number}: {row.name!r} stands already in line {first_seen[row.name]}.",
                "Every name stands once; keep another set (other splits, other folds) in another file.",
            )
        first_seen[row.name] = number
        rows.append(row)
    return Annotations(tuple(rows))


def _row(line: str, where: str, any_split: bool) -> Annotation:
    try:
        data = json.loads(line)
    except json.JSONDecodeError as error:
        raise BadInput(f"{where}: not JSON ({error.msg}, column {error.colno}).", _ROW_RULE) from None
    if not isinstance(data, dict) or "name" not in data:
        raise BadInput(f"{where}: not a JSON object with a name.", _ROW_RULE)
    unknown = sorted(data.keys() - set(_FIELDS))
    if unknown:
        problem = unknown_name("field", unknown[0], _FIELDS)
        raise BadInput(f"{where}: {problem.problem}", problem.remedy)
    try:
        row = Annotation(**data)
        return row if any_split else dataclasses.replace(row, split=require_split(row.split))
    except BadInput as error:
        raise BadInput(f"{where}: {error.problem}", error.remedy) from None


def write_annotations(store_root: Path, name: str, annotations: Annotations) -> Path:
    """Write `annotations/<name>.jsonl` of a store, replacing it in one step; the path written.

    Raises:
        BadInput: a name that cannot be a file name.
        Refused, ReadOnlyTarget: see `atomic_files.writing`.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise BadInput(f"{name!r} cannot name a set of annotations.", "Use letters, digits, '.', '_' and '-'.")
    path = store_root / "annotations" / f"{name}.jsonl"
    replace_file(path, "".join(line + "\n" for line in as_lines(annotations)).encode())
    return path


def as_lines(annotations: Annotations) -> list[str]:
    """A line of JSON for every row, without what is not known."""
    rows = ({k: value for k, value in asdict(row).items() if value not in ("", None)} for row in annotations.rows)
    return [json.dumps(row, ensure_ascii=False) for row in rows]


def annotation_files(store_root: Path) -> dict[str, Path]:
    """The sets of annotations of a store, or of an export, by name, sorted."""
    return {path.stem: path for path in sorted((store_root / "annotations").glob("*.jsonl"))}
