"""MS-TCN-style folders: features per frame, one class name per line, a mapping, and splits as bundles."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Final

import numpy as np
import numpy.typing as npt

from vfc.cache_schema.annotations import Annotation
from vfc.cache_schema.values.errors import BadInput, RecordRejected, suggestion

from .sources import Item, Source

_BUNDLE: Final = re.compile(r"(?P<part>train|test|val)\.split(?P<number>\d+)\.bundle")


def is_mstcn(folder: Path) -> bool:
    """Whether a folder is laid out this way."""
    return (folder / "features").is_dir() and any(
        (folder / n).exists() for n in ("groundTruth", "mapping.txt", "splits")
    )


def mstcn(folder: Path) -> Source:
    """`features/<video>.npy`, `groundTruth/<video>.txt`, `mapping.txt`, `splits/{train,test}.split<n>.bundle`.

    Without `groundTruth/` there are no labels. A video that has only one of features and ground truth makes no record.

    Raises:
        BadInput: no features, a mapping that is none, a bundle that is none, a video twice in one split.
    """
    features = {path.stem: path for path in sorted((folder / "features").glob("*.npy"))}
    if not features:
        raise BadInput(f"{folder / 'features'} holds no .npy file.", "Unpack the features there: features/<video>.npy.")
    truths: dict[str, Path] = {}
    classes: tuple[str, ...] = ()
    if (folder / "groundTruth").is_dir():
        classes = read_mapping(folder / "mapping.txt")
        truths = {path.stem: path for path in sorted((folder / "groundTruth").glob("*.txt"))}
    lost = [
        (name, path, f"There is no groundTruth/{name}.txt.")
        for name, path in features.items()
        if classes and name not in truths
    ]
    items = [
        Item(name, path, _features(path), partial(read_truth, truths[name], classes) if classes else None)
        for name, path in features.items()
        if not classes or name in truths
    ]
    videos = features.keys() | truths.keys()
    lost += [(name, path, f"There is no features/{name}.npy.") for name, path in truths.items() if name not in features]
    return Source("ms-tcn", tuple(items), classes, read_splits(folder / "splits", videos), lost)


def _features(path: Path) -> Callable[[], npt.NDArray[np.float32]]:
    # Mapped: the caller copies, and turns it over, once.
    return partial(np.load, path, mmap_mode="r", allow_pickle=False)


def read_mapping(path: Path) -> tuple[str, ...]:
    """The class names of `mapping.txt`, lines `<id> <name>`, in order of id.

    Raises:
        BadInput: no such file, or ids that are not 0, 1, 2 ... each once.
    """
    try:
        lines = [line.split(maxsplit=1) for line in path.read_text("utf-8-sig").splitlines() if line.strip()]
        named = {int(number): name.strip() for number, name in lines}
    except FileNotFoundError:
        raise BadInput(f"There is no {path}.", "Labels need it: one line `<id> <class name>` per class.") from None
    except ValueError as error:
        raise BadInput(f"{path} is no mapping: {error}.", "It needs one line `<id> <class name>` per class.") from None
    if sorted(named) != list(range(len(lines))) or len(set(named.values())) != len(lines):
        raise BadInput(
            f"{path} has {len(lines)} lines with the ids {sorted(named)[:5]} ...; they must be 0, 1, 2 ... each once.",
            "Number the classes from 0, without gaps, every name once.",
        )
    return tuple(named[i] for i in range(len(lines)))


def read_truth(path: Path, classes: tuple[str, ...]) -> npt.NDArray[np.int64]:
    """Class ids int64 `[T]` of a ground-truth file, one class name per line.

    Raises:
        RecordRejected: not text, or a class that the mapping does not have.
    """
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RecordRejected(f"{path} cannot be read: {error}.", "Fetch the file again, then import again.") from None
    while lines and not lines[-1].strip():
        lines.pop()
    ids = {name: i for i, name in enumerate(classes)}
    try:
        return np.array([ids[line.strip()] for line in lines], np.int64)
    except KeyError as error:
        name = error.args[0]
        number = [line.strip() for line in lines].index(name) + 1
        raise RecordRejected(
            f"{path}, line {number}: there is no class {name!r} in mapping.txt.{suggestion(name, classes)}",
            "Correct that line or the mapping, then import again.",
        ) from None


def read_splits(folder: Path, names: Iterable[str]) -> dict[str, tuple[Annotation, ...]]:
    """The rows of every `split<n>`, from its bundles; videos may be named that are not there.

    Both dialects are read: with and without an extra first line that names no video.

    Raises:
        BadInput: a video in two bundles of one split.
    """
    videos, rows_of = set(names), dict[str, dict[str, Annotation]]()
    for path in sorted(folder.glob("*.bundle")):
        match = _BUNDLE.fullmatch(path.name)
        if match is None:
            continue
        rows = rows_of.setdefault(f"split{match['number']}", {})
        for name in read_bundle(path, videos):
            row = Annotation(name, split=match["part"])
            if rows.setdefault(name, row) != row:
                raise BadInput(
                    f"{path} names {name!r}, which is in the {rows[name].split} bundle of the same split.",
                    "Every video stands in one bundle of a split.",
                )
    return {name: tuple(rows.values()) for name, rows in rows_of.items()}


def read_bundle(path: Path, videos: set[str]) -> list[str]:
    """The videos that a bundle names, without `.txt`."""
    lines = [line.strip() for line in path.read_text("utf-8-sig").splitlines()]
    names = [PurePosixPath(line.replace("\\", "/")).name for line in lines]
    if lines and not lines[0].endswith(".txt") and _stem(names[0]) not in videos:
        names = names[1:]
    return list(dict.fromkeys(_stem(name) for name in names if name))


def _stem(name: str) -> str:
    return name.removesuffix(".txt").removesuffix(".npy")
