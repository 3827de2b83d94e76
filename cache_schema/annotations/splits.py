"""Splits where none are given: by class for few-shot, by video for classification."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from zlib import crc32

import numpy as np

from vfc.cache_schema.values.errors import BadInput, unknown_name

from .groups import groups
from .lists import class_list, class_lists, matching_lists, spelling
from .names import SPLITS
from .rows import Annotations


def with_class_split(
    annotations: Annotations, classes: str | None, *, seed: int, way: int, splits: Sequence[str] = SPLITS
) -> tuple[Annotations, str]:
    """Annotations split by class, as few-shot needs it, and one line that says how.

    `classes` names a built-in list, or is `seeded` for a seeded 60/20/20 split of the classes. None keeps the splits
    that are given, else takes the one built-in list that holds every class, else the seeded split. Every split named
    in `splits` must have `way` classes. Rows without a label go into no split.

    Raises:
        BadInput: classes outside the named list; several lists match; a class in two of the given splits; a split with
            fewer classes than `way`, with the largest possible way.
        UnknownName: no such list.
    """
    if classes is None and annotations.splits():
        _refuse_shared_classes(annotations)
        present = [split for split in splits if split in annotations.splits()]
        return annotations, _checked(annotations, way, present, "Splits as given")
    labels = annotations.labels()
    chosen = classes or _only_match(labels)
    if chosen == "seeded":
        parts = _parts(labels, np.random.default_rng(_seed(seed)))
        how = f"Classes split 60/20/20 at random (seed {seed})"
    else:
        if chosen not in class_lists():
            raise unknown_name("class list", chosen, [*class_lists(), "seeded"])
        split_of = {spelling(name): split for split, names in class_list(chosen).items() for name in names}
        outside = [label for label in labels if spelling(label) not in split_of]
        if outside:
            raise BadInput(
                f"{len(outside)} of {len(labels)} classes are not in the list {chosen}: {_some(outside)}.",
                f"Built-in lists: {', '.join(class_lists())}; --classes seeded splits any classes.",
            )
        parts = {label: split_of[spelling(label)] for label in labels}
        how = f"Classes split by the built-in list {chosen}"
    rows = tuple(dataclasses.replace(row, split=parts.get(row.label, "")) for row in annotations.rows)
    split = Annotations(rows)
    return split, _checked(split, way, splits, how)


def with_video_split(
    annotations: Annotations, *, seed: int, content: Mapping[str, str] | None = None
) -> tuple[Annotations, str]:
    """Annotations split 60/20/20 within every class, as classification needs it, and one line that says how.

    Splits that are given are kept. Groups of videos stay together (see `groups`): a group counts for the first of its
    labels. `content`: name -> SHA-256 of its file, where known.
    """
    if annotations.splits():
        return annotations, _said(annotations, "Splits as given")
    grouping = groups((row for row in annotations.rows if row.label), content)
    label_of: dict[str, str] = {}
    for row in annotations.rows:
        if row.label:
            group = grouping.of[row.name]
            label_of[group] = min(row.label, label_of.get(group, row.label))
    groups_of: dict[str, list[str]] = {}
    for group in sorted(label_of):
        groups_of.setdefault(label_of[group], []).append(group)
    parts: dict[str, str] = {}
    for label, names in groups_of.items():
        parts |= _parts(names, np.random.default_rng([_seed(seed), crc32(label.encode())]))
    rows = (
        dataclasses.replace(row, split=parts[grouping.of[row.name]] if row.label else "") for row in annotations.rows
    )
    split = Annotations(tuple(rows))
    line = _said(split, f"Videos of every class split 60/20/20 at random (seed {seed})")
    return split, " ".join(filter(None, (line, grouping.line())))


def _seed(seed: int) -> int:
    if seed < 0:
        raise BadInput(f"A split cannot be drawn with the seed {seed}.", "Seeds start at 0.")
    return seed


def _parts(names: Sequence[str], generator: np.random.Generator) -> dict[str, str]:
    """Name -> split, 60/20/20: val and test get a fifth each, rounded, at least one from 3 names up."""
    fifth = max(1, math.floor(len(names) / 5 + 0.5)) if len(names) > 2 else 0
    tested = fifth or len(names) // 2
    order = [names[i] for i in generator.permutation(len(names))]
    trained = len(names) - fifth - tested
    return dict(zip(order, ["train"] * trained + ["val"] * fifth + ["test"] * tested, strict=True))


def _only_match(labels: Sequence[str]) -> str:
    """The built-in list that holds every class, or `seeded`."""
    matches = matching_lists(labels)
    if len(matches) > 1:
        raise BadInput(
            f"The {len(labels)} classes are in several built-in lists: {', '.join(matches)}.",
            "Name one with --classes, or give --classes seeded.",
        )
    return matches[0] if matches else "seeded"


def _refuse_shared_classes(annotations: Annotations) -> None:
    splits_of: dict[str, set[str]] = {}
    for row in annotations.rows:
        if row.label and row.split:
            splits_of.setdefault(row.label, set()).add(row.split)
    shared = sorted(label for label, splits in splits_of.items() if len(splits) > 1)
    if shared:
        raise BadInput(
            f"{len(shared)} classes stand in more than one split: {_some(shared)}. Few-shot splits share no class.",
            "Give --classes seeded or the name of a built-in list to split by class, or other --annotations.",
        )


def _checked(annotations: Annotations, way: int, splits: Iterable[str], how: str) -> str:
    counts = {split: len({row.label for row in annotations.rows if row.split == split} - {""}) for split in splits}
    narrow = [split for split in counts if counts[split] < way]
    if narrow:
        counted = ", ".join(f"{split} {count}" for split, count in counts.items())
        largest = min(counts.values())
        untrained = " To score all classes with nothing trained: vfc eval --split all." if largest < 2 else ""
        raise BadInput(
            f"--way {way} needs {way} classes in every split; {how[0].lower()}{how[1:]} there are: {counted}.",
            f"The largest possible way is {largest}; give --way, other --classes or other --annotations.{untrained}",
        )
    return _said(annotations, how)


def _said(annotations: Annotations, how: str) -> str:
    videos = Counter(row.split for row in annotations.rows)
    classes = {split: len({row.label for row in annotations.rows if row.split == split} - {""}) for split in videos}
    counted = [f"{split} {classes[split]} classes, {videos[split]} videos" for split in annotations.splits()]
    if videos[""]:
        counted.append(f"{videos['']} videos in no split")
    return f"{how}: {'; '.join(counted)} (annotations {annotations.digest[:12]})."


def _some(names: Sequence[str], most: int = 5) -> str:
    listed = ", ".join(repr(name) for name in names[:most])
    return listed if len(names) <= most else f"{listed} and {len(names) - most} more"
