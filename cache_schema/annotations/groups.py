"""Groups: videos from the same source, which a random split keeps together.

Videos of one group in train and in test would measure how well a source is recognised, not how well a class is.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from .rows import Annotation, source

_CONTENT: Final = "identical content"
_UCF: Final = re.compile(r"(?:.*/)?(?P<group>[^/]+_g\d+)_c\d+(?:\.[^./]+)?")
"""UCF101 cuts the clips `v_<class>_g<group>_c<number>` of one group from one source video."""


def group_of(name: str, group: str = "") -> str:
    """The group of one video: `group` of its row, else the group that a UCF101 name states, else its file.

    Segments `<file>#t=...` are of the group of their file. Identical files under several names need their checksums:
    see `groups`.
    """
    file = source(name)
    match = _UCF.fullmatch(file)
    return group or (match["group"] if match else file)


@dataclass(frozen=True)
class Groups:
    """`of`: name -> group, for every row. `reasons`: why videos are in one group -> how many videos that concerns."""

    of: Mapping[str, str]
    reasons: Mapping[str, int]

    def line(self) -> str:
        """How videos were grouped, in one line; empty where no two videos are in one group."""
        shared = [count for count in Counter(self.of.values()).values() if count > 1]
        if not shared:
            return ""
        reasons = ", ".join(f"{reason} {count}" for reason, count in self.reasons.items())
        return f"{sum(shared)} of {len(self.of)} videos are in {len(shared)} groups that stay together ({reasons})."


def groups(rows: Iterable[Annotation], content: Mapping[str, str] | None = None) -> Groups:
    """Group videos by the `group` of their rows, by UCF101's names, by file and by content.

    Args:
        rows: of the videos.
        content: name -> SHA-256 of its file, as far as that is known.
    """
    rows, sets = tuple(rows), _DisjointSets()
    reasons: Counter[str] = Counter()
    for (reason, _), names in _members(rows, content or {}).items():
        reasons[reason] += len(names)
        for name in names[1:]:
            sets.join(names[0], name)
    group_names: dict[str, str] = {}
    for row in sorted(rows, key=lambda row: row.name):
        group_names.setdefault(sets.root(row.name), group_of(row.name, row.group))
    return Groups({row.name: group_names[sets.root(row.name)] for row in rows}, dict(sorted(reasons.items())))


def _members(rows: Iterable[Annotation], content: Mapping[str, str]) -> dict[tuple[str, str], list[str]]:
    """(reason, what the videos share) -> the videos, two or more."""
    members: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        file, group = source(row.name), group_of(row.name, row.group)
        shared = [("segments of one file", file), (_CONTENT, content.get(row.name, ""))]
        if row.group or group != file:
            shared.append(("the group column" if row.group else "UCF101 groups", group))
        for reason, value in shared:
            if value:
                members.setdefault((reason, value), []).append(row.name)
    # Segments of one file have one content, which is no other reason.
    return {
        key: names
        for key, names in members.items()
        if len(names) > 1 and (key[0] != _CONTENT or len({source(name) for name in names}) > 1)
    }


class _DisjointSets:
    """Names in disjoint sets; the root of a set is its first name in order."""

    def __init__(self) -> None:
        self._parents: dict[str, str] = {}

    def root(self, name: str) -> str:
        """The root of the set of a name."""
        while self._parents.setdefault(name, name) != name:
            self._parents[name] = self._parents[self._parents[name]]
            name = self._parents[name]
        return name

    def join(self, one: str, other: str) -> None:
        """Make one set of the sets of two names."""
        first, second = sorted((self.root(one), self.root(other)))
        self._parents[second] = first
