"""The prototypical head: the suite, and numbers worked by hand."""

from __future__ import annotations

import math
from typing import Any, Literal

import pytest
import torch
from suites.head import EpisodicHeadSuite

from vfc.cache_schema.values.errors import BadInput
from vfc.cache_schema.values.record import ArraySpec
from vfc.heads.methods.prototype import Config, Head
from vfc.heads.similarity.matching import METRICS, comparable
from vfc.heads.tasks.fewshot import EpisodeBatch

Representation = Literal["mean", "ordered", "difference"]


class TestPrototype(EpisodicHeadSuite):
    method = "prototype"


class TestOrderedPrototype(EpisodicHeadSuite):
    method = "prototype"
    config = Config(representation="ordered", width=7)


class TestOtam(EpisodicHeadSuite):
    method = "prototype"
    config = Config(metric="otam", width=16, ffn_dim=24, attention_heads=2, dropout=0.0)


class TestBiMhm(EpisodicHeadSuite):
    method = "prototype"
    config = Config(metric="bi-mhm", width=16, ffn_dim=24, attention_heads=2, representation="difference")


@pytest.mark.parametrize("metric", ["otam", "bi-mhm", "mpmm", "hausdorff"])
def test_sequences_are_matched_behind_one_layer_over_time(metric: Any) -> None:
    suite = TestOtam()
    batch = suite.batch()
    head = Head(Config(metric=metric, width=24, ffn_dim=8, attention_heads=2), suite.specs).eval()
    assert head.over_time is not None
    with torch.no_grad():
        head.log_scale.fill_(math.log(2))
        frames = head.over_time(batch.videos["visual"] @ head.project.weight.mT)
        expected = 2 * METRICS[metric](frames[batch.query], frames[batch.support])
        torch.testing.assert_close(head.scores(batch), expected, rtol=1e-4, atol=1e-4)


def test_a_mean_is_no_sequence() -> None:
    with pytest.raises(BadInput, match="compares sequences of frames"):
        Head(Config(metric="otam", representation="mean"), TestOtam.specs)


@pytest.mark.parametrize("representation", ["mean", "ordered", "difference"])
def test_one_linear_layer_as_wide_as_the_store_says(representation: Representation) -> None:
    head = Head(Config(representation=representation, width=10), {"visual": ArraySpec("frames", "fp16", (4, 24))})
    assert {name: tuple(p.shape) for name, p in head.named_parameters()} == {
        "project.weight": (10, 24),
        "log_scale": (),
    }


@pytest.mark.parametrize("representation", ["mean", "ordered", "difference"])
def test_untrained_it_ranks_as_the_training_free_metric(
    representation: Literal["mean", "ordered", "difference"],
) -> None:
    suite = TestPrototype()
    batch = suite.batch()
    head = Head(Config(representation=representation, width=24), suite.specs)
    clips = comparable(batch.videos["visual"], "mean-cosine", representation)
    expected = METRICS["mean-cosine"](clips[batch.query], clips[batch.support])
    torch.testing.assert_close(head.scores(batch), 10 * expected, rtol=1e-4, atol=1e-4)


def test_scores_by_hand() -> None:
    head = Head(Config(representation="mean", width=2), {"visual": ArraySpec("frames", "fp16", (1, 2))})
    with torch.no_grad():
        head.project.weight.copy_(torch.eye(2))
        head.log_scale.fill_(0.0)
    # Class 0: shots (3, 0) and (0, 3), mean at 45 degrees to the query (0, 5); class 1: both opposite to it.
    videos = torch.tensor([[[3.0, 0.0]], [[0.0, 3.0]], [[0.0, -1.0]], [[0.0, -4.0]], [[0.0, 5.0]]])
    batch = EpisodeBatch({"visual": videos}, torch.tensor([[[0, 1], [2, 3]]]), torch.tensor([[4]]), torch.tensor([[0]]))
    assert head.scores(batch).tolist() == [[[pytest.approx(0.5**0.5), pytest.approx(-1.0)]]]
    expected = math.log1p(math.exp(-1 - 0.5**0.5))
    assert head.loss(batch)["cross-entropy"].item() == pytest.approx(expected)


def test_one_vector_per_clip_is_compared_as_it_is_and_said() -> None:
    vector = {"visual": ArraySpec("embedding", "fp16", (1, 24))}
    head = Head(Config(width=24), vector)
    clips = torch.randn(4, 1, 24)
    torch.testing.assert_close(head.encode({"visual": clips})["clip"], clips[:, 0] @ head.project.weight.mT)
    assert head.notes == ("The array holds one vector per clip, so clips are compared without any order of frames.",)
    assert not Head(Config(representation="mean"), vector).notes
    with pytest.raises(BadInput, match="--representation difference needs several frames"):
        Head(Config(representation="difference"), vector)
