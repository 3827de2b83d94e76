"""What every head of the anticipation task must pass, beside what every head must."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from vfc.cache_schema.values.record import ArraySpec
from vfc.heads.contract.head import Head
from vfc.heads.tasks.anticipation import AnticipationHead, WindowBatch, targets

from .head import HeadSuite


class AnticipationHeadSuite(HeadSuite):
    """Random steps of windows of different length; the classes are called c0, c1 ..."""

    specs: ClassVar[Mapping[str, ArraySpec]] = {
        "visual": ArraySpec("features", "fp32", (None, 12), "steps"),
        "classes": ArraySpec("classes", "int64", (5,)),
    }
    needs: ClassVar[tuple[str, ...]] = ("visual", "classes")
    lengths: ClassVar[tuple[int, ...]] = (9, 4, 7, 6)
    segments: ClassVar[int] = 3

    def head(self, seed: int = 0) -> Head:
        head = super().head(seed)
        assert isinstance(head, AnticipationHead)
        head.name_classes([f"c{i}" for i in range(self.classes)])
        return head

    @property
    def classes(self) -> int:
        return int(self.specs["classes"].shape[0] or 0)

    def batch(self, tasks: int = 4, seed: int = 0) -> WindowBatch:
        generator = torch.Generator().manual_seed(seed)
        lengths = torch.tensor([self.lengths[i % len(self.lengths)] for i in range(tasks)])
        steps = int(lengths.max())
        valid = torch.arange(steps) < lengths[:, None]
        width = int(self.specs["visual"].shape[-1] or 0)
        past = torch.randint(self.classes, (tasks, steps), generator=generator)
        count = torch.randint(1, self.segments + 1, (tasks, 1), generator=generator)
        there = torch.arange(self.segments) < count
        actions = torch.randint(self.classes, (tasks, self.segments), generator=generator)
        durations = (torch.rand(tasks, self.segments, generator=generator) + 0.1) * there
        return WindowBatch(
            visual=torch.randn(tasks, steps, width, generator=generator) * valid[..., None],
            valid=valid,
            observed_labels=past.masked_fill(~valid, -1),
            past=past.masked_fill(~valid, -100),
            actions=actions.masked_fill(~there, -1),
            durations=durations / durations.sum(dim=1, keepdim=True),
        )

    def ragged(self, poison: float) -> WindowBatch:
        """Two more steps of padding than the longest window needs."""
        batch = self.batch(seed=11)
        assert batch.observed_labels is not None
        valid = functional.pad(batch.valid, (0, 2), value=False)
        visual = functional.pad(batch.visual, (0, 0, 0, 2))
        return replace(
            batch,
            visual=torch.where(valid[..., None], visual, poison),
            valid=valid,
            observed_labels=functional.pad(batch.observed_labels, (0, 2), value=-1),
            past=functional.pad(batch.past, (0, 2), value=-100),
        )

    def trimmed(self, batch: WindowBatch) -> WindowBatch:
        cut = self.selected(batch, torch.arange(len(batch.valid)))
        segments = int((cut.actions >= 0).sum(dim=1).max())
        return replace(cut, actions=cut.actions[:, :segments], durations=cut.durations[:, :segments])

    def shares(self, head: Head, batch: WindowBatch) -> Mapping[str, Tensor]:
        """Means over steps, over answers and over segments, of which windows have different numbers."""
        classes, _ = targets(batch, head.queries, self.classes)  # type: ignore[arg-type]
        steps = (batch.past >= 0).sum(dim=1)
        return {
            **dict.fromkeys(("past", "past text", "past visual"), steps),
            "action": (classes >= 0).sum(dim=1),
            "duration": ((classes >= 0) & (classes != self.classes)).sum(dim=1),
        }

    def selected(self, batch: WindowBatch, order: Tensor) -> WindowBatch:
        """Only these windows; steps that are padding in all of them are cut off, as the task does."""
        steps = int(batch.valid[order].sum(dim=1).max())
        cut = {
            name: None if (value := getattr(batch, name)) is None else value[order][:, :steps]
            for name in ("visual", "valid", "observed_labels", "past")
        }
        return WindowBatch(**cut, actions=batch.actions[order], durations=batch.durations[order])

    def without_answers(self, batch: WindowBatch) -> WindowBatch:
        return replace(
            batch,
            past=torch.full_like(batch.past, -100),
            actions=torch.full_like(batch.actions, -1),
            durations=torch.zeros_like(batch.durations),
        )

    def right(self, scores: Tensor, batch: WindowBatch) -> float:
        classes, _ = targets(batch, scores.shape[1], self.classes)
        there = classes >= 0
        return float((scores.argmax(dim=-1) == classes)[there].float().mean())

    def test_an_answer_is_queries_by_classes_and_none(self) -> None:
        head: Any = self.head()
        found = head.predict(self.batch(tasks=2))
        assert found.actions.shape == (2, head.queries, self.classes + 1)
        assert found.durations.shape == (2, head.queries)

    def test_what_stands_in_the_padding_does_not_matter(self) -> None:
        head, batch = self.head().eval(), self.batch()
        other = replace(batch, visual=torch.where(batch.valid[..., None], batch.visual, torch.tensor(7.0)))
        with torch.no_grad():
            torch.testing.assert_close(head.scores(other), head.scores(batch), rtol=1e-4, atol=1e-5)
