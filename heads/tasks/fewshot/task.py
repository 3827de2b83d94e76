"""Few-shot action recognition: episodes of W classes with K labelled clips each, scored over a frozen list of tasks.

The protocol is the field's (5-way, 10,000 test tasks, one query per class, 1.96 standard errors over tasks), with two
differences: the validation classes choose the checkpoint, and the test classes are measured once. Every distinct clip
of a batch is encoded once; at validation and test every clip is encoded once for all tasks.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from vfc.cache_schema.protocol import Episode, EpisodeList, EpisodeSpec, draw_episode
from vfc.cache_schema.reader import open_store
from vfc.cache_schema.values.errors import BadInput
from vfc.cache_schema.values.progress import Progress, Silent
from vfc.cache_schema.values.record import ArraySpec, Json
from vfc.heads.contract.head import Head
from vfc.heads.contract.ranges import AT_LEAST_ONE, NOT_NEGATIVE, check_range
from vfc.heads.contract.train_config import TrainConfig
from vfc.heads.data.features import Resident, as_served, choose_array, sizes
from vfc.heads.data.prefetch import stream
from vfc.heads.data.text_features import find_text, locate_texts
from vfc.heads.results.tables import Confusion, Table, percent, points
from vfc.heads.runs.run_folder import ITEMS

from .baselines import baselines, count
from .clips import Clips, Plan, clip_keys, text_keys
from .episodes import ArraySettings, EpisodeSettings, half_width, in_use, positions
from .episodic_head import Batch as Batch
from .episodic_head import EpisodicHead as EpisodicHead
from .episodic_head import batch_of, draw_peers, score_head


@dataclass(frozen=True)
class Config(ArraySettings, EpisodeSettings):
    """The few-shot protocol for a trained head."""

    prompt: str = field(
        default="",
        metadata={"help": "Prompt of the text stream: an id, known, or none to leave text out.", "panel": "Input"},
    )
    train_queries: int = field(default=5, metadata={"help": "Query clips per class, in training.", "panel": "Protocol"})
    train_tasks: int = field(
        default=0,
        metadata={"help": "Distinct training tasks, walked over again and again; 0: no end.", "panel": "Protocol"},
    )
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
    resident: Resident = field(
        default="auto",
        metadata={"help": "Where the train split rests; auto: where it fits; off: on disk.", "panel": "Performance"},
    )

    def __post_init__(self) -> None:
        check_range(self, AT_LEAST_ONE, "tasks", "val_tasks")
        check_range(self, NOT_NEGATIVE, "train_tasks")


class FewShot:
    """The task on one store; see `head.Task`."""

    per_pass = 0

    def __init__(
        self, config: Config, train: TrainConfig, head: type[Head], device: torch.device, progress: Progress
    ) -> None:
        self._config, self._train, self._device = config, train, device
        self._reader = open_store(config.cache)
        wanted = ("train", "test") if train.select == "last" else ("train", "val", "test")
        self._annotations = in_use(
            self._reader, config, wanted, seed=config.episode_seed, view=config.view, progress=progress
        )
        self._array = choose_array(self._reader, array=config.array, layer=config.layer, tokens=head.tokens)
        self._wording = find_text(self._reader, self._array, config.prompt) if head.text else None
        self._pool = not head.tokens
        self._lists = {split: self._list(split, count) for split, count in self._counts().items()}
        self._train_spec = EpisodeSpec("train", config.way, config.shot, config.train_queries, train.seed)
        draw_episode(self._annotations, self._train_spec, 0)  # too small a class is refused now, by name
        if self._wording is not None and self._wording.known and not config.train_tasks:
            spec = self._train_spec
            raise BadInput(
                "Known prompts depend on the task, so training needs a list of tasks of which the store has the text.",
                f"Extract known-query for `vfc episodes --split train --way {spec.way} --shot {spec.shot} "
                f"--queries {spec.queries} --seed {spec.seed} --tasks N`, and train with --train-tasks N.",
            )
        self._refuse_missing_texts()
        self._progress = progress
        self.specs: Mapping[str, ArraySpec] = {
            "visual": as_served(self._array, pool_tokens=self._pool),
            **({"text": self._wording.spec} if self._wording else {}),
        }
        self.identity: Mapping[str, Json] = {
            "store_digest": self._reader.digest,
            "recipe_digest": self._reader.recipe.digest,
            "annotations_digest": self._annotations.digest,
            "array": self._array.name,
            **({"text": self._wording.spec.name, "prompt": self._wording.prompt} if self._wording else {}),
            "list_digest": self._lists["test"].digest,
        }
        self.recipe: Mapping[str, Json] = self._reader.recipe.fields

    def _refuse_missing_texts(self) -> None:
        """A text that the test would miss is told of before the training, not behind it."""
        if self._wording is None:
            return
        wanted: list[tuple[str, int | None, Sequence[Episode]]] = [
            (split, self._config.view, listed.episodes) for split, listed in self._lists.items()
        ]
        for split, view, episodes in (("train", None, self._listed() if self._known else ()), *wanted):
            names = list(positions(self._annotations.of_split(split)))
            locate_texts(self._reader, text_keys(self._wording, clip_keys(self._reader, names, view), episodes))

    def batches(self, start: int) -> Generator[Batch]:
        """Training batches for updates `start`, `start + 1`, ...: functions of (seed, update) alone."""
        names = list(positions(self._annotations.of_split("train")))
        clips = self._clips(names, self._listed() if self._known else (), view=None, pool=self._pool)
        self._progress.say(f"{len(names)} clips to train on ({len(clips)} views), kept in: {clips.placement}.")
        plans = (self._plan(clips, update) for update in itertools.count(start))
        with contextlib.closing(stream(clips.sources, plans)) as batches:
            for batch, videos in batches:
                yield replace(batch, videos={**batch.videos, **videos})

    def validate(self, head: Head) -> float | None:
        """Accuracy on the frozen list of the val classes; None where the annotations have no val split."""
        if "val" not in self._lists:
            return None
        return score_head(cast("EpisodicHead", head), *self._frozen("val", self._pool), self._device, Silent()).accuracy

    def test(self, head: Head, progress: Progress) -> dict[str, Json]:
        """The head and the training-free baselines on the same frozen tasks of the test classes."""
        listed = self._lists["test"]
        others = count(sizes(as_served(self._array, pool_tokens=True))[0], text=self._wording is not None)
        progress.begin("Test", len(listed.episodes) * (1 + others), "tasks")
        found = score_head(cast("EpisodicHead", head), *self._frozen("test", self._pool), self._device, progress)
        train = self._clips(list(positions(self._annotations.of_split("train"))), (), pool=True, text=False)
        rows: list[Json] = []
        for name, other in baselines(*self._frozen("test", True), train, progress).items():
            apart = found.per_task - other.per_task
            rows.append(
                {
                    "name": name,
                    "accuracy": other.accuracy,
                    "interval": other.interval,
                    "difference": float(apart.mean()),
                    "difference_interval": half_width(apart),
                }
            )
        spec = listed.spec
        return {
            "task": "fewshot",
            "way": spec.way,
            "shot": spec.shot,
            "queries": spec.queries,
            "tasks": len(listed.episodes),
            **found.to_json(),
            "baselines": rows,
            ITEMS: [{"item": str(i), "correct": float(share)} for i, share in enumerate(found.per_task)],
        }

    @property
    def _known(self) -> bool:
        return self._wording is not None and self._wording.known

    def _counts(self) -> dict[str, int]:
        counts = {"val": self._config.val_tasks, "test": self._config.tasks}
        chosen = self._annotations.splits() if self._train.select == "val" else ()
        return {split: n for split, n in counts.items() if split == "test" or split in chosen}

    def _list(self, split: str, count: int) -> EpisodeList:
        config = self._config
        spec = EpisodeSpec(split, config.way, config.shot, config.queries, config.episode_seed)
        return EpisodeList.draw(self._annotations, spec, count)

    def _listed(self) -> list[Episode]:
        """The training tasks, where they are a list."""
        return [draw_episode(self._annotations, self._train_spec, i) for i in range(self._config.train_tasks)]

    def _clips(
        self, names: list[str], episodes: Sequence[Episode], *, view: int | None = 0, pool: bool, text: bool = True
    ) -> Clips:
        return Clips(
            self._reader,
            names,
            self._array,
            self._wording if text else None,
            device=self._device,
            view=self._config.view if view == 0 else view,
            pool_tokens=pool,
            resident=self._config.resident,
            episodes=episodes,
        )

    def _frozen(self, split: str, pool: bool) -> tuple[Clips, Plan]:
        """The clips of a split, and its frozen tasks over them."""
        episodes = self._lists[split].episodes
        clips = self._clips(list(positions(self._annotations.of_split(split))), episodes, pool=pool)
        return clips, clips.plan(episodes)

    def _plan(self, clips: Clips, update: int) -> tuple[Batch, Mapping[str, Tensor]]:
        """The batch of one update without its clips, and the rows of the distinct records it needs."""
        size, listed = self._train.batch, self._config.train_tasks
        numbers = range(update * size, (update + 1) * size)
        drawn = [draw_episode(self._annotations, self._train_spec, i % listed if listed else i) for i in numbers]
        generator = np.random.default_rng([self._train.seed, update])
        plan = clips.plan(drawn, generator)
        videos = {} if plan.of is None else {"visual.of": plan.of.to(self._device)}
        peers = draw_peers(plan.tasks, self._config.queries, generator)
        return batch_of(plan.tasks, videos, self._device, peers), plan.rows


def prepare(
    config: Config, train: TrainConfig, head: type[Head], settings: Any, device: torch.device, progress: Progress
) -> FewShot:
    """The task on the store `config.cache`, ready to train and test `head`."""
    return FewShot(config, train, head, device, progress)


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
