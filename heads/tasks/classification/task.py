"""The task on one store: training batches pass by pass, and the test, every video once in all its views."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Generator, Mapping
from functools import lru_cache
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vfc.cache_schema.reader import StoreReader, open_store
from vfc.cache_schema.values.errors import BadInput, RecipeMismatch
from vfc.cache_schema.values.progress import Progress, Silent
from vfc.cache_schema.values.record import ArraySpec, Json
from vfc.heads.contract.head import Head
from vfc.heads.contract.train_config import TrainConfig
from vfc.heads.data.features import as_served
from vfc.heads.data.prefetch import stream
from vfc.heads.runs.run_folder import ITEMS

from .arrays import ClassTexts, find_arrays
from .config import Config
from .contract import Batch, ClassifierHead, Wants
from .dataset import AT_TEST, Shelf, records, shuffled, test_views, training_views
from .lists import Listed, lists
from .results import Scored, result_of


class Classification:
    """The task on one store; see `head.Task`.

    `class_names` is the whole class list in order; `class_list` the same where it was given, else empty: sorted names
    must not stand for the ids of a data set.
    """

    def __init__(
        self,
        config: Config,
        train: TrainConfig,
        head: type[ClassifierHead],
        settings: Any,
        device: torch.device,
        progress: Progress,
    ) -> None:
        self._config, self._train, self._device, self._progress = config, train, device, progress
        self._reader = open_store(config.cache)
        self._other = None if config.test_cache is None else _of_one_recipe(self._reader, config)
        self.lists = lists(config, self._reader, self._other, seed=train.seed, progress=progress)
        if not head.open_classes:
            _refuse_unseen(head, self.lists.train, self.lists.tests)
        wants: Wants = head.wants(settings)
        self._arrays = find_arrays(self._reader, wants, config, tokens=head.tokens)
        self._pool = not head.tokens
        self._texts = self._texts_of(self._reader)
        self._tested = self._other or self._reader
        self._tested_texts = self._texts if self._other is None else self._texts_of(self._other)
        self._refuse_missing()
        self.store, self.class_names, self.train_names = config.cache, self.lists.class_names, self.lists.train.names
        self.class_list = self.class_names if config.class_list is not None else ()
        self.per_pass = max(1, len(self.lists.train.rows) // train.batch)
        served = {role: as_served(spec, pool_tokens=self._pool) for role, spec in self._arrays.clips.items()}
        self.specs: Mapping[str, ArraySpec] = {
            **served,
            "classes": ArraySpec("classes", "int64", (max(1, len(self.lists.train.names)),)),
            **{f"class.{role}": spec for role, spec in self._texts.specs.items()},
        }
        self.identity: Mapping[str, Json] = {
            "store_digest": self._reader.digest,
            "recipe_digest": self._reader.recipe.digest,
            "annotations_digest": self.lists.annotations_digest,
            **({} if self._other is None else {"test_store_digest": self._other.digest}),
            "arrays": {role: spec.name for role, spec in (*self._arrays.clips.items(), *self._arrays.classes.items())},
            "train_digest": self.lists.train.digest,
            "list_digest": {name: listed.digest for name, listed in self.lists.tests.items()},
        }
        self.recipe: Mapping[str, Json] = self._reader.recipe.fields

    def _texts_of(self, reader: StoreReader) -> ClassTexts:
        return ClassTexts(reader, self._arrays.classes, self._config.template)

    def _refuse_missing(self) -> None:
        """Views and class texts that the test would miss are told of before the training, not behind it."""
        at_test = test_views(self._tested, self._config.test_views)
        wanted = [(self._tested, self._tested_texts, listed, at_test) for listed in self.lists.tests.values()]
        if self._train.select == "val":
            wanted.append((self._reader, self._texts, self.lists.val, test_views(self._reader, "0")))
        for reader, texts, listed, in_use in wanted:
            if listed.rows:
                records(reader, [row.name for row in listed.rows], in_use)
                texts.require(listed.names)

    def batches(self, start: int) -> Generator[Batch]:
        """Training batches: every pass goes through the videos in an order of its own, each in a view drawn anew."""
        listed = self.lists.train
        if not listed.rows:
            raise BadInput(
                "There is no video to train on.", "Give annotations with a train split, or a store with more videos."
            )
        shelf = self._shelf(self._reader, listed, training_views(self._reader, self._config.train_views))
        self._progress.say(
            f"{len(listed.rows)} videos to train on ({len(shelf.keys)} views), kept in: {shelf.placement}."
        )
        classes = self._texts.of(listed.names, self._device)
        order = lru_cache(maxsize=2)(self._order)
        plans = (self._drawn(shelf, order, number) for number in itertools.count(start))
        labels = torch.tensor(listed.labels)
        with contextlib.closing(stream(shelf.sources, plans)) as batches:
            for (items, orders), clips in batches:
                told = shuffled(clips, orders) if orders is not None else clips
                yield Batch(told, labels[items].to(self._device), listed.names, classes)

    def validate(self, head: Head) -> float | None:
        """Top-1 on the videos held out for it; None where there are none."""
        if not self.lists.val.rows:
            return None
        scored = self._score(cast("ClassifierHead", head), self._reader, self.lists.val, "0", Silent())
        return cast("float", scored.shares()["top1"])

    def test(self, head: Head, progress: Progress) -> dict[str, Json]:
        """Every test video once; see `results.result_of`."""
        tests = self.lists.tests
        progress.begin("Test", sum(len(listed.rows) for listed in tests.values()), "videos")
        views = self._config.test_views
        groups = {
            name: self._score(cast("ClassifierHead", head), self._tested, listed, views, progress)
            for name, listed in tests.items()
        }
        return {
            "task": "classification",
            "protocol": self._config.protocol,
            "shots": self._config.shots,
            "shuffle_frames": self._config.shuffle_frames,
            "train_videos": len(self.lists.train.rows),
            "train_views": self._views_per_video(),
            "test_videos": sum(len(listed.rows) for listed in tests.values()),
            "test_views": views,
            **result_of(groups),
            ITEMS: [row for name, scored in groups.items() for row in scored.items(name)],
        }

    def _views_per_video(self) -> float:
        """In how many views a training video may come, on average."""
        names = {row.name for row in self.lists.train.rows}
        in_use = training_views(self._reader, self._config.train_views)
        count = sum(key.name in names and in_use(key.view) for key in self._reader.keys("video"))
        return count / max(1, len(names))

    def _shelf(self, reader: StoreReader, listed: Listed, in_use: Any) -> Shelf:
        return Shelf(
            reader,
            [row.name for row in listed.rows],
            self._arrays.clips,
            in_use,
            device=self._device,
            pool_tokens=self._pool,
            resident=self._config.resident,
        )

    def _order(self, turn: int) -> npt.NDArray[np.int64]:
        """The order of the training videos in one pass."""
        return np.random.default_rng([self._train.seed, turn]).permutation(len(self.lists.train.rows))

    def _drawn(self, shelf: Shelf, order: Any, number: int) -> tuple[Any, Mapping[str, Tensor]]:
        """Batch `number`: its videos and the order of their frames, and the rows to be read."""
        turn, place = divmod(number, self.per_pass)
        items = order(turn)[place * self._train.batch : (place + 1) * self._train.batch]
        # A third number, so that the views are drawn apart from the order of a pass with this number.
        generator = np.random.default_rng([self._train.seed, number, 1])
        rows = shelf.first[items] + generator.integers(shelf.views[items])
        orders = shelf.orders(rows, self._train.seed, turn) if self._config.shuffle_frames else None
        return (torch.from_numpy(items), orders), shelf.plan(rows)

    @torch.no_grad()
    def _score(
        self, head: ClassifierHead, reader: StoreReader, listed: Listed, views: str, progress: Progress
    ) -> Scored:
        """Scores of every video, averaged over its views."""
        shelf = self._shelf(reader, listed, test_views(reader, views))
        texts = self._tested_texts if reader is self._tested else self._texts
        classes, labels = texts.of(listed.names, self._device), torch.tensor(listed.labels)
        item = torch.from_numpy(np.repeat(np.arange(len(listed.rows)), shelf.views))
        parts = np.array_split(np.arange(len(item)), max(1, -(-len(item) // self._train.batch)))
        sums = torch.zeros(len(listed.rows), len(listed.names), dtype=torch.float64)
        told: dict[str, Tensor] = {}
        plans = ((rows, shelf.plan(rows)) for rows in parts)
        with contextlib.closing(stream(shelf.sources, plans)) as batches:
            for rows, found in batches:
                clips, at = found, item[rows]
                if self._config.shuffle_frames:
                    clips = shuffled(clips, shelf.orders(rows, self._train.seed, AT_TEST))
                batch = Batch(clips, labels[at].to(self._device), listed.names, classes)
                sums.index_add_(0, at, self._summed(head.scores(batch)).cpu().double())
                for name, values in (head.usage(batch) or {}).items():
                    told.setdefault(name, torch.zeros(len(sums), dtype=torch.float64))
                    told[name].index_add_(0, at, values.cpu().double())
                progress.advance(int((shelf.first[at.numpy()] == rows).sum()))
        _refuse_unscored(sums, listed)
        count = torch.from_numpy(shelf.views)
        usage = {name: (values / count).numpy() for name, values in told.items()}
        return Scored(listed, (sums / count[:, None]).numpy(), usage)

    def _summed(self, scores: Tensor) -> Tensor:
        return scores.float().softmax(dim=-1) if self._config.view_sum == "probabilities" else scores


def prepare(
    config: Config, train: TrainConfig, head: type[Head], settings: Any, device: torch.device, progress: Progress
) -> Classification:
    """The task on the store `config.cache`, ready to train and test `head`."""
    return Classification(config, train, cast("type[ClassifierHead]", head), settings, device, progress)


def _of_one_recipe(reader: StoreReader, config: Config) -> StoreReader:
    """The store to test on.

    Raises:
        RecipeMismatch: its features were made in another way.
    """
    assert config.test_cache is not None
    other = open_store(config.test_cache)
    changed = reader.recipe.difference(other.recipe)
    if changed:
        listed = "; ".join(f"{name}: {a!r} in {config.cache}, {b!r} there" for name, a, b in changed)
        raise RecipeMismatch(
            f"The features in {config.test_cache} were made in another way: {listed}.",
            "Extract both stores with one model, checkpoint and frame rule.",
        )
    return other


def _refuse_unseen(head: type[Head], train: Listed, tests: Mapping[str, Listed]) -> None:
    """A head with a weight per class cannot score a class that it has not been trained on."""
    seen = {row.label for row in train.rows}
    unseen = sorted({row.label for listed in tests.values() for row in listed.rows} - seen)
    if unseen:
        raise BadInput(
            f"The head has a weight for each of its {len(seen)} training classes, and {len(unseen)} tested classes are "
            f"not among them: {', '.join(unseen[:5])}.",
            "Take a head that goes by the class texts (text-zero-shot, mote, msta), or other --annotations.",
        )


def _refuse_unscored(scores: Tensor, listed: Listed) -> None:
    bad = (~torch.isfinite(scores).all(dim=1)).nonzero()
    if len(bad):
        raise BadInput(
            f"The scores of {listed.rows[int(bad[0])].name!r} are no numbers (NaN or infinite), and of {len(bad) - 1} "
            "more videos.",
            "Train with a lower --lr or --precision fp32; `vfc store verify` finds damaged features.",
        )
