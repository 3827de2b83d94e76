"""Published split lists: files that name the videos of one split, a line each, laid onto the videos of a store."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Final

from vfc.cache_schema.annotations import Annotations
from vfc.cache_schema.values.errors import BadInput, MissingPath
from vfc.cache_schema.values.progress import Progress

_NUMBERS: Final = re.compile(r"(\s+\d+)+$")
_FORM: Final = (
    "A list has one video per line: its path below the collection's root, then perhaps numbers (frames, class)."
)


def with_lists(rows: Annotations, train: Path, test: Path, progress: Progress) -> Annotations:
    """The rows with the splits of two lists; a video that neither names is in no split.

    Raises:
        MissingPath: there is no such file.
        BadInput: a list without a video of the store, or a video in both lists.
    """
    stored = _Names(row.name for row in rows.rows)
    parts: dict[str, str] = {}
    for split, path in (("train", train), ("test", test)):
        listed = _listed(path)
        names = {name for name in map(stored.find, listed) if name is not None}
        if not names:
            raise BadInput(f"None of the {len(listed)} videos that {path} names is in the store.", _FORM)
        twice = sorted(names & parts.keys())
        if twice:
            raise BadInput(f"{twice[0]!r} and {len(twice) - 1} more are in both {train} and {test}.", _FORM)
        parts |= dict.fromkeys(names, split)
        progress.say(f"{path}: {len(names)} of its {len(listed)} videos are in the store, for {split}.")
    return Annotations(tuple(replace(row, split=parts.get(row.name, "")) for row in rows.rows))


def _listed(path: Path) -> list[str]:
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (FileNotFoundError, IsADirectoryError):
        raise MissingPath(f"There is no split list {path}.", _FORM) from None
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is not UTF-8 text (byte {error.start}).", "Save it as UTF-8.") from None
    return [_NUMBERS.sub("", line.strip()).strip(" ,") for line in lines if line.strip()]


class _Names:
    """The names of a store, looked up by whole path, by folder and stem, or by stem, where these are unique."""

    def __init__(self, names: Iterable[str]) -> None:
        self._by_tail: list[dict[str, str | None]] = [{}, {}, {}]
        for name in names:
            for tails, tail in zip(self._by_tail, _tails(name), strict=True):
                tails[tail] = None if tail in tails else name

    def find(self, path: str) -> str | None:
        """The name of the video at a listed path."""
        return next(
            (tails[tail] for tails, tail in zip(self._by_tail, _tails(path), strict=True) if tails.get(tail)), None
        )


def _tails(path: str) -> tuple[str, str, str]:
    """A path, its folder and file without the suffix, its file without the suffix."""
    pure = PurePosixPath(path)
    return path, f"{pure.parent.name}/{pure.stem}", pure.stem
