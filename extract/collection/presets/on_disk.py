"""A preset on disk: its videos below a root, what is missing, and the digest with and without these."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Final

from vfc.cache_schema.values.errors import BadInput, MissingPath
from vfc.extract.collection.document import ListOptions
from vfc.extract.collection.listed import listed_rows, located
from vfc.extract.collection.listing import Row
from vfc.extract.collection.lookup import Lookup
from vfc.extract.collection.video import Collection, stem_of

from .members import Member, members_digest, packaged
from .preset import Preset

_BREAKFAST: Final = re.compile(r"(?P<person>P\d+)_(?P<camera>[a-z]+)(?P<number>\d+)_(?P<file>P\d+_\w+)")


@dataclass(frozen=True)
class Check:
    """The videos of a preset, and those of them that have no file below the root."""

    preset: Preset
    members: tuple[Member, ...]
    missing: tuple[Member, ...]

    @cached_property
    def present(self) -> tuple[Member, ...]:
        """The videos that are there."""
        missing = set(self.missing)
        return tuple(member for member in self.members if member not in missing)

    def counts(self) -> list[tuple[str, str, int, int]]:
        """(split, class, listed, there), in order of split and class; a class of all classes is ''."""
        listed, present = (Counter((m.split, m.label) for m in members) for members in (self.members, self.present))
        return [(*key, listed[key], present[key]) for key in sorted(listed, key=lambda k: (_ORDER.index(k[0]), k[1]))]

    @property
    def digest(self) -> str:
        """Of the whole list."""
        return members_digest(self.members)

    @property
    def digest_there(self) -> str:
        """Of the videos that are there."""
        return members_digest(self.present)


_ORDER: Final = ("train", "val", "test", "")


def listed_members(preset: Preset, lists: Sequence[Path] = (), class_list: Path | None = None) -> tuple[Member, ...]:
    """The videos of a preset: packaged, or those of the official lists.

    Raises:
        BadInput: the lists of this data set are not packaged, and none are given; see also `listed_rows`.
    """
    return tuple(sorted({member for member, _ in _rows(preset, lists, class_list)}))


def check(preset: Preset, root: Path, lists: Sequence[Path] = (), class_list: Path | None = None) -> Check:
    """Look for every video of a preset below `root`, wherever it lies there; raises as `preset_collection` does."""
    pairs = _rows(preset, lists, class_list)
    lookup = _lookup(root, pairs)
    missing = [member for member, rows in pairs if not any(lookup.locate(row) for row in rows)]
    return Check(preset, tuple(sorted({member for member, _ in pairs})), tuple(sorted(set(missing))))


def preset_collection(
    preset: Preset, root: Path | None, lists: Sequence[Path] = (), class_list: Path | None = None
) -> Collection:
    """The collection of a preset, with the splits and labels of its list.

    Raises:
        MissingPath: there is no such root.
        BadInput: no root, no lists where they are needed, none of the videos below the root.
    """
    if root is None:
        raise BadInput(f"--dataset {preset.name} is given without --root.", "Say where its videos are: --root DIR.")
    pairs = _rows(preset, lists, class_list)
    lookup = _lookup(root, pairs)
    rows = [next((row for row in own if lookup.locate(row)), own[0]) for _, own in pairs]
    collection = located(rows, root, must_exist=True)
    digest = members_digest(member for member, _ in pairs)
    note = f"{preset.title}: {len(pairs):,} videos, digest {digest[:12]} of the list."
    if collection.missing:
        note += f" Digest of those that are there: vfc datasets check {preset.name} --root {root}."
    return replace(collection, notes=(note, *collection.notes))


def _lookup(root: Path, pairs: Sequence[tuple[Member, tuple[Row, ...]]]) -> Lookup:
    if not root.is_dir():
        raise MissingPath(f"There is no folder {root} to look for the videos in.", "Give an existing --root.")
    return Lookup(root, [row for _, rows in pairs for row in rows], any_path=True)


def _rows(preset: Preset, lists: Sequence[Path], class_list: Path | None) -> tuple[tuple[Member, tuple[Row, ...]], ...]:
    """Every video with the rows that may locate it, the likeliest first."""
    if preset.table:
        if lists:
            raise BadInput(
                f"--dataset {preset.name} has its list already, and {lists[0]} is given.",
                "Leave --dataset-list out; for another list give --videos LIST --root DIR.",
            )
        return tuple((member, _packaged_rows(preset, member)) for member in packaged(preset.table, preset.column))
    if not lists:
        raise BadInput(
            f"The lists of {preset.title} come with the data set and not with vfc.",
            f"Give them, or their folder: --dataset-list {' '.join(preset.files)}.",
        )
    rows = listed_rows(lists, ListOptions("", class_list))
    rows = [row for row in rows if row.label]
    if not any(row.split == "test" for row in rows):  # papers test on the validation list
        rows = [replace(row, split="test") if row.split == "val" else row for row in rows]
    return tuple((Member(row.split, row.label, stem_of(row.path)), (row,)) for row in rows)


def _packaged_rows(preset: Preset, member: Member) -> tuple[Row, ...]:
    path = preset.path.format(label=member.label, id=member.id) + preset.suffix
    flat = Row(path, member.label, member.split, preset.name, "id")
    parts = _BREAKFAST.fullmatch(member.id) if preset.table == "breakfast" else None
    if parts is None:
        return (flat,)
    # As downloaded: P03/cam01/P03_cereals.avi; of the stereo camera P03/stereo/P03_cereals_ch0.avi.
    stereo = parts["camera"] == "stereo"
    camera = "stereo" if stereo else parts["camera"] + parts["number"]
    folder = f"{parts['person']}/{camera}/{parts['file']}"
    in_folders = replace(flat, path=f"{folder}{preset.suffix}", search="nowhere")
    channel = replace(flat, path=f"{folder}_ch0{preset.suffix}", search="nowhere")
    return (flat, in_folders, *((channel,) if stereo else ()))
