"""Windows of sequences as batches: all of one pass in a drawn order, those of like length together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from vfc.cache_schema.values.errors import BadInput

from .contract import IGNORED, Batch, Sampling
from .observed_labels import disturbed, stacked
from .segments import Ids, Window, runs, window
from .sequences import Sequences

_BUCKET: Final = 16
"""Batches whose windows are sorted by length among themselves: little padding, and still another order every pass."""


@dataclass(frozen=True)
class Sample:
    """One window of one video."""

    video: int
    cut: Window


def windows(videos: Sequences, sampling: Sampling, *, full: bool) -> list[Sample]:
    """The training windows of all videos: every ratio from every offset, as far as something is left to predict.

    Raises:
        BadInput: a video that is shorter than the shortest window.
    """
    found = []
    for video in range(len(videos.names)):
        for ratio in sampling.ratios:
            for offset in range(sampling.offsets):
                cut = cut_of(videos, video, ratio, full=full, offset=offset)
                if cut.future > 0:
                    found.append(Sample(video, cut))
    return found


def cut_of(videos: Sequences, video: int, ratio: float, *, full: bool, offset: int = 0) -> Window:
    """The window of one video.

    Raises:
        BadInput: nothing would be observed, or nothing predicted (without an offset).
    """
    frames = len(videos.labels[video])
    cut = window(frames, ratio, stride=videos.stride, full=full, offset=offset)
    if cut.observed < 1 or (cut.future < 1 and not offset):
        raise BadInput(
            f"{videos.names[video]!r} has {frames} label frames: {ratio:g} of it is {max(0, cut.observed)} of "
            f"{'one' if full else videos.stride} frame(s) to observe and {max(0, cut.future)} to predict.",
            "Leave so short a video out of the annotations, or observe more of it; --stride also counts.",
        )
    return cut


def moved(videos: Sequences, samples: Sequence[Sample], draw: np.random.Generator) -> list[Sample]:
    """Training windows with their steps at places drawn within a stride; as they are where there is but one place."""
    if videos.every == videos.stride:
        return list(samples)
    found = []
    for sample in samples:
        frames = len(videos.labels[sample.video])
        places = -(-min(videos.stride, sample.cut.room(frames)) // videos.every)
        phase = int(draw.integers(places)) * videos.every
        found.append(Sample(sample.video, sample.cut.later(phase, frames)))
    return found


def one_pass(lengths: Sequence[int], batch: int, generator: np.random.Generator) -> list[list[int]]:
    """The places of all windows in batches of `batch`, the last one smaller; `lengths` are their observed steps."""
    order = generator.permutation(len(lengths)).tolist()
    batches = []
    for start in range(0, len(order), batch * _BUCKET):
        near = sorted(order[start : start + batch * _BUCKET], key=lengths.__getitem__)
        batches += [near[i : i + batch] for i in range(0, len(near), batch)]
    return [batches[i] for i in generator.permutation(len(batches)).tolist()]


def observed_steps(sample: Sample, stride: int) -> int:
    """S of one window."""
    return -(-sample.cut.observed * sample.cut.unit // stride)


def collate(
    videos: Sequences,
    samples: Sequence[Sample],
    told: Sequence[Ids] | None,
    *,
    device: torch.device,
    learning: bool,
    noise: float = 0.0,
    classes: int = 0,
    draw: np.random.Generator | None = None,
) -> Batch:
    """Windows as one batch; what a head may learn from (past and future classes) only where it is `learning`.

    `noise`: share of the segments of `told` that are changed, by `draw`.
    """
    stride = videos.stride
    seen = [sample.cut.seen(stride) for sample in samples]
    features = [videos.steps(s.video, frames) for s, frames in zip(samples, seen, strict=True)]
    lengths = torch.tensor([len(frames) for frames in seen])
    past, actions, durations = [], [], []
    for sample, frames in zip(samples, seen, strict=True):
        ids = videos.labels[sample.video]
        past.append(ids[frames])
        future, counts = runs(ids[sample.cut.to_come(stride)])
        actions.append(future)
        durations.append(counts / counts.sum())
    if not learning:
        past = [np.full_like(ids, IGNORED) for ids in past]
        actions, durations = [future[:0] for future in actions], [shares[:0] for shares in durations]
    words = None
    if told is not None:
        spoken = [told[s.video][frames // videos.every] for s, frames in zip(samples, seen, strict=True)]
        if noise and draw is not None:
            spoken = [disturbed(ids, noise, classes, draw) for ids in spoken]
        words = _tensor(stacked(spoken, -1), device)
    laid = _tensor(stacked(actions, -1), device)
    shares = torch.zeros(laid.shape)
    for row, values in zip(shares, durations, strict=True):
        row[: len(values)] = torch.from_numpy(values)
    return Batch(
        visual=torch.nn.utils.rnn.pad_sequence(features, batch_first=True),
        valid=(torch.arange(int(lengths.max())) < lengths[:, None]).to(device),
        told=words,
        past=_tensor(stacked(past, IGNORED), device),
        actions=laid,
        durations=shares.to(device),
    )


def _tensor(values: Ids, device: torch.device) -> Tensor:
    return torch.from_numpy(values).to(device)
