"""The packaged lists: which videos of a data set each preset has, in which split, of which class.

`lists/<table>.txt.xz` has one line `#<TAB>column<TAB>...` that names the presets, then blocks: a line
`codes<TAB>class`, one code per column (`r` train, `v` val, `t` test, `-` not in it), and one line per video id.
A class/id pair is a fact; the data sets stay under the terms of their owners.
"""

from __future__ import annotations

import hashlib
import lzma
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

_FOLDER: Final = Path(__file__).parent / "lists"
_SPLITS: Final = {"r": "train", "v": "val", "t": "test"}


class Member(NamedTuple):
    """One video of a preset. `id` is the stem of its file, or the id by which the data set names it."""

    split: str
    label: str
    id: str


@cache
def packaged(table: str, column: str) -> tuple[Member, ...]:
    """The videos of one column of a packaged list, sorted by split, class and id."""
    header, *lines = lzma.decompress((_FOLDER / f"{table}.txt.xz").read_bytes()).decode("utf-8").splitlines()
    place = header.split("\t")[1:].index(column)
    members: list[Member] = []
    split = label = ""
    for line in lines:
        codes, tab, name = line.partition("\t")
        if tab:
            split, label = _SPLITS.get(codes[place], ""), name
        elif split:
            members.append(Member(split, label, line))
    return tuple(sorted(members))


def members_digest(members: Iterable[Member]) -> str:
    """SHA-256 of the sorted lines `split<TAB>class<TAB>id`, in hex: the same wherever the files lie."""
    text = "".join(f"{member.split}\t{member.label}\t{member.id}\n" for member in sorted(set(members)))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
