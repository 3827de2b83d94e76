"""The batches and predictions of heads of the anticipation task, and the losses that they share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from vfc.heads.contract.head import Head

IGNORED = -100
"""Where `WindowBatch.past` has no class."""


@dataclass(frozen=True)
class WindowBatch:
    """Observed steps of B windows, and what follows them.

    `visual [B, S, D]` is padded with 0 at the end, `valid [B, S]` is True where a step is one. `observed_labels [B, S]`
    are class ids of the observed steps by a classifier (or the ground truth), padded with -1; None unless the head asks
    for them. `past [B, S]` is their ground truth, padded with -100. `actions [B, M]` are the classes of the segments of
    the window to predict, padded with -1, and `durations [B, M]` their shares of it, padded with 0; M is the largest
    number in the batch. At test, `past` is all padding and there are no actions.
    """

    visual: Tensor
    valid: Tensor
    observed_labels: Tensor | None
    past: Tensor
    actions: Tensor
    durations: Tensor


@dataclass(frozen=True)
class Prediction:
    """Per query: `actions [B, N, K + 1]`, logits (index K: no more action), and `durations [B, N]`, before exp."""

    actions: Tensor
    durations: Tensor


@dataclass(frozen=True)
class Sampling:
    """How a method samples a video by default; each can be set in the task's settings.

    `stride`: one label frame in so many is a step. `ratios`: shares of a video observed in training. `offsets`: so many
    training windows per ratio, each a step later than the one before. `phases`: in so many places within a stride the
    steps of a training window may lie; where there are several, every window of every pass draws its own.
    """

    stride: int = 8
    ratios: tuple[float, ...] = (0.2, 0.3, 0.5)
    offsets: int = 1
    phases: int = 1


class AnticipationHead(Head):
    """A head that answers with N segments. `specs`: `visual` of shape (None, D), `classes` of shape (K,)."""

    queries: int
    """How many segments it answers with, N."""

    names_of_classes: tuple[str, ...] = ()
    """In the order of the class ids, as the data set spells them."""

    @classmethod
    def sampling(cls, settings: Any) -> Sampling:
        """The sampling with `settings`, the method's own Config, where the task's settings leave it open."""
        return Sampling()

    @classmethod
    def reads_observed_labels(cls, settings: Any) -> bool:
        """Whether the head, with `settings`, its own Config, reads `WindowBatch.observed_labels`."""
        return False

    @classmethod
    def reads_of(cls, config: Any) -> tuple[Sampling, bool]:
        """See `Head.reads_of`."""
        return cls.sampling(config), cls.reads_observed_labels(config)

    def name_classes(self, names: Sequence[str]) -> None:
        """Called once after construction, before anything else."""
        self.names_of_classes = tuple(names)

    def set_task(self, task: Any) -> None:
        """Takes the class names from the task."""
        self.name_classes(task.class_names)

    @abstractmethod
    def predict(self, batch: WindowBatch) -> Prediction:
        """Segments of the window that follows what was observed."""

    def scores(self, batch: Any) -> Tensor:
        """Logits of the actions, `[B, N, K + 1]`."""
        return self.predict(batch).actions


def targets(batch: WindowBatch, queries: int, none: int) -> tuple[Tensor, Tensor]:
    """Segments of a batch laid onto N queries: classes `[B, N]` and shares `[B, N]`.

    After the last segment comes `none`, the class of no more action, then -1. Segments beyond N are cut, and `none`
    with them; the shares then add up to less than 1, as in the released codes.
    """
    count = (batch.actions >= 0).sum(dim=1, keepdim=True)
    short = max(0, queries - batch.actions.shape[1])
    actions = functional.pad(batch.actions, (0, short), value=-1)[:, :queries]
    shares = functional.pad(batch.durations, (0, short))[:, :queries]
    place = torch.arange(queries, device=count.device)
    return actions.masked_fill(place == count, none), shares


def normalised(durations: Tensor, valid: Tensor) -> Tensor:
    """Shares of the window `[B, N]` from raw durations: exp where `valid [B, N]`, elsewhere 0, then over their sum."""
    positive = durations.float().exp() * valid
    return positive / positive.sum(dim=1, keepdim=True).clamp(min=1e-12)


def future_losses(
    prediction: Prediction, batch: WindowBatch, *, durations: Literal["mean", "sum"] = "mean"
) -> Mapping[str, Tensor]:
    """`action`: cross-entropy up to and with the first NONE. `duration`: squared error of the shares before it.

    The squares are added up and divided by their number in the batch (`mean`, FUTR), or by the number of windows
    (`sum`, ActionLLM, whose batch is one window).
    """
    none = prediction.actions.shape[-1] - 1
    classes, shares = targets(batch, prediction.actions.shape[1], none)
    action = functional.cross_entropy(prediction.actions.float().flatten(0, 1), classes.flatten(), ignore_index=-1)
    valid = (classes >= 0) & (classes != none)
    error = ((normalised(prediction.durations, valid) - shares) * valid).square().sum()
    return {"action": action, "duration": error / (valid.sum() if durations == "mean" else len(valid))}


def past_loss(logits: Tensor, batch: WindowBatch) -> Tensor:
    """Cross-entropy of `logits [B, S, K]` against the true classes of the observed steps, mean over steps."""
    return functional.cross_entropy(logits.float().flatten(0, 1), batch.past.flatten(), ignore_index=IGNORED)
