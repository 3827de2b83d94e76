"""What every head must pass. A method's test inherits from the suite of its task and names the method.

class TestPrototype(EpisodicHeadSuite):
    method = "prototype"
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import save_file
from suites import padding
from torch import Tensor, nn

from vfc.cache_schema.values.errors import Damaged, UnknownName
from vfc.cache_schema.values.record import ArraySpec
from vfc.heads.contract.head import Head
from vfc.heads.lookup import find
from vfc.heads.runs.run_folder import load_weights, weights
from vfc.heads.tasks import classification
from vfc.heads.tasks.fewshot import EpisodeBatch, EpisodicHead


class HeadSuite(ABC):
    """Hooks: `method`, and where they differ `config`, `specs` and the rest below; a task's suite adds its batches.

    A task is what the head scores separately: an episode, a clip, a window, a frame.
    """

    method: ClassVar[str]
    config: ClassVar[Any] = None
    task_is_one_query: ClassVar[bool] = True
    specs: ClassVar[Mapping[str, ArraySpec]] = {"visual": ArraySpec("frames", "fp32", (4, 24))}
    needs: ClassVar[tuple[str, ...]] = ("visual",)
    never_trained: ClassVar[tuple[str, ...]] = ()
    bf16_tolerance: ClassVar[float] = 0.05
    overfit_steps: ClassVar[int] = 100
    overfit_lr: ClassVar[float] = 1e-2
    of_the_batch: ClassVar[Mapping[str, str]] = {}
    """Loss terms that the method defines over all tasks of a batch, and how: not a mean of what each task has."""

    @abstractmethod
    def batch(self, tasks: int = 4, seed: int = 0) -> Any:
        """A batch of `tasks` tasks drawn with `seed`."""

    @abstractmethod
    def selected(self, batch: Any, order: Tensor) -> Any:
        """Only the tasks at `order`, in this order, with nothing of the others left in the batch."""

    def ragged(self, poison: float) -> Any:
        """Four tasks of different size where the head takes such, padded further than needed, padding of `poison`."""
        return self.batch(seed=11)

    def trimmed(self, batch: Any) -> Any:
        """The same tasks without what is padding in all of them."""
        return batch

    def shares(self, head: Head, batch: Any) -> Mapping[str, Tensor]:
        """Loss term -> how much each task of a batch counts in it, where that is not the same for all."""
        return {}

    @abstractmethod
    def without_answers(self, batch: Any) -> Any:
        """The same batch with other labels, which `scores` must not read."""

    @abstractmethod
    def right(self, scores: Tensor, batch: Any) -> float:
        """The share of correct answers."""

    def head(self, seed: int = 0) -> Head:
        torch.manual_seed(seed)
        return find(self.method).Head(self.settings, self.specs)

    @property
    def settings(self) -> Any:
        return find(self.method).Config() if self.config is None else self.config

    def trainable(self, head: Head) -> list[nn.Parameter]:
        """Skips a test of training where the head has nothing to train."""
        parameters = [p for p in head.parameters() if p.requires_grad]
        if not parameters:
            pytest.skip("nothing to train")
        return parameters

    def fit(self, head: Head, batches: Iterator[Any]) -> None:
        """One update per batch."""
        optimizer = torch.optim.AdamW(self.trainable(head), lr=self.overfit_lr)
        for step, batch in enumerate(batches):
            torch.manual_seed(step)
            optimizer.zero_grad()
            self.total(head, batch).backward()
            optimizer.step()

    def total(self, head: Head, batch: Any) -> Tensor:
        return torch.stack(list(head.loss(batch).values())).sum()

    def test_the_loss_is_finite_and_named(self) -> None:
        terms = self.head().loss(self.batch())
        assert terms
        assert all(isinstance(name, str) and term.ndim == 0 and torch.isfinite(term) for name, term in terms.items())

    def test_gradients_reach_every_trainable_parameter(self) -> None:
        head = self.head()
        self.trainable(head)
        self.total(head, self.batch()).backward()
        for name, parameter in head.named_parameters():
            if parameter.requires_grad and name not in self.never_trained:
                assert parameter.grad is not None, name
                assert torch.isfinite(parameter.grad).all(), name
                assert parameter.grad.abs().sum() > 0, name
            elif not parameter.requires_grad:
                assert parameter.grad is None, name

    def test_scores_of_a_task_do_not_depend_on_the_others_of_the_batch(self) -> None:
        head, batch = self.head().eval(), self.batch()
        if head.transductive and self.task_is_one_query:
            pytest.skip("declared transductive")
        order = torch.tensor([2, 0, 3, 1])
        with torch.no_grad():
            scores = head.scores(batch)
            torch.testing.assert_close(head.scores(self.selected(batch, order)), scores[order], rtol=1e-4, atol=1e-5)
            for i in range(len(order)):
                alone = head.scores(self.selected(batch, order[i : i + 1]))
                torch.testing.assert_close(alone, scores[order[i : i + 1]], rtol=1e-4, atol=1e-5)

    def test_padding_changes_no_score_and_no_loss(self) -> None:
        head, batch = self.head().eval(), self.ragged(float("nan"))
        if head.transductive and self.task_is_one_query:
            pytest.skip("declared transductive")

        def loss_of(some: Any) -> dict[str, Tensor]:
            torch.manual_seed(0)
            return dict(head.loss(some))

        each = [self.trimmed(self.selected(batch, torch.tensor([i]))) for i in range(4)]
        shares = self.shares(head, batch)
        with torch.no_grad():
            alone = torch.cat([head.scores(one) for one in each])
            torch.testing.assert_close(head.scores(batch), alone, rtol=1e-5, atol=1e-5)
            terms, parts = loss_of(batch), [loss_of(one) for one in each]
        for name, term in terms.items():
            share = shares.get(name, torch.ones(4)).double()
            values = torch.stack([part.get(name, torch.zeros(())) for part in parts]).double()
            mean = torch.where(share > 0, share * values, 0).sum() / share.sum()
            if name not in self.of_the_batch:
                torch.testing.assert_close(term.double(), mean, rtol=1e-5, atol=1e-5)

    def test_padding_changes_no_gradient(self) -> None:
        head, gradients = self.head().eval(), []
        self.trainable(head)
        for batch in (self.ragged(1e30), self.trimmed(self.ragged(0.0))):
            head.zero_grad()
            torch.manual_seed(0)
            self.total(head, batch).backward()
            gradients.append({name: p.grad for name, p in head.named_parameters() if p.grad is not None})
        assert gradients[0].keys() == gradients[1].keys()
        # Some gradients are 0 but for rounding: that of the bias of a key, of a weight behind a gate that is shut.
        largest = max(float(gradient.abs().max()) for gradient in gradients[1].values())
        for name, gradient in gradients[0].items():
            scale = gradients[1][name].abs().max().clamp(min=1e-3 * largest)
            torch.testing.assert_close(gradient / scale, gradients[1][name] / scale, rtol=0, atol=1e-4)

    def test_scores_do_not_read_the_answers(self) -> None:
        head, batch = self.head().eval(), self.batch()
        with torch.no_grad():
            assert torch.equal(head.scores(self.without_answers(batch)), head.scores(batch))

    def test_the_same_seed_gives_the_same_numbers(self) -> None:
        runs = []
        for _ in range(2):
            head = self.head(seed=3)
            torch.manual_seed(4)
            loss = self.total(head, self.batch(seed=5))
            if loss.requires_grad:
                loss.backward()
            runs.append((loss, *[p.grad for p in head.parameters() if p.grad is not None]))
        assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
        assert not weights(head) or not torch.equal(self.total(self.head(seed=6), self.batch(seed=5)), runs[0][0])

    def test_a_store_without_a_needed_array_is_refused_by_name(self) -> None:
        for role in self.needs:
            specs = {name: spec for name, spec in self.specs.items() if name != role}
            with pytest.raises(UnknownName, match=f"The head '{self.method}' needs a stream '{role}'"):
                find(self.method).Head(self.settings, specs)

    def test_weights_survive_safetensors(self, tmp_path: Path) -> None:
        head, other, batch = self.head(seed=0).eval(), self.head(seed=1).eval(), self.batch()
        save_file(weights(head), tmp_path / "head.safetensors")
        load_weights(other, tmp_path / "head.safetensors")
        with torch.no_grad():
            assert torch.equal(head.scores(batch), other.scores(batch))
        if not weights(head):
            return
        save_file(dict(list(weights(head).items())[1:]), tmp_path / "less.safetensors")
        with pytest.raises(Damaged, match="does not hold the weights of this head"):
            load_weights(other, tmp_path / "less.safetensors")

    def test_bf16_autocast_stays_near_fp32(self) -> None:
        head, batch = self.head().eval(), self.batch()
        with torch.no_grad():
            full = head.scores(batch)
            with torch.autocast("cpu", torch.bfloat16):
                half = head.scores(batch)
        scale = (full - full.mean(dim=-1, keepdim=True)).abs().max()
        assert (half.float() - full).abs().max() <= self.bf16_tolerance * scale

    def test_one_batch_can_be_overfitted(self) -> None:
        head, batch = self.head(), self.batch()
        before = copy.deepcopy(weights(head))
        self.fit(head, (batch for _ in range(self.overfit_steps)))
        with torch.no_grad():
            assert self.right(head.eval().scores(batch), batch) == 1.0
        assert any(not torch.equal(before[name], value) for name, value in weights(head).items())


class EpisodicHeadSuite(HeadSuite):
    """For heads of the few-shot task: random clips, each episode with clips of its own."""

    task_is_one_query: ClassVar[bool] = False
    way: ClassVar[int] = 3
    shot: ClassVar[int] = 2
    queries: ClassVar[int] = 2

    def batch(self, tasks: int = 4, seed: int = 0) -> EpisodeBatch:
        generator = torch.Generator().manual_seed(seed)
        per_task = self.way * (self.shot + self.queries)
        videos = {
            role: torch.randn(tasks * per_task, *[int(size or 5) for size in spec.shape], generator=generator)
            for role, spec in self.specs.items()
        }
        places = torch.randperm(tasks * per_task, generator=generator).view(tasks, per_task)
        support = places[:, : self.way * self.shot].view(tasks, self.way, self.shot)
        target = torch.arange(self.way).repeat_interleave(self.queries).expand(tasks, -1)
        return EpisodeBatch(videos, support, places[:, self.way * self.shot :], target)

    def ragged(self, poison: float) -> EpisodeBatch:
        """Every clip has its own number of steps, of tokens and of text rows, if the head takes masks."""
        batch = self.batch(seed=11)
        if not self.head().masks:
            return batch
        return replace(batch, videos=padding.ragged_videos(self.specs, len(batch.videos["visual"]), poison))

    def trimmed(self, batch: EpisodeBatch) -> EpisodeBatch:
        return replace(batch, videos=padding.trimmed(batch.videos))

    def selected(self, batch: EpisodeBatch, order: Tensor) -> EpisodeBatch:
        support, query = batch.support[order], batch.query[order]
        used, places = torch.cat([support.flatten(), query.flatten()]).unique(return_inverse=True)
        support, query = places[: support.numel()].view_as(support), places[support.numel() :].view_as(query)
        return EpisodeBatch({name: v[used] for name, v in batch.videos.items()}, support, query, batch.target[order])

    def without_answers(self, batch: EpisodeBatch) -> EpisodeBatch:
        return replace(batch, target=torch.zeros_like(batch.target))

    def right(self, scores: Tensor, batch: EpisodeBatch) -> float:
        return float((scores.argmax(dim=-1) == batch.target).float().mean())

    def test_scores_are_batch_by_query_by_way(self) -> None:
        assert self.head().scores(self.batch(tasks=2)).shape == (2, self.way * self.queries, self.way)

    def test_the_order_of_the_shots_does_not_matter(self) -> None:
        head, batch = self.head().eval(), self.batch()
        with torch.no_grad():
            turned = head.scores(replace(batch, support=batch.support.flip(-1)))
            torch.testing.assert_close(turned, head.scores(batch), rtol=1e-4, atol=1e-5)

    def test_relabelling_the_classes_relabels_the_scores(self) -> None:
        head, batch = self.head().eval(), self.batch()
        order = torch.tensor([*range(1, self.way), 0])
        with torch.no_grad():
            turned = head.scores(replace(batch, support=batch.support[:, order]))
            torch.testing.assert_close(turned, head.scores(batch)[..., order], rtol=1e-4, atol=1e-5)

    def test_scores_of_a_query_depend_on_other_queries_only_if_the_head_says_so(self) -> None:
        head, batch = self.head().eval(), self.batch()
        with torch.no_grad():
            scores = head.scores(batch)
            alone = [
                head.scores(self.selected(replace(batch, query=q, target=t), torch.arange(4)))
                for q, t in zip(batch.query.split(1, dim=1), batch.target.split(1, dim=1), strict=True)
            ]
        independent = torch.allclose(torch.cat(alone, dim=1), scores, rtol=1e-4, atol=1e-5)
        assert independent != head.transductive, f"transductive is {head.transductive}"

    def test_each_clip_is_encoded_by_itself(self) -> None:
        head, batch = self.head().eval(), self.batch()
        assert isinstance(head, EpisodicHead)
        with torch.no_grad():
            encoded = head.encode(batch.videos)
            some = head.encode({role: values[:2] for role, values in batch.videos.items()})
            for name, values in encoded.items():
                torch.testing.assert_close(some[name], values[:2], rtol=1e-4, atol=1e-5)

    def test_a_padded_clip_is_encoded_as_it_is_alone(self) -> None:
        head, videos = self.head().eval(), self.ragged(float("nan")).videos
        assert isinstance(head, EpisodicHead)
        with torch.no_grad():
            encoded = head.encode(videos)
            for clip in range(6):
                alone = head.encode(padding.without_padding(videos, clip))
                for name, values in alone.items():
                    valid = encoded.get(f"{name}.valid")
                    padded = encoded[name][clip] if valid is None else encoded[name][clip][valid[clip]]
                    torch.testing.assert_close(padded, values[0], rtol=1e-5, atol=1e-5)

    def test_a_clip_of_the_support_is_given_its_class(self) -> None:
        """Untrained, or after training on such tasks: not so if a distance is a logit without its minus sign."""

        def copies(seed: int) -> EpisodeBatch:
            batch = self.batch(seed=seed)
            shot = batch.support[..., :1]
            return replace(
                batch, support=shot.expand_as(batch.support), query=shot.repeat(1, 1, self.queries).flatten(1)
            )

        head, test = self.head(), copies(seed=-1)
        with torch.no_grad():
            untrained = self.right(head.eval().scores(test), test)
        if untrained < 0.9:
            self.fit(head.train(), (copies(seed) for seed in range(self.overfit_steps)))
        with torch.no_grad():
            assert self.right(head.eval().scores(test), test) >= 0.9


class ClassifierHeadSuite(HeadSuite):
    """For heads of the classification task: random clips, and random texts of the classes where the specs have any."""

    count: ClassVar[int] = 3
    rows: ClassVar[int] = 5
    specs: ClassVar[Mapping[str, ArraySpec]] = {
        "visual": ArraySpec("frames", "fp32", (4, 24)),
        "classes": ArraySpec("classes", "int64", (3,)),
    }

    def side(self, spec: ArraySpec, classes: int, generator: torch.Generator) -> Tensor:
        """Whole numbers known of each class."""
        return torch.randint(
            self.rows, (classes, *[int(size or self.rows) for size in spec.shape]), generator=generator
        )

    def batch(self, tasks: int = 4, seed: int = 0) -> classification.ClipBatch:
        generator = torch.Generator().manual_seed(seed)
        clips, classes = {}, {}
        for role, spec in self.specs.items():
            shape = [int(size or self.rows) for size in spec.shape]
            if role.startswith("class."):
                name = role.removeprefix("class.")
                if spec.dtype == "int64":
                    classes[name] = self.side(spec, self.count, generator)
                    continue
                classes[name] = torch.randn(self.count, *shape, generator=generator)
                if spec.ragged:
                    classes[f"{name}.valid"] = torch.ones(self.count, self.rows, dtype=torch.bool)
            elif role != "classes":
                clips[role] = torch.randn(tasks, *shape, generator=generator)
        labels = torch.arange(tasks) % self.count
        return classification.ClipBatch(clips, labels, tuple(f"class {i}" for i in range(self.count)), classes)

    def selected(self, batch: classification.ClipBatch, order: Tensor) -> classification.ClipBatch:
        return replace(batch, clips={role: v[order] for role, v in batch.clips.items()}, labels=batch.labels[order])

    def ragged(self, poison: float) -> classification.ClipBatch:
        """Clips differ in size if the head takes masks; texts of classes differ in their number of rows."""
        batch, clips = self.batch(seed=11), {}
        if self.head().masks:
            of_clips = {role: spec for role, spec in self.specs.items() if not role.startswith("class")}
            clips = padding.ragged_videos(of_clips, len(batch.labels), poison)
        return replace(batch, clips={**batch.clips, **clips}, classes=padding.ragged_texts(batch.classes, poison))

    def trimmed(self, batch: classification.ClipBatch) -> classification.ClipBatch:
        return replace(batch, clips=padding.trimmed(batch.clips), classes=padding.trimmed(batch.classes))

    def without_answers(self, batch: classification.ClipBatch) -> classification.ClipBatch:
        return replace(batch, labels=torch.zeros_like(batch.labels))

    def right(self, scores: Tensor, batch: classification.ClipBatch) -> float:
        return float((scores.argmax(dim=-1) == batch.labels).float().mean())

    def test_scores_are_batch_by_classes(self) -> None:
        assert self.head().scores(self.batch(tasks=2)).shape == (2, self.count)

    def test_reordering_open_classes_reorders_the_scores(self) -> None:
        head, batch = self.head().eval(), self.batch()
        if not (isinstance(head, classification.ClassifierHead) and head.open_classes):
            pytest.skip("a weight per class")
        order = torch.tensor([*range(1, self.count), 0])
        turned = replace(
            batch,
            labels=order.argsort()[batch.labels],
            names=tuple(batch.names[i] for i in order),
            classes={role: values[order] for role, values in batch.classes.items()},
        )
        with torch.no_grad():
            torch.testing.assert_close(head.scores(turned), head.scores(batch)[:, order], rtol=1e-4, atol=1e-5)

    def test_the_text_of_a_class_is_read_as_it_is_alone(self) -> None:
        head, batch = self.head().eval(), self.ragged(float("nan"))
        if not any(name.endswith(".valid") for name in batch.classes):
            pytest.skip("no texts of different length")
        with torch.no_grad():
            scores = head.scores(batch)
            for i in range(self.count):
                one = {name: values[i : i + 1] for name, values in batch.classes.items()}
                alone = head.scores(self.trimmed(replace(batch, names=batch.names[i : i + 1], classes=one)))
                torch.testing.assert_close(alone, scores[:, i : i + 1], rtol=1e-5, atol=1e-5)

    def test_a_clip_at_the_text_of_a_class_is_given_that_class(self) -> None:
        """For heads that compare clips with class texts in one space: not so if the sign of the logits is wrong."""
        head, batch = self.head().eval(), self.batch()
        texts = batch.classes.get("text")
        if texts is None or texts.shape[-1] != batch.clips["visual"].shape[-1]:
            pytest.skip("no class texts in the space of the clips")
        clips = texts[batch.labels][:, None].expand_as(batch.clips["visual"])
        with torch.no_grad():
            assert self.right(head.scores(replace(batch, clips={**batch.clips, "visual": clips})), batch) == 1.0

    def test_usage_is_one_number_per_clip(self) -> None:
        head, batch = self.head().eval(), self.batch()
        assert isinstance(head, classification.ClassifierHead)
        with torch.no_grad():
            head.scores(batch)
            for values in (head.usage(batch) or {}).values():
                assert values.shape == (4,)
                assert torch.isfinite(values).all()
