"""What a task on sequences states of its data: streams, set of videos, digests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from vfc.cache_schema.annotations import near_equal_warning
from vfc.cache_schema.values.progress import Progress
from vfc.cache_schema.values.recipe import digest
from vfc.cache_schema.values.record import ArraySpec, Json
from vfc.heads.data.facts import identical_videos, set_facts, view_facts
from vfc.heads.data.store_view import StoreView

from .dataset import SequenceDataset
from .ground_truth import GroundTruth, digest_of


def sequence_specs(store: StoreView, class_names: Sequence[str]) -> dict[str, ArraySpec]:
    """The streams of a head on sequences: `visual [None, D]`, and the number of classes."""
    return {**store.specs, "classes": ArraySpec("classes", "int64", (len(class_names),))}


def sequence_facts(
    store: StoreView, truth: GroundTruth, parts: Mapping[str, SequenceDataset], progress: Progress
) -> dict[str, Json]:
    """See `data.facts`. The set of videos is that of all splits, with the class ids of every frame."""
    warning = near_equal_warning(truth.class_names)
    if warning:
        progress.say(warning)
    pairs = [pair for videos in parts.values() for pair in zip(videos.names, videos.labels, strict=True)]
    labels = sorted(pairs, key=lambda pair: pair[0])
    counts: Counter[str] = Counter()
    for _, ids in labels:
        counts.update(truth.class_names[i] for i in np.unique(ids))
    return {
        **set_facts(store),
        "videos_digest": digest_of(labels),
        "clips_per_class": dict(sorted(counts.items())),
        "classes_digest": digest([*truth.class_names]),
        **view_facts(store.reader, train=[0], test=[0]),
        "centring": "none",
        **identical_videos(store.reader, parts["train"].names, parts["test"].names, progress),
    }


def labels_digest(datasets: Sequence[SequenceDataset]) -> str:
    """Digest of the class ids of all videos."""
    return digest_of((name, ids) for videos in datasets for name, ids in zip(videos.names, videos.labels, strict=True))
