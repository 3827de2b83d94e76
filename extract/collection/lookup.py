"""From what a list says to the file it means, below a root that may be arranged in another way than the list."""

from __future__ import annotations

import functools
import posixpath
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Final

from vfc.cache_schema.annotations.lists import spelling
from vfc.cache_schema.values.errors import BadInput

from .listing import Row
from .tree import walk
from .video import folder_label, name_of, stem_of

_KINETICS: Final = re.compile(r"(?P<id>.{11})_\d{6}_\d{6}")


class Lookup:
    """Finds files below `root`: the path as written, and where the list allows it (`Row.search`) what looks like it.

    `suffix`: the same stem in a folder of the same name; case, blanks and underscores do not count. `stem`: besides,
    the same stem in a folder that is none of the listed classes (data sets that come without class folders), and for
    Kinetics the 11 letters of the clip's id.
    """

    def __init__(self, root: Path, rows: Iterable[Row]) -> None:
        self.root = root
        self._classes = {_folder(row.path) for row in rows}

    def find(self, row: Row) -> str | None:
        """The path below the root of the file that `row` means; None where there is none.

        Raises:
            BadInput: it lies outside of the root, or several files fit.
        """
        written = self.written(row)
        if row.search != "stem" and (self.root / written).is_file():
            return written
        if row.search == "nowhere":
            return None
        for candidates in self._candidates(stem_of(written), row.search == "stem"):
            fitting = self._fitting(candidates, _folder(written), row.search == "stem")
            if len(fitting) > 1:
                raise BadInput(
                    f"{row.where}: {row.path!r} fits several files: {', '.join(sorted(fitting)[:3])}.",
                    "Write the path with its suffix, or give a --root that holds one of them.",
                )
            if fitting:
                return fitting[0]
        return None

    def written(self, row: Row) -> str:
        """Where the listed file should be, below the root; raises as `find` does."""
        path = row.path
        if posixpath.isabs(path) and Path(path).is_relative_to(self.root.absolute()):
            path = Path(path).relative_to(self.root.absolute()).as_posix()
        path = posixpath.normpath(path)
        if posixpath.isabs(path) or path == ".." or path.startswith("../"):
            raise BadInput(
                f"{row.where}: {row.path!r} lies outside of {self.root}.", "Give a --root above all listed videos."
            )
        return path

    def _fitting(self, candidates: list[str], folder: str, anywhere: bool) -> list[str]:
        spelled = [(_folder(c), c) for c in candidates]
        near = [c for parent, c in spelled if parent == folder]
        return near or [c for parent, c in spelled if anywhere and parent not in self._classes]

    def _candidates(self, stem: str, by_id: bool) -> Iterator[list[str]]:
        yield self._by_stem.get(name_of(stem), [])
        yield self._by_spelling.get(spelling(name_of(stem)), [])
        kinetics = _KINETICS.fullmatch(stem)
        if kinetics and by_id:
            yield self._by_id.get(kinetics["id"], [])

    @cached_property
    def _videos(self) -> tuple[str, ...]:
        return walk(self.root).videos

    @cached_property
    def _by_stem(self) -> dict[str, list[str]]:
        return _grouped((name_of(stem_of(v)), v) for v in self._videos)

    @cached_property
    def _by_spelling(self) -> dict[str, list[str]]:
        return _grouped((spelling(stem), v) for stem, found in self._by_stem.items() for v in found)

    @cached_property
    def _by_id(self) -> dict[str, list[str]]:
        whole = ((stem_of(v), v) for v in self._videos)
        return _grouped((stem[:11], v) for stem, v in whole if stem[11:12] in ("", "_"))


def _folder(path: str) -> str:
    return _spelled(folder_label(path))


_spelled = functools.lru_cache(maxsize=1 << 14)(spelling)


def _grouped(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for key, value in pairs:
        groups[key].append(value)
    return dict(groups)
