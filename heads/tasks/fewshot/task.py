"""Few-shot action recognition: episodes of W classes with K labelled clips each, scored over a frozen list of tasks.

The protocol is the field's (5-way, 10,000 test tasks, one query per class, 1.96 standard errors over tasks), with two
differences: the validation classes choose the checkpoint, and the test classes are measured once. Every distinct clip
of a batch is encoded once; at validation and test every clip is encoded once for all tasks.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor

from vfc.cache_schema.protocol import Episode, EpisodeList, EpisodeSpec, draw_episode
from vfc.cache_schema.reader import open_store
from vfc.cache_schema.values.devices import on_device
from vfc.cache_schema.values.errors import BadInput
from vfc.cache_schema.values.progress import Progress, Silent
from vfc.cache_schema.values.recipe import digest
from vfc.cache_schema.values.record import ArraySpec, Json
from vfc.cache_schema.values.settings import setting
from vfc.heads.contract.head import Head
from vfc.heads.contract.ranges import AT_LEAST_ONE, NOT_NEGATIVE, check_range
from vfc.heads.contract.train_config import TrainConfig
from vfc.heads.data.dataset import InUse, VideoDataset, in_view
from vfc.heads.data.facts import identical_videos, set_facts, view_facts
from vfc.heads.data.placement import Resident
from vfc.heads.data.prefetch import stream
from vfc.heads.data.serving import ServingSettings
from vfc.heads.data.store_view import StoreView, Wants, resolve
from vfc.heads.data.text_stream import require_texts
from vfc.heads.data.views import training_views
from vfc.heads.results.tables import Confusion, Table, percent, points
from vfc.heads.runs.run_folder import ITEMS

from .baselines import baselines, count
from .dataset import EpisodeDataset, EpisodeIndex, text_keys
from .episodes import ArraySettings, EpisodeSettings, Score, half_width, in_use
from .episodic_head import EpisodeBatch as EpisodeBatch
from .episodic_head import EpisodicHead as EpisodicHead
from .episodic_head import batch_of, draw_peers, score_heads
from .items import RANK, items
from .kept_baselines import kept_or_scored


@dataclass(frozen=True)
class Config(ServingSettings, ArraySettings, EpisodeSettings):
    """The few-shot protocol for a trained head."""

    prompt: str = setting("", "Prompt of the text stream: an id, known, or none to leave text out.", "Input")
    train_queries: int = setting(5, "Query clips per class, in training.", "Protocol")
    train_tasks: int = setting(
        0, "Number of distinct training tasks, repeated in order; 0: always new tasks.", "Protocol"
    )
    train_views: str | None = setting(
        None, "Views drawn in training: auto (clean, augmented; default), all, or 0,10001-10004.", "Protocol"
    )
    val_tasks: int = setting(500, "Tasks of the val classes in each validation.", "Protocol")
    tasks: int = setting(10_000, "Tasks of the test classes; tested once.", "Protocol")
    episode_seed: int = setting(0, "Seed of val and test tasks and of a seeded split; apart from --seed.", "Protocol")
    resident: Resident = setting(
        "auto", "Where the train split is kept; auto: in memory if it fits; off: on disk.", "Performance"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, AT_LEAST_ONE, "train_queries", "tasks", "val_tasks")
        check_range(self, NOT_NEGATIVE, "train_tasks")


@dataclass(frozen=True)
class FewShot:
    """The task on one store; see `head.Task`. `lists`: the frozen tasks of val (perhaps) and test."""

    config: Config
    train: TrainConfig
    device: torch.device
    progress: Progress
    store: StoreView
    lists: Mapping[str, EpisodeList]
    train_spec: EpisodeSpec

    drawn_views: InUse
    facts: Mapping[str, Json]
    identity: Mapping[str, Json]
    specs: Mapping[str, ArraySpec]
    recipe: Mapping[str, Json]
    per_pass: ClassVar[int] = 0

    @property
    def training_tasks(self) -> list[Episode]:
        """The training tasks under known prompts, where they are a list; the text of other tasks is not stored."""
        if self.store.text is None or not self.store.text.known:
            return []
        return [draw_episode(self.store.annotations, self.train_spec, i) for i in range(self.config.train_tasks)]

    def refuse_missing_texts(self) -> None:
        """Refuse before the training what training, validation or test would miss of the text stream.

        Raises:
            BadInput: known prompts without a list of training tasks; a text that is not stored.
        """
        text, spec = self.store.text, self.train_spec
        if text is None:
            return
        if text.known and not self.config.train_tasks:
            raise BadInput(
                "Known prompts depend on the task, so training needs a list of tasks of which the store has the text.",
                f"Extract known-query for `vfc episodes --split train --way {spec.way} --shot {spec.shot} "
                f"--queries {spec.queries} --seed {spec.seed} --tasks N`, and train with --train-tasks N.",
            )
        parts: list[tuple[str, InUse, Sequence[Episode]]] = [("train", self.drawn_views, self.training_tasks)]
        parts += [(split, in_view(self.config.view), listed.episodes) for split, listed in self.lists.items()]
        for split, views, episodes in parts:
            clips = VideoDataset(self.store.reader, self.store.names(split), views)
            require_texts(self.store.reader, text_keys(text, clips.keys, episodes))

    def batches(self, start: int) -> Generator[EpisodeBatch]:
        """Training batches for updates `start`, `start + 1`, ...: functions of (seed, update) alone."""
        clips = self._dataset(self.store, "train", self.training_tasks, self.drawn_views)
        self.progress.say(f"{len(clips.names)} clips to train on ({len(clips)} views), kept in: {clips.placement}.")
        requests = (self._request(clips, update) for update in itertools.count(start))
        with contextlib.closing(stream(clips.sources, requests)) as batches:
            for batch, videos in batches:
                yield replace(batch, videos={**batch.videos, **videos})

    def validate(self, heads: Sequence[Head]) -> list[float] | None:
        """Accuracy on the frozen list of the val classes; None where the annotations have no val split."""
        if "val" not in self.lists:
            return None
        return [score.accuracy for score in self.scores(heads, "val", Silent())] if heads else []

    def scores(self, heads: Sequence[Head], split: str, progress: Progress, *, rank: int = 0) -> list[Score]:
        """Heads on the frozen tasks of a split, from one reading; `rank`: see `episodes.score`."""
        clips, index = self._frozen(self.store, split)
        return score_heads(cast("Sequence[EpisodicHead]", heads), clips, index, self.device, progress, rank=rank)

    def test(self, head: Head, progress: Progress) -> dict[str, Json]:
        """The head and the training-free baselines on the same frozen tasks of the test classes."""
        listed, pooled = self.lists["test"], self.store.of_frames()
        others = count(int(pooled.specs["visual"].shape[0] or 0), text=self.store.text is not None)
        progress.begin("Test", len(listed.episodes) * (1 + others), "tasks")
        (result,) = self.scores([head], "test", progress, rank=RANK)
        rows: list[Json] = []
        for name, other in self._baselines(pooled, result, progress).items():
            difference = result.per_task - other.per_task
            rows.append(
                {
                    "name": name,
                    "accuracy": other.accuracy,
                    "interval": other.interval,
                    "difference": float(difference.mean()),
                    "difference_interval": half_width(difference),
                    "difference_interval_over_classes": result.over_classes(other),
                }
            )
        spec = listed.spec
        return {
            "task": "fewshot",
            "way": spec.way,
            "shot": spec.shot,
            "queries": spec.queries,
            "tasks": len(listed.episodes),
            **self.facts,
            **self._read_by_baselines(pooled),
            **result.to_json(),
            "interval_over_classes": result.over_classes(),
            "baselines": rows,
            ITEMS: items(listed.episodes, result),
        }

    def _baselines(self, pooled: StoreView, result: Score, progress: Progress) -> dict[str, Score]:
        """The training-free scores on the tasks of `result`, from `pooled` features."""

        def score() -> dict[str, Score]:
            train = self._dataset(replace(pooled, text=None), "train", ())
            return baselines(*self._frozen(pooled, "test"), train, progress)

        identity: dict[str, Json] = {
            **self.identity,
            **self.facts,
            "tokens": {role: serving.in_words for role, serving in pooled.serving.items()},
            "train": digest([*self.store.names("train")]),
            "view": self.config.view,
        }
        return kept_or_scored(identity, self.device, result.labels, len(result.per_task), score, progress)

    def _read_by_baselines(self, pooled: StoreView) -> dict[str, Json]:
        """`baseline_tokens`, as `tokens` of the facts, where the baselines read other time steps or tokens."""
        served: dict[str, Json] = {role: serving.in_words for role, serving in pooled.serving.items()}
        return {} if served == self.facts["tokens"] else {"baseline_tokens": served}

    def _dataset(
        self, store: StoreView, split: str, episodes: Sequence[Episode], views: InUse | None = None
    ) -> EpisodeDataset:
        return EpisodeDataset(
            store,
            store.names(split),
            views or in_view(self.config.view),
            device=self.device,
            resident=self.config.resident,
            episodes=episodes,
        )

    def _frozen(self, store: StoreView, split: str) -> tuple[EpisodeDataset, EpisodeIndex]:
        """The clips of a split, and its frozen tasks over them."""
        episodes = self.lists[split].episodes
        clips = self._dataset(store, split, episodes)
        return clips, clips.index(episodes)

    def _request(self, clips: EpisodeDataset, update: int) -> tuple[EpisodeBatch, Mapping[str, Tensor]]:
        """The batch of one update without its clips, and the rows of the distinct records it needs."""
        size, listed = self.train.batch, self.config.train_tasks
        numbers = range(update * size, (update + 1) * size)
        annotations = self.store.annotations
        drawn = [draw_episode(annotations, self.train_spec, i % listed if listed else i) for i in numbers]
        generator = np.random.default_rng([self.train.seed, update])
        index = clips.index(drawn, generator)
        videos = {} if index.clip_of is None else {"visual.of": on_device(index.clip_of, self.device)}
        peers = draw_peers(index.tasks, self.config.queries, generator)
        return batch_of(index.tasks, videos, self.device, peers), index.rows


def prepare(
    config: Config, train: TrainConfig, head: type[Head], settings: Any, device: torch.device, progress: Progress
) -> FewShot:
    """The task on the store `config.cache`, ready to train and test `head`."""
    reader = open_store(config.cache)
    splits = ("train", "test") if train.select == "last" else ("train", "val", "test")
    store = resolve(
        reader,
        Wants(tokens=head.tokens, masks=head.masks, text=head.text),
        lambda: in_use(reader, config, splits, seed=config.episode_seed, view=config.view, progress=progress),
        array=config.array,
        layer=config.layer,
        prompt=config.prompt,
        settings=config,
    )
    counts = {"test": config.tasks}
    if train.select == "val" and "val" in store.annotations.splits():
        counts = {"val": config.val_tasks, **counts}
    lists = {}
    for split, tasks in counts.items():
        spec = EpisodeSpec(split, config.way, config.shot, config.queries, config.episode_seed)
        lists[split] = EpisodeList.draw(store.annotations, spec, tasks)
    train_spec = EpisodeSpec("train", config.way, config.shot, config.train_queries, train.seed)
    draw_episode(store.annotations, train_spec, 0)  # too small a class is refused now, by name
    identity: dict[str, Json] = {
        **store.identity,
        "array": store.visual.name,
        **({"text": store.text.spec.name, "prompt": store.text.prompt} if store.text else {}),
        "list_digest": lists["test"].digest,
    }
    drawn_views = training_views(reader, config.train_views or "auto")
    clips = VideoDataset(reader, store.names("train"), drawn_views)
    facts = {
        **set_facts(store),
        "classes_digest": digest([*store.annotations.labels()]),
        **view_facts(reader, train={key.view for key in clips.keys}, test=[config.view]),
        "centring": "none",
        **identical_videos(reader, clips.names, store.names("test"), progress),
    }
    task = FewShot(
        config,
        train,
        device,
        progress,
        store,
        lists,
        train_spec,
        drawn_views,
        facts,
        identity,
        store.specs,
        store.recipe,
    )
    task.refuse_missing_texts()
    return task


def tables(result: Mapping[str, Any]) -> list[Table]:
    """The head beside the baselines on the same tasks, with paired differences; then one row per class."""
    head = (str(result.get("head", "head")), percent(result["accuracy"], result["interval"]), "", "")
    others = [
        (
            b["name"],
            percent(b["accuracy"], b["interval"]),
            points(b["difference"], b.get("difference_interval_over_classes")),
            f"± {100 * b['difference_interval']:.2f}",
        )
        for b in result["baselines"]
    ]
    chance = ("chance", percent(1 / result["way"]), "", "")
    title = (
        f"{result['way']}-way {result['shot']}-shot, {result['tasks']} test tasks, {result['queries']} query per class"
    )
    columns = ("", "accuracy ± 95 % over tasks of these clips", "head - this, paired ± 95 % over test classes")
    shares = tuple((name, "not asked" if x is None else percent(x)) for name, x in result["per_class"].items())
    return [
        Table(title, (*columns, "over tasks of these clips"), (head, *others, chance)),
        Table("Per class", ("class", "accuracy"), shares),
    ]


def confusion(result: Mapping[str, Any]) -> Confusion:
    """The confusion matrix over the test classes."""
    return Confusion(tuple(result["per_class"]), tuple(tuple(row) for row in result["confusion"]))
