"""The suite that every head inherits: it fails on planted mistakes, and a new head is one file and one short test."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from suites.anticipation import AnticipationHeadSuite
from suites.head import ClassifierHeadSuite, EpisodicHeadSuite, HeadSuite
from suites.motion_store import MakeStore
from torch import Tensor, nn
from torch.nn import functional

from vfc.cache_schema.values.progress import Silent
from vfc.cache_schema.values.record import ArraySpec
from vfc.heads import methods
from vfc.heads.contract.head import Head
from vfc.heads.contract.train_config import TrainConfig
from vfc.heads.lookup import configs
from vfc.heads.methods import futr, linear_probe, mote, text_zero_shot
from vfc.heads.tasks import classification, fewshot
from vfc.heads.tasks.anticipation import Prediction
from vfc.heads.tasks.anticipation import WindowBatch as Windows
from vfc.heads.training.fit import train

OTHERS = "test_scores_of_a_task_do_not_depend_on_the_others_of_the_batch"
QUERIES = "test_scores_of_a_query_depend_on_other_queries_only_if_the_head_says_so"
ENCODED = "test_each_clip_is_encoded_by_itself"
SUPPORT = "test_a_clip_of_the_support_is_given_its_class"
TEXTS = "test_a_clip_at_the_text_of_a_class_is_given_that_class"
ANSWERS = "test_scores_do_not_read_the_answers"
PADDING = "test_padding_changes_no_score_and_no_loss"
GRADIENTS = "test_padding_changes_no_gradient"
CLIP_ALONE = "test_a_padded_clip_is_encoded_as_it_is_alone"
TEXT_ALONE = "test_the_text_of_a_class_is_read_as_it_is_alone"


class Nearest(fewshot.EpisodicHead):
    """Minus the distance of a query to the mean of a class's shots, behind one linear layer. No mistake."""

    def __init__(self, config: Any, specs: Mapping[str, ArraySpec]) -> None:
        super().__init__(config, specs)
        self.project = nn.Linear(int(specs["visual"].shape[-1] or 0), 8)

    def encode(self, videos: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"clip": self.project(videos["visual"].mean(dim=1))}

    def match(self, batch: fewshot.EpisodeBatch) -> Tensor:
        clips = batch.videos["clip"]
        return -torch.cdist(clips[batch.query], clips[batch.support].mean(dim=2))


class NormedOverTheBatch(Nearest):
    def encode(self, videos: Mapping[str, Tensor]) -> dict[str, Tensor]:
        clips = super().encode(videos)["clip"]
        return {"clip": (clips - clips.mean(dim=0)) / clips.std(dim=0)}


class NormedOverTheEpisodes(Nearest):
    def match(self, batch: fewshot.EpisodeBatch) -> Tensor:
        scores = super().match(batch)
        return scores / scores.std()


class CentredOnTheQueries(Nearest):
    def match(self, batch: fewshot.EpisodeBatch) -> Tensor:
        scores = super().match(batch)
        return scores - scores.mean(dim=1, keepdim=True)


class SaidToBeTransductive(Nearest):
    transductive = True


class DistanceAsLogit(Nearest):
    def match(self, batch: fewshot.EpisodeBatch) -> Tensor:
        return -super().match(batch)


class ReadsTheTarget(Nearest):
    def match(self, batch: fewshot.EpisodeBatch) -> Tensor:
        return super().match(batch) + functional.one_hot(batch.target, batch.support.shape[1])


class MaskedNearest(Nearest):
    """Clips of any length, by their mean over what is no padding. No mistake."""

    masks = True

    def encode(self, videos: Mapping[str, Tensor]) -> dict[str, Tensor]:
        frames, valid = videos["visual"], videos.get("visual.valid")
        if valid is None:
            return super().encode(videos)
        total = torch.where(valid[..., None], frames, 0).sum(dim=1)
        return {"clip": self.project(total / valid.sum(dim=1, keepdim=True))}


class ReadsPadding(MaskedNearest):
    def encode(self, videos: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return Nearest.encode(self, videos)


class PaddingAsZeros(MaskedNearest):
    def encode(self, videos: Mapping[str, Tensor]) -> dict[str, Tensor]:
        frames, valid = videos["visual"], videos.get("visual.valid")
        return {"clip": self.project((frames if valid is None else torch.where(valid[..., None], frames, 0)).mean(1))}


class LossOfTheBatch(Nearest):
    def loss(self, batch: fewshot.EpisodeBatch) -> dict[str, Tensor]:
        return {"cross-entropy": super().loss(batch)["cross-entropy"] * len(batch.target)}


class MeanOfRows(classification.ClassifierHead):
    """The distance of a clip to the mean of the rows of a class's text, behind one linear layer. No mistake."""

    def __init__(self, config: Any, specs: Mapping[str, ArraySpec]) -> None:
        super().__init__(config, specs)
        self.project = nn.Linear(24, 8)

    def texts(self, rows: Tensor, valid: Tensor) -> Tensor:
        return torch.where(valid[..., None], rows, 0).sum(dim=1) / valid.sum(dim=1, keepdim=True)

    def scores(self, batch: classification.ClipBatch) -> Tensor:
        texts = self.texts(batch.classes["rows"], batch.classes["rows.valid"])
        return -torch.cdist(self.project(batch.clips["visual"].mean(dim=1)), self.project(texts))


class ReadsPaddedRows(MeanOfRows):
    def texts(self, rows: Tensor, valid: Tensor) -> Tensor:
        return rows.mean(dim=1)


class PaddedRowsAsZeros(MeanOfRows):
    def texts(self, rows: Tensor, valid: Tensor) -> Tensor:
        return torch.where(valid[..., None], rows, 0).mean(dim=1)


class AllSteps(futr.Head):
    def loss(self, batch: Windows) -> dict[str, Tensor]:
        return super().loss(replace(batch, valid=torch.ones_like(batch.valid)))

    def predict(self, batch: Windows) -> Prediction:
        return super().predict(replace(batch, valid=torch.ones_like(batch.valid)))


class CentredClips(linear_probe.Head):
    def scores(self, batch: classification.ClipBatch) -> Tensor:
        clips = batch.clips["visual"]
        return super().scores(replace(batch, clips={"visual": clips - clips.mean(dim=0)}))


class ReadsTheLabels(linear_probe.Head):
    def scores(self, batch: classification.ClipBatch) -> Tensor:
        return super().scores(batch) + batch.labels[:, None]


class TextDistanceAsLogit(text_zero_shot.Head):
    def scores(self, batch: classification.ClipBatch) -> Tensor:
        return torch.cdist(batch.clips["visual"].mean(dim=1), batch.classes["text"])


class TrainedTextDistanceAsLogit(mote.Head):
    def scores(self, batch: classification.ClipBatch) -> Tensor:
        return -super().scores(batch)


class CentredWindows(futr.Head):
    def predict(self, batch: Windows) -> Prediction:
        answer = super().predict(batch)
        return replace(answer, actions=answer.actions - answer.actions.mean(dim=0))


class ReadsTheFuture(futr.Head):
    def predict(self, batch: Windows) -> Prediction:
        answer = super().predict(batch)
        return replace(answer, actions=answer.actions + batch.actions[:, :1, None])


class Episodes(EpisodicHeadSuite):
    kind: ClassVar[type[Head]]

    def head(self, seed: int = 0) -> Head:
        torch.manual_seed(seed)
        return self.kind(None, self.specs)


class Clips(ClassifierHeadSuite):
    kind: ClassVar[type[Head]]
    specs: ClassVar[Mapping[str, ArraySpec]] = {
        **ClassifierHeadSuite.specs,
        "class.text": ArraySpec("embedding", "fp32", (24,)),
    }

    def head(self, seed: int = 0) -> Head:
        torch.manual_seed(seed)
        config = linear_probe.Config() if issubclass(self.kind, linear_probe.Head) else mote.Config(layers=1)
        return self.kind(config, self.specs)


class Texts(Clips):
    specs: ClassVar[Mapping[str, ArraySpec]] = {
        **ClassifierHeadSuite.specs,
        "class.rows": ArraySpec("rows", "fp32", (None, 24)),
    }


class Anticipated(AnticipationHeadSuite):
    kind: ClassVar[type[Head]]
    config = futr.Config(width=16, decoder_layers=1, queries=5, positions=16, attention_heads=2)

    def head(self, seed: int = 0) -> Head:
        torch.manual_seed(seed)
        return self.kind(self.config, self.specs)


def failures(suite: type[HeadSuite], head: type[Head], *tests: str) -> set[str]:
    """Those of the tests that fail on a head."""
    planted: Any = type("Planted", (suite,), {"kind": head})()
    failed = set()
    for test in tests:
        try:
            getattr(planted, test)()
        except AssertionError:
            failed.add(test)
        except pytest.skip.Exception:
            continue
    return failed


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (Nearest, set()),
        (NormedOverTheBatch, {OTHERS, QUERIES, ENCODED}),
        (NormedOverTheEpisodes, {OTHERS, QUERIES}),
        (CentredOnTheQueries, {QUERIES}),
        (SaidToBeTransductive, {QUERIES}),
        (DistanceAsLogit, {SUPPORT}),
        (ReadsTheTarget, {ANSWERS}),
    ],
)
def test_mistakes_of_a_few_shot_head(head: type[Head], expected: set[str]) -> None:
    assert failures(Episodes, head, OTHERS, QUERIES, ENCODED, SUPPORT, ANSWERS) == expected


def test_a_declared_transductive_head_may_centre_on_its_queries() -> None:
    declared = type("Declared", (CentredOnTheQueries,), {"transductive": True})
    assert not failures(Episodes, declared, OTHERS, QUERIES, ENCODED, SUPPORT, ANSWERS)


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (linear_probe.Head, set()),
        (text_zero_shot.Head, set()),
        (CentredClips, {OTHERS}),
        (ReadsTheLabels, {ANSWERS}),
        (TextDistanceAsLogit, {TEXTS}),
        (TrainedTextDistanceAsLogit, {TEXTS}),
    ],
)
def test_mistakes_of_a_classifier(head: type[Head], expected: set[str]) -> None:
    # A head with a weight per class cannot be told from its texts: test_a_clip_at_the_text is for the others.
    tests = (OTHERS, ANSWERS) if issubclass(head, linear_probe.Head) else (OTHERS, ANSWERS, TEXTS)
    assert failures(Clips, head, *tests) == expected


@pytest.mark.parametrize(
    ("head", "expected"), [(futr.Head, set()), (CentredWindows, {OTHERS}), (ReadsTheFuture, {ANSWERS})]
)
def test_mistakes_of_an_anticipation_head(head: type[Head], expected: set[str]) -> None:
    assert failures(Anticipated, head, OTHERS, ANSWERS) == expected


@pytest.mark.parametrize(
    ("suite", "head", "expected"),
    [
        (Episodes, Nearest, set()),
        (Episodes, MaskedNearest, set()),
        (Episodes, ReadsPadding, {PADDING, GRADIENTS, CLIP_ALONE}),
        (Episodes, PaddingAsZeros, {PADDING, GRADIENTS, CLIP_ALONE}),
        (Episodes, LossOfTheBatch, {PADDING}),
        (Texts, MeanOfRows, set()),
        (Texts, ReadsPaddedRows, {PADDING, GRADIENTS, TEXT_ALONE}),
        (Texts, PaddedRowsAsZeros, {GRADIENTS, PADDING, TEXT_ALONE}),
        (Anticipated, AllSteps, {PADDING, GRADIENTS}),
    ],
)
def test_mistakes_with_padding(suite: type[HeadSuite], head: type[Head], expected: set[str]) -> None:
    tests = [name for name in (PADDING, GRADIENTS, CLIP_ALONE, TEXT_ALONE) if hasattr(suite, name)]
    assert failures(suite, head, *tests) == expected


NEAREST_MEAN = '''"""The class whose mean is nearest."""

from dataclasses import dataclass

import torch

from vfc.heads.contract.head import require
from vfc.heads.tasks.fewshot import EpisodicHead

TASK = "fewshot"


@dataclass(frozen=True)
class Config:
    pass


class Head(EpisodicHead):
    def __init__(self, config, specs):
        super().__init__(config, specs)
        require(specs, "visual", "nearest-mean")

    def encode(self, videos):
        return {"clip": videos["visual"].mean(dim=1)}

    def match(self, batch):
        clips = batch.videos["clip"]
        return -torch.cdist(clips[batch.query], clips[batch.support].mean(dim=2))
'''


def test_a_new_head_is_one_file_and_a_test_of_two_lines(
    make_store: MakeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nearest_mean.py").write_text(NEAREST_MEAN)
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])

    class NearestMean(EpisodicHeadSuite):
        method = "nearest-mean"

    tests = {name: test for name, test in inspect.getmembers(NearestMean(), inspect.ismethod) if name[:5] == "test_"}
    skipped = set()
    for name, test in tests.items():
        try:
            test(*[tmp_path] if "tmp_path" in inspect.signature(test).parameters else [])
        except pytest.skip.Exception:
            skipped.add(name)
    assert skipped == {
        "test_gradients_reach_every_trainable_parameter",
        "test_one_batch_can_be_overfitted",
        GRADIENTS,
    }
    assert len(tests) >= 12

    parts = configs("nearest-mean")
    task = fewshot.Config(make_store(noise=0.3), way=3, tasks=50, val_tasks=10)
    config = TrainConfig(steps=5, device="cpu", out=tmp_path / "run")
    row = train("nearest-mean", task, parts["head"], config, Silent()).row
    assert row["parameters"] == 0
    assert row["accuracy"] > 0.3
