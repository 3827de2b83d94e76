"""The ground truth of sequences: the class of every frame, the class names, the official splits.

A store of imported sequences holds it. For features that were extracted from videos it is read from a folder with
`groundTruth/<video>.txt`, `mapping.txt` and `splits/*.bundle`.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Protocol, cast

import numpy as np

from vfc.cache_schema.annotations import Annotation, Annotations, load
from vfc.cache_schema.exchange.mstcn import read_mapping, read_splits, read_truth
from vfc.cache_schema.reader import StoreReader, open_store
from vfc.cache_schema.values.errors import BadInput, MissingPath, MissingRecord, unknown_name
from vfc.cache_schema.values.record import Key
from vfc.heads.data.arrays import choose_sequence
from vfc.heads.data.store_view import StoreView

from .segments import Ids
from .settings import SequenceSettings


class GroundTruth(Protocol):
    """Class names by id, class ids of a video's frames, and the videos of a split."""

    class_names: tuple[str, ...]

    def ids(self, name: str) -> Ids:
        """Class ids `[n]` of a video by its name in the store; MissingRecord where it has none."""

    def annotations(self, split: str) -> Annotations:
        """The rows of a split, with the names of the store; UnknownName that lists the splits."""


class StoreGroundTruth:
    """As an import keeps it: the array `labels`, `axes/labels-classes.json`, `annotations/split<n>.jsonl`."""

    def __init__(self, reader: StoreReader) -> None:
        content = reader.axes("labels").get("classes")
        if not isinstance(content, dict) or "names" not in content:
            raise BadInput(
                f"The store {reader.root} has no ordered list of classes, so its labels have no names.",
                "Import the sequences with `vfc store import`, which keeps mapping.txt in axes/labels-classes.json; or "
                "give a folder with groundTruth/, mapping.txt and splits/ as --labels.",
            )
        self.class_names = tuple(cast("list[str]", content["names"]))
        self._reader = reader

    def ids(self, name: str) -> Ids:
        """See `GroundTruth`."""
        return np.array(self._reader.view(Key("video", name), "labels"), np.int64)

    def annotations(self, split: str) -> Annotations:
        """See `GroundTruth`."""
        return load(self._reader.root, split)


class FolderGroundTruth:
    """As MS-TCN's folders have it. `P03/cam01/tea.avi` of a store is `tea` there, or `P03_cam01_tea`."""

    def __init__(self, folder: Path, reader: StoreReader) -> None:
        if not (folder / "groundTruth").is_dir():
            raise MissingPath(
                f"There is no folder {folder / 'groundTruth'}.",
                "--labels is a folder with groundTruth/<video>.txt, mapping.txt and splits/*.bundle.",
            )
        self.class_names = read_mapping(folder / "mapping.txt")
        self._files = {path.stem: path for path in sorted((folder / "groundTruth").glob("*.txt"))}
        self._folder = folder
        names = sorted({key.name for key in reader.keys("video")})
        short = [PurePosixPath(name).with_suffix("").name for name in names]
        long = [str(PurePosixPath(name).with_suffix("")).replace("/", "_") for name in names]
        unique = {stem for stem, count in Counter(short).items() if count == 1}
        self._stems = {
            n: a if a in unique and b not in self._files else b for n, a, b in zip(names, short, long, strict=True)
        }
        self._store_names = {b: n for n, b in zip(names, long, strict=True)}
        self._store_names |= {a: n for n, a in zip(names, short, strict=True) if a in unique}

    def ids(self, name: str) -> Ids:
        """See `GroundTruth`."""
        stem = self._stems.get(name, name)
        if stem not in self._files:
            raise MissingRecord(
                f"There is no {self._folder / 'groundTruth' / stem}.txt for {name!r}.",
                "Name the ground truth as the videos are named, or leave the video out of the splits.",
            )
        return read_truth(self._files[stem], self.class_names)

    def annotations(self, split: str) -> Annotations:
        """See `GroundTruth`."""
        splits = read_splits(self._folder / "splits", self._files)
        if split not in splits:
            raise unknown_name(f"split in {self._folder / 'splits'}", split, splits)
        rows = (Annotation(self._store_names.get(row.name, row.name), split=row.split) for row in splits[split])
        return Annotations(tuple(rows))


def digest_of(videos: Iterable[tuple[str, Ids]]) -> str:
    """SHA-256 over names and class ids; it names labels that are not in the store in a result."""
    hasher = hashlib.sha256()
    for name, ids in videos:
        hasher.update(name.encode() + b"\0" + ids.tobytes())
    return hasher.hexdigest()


def resolve_sequences(settings: SequenceSettings) -> tuple[StoreView, GroundTruth]:
    """The sequences of a store with the annotations of the split; their ground truth, from `--labels` or the store.

    Raises:
        UnknownName: no sequences, no such array, or no such split.
        BadInput: several arrays could be meant; no ordered list of classes.
        MissingPath: `--labels` is no folder of labels.
    """
    reader = open_store(settings.cache)
    array = choose_sequence(reader, settings.array, labelled=settings.labels is None)
    truth: GroundTruth = (
        StoreGroundTruth(reader) if settings.labels is None else FolderGroundTruth(settings.labels, reader)
    )
    return StoreView(
        reader, truth.annotations(settings.split_name), {"visual": array}, split_rule="Splits as given"
    ), truth


def stored_names(store: StoreView, split: str) -> list[str]:
    """The videos of a split that the store has."""
    stored = {key.name for key in store.reader.keys("video") if key.view == 0}
    return [row.name for row in store.annotations.rows if row.split == split and row.name in stored]
