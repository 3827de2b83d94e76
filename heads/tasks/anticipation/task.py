"""The anticipation task on one store: training windows, and MoC over the test videos of a split."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import numpy as np
import torch

from vfc.cache_schema.reader import open_store
from vfc.cache_schema.values.errors import BadInput
from vfc.cache_schema.values.progress import Progress, Silent
from vfc.cache_schema.values.recipe import digest
from vfc.cache_schema.values.record import ArraySpec, Json
from vfc.heads.contract.head import Head
from vfc.heads.contract.train_config import TrainConfig
from vfc.heads.data.arrays import choose_sequence
from vfc.heads.runs.run_folder import ITEMS

from . import trivial_baselines
from .contract import AnticipationHead
from .decoding import Decoder
from .ground_truth import digest_of, truth_of
from .moc import Tally
from .observed_labels import told_labels
from .segments import Ids, runs
from .sequences import Sequences
from .settings import Config
from .windows import Sample, collate, cut_of, moved, observed_steps, one_pass, windows

_SHOWN: Final = 3
"""Test videos of which the report has a picture."""


@dataclass(frozen=True)
class _Part:
    """The videos of a split, and what a head is told of them."""

    videos: Sequences
    told: list[Ids] | None


@dataclass(frozen=True)
class _Found:
    """The score of a head, and what it predicted: (place of the observed ratio, video) -> class ids."""

    tally: Tally
    predicted: Mapping[tuple[int, int], Ids]


class Anticipation:
    """The task on one store; see `head.Task`."""

    def __init__(
        self,
        config: Config,
        train: TrainConfig,
        head: type[AnticipationHead],
        settings: Any,
        device: torch.device,
        progress: Progress,
    ) -> None:
        self._config, self._train, self._device, self._progress = config, train, device, progress
        self._reader = open_store(config.cache)
        self._array = choose_sequence(self._reader, config.array, labelled=config.labels is None)
        self._truth = truth_of(self._reader, config)
        self.class_names = self._truth.class_names
        self._sampling = config.sampling(head.sampling(settings))
        self._full = config.rate == "full"
        self._told = head.reads_told(settings)
        self._told_digest = ""
        self._annotations = self._truth.annotations(config.split_name)
        self._parts = {split: self._part(split) for split in ("train", "val", "test") if self._names(split)}
        if "train" not in self._parts or "test" not in self._parts:
            raise BadInput(
                f"The annotations {config.split_name!r} have no video of this store to train on, or none to test on.",
                "They need rows with split 'train' and 'test' and the names of the store's videos; see --fold.",
            )
        self._samples = windows(self._parts["train"].videos, self._sampling, full=self._full)
        for split, part in self._parts.items():
            if split != "train":
                self._tests(part)  # too short a video is refused now
        self.per_pass = -(-len(self._samples) // train.batch)
        served = ArraySpec(self._array.name, "fp32", self._array.shape, self._array.layout)
        self.specs: Mapping[str, ArraySpec] = {
            "visual": served,
            "classes": ArraySpec("classes", "int64", (len(self.class_names),)),
        }
        self.identity: Mapping[str, Json] = {
            "store_digest": self._reader.digest,
            "recipe_digest": self._reader.recipe.digest,
            "annotations_digest": self._annotations.digest,
            "array": self._array.name,
            "split": config.split_name,
            "list_digest": digest([config.split_name, self._annotations.digest, *self._names("test")]),
            "stride": self._sampling.stride,
            "train_ratios": list(self._sampling.ratios),
            "offsets": self._sampling.offsets,
            **({"phases": self._sampling.phases} if self._sampling.phases > 1 else {}),
            **({} if config.labels is None else {"labels_digest": self._labels_digest()}),
            **({"told_digest": self._told_digest} if self._told else {}),
        }
        self.recipe: Mapping[str, Json] = self._reader.recipe.fields

    def batches(self, start: int) -> Generator[Any]:
        """Training batches `start`, `start + 1` ...: passes in orders drawn from (seed, pass)."""
        part, stride = self._parts["train"], self._sampling.stride
        self._progress.say(
            f"{len(self._samples)} windows of {len(part.videos.names)} videos to train on, features kept in: "
            f"{part.videos.placement}."
        )
        lengths = [observed_steps(sample, stride) for sample in self._samples]
        for number in itertools.count(start // self.per_pass):
            order = one_pass(lengths, self._train.batch, np.random.default_rng([self._train.seed, number]))
            first = start - number * self.per_pass if number == start // self.per_pass else 0
            later = self._drawn(order, number, first)
            for i in range(first, self.per_pass):
                (samples, draw), later = later, self._drawn(order, number, i + 1)
                for sample in later[0]:
                    part.videos.prefetch(sample.video, sample.cut.seen(stride))
                yield collate(
                    part.videos,
                    samples,
                    part.told,
                    device=self._device,
                    learning=True,
                    noise=self._config.told_noise,
                    classes=len(self.class_names),
                    draw=draw,
                )

    def _drawn(self, order: list[list[int]], number: int, i: int) -> tuple[list[Sample], np.random.Generator]:
        """The windows of batch `i` of a pass, none behind its end, and what is drawn for the batch after them."""
        draw = np.random.default_rng([self._train.seed, number, i])
        samples = [self._samples[place] for places in order[i : i + 1] for place in places]
        return moved(self._parts["train"].videos, samples, draw), draw

    def validate(self, head: Head) -> float | None:
        """Mean MoC of the val videos; None where there are none."""
        if "val" not in self._parts:
            return None
        return float(self._score(head, self._parts["val"], Silent()).tally.moc().mean())

    def watch(self, head: Head) -> dict[str, Json] | None:
        """MoC of the test videos in the middle of training; only for --report-best-on-test."""
        if not self._config.report_best_on_test:
            return None
        return {"moc": self._score(head, self._parts["test"], Silent()).tally.moc().tolist()}

    def test(self, head: Head, progress: Progress) -> dict[str, Json]:
        """The head and the trivial predictors on the test videos."""
        part, config = self._parts["test"], self._config
        found = self._score(head, part, progress)
        queries = cast("AnticipationHead", head).queries
        predictors = trivial_baselines.rows(
            self._scored(self._parts["train"].videos),
            classes=len(self.class_names),
            queries=queries,
            rule=config.decoding,
        )
        others: list[Json] = []
        for name, predictor in predictors.items():
            tally = trivial_baselines.tallied(
                predictor, self._scored(part.videos), len(self.class_names), config.observe, config.predict
            )
            others.append({"name": name, "moc": tally.moc().tolist()})
        return {
            "task": "anticipation",
            "observe": list(config.observe),
            "predict": list(config.predict),
            "rate": config.rate,
            "decoding": config.decoding,
            "told": config.told if self._told else "",
            "videos": len(part.videos.names),
            "missing_videos": self._missing("test"),
            "moc": found.tally.moc().tolist(),
            "mean_moc": float(found.tally.moc().mean()),
            "classes_counted": found.tally.classes().tolist(),
            "baselines": others,
            "class_names": list(self.class_names),
            "pictures": self._pictures(part.videos, found),
            ITEMS: self._items(part.videos, found),
        }

    def _names(self, split: str) -> list[str]:
        there = {key.name for key in self._reader.keys("video") if key.view == 0}
        return [row.name for row in self._annotations.rows if row.split == split and row.name in there]

    def _labels_digest(self) -> str:
        parts = (self._parts[split].videos for split in sorted(self._parts))
        return digest_of((name, ids) for part in parts for name, ids in zip(part.names, part.labels, strict=True))

    def _missing(self, split: str) -> int:
        return sum(row.split == split for row in self._annotations.rows) - len(self._names(split))

    def _part(self, split: str) -> _Part:
        names, missing = self._names(split), self._missing(split)
        if missing:
            self._progress.say(f"{missing} of the {missing + len(names)} {split} videos are not in this store.")
        videos = Sequences(
            self._reader,
            names,
            self._array,
            self._truth,
            stride=self._sampling.stride,
            device=self._device,
            resident=self._config.resident,
            phases=self._sampling.phases if split == "train" else 1,
        )
        if not self._told:
            return _Part(videos, None)
        told, self._told_digest = told_labels(self._reader, self._config.told, self._config.split_name, videos)
        return _Part(videos, told)

    def _scored(self, videos: Sequences) -> list[Ids]:
        """The labels that are scored."""
        return videos.labels if self._full else [ids[:: videos.stride] for ids in videos.labels]

    def _tests(self, part: _Part) -> list[tuple[int, Sample]]:
        """(place of the observed ratio, window) of every test; videos in order within each ratio."""
        return [
            (place, Sample(video, cut_of(part.videos, video, ratio, full=self._full)))
            for place, ratio in enumerate(self._config.observe)
            for video in range(len(part.videos.names))
        ]

    def _score(self, head: Head, part: _Part, progress: Progress) -> _Found:
        """Predict every window, windows of like length together; then decode them in order."""
        tests = self._tests(part)
        progress.begin("Test", len(tests), "windows")
        order = sorted(range(len(tests)), key=lambda i: tests[i][1].cut.observed)
        answers: dict[int, tuple[Any, Any]] = {}
        for start in range(0, len(order), self._train.batch):
            places = order[start : start + self._train.batch]
            samples = [tests[i][1] for i in places]
            batch = collate(part.videos, samples, part.told, device=self._device, learning=False)
            answer = cast("AnticipationHead", head).predict(batch)
            rows = zip(answer.actions.float().cpu().numpy(), answer.durations.float().cpu().numpy(), strict=True)
            answers.update(zip(places, rows, strict=True))
            progress.advance(len(places))
        tally = Tally(len(self.class_names), self._config.observe, self._config.predict)
        scored = self._scored(part.videos)
        predicted = {}
        decoders = [Decoder(self._config.decoding) for _ in self._config.observe]
        for i, (place, sample) in enumerate(tests):
            future = decoders[place](*answers[i], sample.cut.future)
            tally.add(place, scored[sample.video], future)
            predicted[place, sample.video] = future
        return _Found(tally, predicted)

    def _items(self, videos: Sequences, found: _Found) -> list[Json]:
        """Every test: its predicted segments, and the share of frames of the longest horizon that are right."""
        rows: list[Json] = []
        scored = self._scored(videos)
        for (place, video), future in found.predicted.items():
            ratio, truth = self._config.observe[place], scored[video]
            start = int(ratio * len(truth))
            actions, lengths = runs(future)
            rows.append(
                {
                    "item": f"{videos.names[video]} after {ratio:g}",
                    "correct": float((truth[start : start + len(future)] == future).mean()),
                    "actions": actions.tolist(),
                    "frames": lengths.tolist(),
                }
            )
        return rows

    def _pictures(self, videos: Sequences, found: _Found) -> list[Json]:
        """Truth and prediction as segments, of a few videos spread over the test list."""
        chosen: Sequence[int] = np.unique(np.linspace(0, len(videos.names) - 1, _SHOWN).round().astype(int)).tolist()
        scored, rows = self._scored(videos), []
        for (place, video), future in found.predicted.items():
            if video in chosen:
                truth = scored[video]
                start = int(self._config.observe[place] * len(truth))
                rows.append(
                    {
                        "video": videos.names[video],
                        "observed": self._config.observe[place],
                        "truth": [part.tolist() for part in runs(truth)],
                        "predicted": [part.tolist() for part in runs(np.concatenate([truth[:start], future]))],
                        "start": start,
                    }
                )
        return cast("list[Json]", rows)
