"""The anticipation task on one store: training windows, and MoC over the test videos of a split."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import numpy as np
import torch

from vfc.cache_schema.values.errors import BadInput
from vfc.cache_schema.values.progress import Progress, Silent
from vfc.cache_schema.values.recipe import digest
from vfc.cache_schema.values.record import ArraySpec, Json
from vfc.heads.contract.head import Head
from vfc.heads.contract.train_config import TrainConfig
from vfc.heads.data.store_view import StoreView
from vfc.heads.runs.run_folder import ITEMS

from . import trivial_baselines
from .contract import AnticipationHead, Sampling, WindowBatch
from .dataset import SequenceDataset
from .facts import labels_digest, sequence_facts, sequence_specs
from .forecast import predicted_futures
from .ground_truth import resolve_sequences, stored_names
from .moc import Tally
from .observed_labels import disturbed, observed_labels
from .segments import Ids, runs
from .settings import Config
from .windows import Sample, collate, cut_of, moved, observed_steps, one_pass, windows

_PICTURES: Final = 3
"""Test videos of which the report has a picture."""


@dataclass(frozen=True)
class Part:
    """The videos of a split that the store has, and how many it lacks; their observed labels if the head reads them."""

    videos: SequenceDataset
    missing: int
    observed: list[Ids] | None = None
    observed_digest: str = ""


@dataclass(frozen=True)
class Forecast:
    """The score of a head, and what it predicted: (place of the observed ratio, video) -> class ids."""

    tally: Tally
    predicted: Mapping[tuple[int, int], Ids]


@dataclass(frozen=True)
class Anticipation:
    """The task on one store; see `head.Task`."""

    config: Config
    train: TrainConfig
    device: torch.device
    progress: Progress
    class_names: tuple[str, ...]
    sampling: Sampling
    parts: Mapping[str, Part]
    samples: Sequence[Sample]

    identity: Mapping[str, Json]
    specs: Mapping[str, ArraySpec]
    recipe: Mapping[str, Json]
    per_pass: int
    facts: Mapping[str, Json]

    def batches(self, start: int) -> Generator[WindowBatch]:
        """Training batches `start`, `start + 1` ...: passes in orders drawn from (seed, pass)."""
        videos, stride = self.parts["train"].videos, self.sampling.stride
        self.progress.say(
            f"{len(self.samples)} windows of {len(videos.names)} videos to train on, features kept in: "
            f"{videos.placement}."
        )
        lengths = [observed_steps(sample, stride) for sample in self.samples]
        for number in itertools.count(start // self.per_pass):
            order = one_pass(lengths, self.train.batch, np.random.default_rng([self.train.seed, number]))
            first = start - number * self.per_pass if number == start // self.per_pass else 0
            later = self._drawn(order, number, first)
            for i in range(first, self.per_pass):
                (samples, draw), later = later, self._drawn(order, number, i + 1)
                for sample in later[0]:
                    videos.prefetch(sample.video, sample.cut.observed_frames(stride))
                yield self._collated("train", samples, learning=True, disturb=self._disturb(draw))

    def _drawn(self, order: list[list[int]], number: int, i: int) -> tuple[list[Sample], np.random.Generator]:
        """The windows of batch `i` of a pass, none after its end, and what is drawn for the batch after them."""
        draw = np.random.default_rng([self.train.seed, number, i])
        samples = [self.samples[place] for places in order[i : i + 1] for place in places]
        return moved(self.parts["train"].videos, samples, draw), draw

    def _disturb(self, draw: np.random.Generator) -> Callable[[Ids], Ids]:
        return lambda ids: disturbed(ids, self.config.told_noise, len(self.class_names), draw)

    def _collated(
        self, split: str, samples: Sequence[Sample], *, learning: bool, disturb: Callable[[Ids], Ids] | None = None
    ) -> WindowBatch:
        part = self.parts[split]
        return collate(part.videos, samples, part.observed, device=self.device, learning=learning, disturb=disturb)

    def validate(self, heads: Sequence[Head]) -> list[float] | None:
        """Mean MoC of the val videos; None where there are none."""
        if "val" not in self.parts:
            return None
        return [float(self.forecast(head, "val", Silent()).tally.moc().mean()) for head in heads]

    def watch(self, head: Head) -> dict[str, Json] | None:
        """MoC of the test videos in the middle of training; only for --report-best-on-test."""
        if not self.config.report_best_on_test:
            return None
        return {"moc": self.forecast(head, "test", Silent()).tally.moc().tolist()}

    def test(self, head: Head, progress: Progress) -> dict[str, Json]:
        """The head and the trivial baselines on the test videos."""
        part, config = self.parts["test"], self.config
        forecast = self.forecast(head, "test", progress)
        return {
            "task": "anticipation",
            "observe": list(config.observe),
            "predict": list(config.predict),
            "rate": config.rate,
            "decoding": config.decoding,
            "told": "" if part.observed is None else config.told,
            "videos": len(part.videos.names),
            "missing_videos": part.missing,
            **self.facts,
            "moc": forecast.tally.moc().tolist(),
            "mean_moc": float(forecast.tally.moc().mean()),
            "classes_counted": forecast.tally.classes().tolist(),
            "baselines": self._baselines(cast("AnticipationHead", head).queries),
            "class_names": list(self.class_names),
            "pictures": self._pictures(part.videos, forecast),
            ITEMS: self._items(part.videos, forecast),
        }

    def _baselines(self, queries: int) -> list[Json]:
        """The trivial baselines on the test videos."""
        config, classes = self.config, len(self.class_names)
        train, test = (self._scored(self.parts[split].videos) for split in ("train", "test"))
        predictors = trivial_baselines.rows(train, classes=classes, queries=queries, rule=config.decoding)
        tallies = {
            name: trivial_baselines.tallied(predictor, test, classes, config.observe, config.predict)
            for name, predictor in predictors.items()
        }
        return [{"name": name, "moc": tally.moc().tolist()} for name, tally in tallies.items()]

    def _scored(self, videos: SequenceDataset) -> list[Ids]:
        """The labels that are scored."""
        return videos.labels if self.config.full_rate else [ids[:: videos.stride] for ids in videos.labels]

    def forecast(self, head: Head, split: str, progress: Progress) -> Forecast:
        """Predict every window, windows of like length together; then decode them in order."""
        videos = self.parts[split].videos
        tests = test_windows(videos, self.config)
        progress.begin("Test", len(tests), "windows")
        futures = predicted_futures(
            cast("AnticipationHead", head),
            tests,
            lambda samples: self._collated(split, samples, learning=False),
            batch=self.train.batch,
            rule=self.config.decoding,
            progress=progress,
        )
        tally = Tally(len(self.class_names), self.config.observe, self.config.predict)
        scored = self._scored(videos)
        predicted = {}
        for (place, sample), future in zip(tests, futures, strict=True):
            tally.add(place, scored[sample.video], future)
            predicted[place, sample.video] = future
        return Forecast(tally, predicted)

    def _items(self, videos: SequenceDataset, forecast: Forecast) -> list[Json]:
        """Every test: its predicted segments, and the share of frames of the longest horizon that are right."""
        rows: list[Json] = []
        scored = self._scored(videos)
        for (place, video), future in forecast.predicted.items():
            ratio, truth = self.config.observe[place], scored[video]
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

    def _pictures(self, videos: SequenceDataset, forecast: Forecast) -> list[Json]:
        """Ground truth and prediction as segments, of a few videos spread over the test list."""
        chosen: Sequence[int] = np.unique(np.linspace(0, len(videos.names) - 1, _PICTURES).round().astype(int)).tolist()
        scored, rows = self._scored(videos), []
        for (place, video), future in forecast.predicted.items():
            if video in chosen:
                truth = scored[video]
                start = int(self.config.observe[place] * len(truth))
                rows.append(
                    {
                        "video": videos.names[video],
                        "observed": self.config.observe[place],
                        "truth": [part.tolist() for part in runs(truth)],
                        "predicted": [part.tolist() for part in runs(np.concatenate([truth[:start], future]))],
                        "start": start,
                    }
                )
        return cast("list[Json]", rows)


def prepare(
    config: Config, train: TrainConfig, head: type[Head], settings: Any, device: torch.device, progress: Progress
) -> Anticipation:
    """The task on the store `config.cache`, ready to train and test `head`."""
    assert issubclass(head, AnticipationHead)
    store, truth = resolve_sequences(config)
    sampling = config.sampling(head.sampling(settings))
    reads_labels = head.reads_observed_labels(settings)
    parts = {}
    for split in ("train", "val", "test"):
        names = stored_names(store, split)
        missing = sum(row.split == split for row in store.annotations.rows) - len(names)
        if not names:
            continue
        if missing:
            progress.say(f"{missing} of the {missing + len(names)} {split} videos are not in this store.")
        phases = sampling.phases if split == "train" else 1
        videos = SequenceDataset(
            store, names, truth, stride=sampling.stride, device=device, resident=config.resident, phases=phases
        )
        labels = observed_labels(store.reader, config.told, config.split_name, videos) if reads_labels else (None, "")
        parts[split] = Part(videos, missing, *labels)
    if "train" not in parts or "test" not in parts:
        raise BadInput(
            f"The annotations {config.split_name!r} have no video of this store to train on, or none to test on.",
            "They need rows with split 'train' and 'test' and the names of the store's videos; see --fold.",
        )
    samples = windows(parts["train"].videos, sampling, full=config.full_rate)
    for split in parts.keys() - {"train"}:
        test_windows(parts[split].videos, config)  # too short a video is refused now
    return Anticipation(
        config,
        train,
        device,
        progress,
        truth.class_names,
        sampling,
        parts,
        samples,
        identity=_identity(config, store, sampling, parts),
        specs=sequence_specs(store, truth.class_names),
        recipe=store.recipe,
        per_pass=-(-len(samples) // train.batch),
        facts=sequence_facts(store, truth, {split: part.videos for split, part in parts.items()}, progress),
    )


def _identity(config: Config, store: StoreView, sampling: Sampling, parts: Mapping[str, Part]) -> dict[str, Json]:
    split, test = config.split_name, parts["test"]
    datasets = [parts[name].videos for name in sorted(parts)]
    return {
        **store.identity,
        "array": store.visual.name,
        "split": split,
        "list_digest": digest([split, store.annotations.digest, *test.videos.names]),
        "stride": sampling.stride,
        "train_ratios": list(sampling.ratios),
        "offsets": sampling.offsets,
        **({"phases": sampling.phases} if sampling.phases > 1 else {}),
        **({} if config.labels is None else {"labels_digest": labels_digest(datasets)}),
        **({} if test.observed is None else {"told_digest": test.observed_digest}),
    }


def test_windows(videos: SequenceDataset, config: Config) -> list[tuple[int, Sample]]:
    """(place of the observed ratio, window) of every test; videos in order within each ratio.

    Raises:
        BadInput: too short a video.
    """
    return [
        (place, Sample(video, cut_of(videos, video, ratio, full=config.full_rate)))
        for place, ratio in enumerate(config.observe)
        for video in range(len(videos.names))
    ]
