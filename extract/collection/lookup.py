"""From a row of a list to the file that it means, below a root that may be arranged differently than the list."""

from __future__ import annotations

import functools
import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Final, TypeVar

from vfc.cache_schema.annotations.lists import spelling
from vfc.cache_schema.values.errors import BadInput

from .frame_folder import is_frame_folder
from .listing import Row, Search
from .tree import walk
from .video import folder_label, name_of, stem_of

_KINETICS: Final = re.compile(r"(?P<id>.{11})_(?P<start>\d+)_(?P<end>\d+)")

_Key = TypeVar("_Key")


class Lookup:
    """Locates files below `root`: at the path as written, or at a similar one, as far as `Row.search` allows.

    `suffix`: the same stem in a folder of the same name; case, blanks and underscores do not count. `stem`: also the
    same stem in a folder that is none of the listed classes (data sets that come without class folders), and for
    Kinetics the 11 letters of the clip's id, alone or with the same seconds. `id`: the same in any folder. A folder of
    numbered pictures is found as a file is. `any_path`: whether a row may name a path outside of the root, for a list
    whose videos need not be there.
    """

    def __init__(self, root: Path, rows: Iterable[Row], *, any_path: bool = False) -> None:
        rows = tuple(rows)
        self.root, self._any_path = root, any_path
        self._classes = {_folder(row.path) for row in rows}
        self._clips_of_id = Counter(_clip_id(path) for path in {row.path for row in rows})

    def locate(self, row: Row) -> str | None:
        """The path below the root of the file that `row` means; None where there is none.

        Raises:
            BadInput: it lies outside of the root, or several files fit.
        """
        moved = self._below_root(row) if row.search in ("suffix", "id") else None
        path = self.expected_path(row) if moved is None else moved
        if row.search != "stem" and _is_there(self.root / path):
            return path
        if row.search == "nowhere":
            return None
        for candidates in self._candidates(row, path):
            matches = self._in_folder(candidates, path, row.search)
            if len(matches) > 1:
                raise BadInput(
                    f"{row.where}: {row.path!r} fits several files: {', '.join(sorted(matches)[:3])}.",
                    "Write the path with its suffix, or give a --root that holds one of them.",
                )
            if matches:
                return matches[0]
        return None

    def expected_path(self, row: Row) -> str:
        """Where the listed file should be, below the root; raises as `locate` does."""
        path = row.path
        if posixpath.isabs(path) and Path(path).is_relative_to(self.root.absolute()):
            path = Path(path).relative_to(self.root.absolute()).as_posix()
        path = posixpath.normpath(path)
        if not self._any_path and (posixpath.isabs(path) or path == ".." or path.startswith("../")):
            raise BadInput(
                f"{row.where}: {row.path!r} lies outside of {self.root}.", "Give a --root above all listed videos."
            )
        return path

    def _below_root(self, row: Row) -> str | None:
        """The end of an absolute path of another machine that is there below the root."""
        parts = posixpath.normpath(row.path).split("/")
        if not posixpath.isabs(row.path) or Path(row.path).is_relative_to(self.root.absolute()):
            return None
        ends = ("/".join(parts[i:]) for i in range(1, len(parts)))
        return next((end for end in ends if end and _is_there(self.root / end)), None)

    def _in_folder(self, candidates: list[str], path: str, search: Search) -> list[str]:
        parents = [(_folder(candidate), candidate) for candidate in candidates]
        matches = [candidate for parent, candidate in parents if parent == _folder(path)]
        if matches or search == "suffix":
            return matches
        if search == "id":
            return candidates
        return [candidate for parent, candidate in parents if parent not in self._classes]

    def _candidates(self, row: Row, path: str) -> Iterator[list[str]]:
        for stem in (stem_of(path), *row.other_stems):
            yield self._by_stem.get(name_of(stem), [])
            yield self._by_spelling.get(spelling(name_of(stem)), [])
        if row.search == "id" and len(stem_of(path)) == 11:  # a list that names clips of Kinetics without their times
            yield self._by_youtube_id.get(stem_of(path), [])
        clip = _KINETICS.fullmatch(stem_of(path))
        if clip and row.search in ("stem", "id"):
            if self._clips_of_id[clip["id"]] <= 1 or row.search == "stem":
                yield self._by_id.get((clip["id"], None), [])
            yield self._by_id.get((clip["id"], (int(clip["start"]), int(clip["end"]))), [])

    @cached_property
    def _by_stem(self) -> dict[str, list[str]]:
        return _grouped((name_of(stem_of(path)), path) for path in walk(self.root).videos)

    @cached_property
    def _by_spelling(self) -> dict[str, list[str]]:
        return _grouped((spelling(stem), path) for stem, paths in self._by_stem.items() for path in paths)

    @cached_property
    def _by_id(self) -> dict[tuple[str, tuple[int, int] | None], list[str]]:
        """(id, seconds) -> paths; without seconds for files that are named by the id alone."""
        pairs: list[tuple[tuple[str, tuple[int, int] | None], str]] = []
        for path in (path for paths in self._by_stem.values() for path in paths):
            stem = stem_of(path)
            clip = _KINETICS.fullmatch(stem)
            if clip:
                pairs.append(((clip["id"], (int(clip["start"]), int(clip["end"]))), path))
            elif len(stem) == 11:
                pairs.append(((stem, None), path))
        return _grouped(pairs)

    @cached_property
    def _by_youtube_id(self) -> dict[str, list[str]]:
        return _grouped((key[0], path) for key, paths in self._by_id.items() for path in paths)


def _is_there(path: Path) -> bool:
    return path.is_file() or is_frame_folder(path)


def _clip_id(path: str) -> str:
    clip = _KINETICS.fullmatch(stem_of(path))
    return clip["id"] if clip else ""


def _folder(path: str) -> str:
    return _cached_spelling(folder_label(path))


_cached_spelling = functools.lru_cache(maxsize=1 << 14)(spelling)


def _grouped(pairs: Iterable[tuple[_Key, str]]) -> dict[_Key, list[str]]:
    groups: defaultdict[_Key, list[str]] = defaultdict(list)
    for key, value in pairs:
        groups[key].append(value)
    return dict(groups)
