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
    rows, content = tuple(rows), content or {}
    parents: dict[str, str] = {}

    def root(node: str) -> str:
        while parents.setdefault(node, node) != node:
            parents[node] = parents[parents[node]]
            node = parents[node]
        return node

    members: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        file, group = source(row.name), group_of(row.name, row.group)
        nodes = [("segments of one file", file), ("content", content.get(row.name, ""))]
        if row.group or group != file:
            nodes.append(("the group column" if row.group else "UCF101 groups", group))
        for reason, value in nodes:
            if value:
                members.setdefault((reason, value), []).append(row.name)
    reasons: Counter[str] = Counter()
    files = {row.name: source(row.name) for row in rows}
    for (reason, _), names in members.items():
        if reason == "content" and len({files[name] for name in names}) == 1:
            continue
        for name in names[1:]:
            first, other = sorted((root(names[0]), root(name)))
            parents[other] = first
        if len(names) > 1:
            reasons["identical content" if reason == "content" else reason] += len(names)
    group_names: dict[str, str] = {}
    for row in sorted(rows, key=lambda row: row.name):
        group_names.setdefault(root(row.name), group_of(row.name, row.group))
    return Groups({row.name: group_names[root(row.name)] for row in rows}, dict(sorted(reasons.items())))
