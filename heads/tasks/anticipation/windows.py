"""Windows of sequences as batches: all of one pass in a drawn order, those of like length together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vfc.cache_schema.values.devices import on_device
from vfc.cache_schema.values.errors import BadInput

from .contract import IGNORED, Sampling, WindowBatch
from .dataset import SequenceDataset
from .segments import Ids, Window, runs, window

_NONE: Final[Ids] = np.zeros(0, np.int64)
_BUCKET: Final = 16
"""Batches whose windows are sorted together by length: little padding, and still another order in every pass."""


@dataclass(frozen=True)
class Sample:
    """One window of one video."""

    video: int
    cut: Window


def windows(videos: SequenceDataset, sampling: Sampling, *, full: bool) -> list[Sample]:
    """The training windows of all videos: every ratio from every offset, as far as something is left to predict.

    Raises:
        BadInput: a video that is shorter than the shortest window.
    """
    samples = [
        Sample(video, cut_of(videos, video, ratio, full=full, offset=offset))
        for video in range(len(videos.names))
        for ratio in sampling.ratios
        for offset in range(sampling.offsets)
    ]
    return [sample for sample in samples if sample.cut.future > 0]


def cut_of(videos: SequenceDataset, video: int, ratio: float, *, full: bool, offset: int = 0) -> Window:
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


def moved(videos: SequenceDataset, samples: Sequence[Sample], draw: np.random.Generator) -> list[Sample]:
    """Training windows with their steps at places drawn within a stride; as they are where there is but one place."""
    if videos.every == videos.stride:
        return list(samples)
    later = []
    for sample in samples:
        frames = len(videos.labels[sample.video])
        places = -(-min(videos.stride, sample.cut.room(frames)) // videos.every)
        phase = int(draw.integers(places)) * videos.every
        later.append(Sample(sample.video, sample.cut.later(phase, frames)))
    return later


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
    videos: SequenceDataset,
    samples: Sequence[Sample],
    observed_labels: Sequence[Ids] | None,
    *,
    device: torch.device,
    learning: bool,
    disturb: Callable[[Ids], Ids] | None = None,
) -> WindowBatch:
    """Windows as one batch; the ground truth of past and future only where the head is `learning`.

    `observed_labels`: per video, one frame in `videos.every`; `disturb` changes those of a window.
    """
    frames = [sample.cut.observed_frames(videos.stride) for sample in samples]
    features = [videos.steps(s.video, at) for s, at in zip(samples, frames, strict=True)]
    lengths = torch.tensor([len(at) for at in frames])
    past = [videos.labels[s.video][at] if learning else _NONE for s, at in zip(samples, frames, strict=True)]
    futures = [_future(videos, sample) if learning else (_NONE, _NONE) for sample in samples]
    labels = None
    if observed_labels is not None:
        rows = [observed_labels[s.video][at // videos.every] for s, at in zip(samples, frames, strict=True)]
        labels = on_device(padded([disturb(row) for row in rows] if disturb else rows, -1), device)
    return WindowBatch(
        visual=torch.nn.utils.rnn.pad_sequence(features, batch_first=True),
        valid=on_device(torch.arange(int(lengths.max())) < lengths[:, None], device),
        observed_labels=labels,
        past=on_device(padded(past, IGNORED, int(lengths.max())), device),
        actions=on_device(padded([actions for actions, _ in futures], -1), device),
        durations=on_device(padded([shares for _, shares in futures], 0.0).float(), device),
    )


def _future(videos: SequenceDataset, sample: Sample) -> tuple[Ids, npt.NDArray[np.float64]]:
    """Classes and shares of the segments to predict."""
    actions, lengths = runs(videos.labels[sample.video][sample.cut.future_frames(videos.stride)])
    return actions, lengths / lengths.sum()


def padded(rows: Sequence[npt.NDArray[Any]], padding: float, length: int = 0) -> Tensor:
    """Rows of different length as one tensor `[B, S]`, padded at the end to the longest, or to `length`."""
    out = np.full((len(rows), max([length, *map(len, rows)])), padding)
    for into, values in zip(out, rows, strict=True):
        into[: len(values)] = values
    return torch.from_numpy(out)
