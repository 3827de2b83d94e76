"""The controls of classification: the suite for each, sizes by hand and as published, MoTE's parts by loops."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from suites.head import ClassifierHeadSuite
from suites.motion_store import MakeStore
from torch import nn
from torch.nn import functional

from vfc.cache_schema.values.errors import BadInput, RecipeMismatch
from vfc.cache_schema.values.progress import Silent
from vfc.cache_schema.values.record import ArraySpec
from vfc.heads.contract.train_config import TrainConfig
from vfc.heads.methods import linear_probe, mean_pool, mote, text_zero_shot
from vfc.heads.similarity.text_similarity import CLIP_SCALE, cosine_logits
from vfc.heads.tasks import classification
from vfc.heads.tasks.classification import ClassifierHead, ClipBatch
from vfc.heads.training.fit import train


def specs(width: int, frames: int = 8, classes: int = 3, text: int | None = None) -> dict[str, ArraySpec]:
    return {
        "visual": ArraySpec("frames", "fp32", (frames, width)),
        "classes": ArraySpec("classes", "int64", (classes,)),
        "class.text": ArraySpec("embedding", "fp32", (text or width,)),
    }


def count(head: nn.Module) -> int:
    return sum(parameter.numel() for parameter in head.parameters())


class TestLinearProbe(ClassifierHeadSuite):
    method = "linear-probe"
    overfit_lr = 3e-2


class TestPlainLinearProbe(ClassifierHeadSuite):
    method = "linear-probe"
    config = linear_probe.Config(norm=False)
    overfit_lr = 3e-2


class TestMeanPool(ClassifierHeadSuite):
    method = "mean-pool"
    config = mean_pool.Config(hidden=16, dropout=0.0)


class TestTextZeroShot(ClassifierHeadSuite):
    method = "text-zero-shot"
    specs: ClassVar = specs(24, frames=4)
    needs = ("visual", "class.text")


class TestMote(ClassifierHeadSuite):
    method = "mote"
    config = mote.Config(layers=2)
    specs: ClassVar = specs(24, frames=4)
    needs = ("visual", "class.text")
    overfit_lr = 3e-3


def test_sizes_by_hand() -> None:
    assert count(linear_probe.Head(linear_probe.Config(), specs(512, classes=101))) == 512 * 101 + 101
    head = mean_pool.Head(mean_pool.Config(hidden=10), specs(7, classes=3))
    assert count(head) == (7 * 10 + 10) + (10 * 3 + 3)
    assert count(text_zero_shot.Head(text_zero_shot.Config(), specs(16))) == 0


@pytest.mark.parametrize(
    ("width", "experts", "published"),
    [(512, 4, 37_845_504), (512, 1, 12_648_960), (768, 4, 127_590_144), (768, 1, 42_586_368)],
)
def test_the_published_sizes_of_mote(width: int, experts: int, published: int) -> None:
    with torch.device("meta"):
        assert count(mote.Head(mote.Config(experts=experts), specs(width))) == published


def test_the_mean_of_the_frames_does_not_know_their_order() -> None:
    torch.manual_seed(0)
    batch = ClipBatch({"visual": torch.randn(5, 8, 16)}, torch.zeros(5, dtype=torch.int64), ("a", "b", "c"), {})
    turned = replace(batch, clips={"visual": batch.clips["visual"].flip(1)})
    heads: list[ClassifierHead] = [
        linear_probe.Head(linear_probe.Config(), specs(16)),
        mean_pool.Head(mean_pool.Config(), specs(16)).eval(),
    ]
    for head in heads:
        torch.testing.assert_close(head.scores(batch), head.scores(turned))
    mean = batch.clips["visual"].mean(1)
    standard = (mean - mean.mean(-1, keepdim=True)) / (mean.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(heads[0].scores(batch), heads[0].classify(standard))  # type: ignore[operator]


def test_a_plain_linear_probe_is_one_matrix_product() -> None:
    torch.manual_seed(0)
    batch = ClipBatch({"visual": torch.randn(5, 8, 16)}, torch.zeros(5, dtype=torch.int64), ("a", "b", "c"), {})
    head = linear_probe.Head(linear_probe.Config(norm=False), specs(16))
    with torch.no_grad():
        expected = batch.clips["visual"].mean(1) @ head.classify.weight.T + head.classify.bias
        torch.testing.assert_close(head.scores(batch), expected)
        normed = linear_probe.Head(linear_probe.Config(), specs(16))
        normed.load_state_dict(head.state_dict())
        assert not torch.allclose(normed.scores(batch), expected)


def test_the_norm_stands_in_the_result_and_earlier_runs_stay_the_same_run(
    make_store: MakeStore, tmp_path: Path
) -> None:
    store, quick = make_store(split=False), TrainConfig(steps=2, device="cpu")
    task = classification.Config(cache=store)
    for norm, out in ((True, tmp_path / "normed"), (False, tmp_path / "plain")):
        result = train("linear-probe", task, linear_probe.Config(norm), replace(quick, out=out), Silent())
        assert result.row["head_settings"] == {"norm": norm}
        assert ("head settings", "defaults" if norm else "norm=False") in result.tables()[-1].rows
        config = json.loads((out / "config.json").read_text())["config"]["head"]
        assert config == ({} if norm else {"norm": False})
    with pytest.raises(RecipeMismatch, match=r"config\.head\.norm"):
        train("linear-probe", task, linear_probe.Config(False), replace(quick, out=tmp_path / "normed"), Silent())


def test_zero_shot_is_the_cosine_of_the_mean_frame() -> None:
    torch.manual_seed(0)
    frames, texts = torch.randn(2, 4, 6), torch.randn(3, 6)
    head = text_zero_shot.Head(text_zero_shot.Config(), specs(6))
    result = head.scores(ClipBatch({"visual": frames}, torch.zeros(2), ("a", "b", "c"), {"text": texts}))
    for b in range(2):
        for c in range(3):
            mean, text = frames[b].numpy().mean(0), texts[c].numpy()
            expected = 100 * mean @ text / np.linalg.norm(mean) / np.linalg.norm(text)
            assert result[b, c].item() == pytest.approx(expected, rel=1e-5)


def test_texts_of_another_space_are_refused() -> None:
    for head, config in ((text_zero_shot.Head, text_zero_shot.Config()), (mote.Head, mote.Config())):
        with pytest.raises(
            BadInput, match=r"frames is 16 wide and the class texts are 24: .*\nChoose projected features"
        ):
            head(config, specs(16, text=24))


def test_what_mote_cannot_take_is_refused() -> None:
    with pytest.raises(BadInput, match=r"up to 77 frames; the store has 80.\nExtract with a smaller --num-frames"):
        mote.Head(mote.Config(), specs(16, frames=80))
    with pytest.raises(BadInput, match=r"cannot divide a width of 193 into 3 heads.\nTake another"):
        mote.Head(mote.Config(), specs(193))


@pytest.fixture
def small() -> tuple[mote.Head, ClipBatch]:
    torch.manual_seed(0)
    head = mote.Head(mote.Config(layers=2), specs(16, frames=4))
    clips, texts = torch.randn(3, 4, 16), torch.randn(3, 16)
    return head, ClipBatch({"visual": clips}, torch.arange(3), ("a", "b", "c"), {"text": texts})


def through(head: mote.Head, frames: torch.Tensor, mixture: list[list[float]]) -> torch.Tensor:
    """MoTE's layers, written out with the weights of the experts summed one by one."""
    x = frames + head.places[: frames.shape[1]]
    for layer, shares in zip(head.layers, mixture, strict=True):
        assert isinstance(layer, mote._Layer)
        told = layer.before_attention(x)
        x = x + layer.attention(told, told, told)[0]
        told, experts = layer.before_experts(x), layer._all()
        up = sum(s * e.up.weight for s, e in zip(shares, experts, strict=True))
        above = sum(s * e.up.bias for s, e in zip(shares, experts, strict=True))
        down = sum(s * e.down.weight for s, e in zip(shares, experts, strict=True))
        below = sum(s * e.down.bias for s, e in zip(shares, experts, strict=True))
        hidden = told @ up.mT + above  # type: ignore[union-attr]
        x = x + (hidden * torch.sigmoid(1.702 * hidden)) @ down.mT + below  # type: ignore[union-attr]
    return x


def test_mote_at_test_is_the_plain_mean_of_its_experts(small: tuple[mote.Head, ClipBatch]) -> None:
    head, batch = small
    head.loss(batch)  # what it was trained on is what it is asked: the layers count in full
    head.eval()
    frames = batch.clips["visual"]
    expected = cosine_logits((frames + through(head, frames, [[0.25] * 4] * 2)).mean(1), batch.classes["text"])
    torch.testing.assert_close(head.scores(batch), expected, rtol=1e-4, atol=1e-4)


def test_mote_trains_one_drawn_expert_and_a_mixture(small: tuple[mote.Head, ClipBatch]) -> None:
    head, batch = small
    frames, texts = batch.clips["visual"], batch.classes["text"]
    torch.manual_seed(7)
    terms = head.loss(batch)
    torch.manual_seed(7)
    chances = torch.tensor([math.exp(i) for i in range(4)]) / sum(math.exp(i) for i in range(4))
    drawn = [int(torch.multinomial(chances, 1)) for _ in range(2)]
    temperature = mote.TEMPERATURES[int(torch.randint(11, ()))]
    full = frames + through(head, frames, [[float(e == chosen) for e in range(4)] for chosen in drawn])
    shares = torch.softmax(torch.tensor([1.0, 2.0, 3.0, 4.0]) / temperature, 0).tolist()
    merged = frames + through(head, frames, [shares] * 2)
    expected = {
        "experts": functional.cross_entropy(cosine_logits(full.mean(1), texts), batch.labels),
        "merged": 0.5 * functional.cross_entropy(cosine_logits(merged.mean(1), texts), batch.labels),
        "stay": 0.1 * ((merged - frames) ** 2).mean(),
    }
    assert set(terms) == set(expected)
    for name, term in expected.items():
        torch.testing.assert_close(terms[name], term, rtol=1e-4, atol=1e-5)
    assert sorted(1 / t for t in mote.TEMPERATURES)[5] == 0
    assert len(mote.TEMPERATURES) == 11


def test_mote_goes_back_to_the_input_for_classes_unlike_those_it_was_trained_on(
    small: tuple[mote.Head, ClipBatch],
) -> None:
    head, batch = small
    head.loss(batch)
    clips = batch.clips["visual"].mean(1)
    torch.testing.assert_close(head.share(clips, batch.classes["text"]), torch.ones(3), rtol=1e-4, atol=1e-4)
    other = torch.randn(7, 16)
    result = head.share(clips, other)
    for b in range(3):
        near = sorted(range(7), key=lambda c: -float(functional.cosine_similarity(clips[b], other[c], 0)))[:5]
        best = [max(float(functional.cosine_similarity(other[c], text, 0)) for text in head.seen) for c in near]
        assert result[b].item() == pytest.approx(math.exp(-(1 - np.mean(best)) / 0.05), rel=1e-3)
    assert float(result.max()) < 0.1


def test_cosines_at_clips_scale_are_not_rounded_by_mixed_precision() -> None:
    clips, texts = torch.randn(4, 64) + 2, torch.randn(3, 64) + 2
    plain = cosine_logits(clips, texts)
    assert float(plain.max()) > CLIP_SCALE / 2
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(cosine_logits(clips.bfloat16().float(), texts), cosine_logits(clips.bfloat16(), texts))
        assert torch.equal(cosine_logits(clips, texts), plain)
