"""Episodes on a store: the clips in use, tasks as index tensors, and accuracy over a list of tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vfc.cache_schema.annotations import load, with_class_split
from vfc.cache_schema.protocol import Episode
from vfc.cache_schema.reader import StoreReader
from vfc.cache_schema.values.errors import BadInput
from vfc.cache_schema.values.progress import Progress
from vfc.cache_schema.values.record import Json
from vfc.cache_schema.values.settings import setting
from vfc.heads.contract.ranges import AT_LEAST_ONE, AT_LEAST_TWO, check_range
from vfc.heads.data.store_view import DividedRows, rows_in_use, split_rule
from vfc.heads.runs.intervals import over_units

_GATHER_BYTES: Final = 64 << 20


@dataclass(frozen=True)
class EpisodeSettings:
    """Settings of a few-shot measurement beside the features: store, labels, classes, size of a task."""

    cache: Path = setting(Path("./store"), "The store to read.", "Input")
    annotations: str = setting("default", "Labels and splits: a name in the store, or a .jsonl file.", "Input")
    classes: str = setting("", "Split of the classes: a built-in list (hmdb51-arn ...) or 'seeded'.", "Input")
    way: int = setting(5, "Classes per task.", "Protocol")
    shot: int = setting(1, "Labelled clips per class.", "Protocol")
    queries: int = setting(1, "Query clips per class, at test.", "Protocol")

    def __post_init__(self) -> None:
        check_range(self, AT_LEAST_TWO, "way")
        check_range(self, AT_LEAST_ONE, "shot", "queries")


@dataclass(frozen=True)
class ArraySettings:
    """Settings that choose the array and the view."""

    array: str = setting("", "Name of the array; default: frames, else the only array.", "Input")
    layer: str = setting("", "Layer of the array: 31, norm.", "Input")
    view: int = setting(0, "View to test on; 0 is the clean one.", "Input")


def in_use(
    reader: StoreReader,
    settings: EpisodeSettings,
    splits: Sequence[str] | None,
    *,
    seed: int,
    view: int,
    progress: Progress,
) -> DividedRows:
    """The labelled rows that have a record of `view` in the store, with a split of the classes.

    Every split in `splits` must have `way` classes; None leaves the classes undivided.

    Raises:
        BadInput: no such row; too few classes in a split (with the largest possible way); see `with_class_split`.
    """
    rows, rule = load(reader.root, settings.annotations, progress.say), "undivided"
    if splits is not None:
        rows, line = with_class_split(rows, settings.classes or None, seed=seed, way=settings.way, splits=splits)
        progress.say(line)
        rule = split_rule(line)
    return DividedRows(rows_in_use(rows, reader, progress, view=view), rule)


@dataclass(frozen=True)
class Tasks:
    """Episodes as positions in a list of clips: `support [E, W, K]`, `query [E, Q]`, both int64.

    Query j belongs to class `target [Q]` of its episode; `classes [E, W]` are positions in `labels`.
    """

    labels: tuple[str, ...]
    classes: Tensor
    support: Tensor
    query: Tensor
    target: Tensor

    @classmethod
    def of(cls, episodes: Sequence[Episode], at: Mapping[str, int]) -> Tasks:
        """Episodes over clips whose positions are `at`.

        Raises:
            BadInput: an episode names a clip that is not among them.
        """
        labels = sorted({label for episode in episodes for label in episode.classes})
        number = {label: i for i, label in enumerate(labels)}
        try:
            support = [[[at[name] for name in shots] for shots in episode.support] for episode in episodes]
            query = [[at[name] for shots in episode.query for name in shots] for episode in episodes]
        except KeyError as error:
            raise BadInput(
                f"The episode list names {error.args[0]!r}, which is not among the {len(at)} clips in use.",
                "Give the annotations and the store it was drawn for, or write a new list with vfc episodes.",
            ) from None
        per_class = len(episodes[0].query[0])
        return cls(
            tuple(labels),
            torch.tensor([[number[label] for label in episode.classes] for episode in episodes]),
            torch.tensor(support),
            torch.tensor(query),
            torch.arange(len(episodes[0].classes)).repeat_interleave(per_class),
        )

    def __len__(self) -> int:
        return len(self.support)


@dataclass(frozen=True)
class Score:
    """One classifier on one list of tasks: accuracy of each task `[E]`, confusion `[C, C]` (rows: true class).

    `ranked [E, Q, R]`, `shares [E, Q, R]`: the R likeliest of the W classes of the task per query, and their
    probabilities, where they were asked for.
    """

    labels: tuple[str, ...]
    per_task: npt.NDArray[np.float64]
    confusion: npt.NDArray[np.int64]
    ranked: npt.NDArray[np.int64] | None = None
    shares: npt.NDArray[np.float64] | None = None

    @cached_property
    def accuracy(self) -> float:
        """Mean over tasks of the share of right queries."""
        return float(self.per_task.mean())

    @cached_property
    def interval(self) -> float:
        """Half width of the 95 % interval over tasks of these clips: 1.96 standard errors."""
        return half_width(self.per_task)

    def over_classes(self, other: Score | None = None) -> float | None:
        """Half width of Student's 95 % interval over the test classes, of the accuracy or of its lead over `other`.

        None where the queries are of one class. 10,000 tasks share few clips, so that the interval over tasks says
        nothing of other clips and classes.
        """
        right, counts = self.confusion.diagonal().astype(np.float64), self.confusion.sum(axis=1).astype(np.float64)
        if other is not None:
            right = right - other.confusion.diagonal()
        half = over_units(right[counts > 0], counts[counts > 0])[1]
        return half if np.isfinite(half) else None

    def to_json(self) -> dict[str, Json]:
        """Shares, not percentages; `interval` is the half width."""
        hits, total = self.confusion.diagonal(), self.confusion.sum(axis=1)
        per_class: dict[str, Json] = {
            label: (float(hits[i] / total[i]) if total[i] else None) for i, label in enumerate(self.labels)
        }
        return {
            "accuracy": self.accuracy,
            "interval": self.interval,
            "per_class": per_class,
            "confusion": self.confusion.tolist(),
        }


def tasks_at_once(tasks: Tasks, numbers_per_clip: int) -> int:
    """How many tasks fit into one gather of about 64 MB of float32."""
    clips = tasks.support[0].numel() + tasks.query[0].numel()
    return max(1, _GATHER_BYTES // (4 * clips * numbers_per_clip))


def half_width(values: npt.NDArray[np.float64]) -> float:
    """1.96 standard errors of the mean."""
    return float(1.96 * values.std() / np.sqrt(len(values)))


def score(
    tasks: Tasks, classify: Callable[[Tensor, Tensor], Tensor], chunk: int, progress: Progress, *, rank: int = 0
) -> Score:
    """Run `classify(support [B, W, K], query [B, Q]) -> logits [B, Q, W]` over all tasks, `chunk` at a time.

    `rank`: how many of the likeliest classes of every query are kept.
    """
    accuracy = np.empty(len(tasks))
    confusion = np.zeros((len(tasks.labels), len(tasks.labels)), dtype=np.int64)
    ranked, shares = [], []
    for start in range(0, len(tasks), chunk):
        part = slice(start, min(start + chunk, len(tasks)))
        logits = classify(tasks.support[part], tasks.query[part])
        guess = logits.argmax(dim=-1).cpu()
        accuracy[part] = (guess == tasks.target).double().mean(dim=1).numpy()
        classes = tasks.classes[part]
        np.add.at(confusion, (classes[:, tasks.target].numpy(), classes.gather(1, guess).numpy()), 1)
        if rank:
            order, probabilities = _likeliest(logits, guess, rank)
            ranked.append(order)
            shares.append(probabilities)
        progress.advance(part.stop - part.start)
    if not rank:
        return Score(tasks.labels, accuracy, confusion)
    return Score(tasks.labels, accuracy, confusion, np.concatenate(ranked), np.concatenate(shares))


def _likeliest(logits: Tensor, guess: Tensor, rank: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """The likeliest classes `[B, Q, R]` of logits `[B, Q, W]`, the guess `[B, Q]` first, and their probabilities."""
    probabilities = logits.detach().cpu().double().softmax(dim=-1)
    # Of equal scores argmax and sort may choose differently; the prediction is that of argmax.
    keys = probabilities.scatter(-1, guess[..., None], 2.0)
    order = keys.argsort(dim=-1, descending=True, stable=True)[..., :rank]
    return order.numpy(), probabilities.gather(-1, order).numpy()
