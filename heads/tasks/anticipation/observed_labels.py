"""The observed labels that a head reads: the class of every observed step, by a classifier or by the ground truth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from vfc.cache_schema.reader import StoreReader, open_store
from vfc.cache_schema.values.errors import BadInput, MissingPath, RecipeMismatch
from vfc.cache_schema.values.record import Key

from .dataset import SequenceDataset
from .segments import Ids, runs


def labels_folder(root: Path, split: str) -> Path:
    """The folder of the frame classifier's labels of a split: `derived/frame-labels-<split>` of the store."""
    return root / "derived" / f"frame-labels-{Path(split).stem}"


def observed_labels(reader: StoreReader, source: str, split: str, videos: SequenceDataset) -> tuple[list[Ids], str]:
    """Class ids of one frame in `videos.every` of every video, and the digest of the labels.

    `source`: `truth`, `predicted` (by the frame classifier, for this split), or the folder of a store of labels.

    Raises:
        MissingPath: no classifier was trained for this split.
        RecipeMismatch: labels of another split, or of another store's videos: a classifier that has seen test videos.
        MissingRecord: a video without labels.
        BadInput: labels that do not fit the features.
    """
    if source == "truth":
        return [ids[:: videos.every] for ids in videos.labels], "truth"
    folder = labels_folder(reader.root, split) if source == "predicted" else Path(source)
    if not folder.exists():
        raise MissingPath(
            f"There are no predicted labels for {split!r}: {folder} is missing.",
            f"Make them: vfc train-head frame-classifier --cache {reader.root} (the same --fold); or "
            "--observed-labels truth.",
        )
    labels = open_store(folder)
    _require(labels, reader, split)
    records = labels.locate([Key("video", name) for name in videos.names])
    return [_steps(labels, int(record), i, videos) for i, record in enumerate(records)], labels.digest


def _require(labels: StoreReader, reader: StoreReader, split: str) -> None:
    """Refuse labels that were made for another split, or from another store."""
    recipe: dict[str, Any] = dict(labels.recipe.fields)
    stored = {"split": recipe.get("split"), "parent": (recipe.get("parent") or {}).get("digest")}
    expected = {"split": Path(split).stem, "parent": reader.recipe.digest}
    wrong = [f"{n}: {stored[n]} there, {expected[n]} asked" for n in expected if stored[n] != expected[n]]
    if wrong:
        raise RecipeMismatch(
            f"The labels in {labels.root} were predicted for something else: {'; '.join(wrong)}.",
            "A classifier of another split has seen these test videos; train frame-classifier for this split.",
        )


def _steps(labels: StoreReader, record: int, video: int, videos: SequenceDataset) -> Ids:
    """The labels of one video at the rows that are read; stored rows are as dense as those of the features."""
    every = int(labels.metadata(record).get("stride") or 1)  # type: ignore[arg-type]
    ids: Ids = np.array(labels.view(record, "labels"), np.int64)[:: max(1, videos.every // every)]
    count = -(-len(videos.labels[video]) // videos.every)
    if len(ids) < count or videos.every % every:
        raise BadInput(
            f"{videos.names[video]!r} has {len(ids)} predicted labels in {labels.root} for {count} rows.",
            "Train frame-classifier again: the sequences have changed since.",
        )
    return ids[:count]


def disturbed(ids: Ids, share: float, classes: int, draw: np.random.Generator) -> Ids:
    """Labels with about `share` of their segments replaced by a class drawn at random."""
    if not share:
        return ids
    actions, lengths = runs(ids)
    changed = np.where(draw.random(len(actions)) < share, draw.integers(classes, size=len(actions)), actions)
    return np.repeat(changed, lengths)
