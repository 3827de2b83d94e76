"""The task on one store: training batches pass by pass, and the test, every video once in all its views."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vfc.cache_schema.reader import open_store
from vfc.cache_schema.values.devices import on_device
from vfc.cache_schema.values.errors import BadInput
from vfc.cache_schema.values.progress import Progress, Silent
from vfc.cache_schema.values.record import ArraySpec, Json
from vfc.heads.contract.head import Head
from vfc.heads.contract.train_config import TrainConfig
from vfc.heads.data.dataset import InUse, VideoDataset, in_view
from vfc.heads.data.prefetch import stream
from vfc.heads.data.store_view import resolve
from vfc.heads.data.views import test_views, training_views
from vfc.heads.runs.run_folder import ITEMS

from .config import Config
from .contract import ClassifierHead, ClipBatch
from .dataset import ClipDataset, shuffled
from .lists import Listed, Lists, divided, lists
from .results import Scored, result_of
from .scoring import Scoring, average_scores
from .stores import Side, facts_of, of_one_recipe, sides_of, with_every_view


@dataclass(frozen=True)
class Classification:
    """The task on one store; see `head.Task`. `tested` is another store where the test is on another one."""

    config: Config
    train: TrainConfig
    device: torch.device
    progress: Progress
    lists: Lists
    trained: Side
    tested: Side
    identity: Mapping[str, Json]
    specs: Mapping[str, ArraySpec]
    recipe: Mapping[str, Json]
    per_pass: int
    facts: Mapping[str, Json]

    @property
    def store(self) -> Path:
        """The folder of the store that is trained on."""
        return self.config.cache

    @property
    def class_names(self) -> tuple[str, ...]:
        """The whole class list in order."""
        return self.lists.class_names

    @property
    def class_list(self) -> tuple[str, ...]:
        """The class list where it was given, else empty: sorted names must not stand for the ids of a data set."""
        return self.class_names if self.config.class_list is not None else ()

    @property
    def train_names(self) -> tuple[str, ...]:
        """The classes that are trained on."""
        return self.lists.train.names

    def batches(self, start: int) -> Generator[ClipBatch]:
        """Training batches: every pass goes through the videos in an order of its own, each in a view drawn anew."""
        listed = self.lists.train
        if not listed.rows:
            raise BadInput(
                "There is no video to train on.", "Give annotations with a train split, or a store with more videos."
            )
        clips = self._dataset(self.trained, listed, training_views(self.trained.view.reader, self.config.train_views))
        self.progress.say(f"{len(listed.rows)} videos to train on ({len(clips)} views), kept in: {clips.placement}.")
        classes = self.trained.texts.of(listed.names, self.device)
        order = lru_cache(maxsize=2)(self._order)
        requests = (self._request(clips, order, number) for number in itertools.count(start))
        labels = torch.tensor(listed.labels)
        with contextlib.closing(stream(clips.sources, requests)) as batches:
            for (items, orders), values in batches:
                frames = shuffled(values, orders) if orders is not None else values
                yield ClipBatch(frames, on_device(labels[items], self.device), listed.names, classes)

    def validate(self, heads: Sequence[Head]) -> list[float] | None:
        """Top-1 on the videos held out for it; None where there are none."""
        val = self.lists.val
        if not val.rows:
            return None
        scored = self.scores(heads, self.trained, val, "0", Silent()) if heads else []
        return [cast("float", of_head.shares()["top1"]) for of_head in scored]

    def test(self, head: Head, progress: Progress) -> dict[str, Json]:
        """Every test video once; see `results.result_of`."""
        tests, views = self.lists.tests, self.config.test_views
        progress.begin("Test", sum(len(listed.rows) for listed in tests.values()), "videos")
        groups = {name: self.scores([head], self.tested, part, views, progress)[0] for name, part in tests.items()}
        probabilities = self.config.view_sum == "probabilities"
        return {
            "task": "classification",
            "protocol": self.config.protocol,
            "shots": self.config.shots,
            "shuffle_frames": self.config.shuffle_frames,
            "train_videos": len(self.lists.train.rows),
            "train_views": self._views_per_video(),
            "test_videos": sum(len(listed.rows) for listed in tests.values()),
            "test_views": views,
            **self.facts,
            "class_names": list(self.train_names),
            **result_of(groups),
            ITEMS: [row for name, scored in groups.items() for row in scored.items(name, probabilities=probabilities)],
        }

    def scores(self, heads: Sequence[Head], side: Side, listed: Listed, views: str, progress: Progress) -> list[Scored]:
        """Scores of every video by each head, averaged over its views."""
        clips = self._dataset(side, listed, test_views(side.view.reader, views))
        seed = self.train.seed if self.config.shuffle_frames else None
        scoring = Scoring(self.train.batch, self.device, self.config.view_sum, seed)
        classes = side.texts.of(listed.names, self.device)
        classifiers = cast("Sequence[ClassifierHead]", heads)
        averages = average_scores(classifiers, clips, listed.names, listed.labels, classes, scoring, progress)
        return [Scored(listed, *of_head) for of_head in averages]

    def _views_per_video(self) -> float:
        """In how many views a training video may come, on average."""
        names = {row.name for row in self.lists.train.rows}
        reader = self.trained.view.reader
        in_use = training_views(reader, self.config.train_views)
        count = sum(key.name in names and in_use(key.view) for key in reader.keys("video"))
        return count / max(1, len(names))

    def _dataset(self, side: Side, listed: Listed, in_use: InUse) -> ClipDataset:
        return ClipDataset(side.view, listed.videos, in_use, device=self.device, resident=self.config.resident)

    def _order(self, turn: int) -> npt.NDArray[np.int64]:
        """The order of the training videos in one pass."""
        return np.random.default_rng([self.train.seed, turn]).permutation(len(self.lists.train.rows))

    def _request(self, clips: ClipDataset, order: Any, number: int) -> tuple[Any, Mapping[str, Tensor]]:
        """ClipBatch `number`: its videos and the order of their frames, and the rows to be read."""
        turn, place = divmod(number, self.per_pass)
        items = order(turn)[place * self.train.batch : (place + 1) * self.train.batch]
        # A third number, so that the views are drawn apart from the order of a pass with this number.
        generator = np.random.default_rng([self.train.seed, number, 1])
        rows = clips.first[items] + generator.integers(clips.views[items])
        orders = clips.orders(rows, self.train.seed, turn) if self.config.shuffle_frames else None
        return (torch.from_numpy(items), orders), clips.index(rows)


def prepare(
    config: Config, train: TrainConfig, head: type[Head], settings: Any, device: torch.device, progress: Progress
) -> Classification:
    """The task on the store `config.cache`, ready to train and test `head`."""
    assert issubclass(head, ClassifierHead)
    reader = open_store(config.cache)
    other = None if config.test_cache is None else of_one_recipe(reader, config)
    wants = replace(head.wants(settings), tokens=head.tokens, masks=head.masks)
    view = resolve(
        reader,
        wants,
        lambda: divided(config, reader, progress),
        array=config.array,
        layer=config.layer,
        settings=config,
    )
    if config.template and not view.classes:
        raise BadInput(
            "--template is given, but this head reads no class texts.", "Leave --template out, or train another head."
        )
    listed = lists(config, view.annotations, reader, other, seed=train.seed, progress=progress)
    if not head.open_classes:
        _refuse_unseen(listed.train, listed.tests)
    listed, tested_views = with_every_view(listed, other or reader, config, progress)
    trained, tested = sides_of(view, other, listed, config)
    if train.select == "val" and listed.val.rows:
        VideoDataset(reader, listed.val.videos, in_view(0))
        trained.texts.require(listed.val.names)
    for part in listed.tests.values():
        tested.texts.require(part.names if part.rows else ())
    identity: dict[str, Json] = {
        **view.identity,
        **({} if other is None else {"test_store_digest": other.digest}),
        "arrays": {role: spec.name for role, spec in (*view.arrays.items(), *view.classes.items())},
        "train_digest": listed.train.digest,
        "list_digest": {name: part.digest for name, part in listed.tests.items()},
        **trained.texts.identity,
    }
    specs = {
        **view.specs,
        "classes": ArraySpec("classes", "int64", (max(1, len(listed.train.names)),)),
        **{f"class.{role}": spec for role, spec in trained.texts.specs.items()},
    }
    return Classification(
        config,
        train,
        device,
        progress,
        listed,
        trained,
        tested,
        identity,
        specs,
        view.recipe,
        per_pass=max(1, len(listed.train.rows) // train.batch),
        facts=facts_of(config, listed, trained, tested, tested_views, progress),
    )


def _refuse_unseen(train: Listed, tests: Mapping[str, Listed]) -> None:
    """A head with a weight per class cannot score a class that it has not been trained on."""
    trained = {row.label for row in train.rows}
    unseen = sorted({row.label for listed in tests.values() for row in listed.rows} - trained)
    if unseen:
        raise BadInput(
            f"The head has a weight for each of its {len(trained)} training classes, and {len(unseen)} tested classes "
            f"are not among them: {', '.join(unseen[:5])}.",
            "Take a head that goes by the class texts (text-zero-shot, mote, msta), or other --annotations.",
        )
