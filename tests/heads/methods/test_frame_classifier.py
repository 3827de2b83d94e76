"""The frame classifier: what every head must pass, and that its six classifiers do not touch each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import torch
from suites.head import HeadSuite
from torch import Tensor

from vfc.cache_schema.values.record import ArraySpec
from vfc.heads.contract.head import Head
from vfc.heads.lookup import find
from vfc.heads.methods import frame_classifier
from vfc.heads.tasks.frame_labels import GROUPS, FrameBatch


class FrameSuite(HeadSuite):
    """Frames of all five parts of the training videos."""

    method = "frame-classifier"
    specs: ClassVar[Mapping[str, ArraySpec]] = {
        "visual": ArraySpec("features", "fp32", (None, 12), "steps"),
        "classes": ArraySpec("classes", "int64", (5,)),
    }
    needs = ("visual", "classes")
    overfit_steps = 10

    def batch(self, tasks: int = 4, seed: int = 0) -> FrameBatch:
        generator = torch.Generator().manual_seed(seed)
        labels = torch.randint(5, (tasks,), generator=generator)
        return FrameBatch(torch.randn(tasks, 12, generator=generator), labels, torch.arange(tasks) % GROUPS)

    def selected(self, batch: FrameBatch, order: Tensor) -> FrameBatch:
        return FrameBatch(batch.frames[order], batch.labels[order], batch.group[order])

    def shares(self, head: Head, batch: FrameBatch) -> dict[str, Tensor]:
        """A classifier is trained on the frames of the other parts."""
        return {f"without part {part + 1}": batch.group != part for part in range(GROUPS)}

    def without_answers(self, batch: FrameBatch) -> FrameBatch:
        return replace(batch, labels=torch.zeros_like(batch.labels))

    def right(self, scores: Tensor, batch: FrameBatch) -> float:
        """Nothing to overfit: a frame is scored by the classifier that never sees it; see the next test."""
        return 1.0 if scores.isfinite().all() else 0.0


class TestLinear(FrameSuite):
    def test_the_classifier_of_all_learns_all(self) -> None:
        head, batch = self.head(), self.batch(tasks=20)
        optimizer = torch.optim.AdamW(head.parameters(), lr=0.1)
        for _ in range(60):
            optimizer.zero_grad()
            self.total(head, batch).backward()
            optimizer.step()
        everything = replace(batch, group=torch.full_like(batch.group, -1))
        with torch.no_grad():
            assert (head.scores(everything).argmax(dim=-1) == batch.labels).all()
            assert not (head.scores(batch).argmax(dim=-1) == batch.labels).all()


class TestHidden(TestLinear):
    config = frame_classifier.Config(hidden=32)


def test_six_classifiers_at_once_are_six_alone() -> None:
    suite = FrameSuite()
    batch = suite.batch(tasks=30)
    specs, config = suite.specs, frame_classifier.Config()
    together, alone = (find("frame-classifier").Head(config, specs) for _ in range(2))
    alone.load_state_dict(together.state_dict())
    optimizer = torch.optim.AdamW(together.parameters(), lr=1e-2)
    single = torch.optim.AdamW(alone.classifiers[3].parameters(), lr=1e-2)  # type: ignore[index]
    for _ in range(10):
        optimizer.zero_grad()
        torch.stack(list(together.loss(batch).values())).sum().backward()
        optimizer.step()
        single.zero_grad()
        seen = batch.group != 2
        scores = alone.classifiers[3](batch.frames[seen])  # type: ignore[index]
        torch.nn.functional.cross_entropy(scores, batch.labels[seen]).backward()
        single.step()
    ours, theirs = (dict(head.classifiers[3].named_parameters()) for head in (together, alone))  # type: ignore[index]
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value)
