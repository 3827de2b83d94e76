"""Class ids per frame from a classifier of single frames: the observed labels of the anticipation task.

One classifier is trained on all training videos of a split and labels its test videos. The training videos themselves
are labelled by five others, each trained on the other four fifths of them: a classifier is near perfect on its own
training videos, and a head trained on such labels would trust labels that are worse at test.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from abc import abstractmethod
from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import torch
from torch import Tensor

from vfc.cache_schema.parts.atomic_files import replace_file
from vfc.cache_schema.reader import open_store
from vfc.cache_schema.values.devices import on_device
from vfc.cache_schema.values.errors import BadInput, RecipeMismatch
from vfc.cache_schema.values.layout import STEPS
from vfc.cache_schema.values.progress import Progress
from vfc.cache_schema.values.recipe import Recipe, digest
from vfc.cache_schema.values.record import ArraySpec, Json, Key, Record
from vfc.cache_schema.writer import StoreWriter
from vfc.heads.contract.head import Head
from vfc.heads.contract.train_config import TrainConfig
from vfc.heads.results.tables import Confusion, Table, percent
from vfc.heads.runs.run_folder import ITEMS, weights

from .anticipation.dataset import SequenceDataset, stored_stride
from .anticipation.facts import labels_digest, sequence_facts, sequence_specs
from .anticipation.ground_truth import resolve_sequences, stored_names
from .anticipation.observed_labels import labels_folder
from .anticipation.segments import Ids
from .anticipation.settings import SequenceSettings

SEQUENCES: Final = True
SWEEPS: Final = False
GROUPS: Final = 5
"""Parts of the training videos; each is labelled by a classifier trained on the others."""

_AT_ONCE: Final = 4096

TRAIN = TrainConfig(steps=1000, batch=256, lr=1e-3, clip=0.0, validate_every=250, select="last")


@dataclass(frozen=True)
class Config(SequenceSettings):
    """The sequences and their split."""


@dataclass(frozen=True)
class FrameBatch:
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
    def scores(self, batch: FrameBatch) -> Tensor:
        """Logits `[B, K]`."""


@dataclass(frozen=True)
class FrameLabels:
    """The task on one store; see `head.Task`.

    `videos`: split -> its sequences; `groups`: the part of every training video; `recipe_fields`: how the labels are
    made, as kept with them in the folder `out`.
    """

    train: TrainConfig
    device: torch.device
    class_names: tuple[str, ...]
    videos: Mapping[str, SequenceDataset]
    groups: Ids
    recipe_fields: Mapping[str, Json]
    out: Path

    identity: Mapping[str, Json]
    specs: Mapping[str, ArraySpec]
    recipe: Mapping[str, Json]
    per_pass: int
    facts: Mapping[str, Json]

    def _labels(self, split: str) -> list[Ids]:
        """The true class of every row."""
        return [ids[:: self.videos[split].stride] for ids in self.videos[split].labels]

    def refuse_others(self) -> None:
        """Refuse before the training to replace labels that were made in another way."""
        if not self.out.exists():
            return
        stored = dict(open_store(self.out).recipe.fields)
        changed = Recipe({**stored, "classifier": ""}).difference(Recipe({**self.recipe_fields, "classifier": ""}))
        if changed:
            listed = "; ".join(f"{name}: {json.dumps(a)} there, {json.dumps(b)} asked" for name, a, b in changed)
            raise RecipeMismatch(
                f"{self.out} holds labels that were made in another way: {listed}.",
                "Give the settings of that run, or remove the folder first.",
            )

    def batches(self, start: int) -> Generator[FrameBatch]:
        """Training batches: frames drawn evenly from all training videos, by (seed, number)."""
        videos, labels = self.videos["train"], self._labels("train")
        ids, ends = np.concatenate(labels), np.cumsum([len(part) for part in labels])
        firsts = np.r_[0, ends[:-1]]
        for number in itertools.count(start):
            draw = np.random.default_rng([self.train.seed, number])
            places = draw.integers(ends[-1], size=self.train.batch)
            video = np.searchsorted(ends, places, "right")
            yield FrameBatch(
                videos.single(video.tolist(), (places - firsts[video]) * videos.stride),
                on_device(torch.from_numpy(ids[places]), self.device),
                on_device(torch.from_numpy(self.groups[video]), self.device),
            )

    def validate(self, heads: Sequence[Head]) -> None:
        """The last weights count."""

    def test(self, head: Head, progress: Progress) -> dict[str, Json]:
        """Label every video, keep the labels (and `confusion.json`) as a derived store, and count the right ones."""
        classifier = _weights_digest(head)
        counts = {split: np.zeros((len(self.class_names),) * 2, np.int64) for split in self.videos}
        progress.begin("Label", sum(len(videos.names) for videos in self.videos.values()), "videos")
        items: list[Json] = []
        with StoreWriter(self.out, Recipe({**self.recipe_fields, "classifier": classifier})) as writer:
            writer.declare("video", [ArraySpec("labels", "int64", (None,), STEPS)])
            writer.bind("labels", "classes", {"names": list(self.class_names)})
            for split, videos in self.videos.items():
                for i, (name, truth) in enumerate(zip(videos.names, self._labels(split), strict=True)):
                    group = int(self.groups[i]) if split == "train" else -1
                    predicted = frame_labels(cast("FrameHead", head), videos, i, len(truth), group)
                    np.add.at(counts[split], (truth, predicted), 1)
                    if split == "test":
                        items.append({"item": name, "correct": float((truth == predicted).mean())})
                    key = Key("video", name)
                    if key not in writer:
                        writer.add(Record(key, {"labels": predicted}, {"stride": videos.stride, "group": group}))
                    progress.advance()
        confusions: dict[str, Any] = {split: matrix.tolist() for split, matrix in counts.items()}
        confusions["classes"] = list(self.class_names)
        replace_file(self.out / "confusion.json", json.dumps(confusions).encode() + b"\n")
        return {
            "task": "frame-labels",
            "labels": str(self.out),
            **self.facts,
            "accuracy": _accuracy(counts["test"]),
            "per_class": {
                name: float(row[i] / row.sum()) if row.sum() else None
                for i, (name, row) in enumerate(zip(self.class_names, counts["test"], strict=True))
            },
            "train_accuracy": _accuracy(counts["train"]),
            "frames": {split: int(matrix.sum()) for split, matrix in counts.items()},
            "confusion": cast("Json", counts["test"].tolist()),
            "train_confusion": cast("Json", counts["train"].tolist()),
            "classifier": classifier,
            ITEMS: items,
        }


def frame_labels(head: FrameHead, videos: SequenceDataset, video: int, count: int, group: int = -1) -> Ids:
    """Predicted class ids of the first `count` steps of one video; `group`: its part of the training videos, or -1."""
    predicted = []
    for start in range(0, count, _AT_ONCE):
        rows = np.arange(start, min(start + _AT_ONCE, count))
        frames = videos.steps(video, rows * videos.stride)
        empty = torch.zeros(len(frames), dtype=torch.int64, device=frames.device)
        predicted.append(head.scores(FrameBatch(frames, empty, empty + group)).argmax(dim=-1).cpu().numpy())
    return np.concatenate(predicted)


def _weights_digest(head: Head) -> str:
    hasher = hashlib.sha256()
    for name, value in sorted(weights(head).items()):
        hasher.update(name.encode() + value.numpy().tobytes())
    return hasher.hexdigest()


def _accuracy(counts: Any) -> float:
    return float(np.trace(counts) / counts.sum())


def prepare(
    config: Config, train: TrainConfig, head: type[Head], settings: Any, device: torch.device, progress: Progress
) -> FrameLabels:
    """The task on the store `config.cache`."""
    store, truth = resolve_sequences(config)
    names = {split: stored_names(store, split) for split in ("train", "test")}
    if len(names["train"]) < GROUPS or not names["test"]:
        raise BadInput(
            f"The annotations {config.split_name!r} name {len(names['train'])} training and {len(names['test'])} "
            "test videos of this store.",
            f"At least {GROUPS} are needed to train on, and one to test on; see --fold.",
        )
    stride = stored_stride(store.reader, [*names["train"], *names["test"]])
    videos = {
        split: SequenceDataset(store, listed, truth, stride=stride, device=device, resident=config.resident)
        for split, listed in names.items()
    }
    # In a drawn order, every fifth: each part gets its share of every kind of video.
    order = np.random.default_rng(train.seed).permutation(len(names["train"]))
    groups = np.empty(len(order), np.int64)
    groups[order] = np.arange(len(order)) % GROUPS
    split = Path(config.split_name).stem
    trained = {"head": asdict(settings), "train": {**asdict(train), "out": "", "device": ""}}
    fields: dict[str, Json] = {
        "parent": {"digest": store.reader.recipe.digest, "recipe": dict(store.recipe)},
        "function": "frame-classifier",
        "split": split,
        "annotations": store.annotations.digest,
        "seed": train.seed,
        "settings": digest(json.loads(json.dumps(trained, default=str))),
    }
    labels = {} if config.labels is None else {"labels_digest": labels_digest([*videos.values()])}
    rows = sum(-(-len(ids) // stride) for ids in videos["train"].labels)
    task = FrameLabels(
        train,
        device,
        truth.class_names,
        videos,
        groups,
        fields,
        labels_folder(config.cache, config.split_name),
        identity={**store.identity, "array": store.visual.name, "split": split, **labels},
        specs=sequence_specs(store, truth.class_names),
        recipe=store.recipe,
        per_pass=-(-rows // train.batch),
        facts=sequence_facts(store, truth, videos, progress),
    )
    task.refuse_others()
    return task


def tables(result: Mapping[str, Any]) -> list[Table]:
    """How many frames are right, on test videos and on training videos that the classifier had not seen."""
    rows = (
        ("test videos", percent(result["accuracy"]), f"{result['frames']['test']:,}"),
        ("training videos, each unseen", percent(result["train_accuracy"]), f"{result['frames']['train']:,}"),
    )
    shares = tuple((name, "none" if x is None else percent(x)) for name, x in result["per_class"].items())
    return [
        Table(f"Frame labels of {result['split']}, kept in {result['labels']}", ("", "right", "frames"), rows),
        Table("Per class, test videos", ("class", "right"), shares),
    ]


def confusion(result: Mapping[str, Any]) -> Confusion:
    """Of the test videos."""
    return Confusion(tuple(result["per_class"]), tuple(tuple(row) for row in result["confusion"]))
