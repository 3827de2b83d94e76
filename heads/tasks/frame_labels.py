"""Class ids per frame from a classifier of single frames: what heads of the anticipation task are told of the past.

One classifier learns from all training videos of a split and labels its test videos. The training videos themselves
are labelled by others, each of which has seen four fifths of them, by video: a classifier is near perfect on what it
has seen, and a head told such labels would learn to trust what it will not get at test.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from abc import abstractmethod
from collections.abc import Generator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import torch
from torch import Tensor

from vfc.cache_schema.parts.atomic_files import replace_file
from vfc.cache_schema.reader import open_store
from vfc.cache_schema.values.errors import BadInput, RecipeMismatch
from vfc.cache_schema.values.layout import STEPS
from vfc.cache_schema.values.progress import Progress
from vfc.cache_schema.values.recipe import Recipe, digest
from vfc.cache_schema.values.record import ArraySpec, Json, Key, Record
from vfc.cache_schema.writer import StoreWriter
from vfc.heads.contract.head import Head
from vfc.heads.contract.train_config import TrainConfig
from vfc.heads.data.arrays import choose_sequence
from vfc.heads.results.tables import Confusion, Table, percent
from vfc.heads.runs.run_folder import ITEMS, weights

from .anticipation.ground_truth import digest_of, truth_of
from .anticipation.observed_labels import labels_folder
from .anticipation.segments import Ids
from .anticipation.sequences import Sequences, stored_stride
from .anticipation.settings import SequenceSettings

SEQUENCES: Final = True
GROUPS: Final = 5
"""Parts of the training videos; each is labelled by a classifier that has seen the others."""

_AT_ONCE: Final = 4096

TRAIN = TrainConfig(steps=1000, batch=256, lr=1e-3, clip=0.0, validate_every=250, select="last")


@dataclass(frozen=True)
class Config(SequenceSettings):
    """Which sequences, which split: nothing else is to be chosen."""


@dataclass(frozen=True)
class Batch:
    """Frames `[B, D]`, their classes `[B]`, and the part `[B]` of the training videos they are from (0 to 4).

    A frame of a test video is of part -1.
    """

    frames: Tensor
    labels: Tensor
    group: Tensor


class FrameHead(Head):
    """A head with 1 + 5 classifiers; `specs` as in the anticipation task. Scores are logits `[B, K]`.

    A frame of part g is scored by a classifier that never saw part g, one of part -1 by the classifier that saw all.
    """

    @abstractmethod
    def scores(self, batch: Batch) -> Tensor:
        """Logits `[B, K]`."""


class FrameLabels:
    """The task on one store; see `head.Task`."""

    def __init__(self, config: Config, train: TrainConfig, settings: Any, device: torch.device) -> None:
        self._config, self._train, self._device = config, train, device
        self._reader = open_store(config.cache)
        self._array = choose_sequence(self._reader, config.array, labelled=config.labels is None)
        self._truth = truth_of(self._reader, config)
        self.class_names = self._truth.class_names
        rows = self._truth.annotations(config.split_name)
        there = {key.name for key in self._reader.keys("video") if key.view == 0}
        names = {part: [r.name for r in rows.rows if r.split == part and r.name in there] for part in ("train", "test")}
        if len(names["train"]) < GROUPS or not names["test"]:
            raise BadInput(
                f"The annotations {config.split_name!r} name {len(names['train'])} training and {len(names['test'])} "
                "test videos of this store.",
                f"At least {GROUPS} are needed to train on, and one to test on; see --fold.",
            )
        self._stride = stored_stride(self._reader, [*names["train"], *names["test"]])
        self._videos = {part: self._sequences(listed) for part, listed in names.items()}
        # In a drawn order, every fifth: each part gets its share of every kind of video.
        order = np.random.default_rng(train.seed).permutation(len(names["train"]))
        self._groups = np.empty(len(order), np.int64)
        self._groups[order] = np.arange(len(order)) % GROUPS
        steps = self._labels("train")
        self._ends = np.cumsum([len(ids) for ids in steps])
        self.per_pass = -(-int(self._ends[-1]) // train.batch)
        self.specs: Mapping[str, ArraySpec] = {
            "visual": ArraySpec(self._array.name, "fp32", self._array.shape, self._array.layout),
            "classes": ArraySpec("classes", "int64", (len(self.class_names),)),
        }
        self.identity: Mapping[str, Json] = {
            "store_digest": self._reader.digest,
            "recipe_digest": self._reader.recipe.digest,
            "annotations_digest": rows.digest,
            "array": self._array.name,
            "split": Path(config.split_name).stem,
            **({} if config.labels is None else {"labels_digest": self._labels_digest()}),
        }
        self.recipe: Mapping[str, Json] = self._reader.recipe.fields
        self._out = labels_folder(config.cache, config.split_name)
        given = {"head": asdict(settings), "train": {**asdict(train), "out": "", "device": ""}}
        self._fields: dict[str, Json] = {
            "parent": {"digest": self._reader.recipe.digest, "recipe": dict(self._reader.recipe.fields)},
            "function": "frame-classifier",
            "split": Path(config.split_name).stem,
            "annotations": rows.digest,
            "seed": train.seed,
            "settings": digest(json.loads(json.dumps(given, default=str))),
        }
        self._refuse_others()

    def _sequences(self, names: list[str]) -> Sequences:
        return Sequences(
            self._reader,
            names,
            self._array,
            self._truth,
            stride=self._stride,
            device=self._device,
            resident=self._config.resident,
        )

    def _labels(self, part: str) -> list[Ids]:
        """The true class of every row."""
        return [ids[:: self._stride] for ids in self._videos[part].labels]

    def _labels_digest(self) -> str:
        return digest_of(
            (name, ids) for v in self._videos.values() for name, ids in zip(v.names, v.labels, strict=True)
        )

    def _refuse_others(self) -> None:
        """Labels that are there and were made in another way are found now, not after the training."""
        if not self._out.exists():
            return
        there = dict(open_store(self._out).recipe.fields)
        changed = Recipe({**there, "classifier": ""}).difference(Recipe({**self._fields, "classifier": ""}))
        if changed:
            listed = "; ".join(f"{name}: {json.dumps(a)} there, {json.dumps(b)} asked" for name, a, b in changed)
            raise RecipeMismatch(
                f"{self._out} holds labels that were made in another way: {listed}.",
                "Give the settings of that run, or remove the folder first.",
            )

    def batches(self, start: int) -> Generator[Any]:
        """Training batches: frames drawn evenly from all training videos, by (seed, number)."""
        labels, videos = np.concatenate(self._labels("train")), self._videos["train"]
        firsts = np.r_[0, self._ends[:-1]]
        for number in itertools.count(start):
            draw = np.random.default_rng([self._train.seed, number])
            places = draw.integers(self._ends[-1], size=self._train.batch)
            video = np.searchsorted(self._ends, places, "right")
            yield Batch(
                videos.single(video.tolist(), (places - firsts[video]) * self._stride),
                torch.from_numpy(labels[places]).to(self._device),
                torch.from_numpy(self._groups[video]).to(self._device),
            )

    def validate(self, head: Head) -> float | None:
        """The last weights count."""
        return None

    def test(self, head: Head, progress: Progress) -> dict[str, Json]:
        """Label every video, keep the labels (and `confusion.json`) as a derived store, and say how many are right."""
        classifier = hashlib.sha256()
        for name, value in sorted(weights(head).items()):
            classifier.update(name.encode() + value.numpy().tobytes())
        writer = StoreWriter(self._out, Recipe({**self._fields, "classifier": classifier.hexdigest()}))
        counts = {part: np.zeros((len(self.class_names),) * 2, np.int64) for part in self._videos}
        progress.begin("Label", sum(len(videos.names) for videos in self._videos.values()), "videos")
        items: list[Json] = []
        with writer:
            writer.declare("video", [ArraySpec("labels", "int64", (None,), STEPS)])
            writer.bind("labels", "classes", {"names": list(self.class_names)})
            for part, videos in self._videos.items():
                for i, (name, truth) in enumerate(zip(videos.names, self._labels(part), strict=True)):
                    found = self._labelled(cast("FrameHead", head), part, i, truth)
                    np.add.at(counts[part], (truth, found), 1)
                    if part == "test":
                        items.append({"item": name, "correct": float((truth == found).mean())})
                    key = Key("video", name)
                    if key not in writer:
                        group = int(self._groups[i]) if part == "train" else -1
                        writer.add(Record(key, {"labels": found}, {"stride": self._stride, "group": group}))
                    progress.advance()
        told: dict[str, Any] = {part: found.tolist() for part, found in counts.items()}
        told["classes"] = list(self.class_names)
        replace_file(self._out / "confusion.json", json.dumps(told).encode() + b"\n")
        return {
            "task": "frame-labels",
            "labels": str(self._out),
            "accuracy": _accuracy(counts["test"]),
            "per_class": {
                name: float(row[i] / row.sum()) if row.sum() else None
                for i, (name, row) in enumerate(zip(self.class_names, counts["test"], strict=True))
            },
            "train_accuracy": _accuracy(counts["train"]),
            "frames": {part: int(found.sum()) for part, found in counts.items()},
            "confusion": cast("Json", counts["test"].tolist()),
            "train_confusion": cast("Json", counts["train"].tolist()),
            "classifier": classifier.hexdigest(),
            ITEMS: items,
        }

    def _labelled(self, head: FrameHead, part: str, video: int, truth: Ids) -> Ids:
        """Predicted class ids of every row of one video."""
        group = int(self._groups[video]) if part == "train" else -1
        found = []
        for start in range(0, len(truth), _AT_ONCE):
            rows = np.arange(start, min(start + _AT_ONCE, len(truth)))
            frames = self._videos[part].steps(video, rows * self._stride)
            empty = torch.zeros(len(frames), dtype=torch.int64, device=frames.device)
            found.append(head.scores(Batch(frames, empty, empty + group)).argmax(dim=-1).cpu().numpy())
        return np.concatenate(found)


def _accuracy(counts: Any) -> float:
    return float(np.trace(counts) / counts.sum())


def prepare(
    config: Config, train: TrainConfig, head: type[Head], settings: Any, device: torch.device, progress: Progress
) -> FrameLabels:
    """The task on the store `config.cache`."""
    return FrameLabels(config, train, settings, device)


def tables(result: Mapping[str, Any]) -> list[Table]:
    """How many frames are right, on test videos and on training videos that the classifier had not seen."""
    rows = (
        ("test videos", percent(result["accuracy"]), f"{result['frames']['test']:,}"),
        ("training videos, each unseen", percent(result["train_accuracy"]), f"{result['frames']['train']:,}"),
    )
    shares = tuple((name, "none there" if x is None else percent(x)) for name, x in result["per_class"].items())
    return [
        Table(f"Frame labels of {result['split']}, kept in {result['labels']}", ("", "right", "frames"), rows),
        Table("Per class, test videos", ("class", "right"), shares),
    ]


def confusion(result: Mapping[str, Any]) -> Confusion:
    """Of the test videos."""
    return Confusion(tuple(result["per_class"]), tuple(tuple(row) for row in result["confusion"]))
