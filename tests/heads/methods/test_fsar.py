"""FSAR-LLaVA: published parameter counts, the whole forward against loops, every ablation, the suite."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from suites import fsar_loops as loops
from suites.head import EpisodicHeadSuite
from torch import Tensor

from vfc.cache_schema.values.errors import BadInput
from vfc.cache_schema.values.record import ArraySpec
from vfc.heads.contract.train_config import TrainConfig
from vfc.heads.lookup import configs
from vfc.heads.methods.fsar import Config, Head
from vfc.heads.tasks.fewshot import EpisodeBatch

SMALL = Config(dim=16, down_hidden=12, ffn_dim=20, attention_heads=2, alpha_mode="fixed")
BOTH = {
    "visual": ArraySpec("layer3.visual", "fp32", (4, 5, 24)),
    "text": ArraySpec("layer3.text", "fp32", (None, 24)),
}


class TestFsar(EpisodicHeadSuite):
    method = "fsar"
    config = SMALL
    specs = BOTH


class TestFsarOnFrames(EpisodicHeadSuite):
    method = "fsar"
    config = replace(SMALL, mode="inductive", dropout=0.0)


class TestFsarLearned(EpisodicHeadSuite):
    method = "fsar"
    config = replace(SMALL, alpha_mode="learn", alpha=0.5, mode="one-query", metric="bi-mhm", distance="cosine")
    specs = BOTH
    # Over one query alone LPC and GPC are the same, so alpha changes nothing.
    never_trained = ("alpha",)


class TestFsarAdaptive(EpisodicHeadSuite):
    method = "fsar"
    config = replace(SMALL, alpha_mode="adaptive", metric="hausdorff", pad_policy="literal", dropout=0.0)
    specs = BOTH
    # A task whose branches match equally well may fall on the other side of the gate.
    bf16_tolerance = 0.5


def count(head: Head) -> int:
    return sum(parameter.numel() for parameter in head.parameters())


@pytest.mark.parametrize(
    ("dim", "published"), [(128, 6_694_912), (256, 9_711_616), (512, 17_317_888), (1024, 38_821_888)]
)
def test_the_published_parameter_counts(dim: int, published: int) -> None:
    specs = {"visual": ArraySpec("v", "bf16", (8, 257, 4096)), "text": ArraySpec("t", "bf16", (None, 4096))}
    with torch.device("meta"):
        assert count(Head(Config(dim=dim), specs)) == published


def test_the_published_count_at_width_2048() -> None:
    specs = {"visual": ArraySpec("v", "bf16", (8, 256, 2048)), "text": ArraySpec("t", "bf16", (None, 2048))}
    with torch.device("meta"):
        assert count(Head(Config(), specs)) / 2**20 == pytest.approx(7.26, abs=0.005)


_ALPHAS: dict[str, Any] = {
    "as it is": {}, "alpha given": {"alpha": 0.1}, "one branch": {"text_branch": False}, "global alone": {"lpc": False},
}  # fmt: skip


def test_alpha_by_itself_is_that_of_eq_12() -> None:
    case = Ragged(2)
    scores = []
    for change in ({"alpha_mode": "auto"}, {"alpha_mode": "adaptive"}, {"alpha": 0.9}):
        torch.manual_seed(0)
        with torch.no_grad():
            scores.append(Head(replace(SMALL, **change), BOTH).eval().scores(case.batch))
    assert torch.equal(scores[0], scores[1])
    assert not torch.equal(scores[0], scores[2])


def test_the_settled_defaults() -> None:
    built = configs("fsar")
    assert built["head"] == Config(
        dim=256, alpha=None, alpha_mode="auto", u=10, dropout=0.2, ffn_dropout=0.05, mode="transductive"
    )
    text = {"visual": BOTH["visual"], "text": BOTH["text"]}
    modes = {name: replace(SMALL, alpha_mode="auto", **change) for name, change in _ALPHAS.items()}
    assert {name: Head(config, text).alpha_mode for name, config in modes.items()} == {
        "as it is": "adaptive", "alpha given": "fixed", "one branch": "fixed", "global alone": "fixed",
    }  # fmt: skip
    assert Head(modes["as it is"], {"visual": BOTH["visual"]}).alpha_mode == "fixed"
    train: TrainConfig = built["train"]
    assert (train.lr, train.weight_decay, train.optimizer, train.schedule) == (1e-4, 5e-5, "adam", "multistep")
    assert (train.batch, train.clip, train.steps * train.batch) == (4, 1.0, 10_000)


class Ragged:
    """Two 3-way tasks with texts of 1 to 6 rows; `grids`: and clips of 1 to 4 steps of 1 to 5 tokens."""

    def __init__(self, shots: int, seed: int = 0, *, grids: bool = False) -> None:
        generator = torch.Generator().manual_seed(seed)
        clips = 2 * 3 * (shots + 2)
        self.frames = torch.randn(clips, 4, 5, 24, generator=generator)
        lengths = torch.randint(1, 7, (clips,), generator=generator)
        self.valid = torch.arange(6) < lengths[:, None]
        self.text = torch.randn(clips, 6, 24, generator=generator) * self.valid[..., None]
        places = torch.randperm(clips, generator=generator).view(2, 3, shots + 2)
        target = torch.arange(3).repeat_interleave(2).expand(2, -1)
        videos = {"visual": self.frames, "text": self.text, "text.valid": self.valid}
        self.sizes = torch.tensor([[4, 5]]).expand(clips, 2)
        if grids:
            self.sizes = torch.stack([torch.randint(1, most + 1, (clips,), generator=generator) for most in (4, 5)], 1)
            steps, tokens = (torch.arange(most) < self.sizes[:, axis, None] for axis, most in enumerate((4, 5)))
            inside = steps[:, :, None] & tokens[:, None]
            videos |= {"visual": torch.where(inside[..., None], self.frames, torch.nan), "visual.valid": inside}
        self.batch = EpisodeBatch(videos, places[..., :shots], places[..., shots:].flatten(1), target)

    def clip(self, number: int) -> tuple[Tensor, Tensor]:
        """Frames and words of one video at their true length."""
        steps, tokens = self.sizes[number].tolist()
        return self.frames[number, :steps, :tokens], self.text[number][self.valid[number]]

    def fused(self, head: Head, number: int) -> tuple[Tensor, Tensor]:
        return loops.fused(head, *self.clip(number))

    def slow(self, head: Head, alpha: float) -> Tensor:
        tasks = []
        for support, query in zip(self.batch.support, self.batch.query, strict=True):
            shots = [[self.clip(int(clip)) for clip in of_class] for of_class in support]
            tasks.append(loops.scores(head, shots, [self.clip(int(clip)) for clip in query], alpha))
        return torch.stack(tasks)


@pytest.mark.parametrize("grids", [False, True])
@pytest.mark.parametrize("shots", [1, 5])
@pytest.mark.parametrize("mode", ["transductive", "inductive", "one-query"])
def test_the_whole_forward_equals_loops(shots: int, mode: Any, grids: bool) -> None:
    torch.manual_seed(shots)
    head = Head(replace(SMALL, mode=mode, u=4, alpha=0.3), BOTH).eval()
    case = Ragged(shots, grids=grids)
    with torch.no_grad():
        torch.testing.assert_close(head.scores(case.batch), case.slow(head, 0.3), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "change",
    [{"metric": "otam"}, {"metric": "hausdorff"}, {"mode": "one-query", "alpha_mode": "adaptive"}, {"spatial": False}],
    ids=str,
)
def test_padding_changes_nothing_under_other_settings(change: dict[str, Any]) -> None:
    case = type("Case", (TestFsar,), {"config": replace(SMALL, **change)})()
    case.test_padding_changes_no_score_and_no_loss()


@pytest.mark.parametrize("grids", [False, True])
def test_the_adaptive_gate_is_decided_per_task(grids: bool) -> None:
    torch.manual_seed(0)
    head, case = Head(replace(SMALL, alpha_mode="adaptive"), BOTH).eval(), Ragged(1, grids=grids)
    with torch.no_grad():
        for b in range(2):
            queries = [case.fused(head, int(clip)) for clip in case.batch.query[b]]
            protos = [case.fused(head, int(clip)) for clip in case.batch.support[b, :, 0]]
            alpha = loops.gate(queries, protos)
            torch.testing.assert_close(head.scores(case.batch)[b], case.slow(head, alpha)[b], rtol=1e-5, atol=1e-5)


def test_several_texts_of_one_video_encode_it_once() -> None:
    torch.manual_seed(0)
    head, case = Head(SMALL, BOTH).eval(), Ragged(1)
    video = torch.tensor([3, 3, 0, 1, 3])
    shared = {"visual": case.frames[:4], "text": case.text[:5], "text.valid": case.valid[:5], "visual.of": video}
    spread = {"visual": case.frames[video], "text": case.text[:5], "text.valid": case.valid[:5]}
    with torch.no_grad():
        for name, values in head.encode(shared).items():
            torch.testing.assert_close(values, head.encode(spread)[name])


def test_peers_are_what_training_looks_at_together() -> None:
    torch.manual_seed(0)
    head, case = Head(SMALL, BOTH).eval(), Ragged(1)
    alone = Head(replace(SMALL, mode="one-query"), BOTH).eval()
    alone.load_state_dict(head.state_dict())
    every = Head(replace(SMALL, ctpcm_queries="all"), BOTH).eval()
    every.load_state_dict(head.state_dict())
    single = replace(case.batch, peers=torch.arange(6).expand(2, 6)[..., None])
    full = replace(case.batch, peers=torch.arange(6).expand(2, 6, 6))
    with torch.no_grad():
        torch.testing.assert_close(head.scores(single), alone.scores(case.batch))
        torch.testing.assert_close(head.scores(full), head.scores(case.batch))
        torch.testing.assert_close(every.scores(single), head.scores(case.batch))
        assert not torch.allclose(head.scores(single), head.scores(case.batch))


@pytest.mark.parametrize(
    "change",
    [
        {"spatial": False}, {"temporal": False}, {"v_ca": False}, {"t_ca": False},
        {"spatial": False, "temporal": False}, {"visual_branch": False}, {"text_branch": False},
        {"visual_branch": False, "t_ca": False}, {"lpc": False}, {"gpc": False}, {"lpc": False, "gpc": False},
        {"metric": "hausdorff"}, {"metric": "bi-mhm"}, {"metric": "otam"}, {"u": 1}, {"u": 6}, {"dim": 32},
        {"alpha": 0.1}, {"alpha_mode": "learn", "alpha": 0.5}, {"alpha_mode": "adaptive"}, {"ctpcm_tau": 0.1},
        {"distance": "cosine"}, {"mode": "inductive"}, {"mode": "one-query"},
    ],
    ids=str,
)  # fmt: skip
def test_every_ablation_scores_and_trains_all_it_has(change: dict[str, Any]) -> None:
    torch.manual_seed(0)
    head, case = Head(replace(SMALL, **change), BOTH), Ragged(2)
    sum(head.loss(case.batch).values()).backward()
    idle = [name for name, p in head.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not idle
    torch.manual_seed(0)
    plain = Head(replace(SMALL, **{name: value for name, value in change.items() if name == "dim"}), BOTH).eval()
    with torch.no_grad():
        if "dim" not in change:
            assert not torch.allclose(head.eval().scores(case.batch), plain.scores(case.batch), atol=1e-6)


def test_what_the_store_lacks_is_said() -> None:
    alone = Head(SMALL, {"visual": BOTH["visual"]})
    assert any("no text stream" in note for note in alone.notes)
    assert any("transductive" in note for note in alone.notes)
    flat = Head(replace(SMALL, mode="inductive"), {"visual": ArraySpec("frames", "fp32", (4, 24))})
    assert any("one vector per frame" in note for note in flat.notes)
    assert not Head(replace(SMALL, mode="inductive"), BOTH).notes


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"visual_branch": False}, "No branch is left to compare"),
        ({"alpha_mode": "adaptive"}, "only 'visual' is in use"),
        ({"dim": 18, "attention_heads": 4}, "A width of 18 cannot be divided among 4"),
    ],
)
def test_settings_that_cannot_be_are_refused(change: dict[str, Any], told: str) -> None:
    with pytest.raises(BadInput, match=told):
        Head(replace(SMALL, **change), {"visual": BOTH["visual"]})


def test_alpha_stays_within_0_and_1() -> None:
    torch.manual_seed(0)
    head, case = Head(replace(SMALL, alpha_mode="learn"), BOTH).eval(), Ragged(1)
    full = Head(replace(SMALL, alpha=1.0), BOTH).eval()
    full.load_state_dict({name: value for name, value in head.state_dict().items() if name != "alpha"})
    with torch.no_grad():
        assert head.alpha is not None
        head.alpha.fill_(1.7)
        torch.testing.assert_close(head.scores(case.batch), full.scores(case.batch))
