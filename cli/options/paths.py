"""Which flags name paths, and whether these can be used: checked before any heavy import and before any work."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from vfc.cache_schema.values.errors import BadInput, MissingPath, NotAStore, ReadOnlyTarget, VfcError, combined

from .flag import Flag

_STORES: Final = {"cache", "query_cache", "support_cache", "test_cache", "store", "stores", "here", "there"}
_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")
_OUTPUTS: Final = {"out", "page", "features"}
# What must exist, and what to do where it does not.
_INPUTS: Final = {
    "against": "Give the folder of a finished run, or a folder of such folders.",
    "class_list": "Give a file with one class name per line, in the order of the class ids.",
    "config": "Give the config.json of an earlier run.",
    "dataset_list": "Give the official lists of the data set, or their folder.",
    "descriptions": "Write both files with vfc describe.",
    "episodes": "Write a list with: vfc episodes --out FILE.",
    "frame_classifier": "Give the folder that vfc train-head frame-classifier named.",
    "head": "Give the folder that vfc train-head named.",
    "labels": "Give a file or folder of labels.",
    "query": "Give video files, one folder or one list of the videos to name.",
    "root": "Give the folder that the paths of the videos start from.",
    "runs": "Give the folder of a finished run, or a folder of such folders.",
    "source": "Give a folder of features, or an HDF5 file.",
    "support": "Give a folder with one subfolder of labelled videos per class.",
    "test_list": "Give the official list of test videos.",
    "train_list": "Give the official list of training videos.",
    "flow": "Give the folder of flow files of these clips.",
    "sources": "Give a list of videos, a folder of lists, or a folder of videos.",
    "videos": "Give a folder of videos, or a list of them (CSV, JSONL or a published list).",
}


def path_errors(flag: Flag, value: Any) -> Iterator[VfcError]:
    """What is wrong with the paths that a flag was given; nothing for a flag that names no path.

    MissingPath, NotAStore: an input that does not exist or is no store. ReadOnlyTarget, BadInput: an output that cannot
    be written.
    """
    if flag.scalar is Path:
        for path in value if isinstance(value, tuple) else (value,):
            if path is not None:
                yield from _errors(flag.name, flag.spelled, path)


def check_words(words: Sequence[str]) -> None:
    """Check the paths on a command line by the names of their flags alone, before the command is imported.

    A value with commas waits until the type of its flag is known.

    Raises:
        MissingPath, NotAStore, ReadOnlyTarget, BadInput: see `path_errors`.
    """
    if {"-h", "--help", "--print-config"} & set(words):
        return
    errors: list[VfcError] = []
    for word, following in itertools.pairwise([*words, ""]):
        flag, equals, value = word.partition("=")
        path = value if equals else following
        if flag.startswith("--") and path and "," not in path:
            errors += _errors(flag[2:].replace("-", "_"), flag, Path(path))
    if errors:
        raise combined(errors)


def _errors(name: str, spelled: str, path: Path) -> Iterator[VfcError]:
    scheme = _SCHEME.match(str(path))
    if scheme and name in (*_STORES, *_OUTPUTS, *_INPUTS) and not path.exists():
        # A path keeps one slash of two: without this, `--out s3://bucket` would make a folder called `s3:`.
        yield BadInput(
            f"{spelled} {scheme[1]}://{str(path)[scheme.end() :].lstrip('/')} is a URL, and only paths of this machine "
            "are read and written.",
            "Copy it here and give that path, or write here and copy the result.",
        )
    elif name in _STORES:
        from vfc.cache_schema.root import read_root

        try:
            read_root(path)
        except (MissingPath, NotAStore) as error:  # a damaged store is for the command to report
            yield error
    elif name in _OUTPUTS:
        yield from _output_errors(spelled, path)
    elif name in _INPUTS and not path.exists():
        yield MissingPath(f"{spelled} {path} does not exist.", _INPUTS[name])


def _output_errors(spelled: str, path: Path) -> Iterator[VfcError]:
    """What is wrong with a file or folder to write: its nearest existing folder must take writes."""
    nearest = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    if nearest != path and not nearest.is_dir():
        yield BadInput(f"{spelled} {path} lies below {nearest}, which is a file.", f"Give another {spelled}.")
    elif not os.access(nearest, os.W_OK):
        yield ReadOnlyTarget(f"{spelled} {path} cannot be written: {nearest} is read-only.", f"Give another {spelled}.")
