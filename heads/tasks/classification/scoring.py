"""Scores of videos by a classifier, averaged over their views: of test videos and of new ones."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vfc.cache_schema.values.devices import on_device
from vfc.cache_schema.values.errors import BadInput
from vfc.cache_schema.values.progress import Progress
from vfc.heads.data.prefetch import stream

from .contract import ClassifierHead, ClipBatch
from .dataset import AT_TEST, ClipDataset, shuffled


@dataclass(frozen=True)
class Scoring:
    """How videos are scored: records per batch, what is averaged over views, the seed of shuffled frames if any."""

    batch: int
    device: torch.device
    view_sum: Literal["logits", "probabilities"] = "logits"
    shuffle_seed: int | None = None


Averages = tuple[npt.NDArray[np.float64], dict[str, npt.NDArray[np.float64]]]


@torch.no_grad()
def average_scores(
    heads: Sequence[ClassifierHead],
    clips: ClipDataset,
    names: Sequence[str],
    labels: Sequence[int],
    classes: Mapping[str, Tensor],
    scoring: Scoring,
    progress: Progress,
) -> list[Averages]:
    """Of each head: scores `[V, C]` of every video, and further figures of each: name -> `[V]`; see `ClipBatch`.

    The videos are read once for all heads.

    Raises:
        BadInput: scores that are no numbers.
    """
    place, device = torch.tensor(labels, dtype=torch.int64), scoring.device
    item = torch.from_numpy(np.repeat(np.arange(len(clips.names)), clips.views))
    parts = np.array_split(np.arange(len(item)), max(1, -(-len(item) // scoring.batch)))
    sums = torch.zeros(len(heads), len(clips.names), len(names), dtype=torch.float64)
    usage: list[dict[str, Tensor]] = [{} for _ in heads]
    with contextlib.closing(stream(clips.sources, ((rows, clips.index(rows)) for rows in parts))) as batches:
        for rows, values in batches:
            items = item[rows]
            frames = values
            if scoring.shuffle_seed is not None:
                frames = shuffled(values, clips.orders(rows, scoring.shuffle_seed, AT_TEST))
            batch = ClipBatch(frames, on_device(place[items], device), tuple(names), classes)
            for head, of_head, used in zip(heads, sums, usage, strict=True):
                scores = head.scores(batch)
                if scoring.view_sum == "probabilities":
                    scores = scores.float().softmax(dim=-1)
                of_head.index_add_(0, items, scores.cpu().double())
                for name, figures in (head.usage(batch) or {}).items():
                    total = used.setdefault(name, torch.zeros(len(clips.names), dtype=torch.float64))
                    total.index_add_(0, items, figures.cpu().double())
            progress.advance(int((clips.first[items.numpy()] == rows).sum()))
    _refuse_unscored(sums, clips.names)
    count = torch.from_numpy(clips.views)
    averages = (sums / count[:, None]).numpy()
    return [
        (average, {name: (total / count).numpy() for name, total in used.items()})
        for average, used in zip(averages, usage, strict=True)
    ]


def _refuse_unscored(scores: Tensor, videos: Sequence[str]) -> None:
    bad = (~torch.isfinite(scores).all(dim=-1).all(dim=0)).nonzero()
    if len(bad):
        raise BadInput(
            f"The scores of {videos[int(bad[0])]!r} are no numbers (NaN or infinite), and of {len(bad) - 1} "
            "more videos.",
            "Train with a lower --lr or --precision fp32; `vfc store verify` finds damaged features.",
        )
