"""Which videos are trained on and which are tested, and which classes they may be of."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final
from zlib import crc32

import numpy as np

from vfc.cache_schema.annotations import Annotation, Annotations, load, with_video_split
from vfc.cache_schema.annotations.groups import Groups, groups
from vfc.cache_schema.annotations.lists import spelling
from vfc.cache_schema.annotations.ordered import read_class_list
from vfc.cache_schema.content import content_digests
from vfc.cache_schema.protocol import k_shot
from vfc.cache_schema.reader import StoreReader
from vfc.cache_schema.values.errors import BadInput, unknown_name
from vfc.cache_schema.values.progress import Progress
from vfc.cache_schema.values.recipe import canonical
from vfc.cache_schema.values.record import Json
from vfc.heads.data.store_view import DividedRows, rows_in_use, split_rule

from .config import Config
from .official import with_lists

Rows = tuple[Annotation, ...]
GIVEN: Final = "Splits as given"


@dataclass(frozen=True)
class Listed:
    """Labelled videos in order of their names, and the classes among which each is to be found."""

    rows: Rows
    names: tuple[str, ...]

    @property
    def videos(self) -> list[str]:
        """The names of the videos."""
        return [row.name for row in self.rows]

    @property
    def labels(self) -> list[int]:
        """For each row the place of its class in `names`."""
        place = {name: i for i, name in enumerate(self.names)}
        return [place[row.label] for row in self.rows]

    @property
    def digest(self) -> str:
        """SHA-256 of the classes in order and of the videos with their labels."""
        content: Json = {"names": [*self.names], "videos": [[row.name, row.label] for row in self.rows]}
        return hashlib.sha256(canonical(content)).hexdigest()

    def of(self, names: Iterable[str]) -> Listed:
        """These classes alone, in the order given, and their videos."""
        classes = tuple(names)
        return Listed(tuple(row for row in self.rows if row.label in set(classes)), classes)


@dataclass(frozen=True)
class Lists:
    """The videos of a run: `train`, `val` (perhaps empty), and by group (`test`; `base`, `novel`) what is tested.

    `class_names` is the whole class list in order, also classes without a video here.
    """

    train: Listed
    val: Listed
    tests: dict[str, Listed]
    class_names: tuple[str, ...]


def divided(config: Config, reader: StoreReader, progress: Progress) -> DividedRows:
    """The videos in use of the store that is trained on, with the splits that hold in this run.

    Raises:
        BadInput: no labelled video with a record; two ways of saying what is tested.
        UnknownName: no such annotations, or no such fold.
    """
    _refuse_crossed(config)
    rows = rows_in_use(load(reader.root, config.annotations, progress.say), reader, progress)
    if config.test_cache is None:
        return _split(rows, reader, config, progress)
    if rows.splits():
        return DividedRows(rows, GIVEN)
    return DividedRows(Annotations(tuple(replace(row, split="train") for row in rows.rows)), "all videos train")


def lists(
    config: Config,
    rows: Annotations,
    reader: StoreReader,
    other: StoreReader | None,
    *,
    seed: int,
    progress: Progress,
) -> Lists:
    """The lists of a run, from the rows of `reader` that `divided` gave.

    `other` is the store to test on, where it is another one; `seed` that of the training.

    Raises:
        BadInput: nothing to test; a class outside the class list; too few videos of a class, see `k_shot`.
    """
    listed = read_class_list(config.class_list) if config.class_list is not None else ()
    tested = _part(rows, "test")
    if other is not None:
        other_rows = rows_in_use(
            load(other.root, config.test_annotations or config.annotations, progress.say), other, progress
        )
        tested = _part(other_rows, "test") or other_rows.rows
    if not tested:
        raise BadInput(
            "The annotations name no video to test on.", "Give --annotations with a test split, --fold or --test-cache."
        )
    trained = _part(rows, "train")
    train, tests = _in_protocol(config, trained, tested, listed)
    val = Listed(_part(rows, "val"), ()).of(train.names)
    if config.val_fraction:
        train, val = _held_out(train, config.val_fraction, config.split_seed, content_digests(reader))
    if config.shots:
        train = _shots(train, config, seed)
    progress.say(_counted(train, val, tests))
    names = {row.label for row in (*trained, *tested)}
    return Lists(train, val, tests, listed or tuple(sorted(names)))


def _refuse_crossed(config: Config) -> None:
    """What is tested is another store or a part of this one, not both."""
    parts = {"--fold": config.fold, "--train-list": config.train_list, "--test-list": config.test_list}
    flags = [flag for flag, value in parts.items() if value]
    if config.test_cache is not None and flags:
        raise BadInput(
            f"--test-cache and {flags[0]} both say what is tested.",
            "Give one of them; beside --test-cache, the train split of the annotations is trained on.",
        )
    if config.test_cache is None and config.test_annotations:
        raise BadInput(
            "--test-annotations is given without --test-cache.",
            "They are the annotations of another store; those of this one are --annotations.",
        )


def _in_protocol(
    config: Config, trained: Rows, tested: Rows, listed: Sequence[str]
) -> tuple[Listed, dict[str, Listed]]:
    """The training videos and what is tested, each with its classes."""
    train_labels, test_labels = {row.label for row in trained}, {row.label for row in tested}
    if config.protocol == "base-to-novel":
        base, novel = base_and_novel(trained, _ordered(train_labels, listed))
        every = Listed(tested, ())
        return Listed(trained, ()).of(base), {"base": every.of(base), "novel": every.of(novel)}
    if config.protocol == "zero-shot":
        # Another data set has another class list; its order means nothing to a head that goes by the texts.
        order = listed if config.test_cache is None else ()
        return Listed(trained, _ordered(train_labels, listed)), {"test": Listed(tested, _ordered(test_labels, order))}
    names = _ordered(train_labels | test_labels, listed)
    return Listed(trained, names), {"test": Listed(tested, names)}


def base_and_novel(trained: Rows, names: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Classes split in half by how many training videos they have: the more frequent half is base.

    Of an odd number base has one more; among equals the later ones in the class list are base, as in the published
    splits (ViFi-CLIP: with 70 videos in every class of HMDB51, base are the ids 25 to 50).
    """
    counts = Counter(row.label for row in trained)
    order = sorted(names, key=lambda name: counts[name])
    rare = set(order[: len(order) // 2])
    return tuple(n for n in names if n not in rare), tuple(n for n in names if n in rare)


def _split(rows: Annotations, reader: StoreReader, config: Config, progress: Progress) -> DividedRows:
    """Rows with the splits that hold in this run."""
    train, test = config.train_list, config.test_list
    if (train is None) != (test is None) or (train is not None and config.fold):
        raise BadInput(
            "--train-list, --test-list and --fold settle one thing.", "Give both lists, or a fold, or neither."
        )
    if train is not None and test is not None:
        return DividedRows(with_lists(rows, train, test, progress), "by --train-list and --test-list")
    if not config.fold:
        content = {} if rows.splits() else content_digests(reader)
        split, line = with_video_split(rows, seed=config.split_seed, content=content)
        progress.say(line)
        return DividedRows(split, split_rule(line), None if rows.splits() else _shared(groups(rows.rows, content)))
    folds = {row.fold for row in rows.rows} - {""}
    if config.fold not in folds:
        raise unknown_name("fold in the annotations", config.fold, folds)
    parts = {fold: "test" if fold == config.fold else "train" for fold in folds}
    by_fold = Annotations(tuple(replace(row, split=parts.get(row.fold, "")) for row in rows.rows))
    return DividedRows(by_fold, "one fold tested, the others trained on")


def _shared(grouping: Groups) -> int:
    """The number of groups with more than one video."""
    return sum(count > 1 for count in Counter(grouping.of.values()).values())


def _part(rows: Annotations, split: str) -> Rows:
    return tuple(row for row in rows.rows if row.split == split)


def _ordered(labels: Iterable[str], listed: Sequence[str]) -> tuple[str, ...]:
    """Labels in the order of the class list, however they are spelled there; sorted without one."""
    if not listed:
        return tuple(sorted(labels))
    place = {name: i for i, name in enumerate(listed)}
    loose = {spelling(name): i for i, name in enumerate(listed)}
    places = {label: place.get(label, loose.get(spelling(label), -1)) for label in labels}
    outside = sorted(label for label, at in places.items() if at < 0)
    if outside:
        raise BadInput(
            f"{len(outside)} classes are not in the class list of {len(listed)} names: {', '.join(outside[:5])}.",
            "Give the --class-list of this data set, or leave it out.",
        )
    return tuple(sorted(places, key=lambda label: places[label]))


def _held_out(train: Listed, share: float, seed: int, content: Mapping[str, str]) -> tuple[Listed, Listed]:
    """The training videos without, and the share of each class's videos for validation, at least one of two.

    Groups stay together: segments of one file, identical files, groups of the annotations.
    """
    group = groups(train.rows, content).of
    labels: dict[str, str] = {}
    for row in train.rows:  # a group with videos of two classes counts for the first
        labels[group[row.name]] = min(row.label, labels.get(group[row.name], row.label))
    chosen: set[str] = set()
    for label, names in Annotations(train.rows).by_label().items():
        # A share of the groups is a share of the videos where every video is a group of its own.
        together = [name for name in dict.fromkeys(group[name] for name in names) if labels[name] == label]
        np.random.default_rng([seed, crc32(label.encode())]).shuffle(together)
        chosen |= {*together[: min(len(together) - 1, max(1, round(share * len(together))))]} if together else set()
    held_out = {name for name, of_name in group.items() if of_name in chosen}
    rest = tuple(row for row in train.rows if row.name not in held_out)
    return replace(train, rows=rest), replace(train, rows=tuple(r for r in train.rows if r.name in held_out))


def _shots(train: Listed, config: Config, seed: int) -> Listed:
    if not train.rows:
        return train
    shot_seed = config.shot_seed if config.shot_seed is not None else seed
    by_label = k_shot(Annotations(train.rows), config.shots, seed=shot_seed, allow_fewer=config.allow_fewer)
    chosen = {name for names in by_label.values() for name in names}
    return replace(train, rows=tuple(row for row in train.rows if row.name in chosen))


def _counted(train: Listed, val: Listed, tests: dict[str, Listed]) -> str:
    parts = {"training": train, "validation": val, **tests}
    return "Videos: " + "; ".join(
        f"{len(part.rows)} for {name} ({len(part.names)} classes)" for name, part in parts.items() if part.rows
    )
