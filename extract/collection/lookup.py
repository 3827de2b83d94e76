"""From what a list says to the file it means, below a root that may be arranged in another way than the list."""

from __future__ import annotations

import os
import posixpath
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Final

from vfc.cache_schema.annotations.lists import spelling
from vfc.cache_schema.errors import BadInput

from .listing import Row
from .tree import walk
from .video import is_video, name_of

_KINETICS: Final = re.compile(r"(?P<id>.{11})_\d{6}_\d{6}")


class Lookup:
    """Finds files below `root`. In order: the path as written; the same stem in a folder of the same name (whatever
    the suffix; case, blanks and underscores do not count); the same stem anywhere, if it is there once; for Kinetics
    the 11 letters of the clip's id."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def find(self, row: Row) -> str | None:
        """The path below the root of the file that `row` means; None where there is none.

        Raises:
            BadInput: it lies outside of the root, or several files fit.
        """
        written = self._below_root(row)
        if row.exact and (self.root / written).is_file():
            return written
        path = PurePosixPath(written)
        stem = path.stem if is_video(path.name) else path.name
        for candidates in self._candidates(stem):
            near = [c for c in candidates if spelling(PurePosixPath(c).parent.name) == spelling(path.parent.name)]
            fitting = near or candidates
            if len(fitting) == 1:
                return fitting[0]
            if fitting:
                raise BadInput(
                    f"{row.where}: {row.path!r} fits several files: {', '.join(sorted(fitting)[:3])}.",
                    "Write the path with its suffix, or give a --root that holds one of them.",
                )
        return None

    def written(self, row: Row) -> str:
        """Where a missing file should be, below the root; raises as `find` does."""
        return self._below_root(row)

    def _below_root(self, row: Row) -> str:
        path = row.path
        if posixpath.isabs(path):
            path = os.path.relpath(path, self.root.absolute()) if _inside(path, self.root) else ".."
        path = posixpath.normpath(path)
        if path == ".." or path.startswith("../"):
            raise BadInput(
                f"{row.where}: {row.path!r} lies outside of {self.root}.", "Give a --root above all listed videos."
            )
        return path

    def _candidates(self, stem: str) -> Iterator[list[str]]:
        yield self._by_stem.get(name_of(stem), [])
        yield self._by_spelling.get(spelling(name_of(stem)), [])
        kinetics = _KINETICS.fullmatch(stem)
        if kinetics:
            yield self._by_id.get(kinetics["id"], [])

    @cached_property
    def _videos(self) -> tuple[str, ...]:
        return walk(self.root).videos

    @cached_property
    def _by_stem(self) -> dict[str, list[str]]:
        return _grouped((name_of(PurePosixPath(v).stem), v) for v in self._videos)

    @cached_property
    def _by_spelling(self) -> dict[str, list[str]]:
        return _grouped((spelling(stem), v) for stem, found in self._by_stem.items() for v in found)

    @cached_property
    def _by_id(self) -> dict[str, list[str]]:
        whole = ((PurePosixPath(v).stem, v) for v in self._videos)
        return _grouped((stem[:11], v) for stem, v in whole if len(stem) == 11 or stem[11] == "_")


def _inside(path: str, root: Path) -> bool:
    return Path(path).is_relative_to(root.absolute())


def _grouped(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for key, value in pairs:
        groups[key].append(value)
    return dict(groups)
