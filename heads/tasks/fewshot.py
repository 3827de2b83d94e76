"""Few-shot action recognition: episodes of W classes with K labelled clips each, scored over a frozen list of tasks.

The protocol is the field's (5-way, 10,000 test tasks, one query per class, 1.96 standard errors over tasks), with two
differences: the validation classes choose the checkpoint, and the test classes are measured once. Every distinct clip
of a batch is encoded once; at validation and test every clip is encoded once for all tasks.
"""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from vfc.cache_schema.annotations import Annotations
from vfc.cache_schema.progress import Progress, Silent
from vfc.cache_schema.protocol import EpisodeList, EpisodeSpec, draw_episode
from vfc.cache_schema.reader import StoreReader, open_store
from vfc.cache_schema.record import ArraySpec, Json, Key
from vfc.heads.episodes import (
    ArraySettings,
    EpisodeSettings,
    Score,
    Tasks,
    half_width,
    in_use,
    keys_of,
    positions,
    score,
    tasks_at_once,
)
from vfc.heads.head import Head, TrainConfig
from vfc.heads.matching import METRICS, REPRESENTATIONS, comparable
from vfc.heads.report import Confusion, Table, percent, points
from vfc.heads.serve import Features, as_served, choose_array, sizes

_ENCODE_AT_ONCE: Final = 64


@dataclass(frozen=True)
class Config(ArraySettings, EpisodeSettings):
    """The few-shot protocol for a trained head."""

    train_queries: int = field(default=5, metadata={"help": "Query clips per class, in training.", "panel": "Protocol"})
    val_tasks: int = field(
        default=500, metadata={"help": "Tasks of the val classes per validation.", "panel": "Protocol"}
    )
    tasks: int = field(
        default=10_000, metadata={"help": "Tasks of the test classes, measured once.", "panel": "Protocol"}
    )
    episode_seed: int = field(
        default=0,
        metadata={"help": "Seed of val and test tasks and of a seeded split; apart from --seed.", "panel": "Protocol"},
    )


@dataclass(frozen=True)
class Batch:
    """Episodes over a set of clips: `videos` role -> `[M, ...]`; `support [B, W, K]`, `query [B, Q]` positions in M.

    `target [B, Q]` is the position of each query's class among the W. `peers [B, Q, S]` are, for each query, the
    queries that a transductive head may look at together with it (itself first); None: all of the episode.
    """

    videos: Mapping[str, Tensor]
    support: Tensor
    query: Tensor
    target: Tensor
    peers: Tensor | None = None


class EpisodicHead(Head):
    """What a few-shot method fills in: `encode` sees single clips, `match` whole episodes."""

    @abstractmethod
    def encode(self, videos: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What is computed per clip: role -> `[M, ...]` to any names -> `[M, ...]`."""

    @abstractmethod
    def match(self, batch: Batch) -> Tensor:
        """Logits `[B, Q, W]` of a batch whose `videos` are encoded."""

    def scores(self, batch: Batch) -> Tensor:
        """Logits `[B, Q, W]` of a batch of stored features."""
        return self.match(replace(batch, videos=self.encode(batch.videos)))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy over the classes of each episode."""
        return {
            "cross-entropy": functional.cross_entropy(self.scores(batch).flatten(0, 1).float(), batch.target.flatten())
        }


class FewShot:
    """The task on one store; see `head.Task`."""

    def __init__(
        self, config: Config, train: TrainConfig, head: type[Head], device: torch.device, progress: Progress
    ) -> None:
        self._config, self._train, self._device = config, train, device
        self._reader = open_store(config.cache)
        wanted = ("train", "val", "test")
        self._annotations = in_use(
            self._reader, config, wanted, seed=config.episode_seed, view=config.view, progress=progress
        )
        self._array = choose_array(self._reader, array=config.array, layer=config.layer)
        self._pool = not head.tokens
        self._lists = {split: self._list(split, count) for split, count in self._counts().items()}
        self._train_spec = EpisodeSpec("train", config.way, config.shot, config.train_queries, train.seed)
        draw_episode(self._annotations, self._train_spec, 0)  # too small a class is refused now, by name
        self._at = positions(self._annotations.of_split("train"))
        self._first, self._views, self._keys = _all_views(self._reader, list(self._at))
        self._progress = progress
        self.specs: Mapping[str, ArraySpec] = {"visual": as_served(self._array, pool_tokens=self._pool)}
        self.identity: Mapping[str, Json] = {
            "store_digest": self._reader.digest,
            "recipe_digest": self._reader.recipe.digest,
            "annotations_digest": self._annotations.digest,
            "array": self._array.name,
            "list_digest": self._lists["test"].digest,
        }

    def batches(self, start: int) -> Generator[Batch]:
        """Training batches for updates `start`, `start + 1`, ...: functions of (seed, update) alone."""
        clips = Features(self._reader, self._keys, self._array, device=self._device, pool_tokens=self._pool)
        self._progress.say(f"{len(self._at)} clips to train on ({len(clips)} views), kept in: {clips.placement}.")
        for plan, videos in clips.stream(map(self._plan, itertools.count(start))):
            yield replace(cast("Batch", plan), videos={"visual": videos})

    def validate(self, head: Head) -> float | None:
        """Accuracy on the frozen list of the val classes; None where the annotations have no val split."""
        if "val" not in self._lists:
            return None
        return self._score(cast("EpisodicHead", head), "val", Silent()).accuracy

    def test(self, head: Head, progress: Progress) -> dict[str, Json]:
        """The head and the training-free baselines on the same frozen tasks of the test classes."""
        progress.begin("Test", len(self._lists["test"].episodes) * (1 + len(REPRESENTATIONS)), "tasks")
        found = self._score(cast("EpisodicHead", head), "test", progress)
        baselines: list[Json] = []
        for name, other in self._baselines(progress).items():
            apart = found.per_task - other.per_task
            baselines.append(
                {
                    "name": name,
                    "accuracy": other.accuracy,
                    "interval": other.interval,
                    "difference": float(apart.mean()),
                    "difference_interval": half_width(apart),
                }
            )
        spec = self._lists["test"].spec
        return {
            "task": "fewshot",
            "way": spec.way,
            "shot": spec.shot,
            "queries": spec.queries,
            "tasks": len(self._lists["test"].episodes),
            **found.to_json(),
            "baselines": baselines,
        }

    def _counts(self) -> dict[str, int]:
        counts = {"val": self._config.val_tasks, "test": self._config.tasks}
        return {split: n for split, n in counts.items() if split == "test" or split in self._annotations.splits()}

    def _list(self, split: str, count: int) -> EpisodeList:
        config = self._config
        spec = EpisodeSpec(split, config.way, config.shot, config.queries, config.episode_seed)
        return EpisodeList.draw(self._annotations, spec, count)

    def _plan(self, update: int) -> tuple[Batch, Tensor]:
        """The batch of one update without its clips, and the rows of the distinct clips it needs."""
        size = self._train.batch
        drawn = [draw_episode(self._annotations, self._train_spec, update * size + i) for i in range(size)]
        tasks = Tasks.of(drawn, self._at)
        shape, wanted = tasks.support.shape, torch.cat([tasks.support.flatten(), tasks.query.flatten()])
        clips, position = wanted.unique(return_inverse=True)
        generator = np.random.default_rng([self._train.seed, update])
        rows = self._first[clips] + torch.from_numpy(generator.integers(self._views[clips].numpy()))
        support, query = position[: shape.numel()].view(shape), position[shape.numel() :].view(size, -1)
        target = tasks.target.expand(size, -1)
        return Batch({}, support.to(self._device), query.to(self._device), target.to(self._device)), rows

    def _features(self, annotations: Annotations, *, pool: bool) -> Features:
        keys = keys_of(annotations, self._config.view)
        return Features(self._reader, keys, self._array, device=self._device, pool_tokens=pool)

    def _score(self, head: EpisodicHead, split: str, progress: Progress) -> Score:
        rows = self._annotations.of_split(split)
        tasks = Tasks.of(self._lists[split].episodes, positions(rows))
        with torch.no_grad():
            videos = encode_all(head, self._features(rows, pool=self._pool))
            numbers = sum(values[0].numel() for values in videos.values())

            def classify(support: Tensor, query: Tensor) -> Tensor:
                target = tasks.target.expand(len(query), -1).to(self._device)
                return head.match(Batch(videos, support.to(self._device), query.to(self._device), target))

            return score(tasks, classify, tasks_at_once(tasks, numbers), progress)

    def _baselines(self, progress: Progress) -> dict[str, Score]:
        """mean-cosine on each representation, less the mean over the train clips."""
        rows = self._annotations.of_split("test")
        tasks = Tasks.of(self._lists["test"].episodes, positions(rows))
        test = self._features(rows, pool=True)
        frames = test.gather(torch.arange(len(test)))
        frames = frames - _mean(self._features(self._annotations.of_split("train"), pool=True))
        found = {}
        for representation in REPRESENTATIONS:
            if representation == "difference" and frames.shape[1] < 2:
                continue
            clips = comparable(frames, "mean-cosine", representation)

            def classify(support: Tensor, query: Tensor, clips: Tensor = clips) -> Tensor:
                return METRICS["mean-cosine"](clips[query.to(clips.device)], clips[support.to(clips.device)])

            name = f"mean-cosine, {representation}, centred"
            found[name] = score(tasks, classify, tasks_at_once(tasks, clips[0].numel()), progress)
        return found


def prepare(config: Config, train: TrainConfig, head: type[Head], device: torch.device, progress: Progress) -> FewShot:
    """The task on the store `config.cache`, ready to train and test `head`."""
    return FewShot(config, train, head, device, progress)


def encode_all(head: EpisodicHead, features: Features) -> dict[str, Tensor]:
    """Every clip through `head.encode`, `_ENCODE_AT_ONCE` at a time."""
    plans = ((None, index) for index in torch.arange(len(features)).split(_ENCODE_AT_ONCE))
    parts = [
        {name: values.clone() for name, values in head.encode({"visual": videos}).items()}
        for _, videos in features.stream(plans)
    ]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def tables(result: Mapping[str, Any]) -> list[Table]:
    """The head beside the baselines on the same tasks, with paired differences; then one row per class."""
    head = (str(result.get("head", "head")), percent(result["accuracy"], result["interval"]), "")
    others = [
        (b["name"], percent(b["accuracy"], b["interval"]), points(b["difference"], b["difference_interval"]))
        for b in result["baselines"]
    ]
    chance = ("chance", percent(1 / result["way"]), "")
    title = (
        f"{result['way']}-way {result['shot']}-shot, {result['tasks']} test tasks, {result['queries']} query per class"
    )
    shares = tuple((name, "not asked" if x is None else percent(x)) for name, x in result["per_class"].items())
    return [
        Table(title, ("", "accuracy", "head - this, paired"), (head, *others, chance)),
        Table("Per class", ("class", "accuracy"), shares),
    ]


def confusion(result: Mapping[str, Any]) -> Confusion:
    """The confusion matrix over the test classes."""
    return Confusion(tuple(result["per_class"]), tuple(tuple(row) for row in result["confusion"]))


def _all_views(reader: StoreReader, names: list[str]) -> tuple[Tensor, Tensor, list[Key]]:
    """Per name the position of its first view and the number of views in the returned list of keys."""
    views: dict[str, list[Key]] = {name: [] for name in names}
    for key in reader.keys("video"):
        if key.name in views:
            views[key.name].append(key)
    count = torch.tensor([len(views[name]) for name in names])
    return count.cumsum(0) - count, count, [key for name in names for key in views[name]]


def _mean(features: Features) -> Tensor:
    """The mean clip `[T, D]`."""
    total = torch.zeros(sizes(features.spec), dtype=torch.float64)
    for index in torch.arange(len(features)).split(_ENCODE_AT_ONCE):
        total += features.gather(index).double().sum(dim=0).cpu()
    return (total / len(features)).float()
