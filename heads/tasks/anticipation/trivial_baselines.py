"""Trivial baselines: predictors that learn nothing, or one class; rows beside every head."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Protocol

import numpy as np

from .decoding import Decoder, Rule
from .moc import Tally
from .segments import FUTURE, Ids, runs


class Predictor(Protocol):
    """Class ids of the next `frames` frames of a video of which `start` are observed; an oracle looks at the truth."""

    def __call__(self, truth: Ids, start: int, frames: int) -> Ids: ...  # noqa: D102


def repeat_last(truth: Ids, start: int, frames: int) -> Ids:
    """The true label of the last observed frame, again and again."""
    return np.full(frames, truth[start - 1])


def constant(truth: Ids, start: int, frames: int, *, label: int) -> Ids:
    """One class for everything."""
    return np.full(frames, label, np.int64)


def oracle(truth: Ids, start: int, frames: int, *, queries: int, classes: int, rule: Rule) -> Ids:
    """The true segments and their true shares, through a decoder of N queries: what no head of N queries can beat."""
    actions, lengths = runs(truth[start : start + frames])
    logits = np.zeros((queries, classes + 1))
    durations = np.zeros(queries)
    for i, (action, length) in enumerate(zip(actions[:queries], lengths[:queries], strict=True)):
        logits[i, action], durations[i] = 1.0, np.log(length)
    logits[len(actions) :, classes] = 1.0
    return Decoder(rule)(logits, durations, frames)


def majority(labels: Iterable[Ids], classes: int) -> int:
    """The class with most frames; the first of equal ones."""
    counts = np.zeros(classes, np.int64)
    for ids in labels:
        counts += np.bincount(ids, minlength=classes)
    return int(counts.argmax())


def tallied(
    predictor: Predictor, videos: Iterable[Ids], classes: int, observe: Sequence[float], predict: Sequence[float]
) -> Tally:
    """A predictor's tally over the labels `[n]` of test videos."""
    tally = Tally(classes, observe, predict)
    for truth in videos:
        for place, ratio in enumerate(tally.observe):
            start = int(ratio * len(truth))
            tally.add(place, truth, predictor(truth, start, min(int(FUTURE * len(truth)), len(truth) - start)))
    return tally


def rows(train: Sequence[Ids], *, classes: int, queries: int, rule: Rule) -> Mapping[str, Predictor]:
    """The predictors of every table, by name; `train` are the labels of the training videos."""
    return {
        "repeat last label": repeat_last,
        "train majority": partial(constant, label=majority(train, classes)),
        f"oracle transcript, {queries} queries": partial(oracle, queries=queries, classes=classes, rule=rule),
    }
