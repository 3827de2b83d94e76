"""VidPrism: published counts, the released forward, where the presets differ, every loss and ablation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from suites import vidprism_loops as loops
from suites.head import ClassifierHeadSuite
from suites.motion_store import MakeStore
from torch import Tensor

from vfc.cache_schema.values.errors import BadInput, UnknownName
from vfc.cache_schema.values.progress import Silent
from vfc.cache_schema.values.record import ArraySpec
from vfc.heads.contract.train_config import TrainConfig
from vfc.heads.lookup import configs
from vfc.heads.methods.vidprism import PRESETS, Config, Head
from vfc.heads.methods.vidprism.aggregation import Grouping, Plain, RgSTA
from vfc.heads.methods.vidprism.losses import balance, diversity, diversity_of_clips, text_contrast
from vfc.heads.methods.vidprism.released import load_released, our_name
from vfc.heads.tasks import classification
from vfc.heads.tasks.classification import ClipBatch
from vfc.heads.training.fit import train

WIDTH, CLASSES = 16, 5
SMALL = Config(preset="mixed", rates=(2, 4, 8))
PAPER = replace(SMALL, preset="paper")
CODE = replace(SMALL, preset="code")


def gates_of(used: set[int], count: int) -> tuple[str, ...]:
    """The gates that a released head has and never uses."""
    parts = ("0.weight", "0.bias", "2.weight", "2.bias")
    return tuple(f"interaction.gates.{i}.{part}" for i in range(count**2) if i not in used for part in parts)


class TestVidPrism(ClassifierHeadSuite):
    method = "vidprism"
    config = SMALL
    specs: ClassVar[Mapping[str, ArraySpec]] = {
        "visual": ArraySpec("frames", "fp32", (16, 24)),
        "classes": ArraySpec("classes", "int64", (3,)),
    }
    # The ranking loss alone trains the scores and, nearly alone, the metric; of the gates only pairs of slow and fast.
    never_trained = gates_of({2, 5, 6, 7}, 3)
    overfit_steps = 30
    overfit_lr = 3e-3
    of_the_batch: ClassVar[Mapping[str, str]] = {"balance": "squares of the shares' means over the batch"}


class TestVidPrismAsReleased(TestVidPrism):
    config = CODE
    specs: ClassVar[Mapping[str, ArraySpec]] = {
        **TestVidPrism.specs,
        "class.text": ArraySpec("embedding", "fp32", (20,)),
    }
    # The last source counts: of the fast streams the second.
    never_trained = (*gates_of({5, 6, 7}, 3), "interaction.down.0-2.weight")
    needs = ("visual", "class.text")


class TestVidPrismOfThePaper(TestVidPrism):
    config = PAPER
    # One gate per pair: 0-1, 0-2, 1-2.
    never_trained = gates_of({1, 2, 5}, 3)


def specs(width: int = WIDTH, frames: int | None = 8, classes: int = CLASSES) -> dict[str, ArraySpec]:
    return {
        "visual": ArraySpec("frames", "fp32", (frames, width)),
        "classes": ArraySpec("classes", "int64", (classes,)),
        "class.text": ArraySpec("embedding", "fp32", (width,)),
    }


def made(config: Config, frames: int = 8, seed: int = 0) -> Head:
    torch.manual_seed(seed)
    return Head(config, specs(frames=frames))


def batch(clips: int = 6, frames: int = 8, seed: int = 0) -> ClipBatch:
    generator = torch.Generator().manual_seed(seed)
    # Frames of one clip are alike, as those of real clips are.
    alike = torch.randn(clips, 1, WIDTH, generator=generator)
    return ClipBatch(
        {"visual": alike + 0.5 * torch.randn(clips, frames, WIDTH, generator=generator)},
        torch.arange(clips) % CLASSES,
        tuple("abcde"),
        {"text": torch.randn(CLASSES, WIDTH, generator=generator)},
    )


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("width", "frames", "classes", "code", "paper"),
    [
        (512, 8, 400, 12_949_657, 12_424_345),
        (512, 32, 400, 18_857_376, 18_332_064),
        (512, 32, 101, 18_703_989, 18_703_989 - 525_312),
        (512, 32, 51, 18_678_339, 18_678_339 - 525_312),
        (768, 8, 400, 28_959_769, 27_778_585),
        (768, 32, 400, 42_245_024, 41_063_840),
        (768, 32, 101, 42_015_093, 42_015_093 - 1_181_184),
        (768, 32, 51, 41_976_643, 41_976_643 - 1_181_184),
        (768, 32, 174, 42_071_230, 42_071_230 - 1_181_184),
    ],
)
def test_the_published_parameter_counts(width: int, frames: int, classes: int, code: int, paper: int) -> None:
    with torch.device("meta"):
        assert count(Head(Config(preset="code"), specs(width, frames, classes))) == code
        assert count(Head(Config(preset="mixed"), specs(width, frames, classes))) == paper


@pytest.mark.parametrize(
    ("width", "frames", "parts"),
    [
        (512, 8, (792_576, 4_066_057, 7_360_512, 205_200, 525_312)),
        (512, 32, (1_056_768, 7_606_800, 9_463_296, 205_200, 525_312)),
        (768, 8, (1_778_688, 9_146_505, 16_545_792, 307_600, 1_181_184)),
        (768, 32, (2_371_584, 17_111_824, 21_272_832, 307_600, 1_181_184)),
    ],
)
def test_the_published_counts_of_the_parts(width: int, frames: int, parts: tuple[int, ...]) -> None:
    with torch.device("meta"):
        head = Head(Config(preset="code"), specs(width, frames, 400))
    experts = count(head.experts) + count(head.combination)
    assert (count(head.streams), count(head.interaction), experts) == parts[:3]
    assert (count(head.classifier), count(head.projection)) == parts[3:]


def test_the_published_counts_of_the_interaction() -> None:
    with torch.device("meta"):
        there = Head(Config(preset="mixed"), specs(512, 32)).interaction
    assert there is not None
    assert (count(there.gates), count(there.up), count(there.down)) == (2_101_264, 262_656, 5_242_880)
    assert {name: op.stride for name, op in there.down.items()} == {
        "0-2": (4,), "0-3": (8,), "1-2": (2,), "1-3": (4,),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("frames", "rates", "lengths"), [(8, (2, 4, 8), (4, 2, 1)), (32, (2, 4, 8, 16), (16, 8, 4, 2))]
)
def test_streams_have_the_published_lengths(frames: int, rates: tuple[int, ...], lengths: tuple[int, ...]) -> None:
    head = made(Config(), frames)
    assert head.rates == rates
    clips = batch(2, frames).clips["visual"]
    streams = [stream(clips)[0] for stream in head.streams]
    assert tuple(stream.shape[1] for stream in streams) == lengths
    assert head.interaction is not None
    assert [stream.shape for stream in head.interaction(streams)] == [stream.shape for stream in streams]


# ------------------------------------------------------------------------------------------ the released head


def poured(config: Config, frames: int, seed: int = 1) -> tuple[Head, loops.State]:
    state = loops.released_state(WIDTH, config.rates, CLASSES, seed)
    head = made(config, frames).double()
    load_released(head, state)
    return head.eval(), state


@pytest.mark.parametrize(("frames", "rates"), [(8, (2, 4, 8)), (32, (2, 4, 8, 16)), (11, (2, 8)), (8, (4,))])
def test_the_released_forward_is_met(frames: int, rates: tuple[int, ...]) -> None:
    head, state = poured(replace(CODE, rates=rates), frames)
    given = batch(4, frames, seed=3)
    clips = given.clips["visual"].double()
    there = loops.released_forward(state, clips, rates)
    with torch.no_grad():
        seen = head(clips)
        assert head.projection is not None
        result = {
            "logits": head.classifier(seen.fused), "shares": seen.shares, "experts": seen.experts,
            "projected": head.projection(seen.fused), "rank": seen.ranked,
            "diversity": diversity_of_clips(seen.experts),
        }  # fmt: skip
    for name, values in result.items():
        torch.testing.assert_close(values, there[name], rtol=1e-8, atol=1e-8, msg=name)
    single = head.float()
    with torch.no_grad():
        torch.testing.assert_close(single.scores(given), there["logits"].float(), rtol=1e-5, atol=1e-5)


def test_the_released_loss_is_met() -> None:
    head, state = poured(CODE, 8)
    given = batch(6)
    texts = given.classes["text"].double()
    given = replace(given, clips={"visual": given.clips["visual"].double()}, classes={"text": texts})
    there = loops.released_forward(state, given.clips["visual"], CODE.rates)
    cosines = torch.stack([torch.stack([loops.cosine(p, t) for t in texts]) for p in there["projected"]])
    expected = {
        "cross-entropy": cross_entropy(there["logits"], given.labels),
        "rank": 0.1 * there["rank"],
        "diversity": 0.005 * there["diversity"],
        "balance": 0.01 * 3 * sum(there["shares"][:, e].mean() ** 2 for e in range(3)),
        "text": 0.01 * cross_entropy(cosines, given.labels),
    }
    with torch.no_grad():
        terms = head.loss(given)
    assert terms.keys() == expected.keys()
    for name, value in expected.items():
        assert float(terms[name]) == pytest.approx(float(value), rel=1e-5), name


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    rows = zip(logits, labels, strict=True)
    return torch.stack([row.exp().sum().log() - row[int(label)] for row, label in rows]).mean()


@pytest.mark.parametrize("changed", list(PRESETS["paper"]))
def test_the_presets_differ_in_these_fields_alone(changed: str) -> None:
    paper, code = Config().resolved(), Config(preset="code").resolved()
    assert {name for name in vars(paper) if getattr(paper, name) != getattr(code, name)} == {
        "preset",
        *PRESETS["paper"],
    }
    assert replace(Config(), **{changed: PRESETS["code"][changed]}).resolved() == replace(
        paper, **{changed: PRESETS["code"][changed]}
    )


def test_the_paper_preset_is_what_the_paper_says() -> None:
    head = made(Config())
    assert head.interaction is not None
    assert head.interaction._pairs == [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)]  # any two pathways
    head.loss(batch())["cross-entropy"].backward()
    used = {number for number, gate in enumerate(head.interaction.gates) if gate[2].weight.grad is not None}
    assert used == {1, 2, 5}  # one gate per pair
    assert not list(head.combination.norm.parameters())  # no norm after Eq. 14
    expert, tokens = head.experts[0], torch.randn(2, 3, WIDTH)
    with torch.no_grad():
        read = expert.attention_norm(tokens + expert.attention(tokens, tokens, tokens, need_weights=False)[0])
        wide = expert.wide(read)
        activated = 0.5 * wide * (1 + torch.erf(wide / 2**0.5))  # GELU
        torch.testing.assert_close(expert(tokens), expert.feed_norm(read + expert.narrow(activated)))
    assert made(replace(PAPER, rates=(2,))).interaction is not None  # one rate alone: nothing to refuse


def test_settings_recorded_by_version_0_1_are_the_head_they_were() -> None:
    old = Config(preset="paper", pairs="slow-fast", gates="directed", activation="quick-gelu")
    assert replace(old.resolved(), preset="mixed") == Config(preset="mixed").resolved()
    code = Config(preset="code", pairs="slow-fast", gates="directed", activation="quick-gelu")
    assert code.resolved() == Config(preset="code").resolved()


@pytest.mark.parametrize("on_batch", [True, False])
@pytest.mark.parametrize("overwrite", [True, False])
def test_sources_and_threshold_act_as_the_table_says(on_batch: bool, overwrite: bool) -> None:
    rates = (2, 4, 8, 16)
    config = replace(
        CODE,
        rates=rates,
        threshold_on="batch" if on_batch else "sample",
        sources="overwrite" if overwrite else "accumulate",
    )
    head, state = poured(config, 32, seed=2)
    clips = batch(4, 32).clips["visual"].double()
    streams = [
        [loops.stream(state, f"pooling_layers.{e}", clip, rate)[0] for e, rate in enumerate(rates)] for clip in clips
    ]
    scores = [float(loops.gate(state, number, s[number // 4], s[number % 4])) for s in streams for number in (2, 7, 13)]
    assert min(scores) < 0.3 < max(scores)
    expected = loops.released_forward(state, clips, rates, on_batch=on_batch, overwrite=overwrite)["logits"]
    with torch.no_grad():
        torch.testing.assert_close(head.classifier(head(clips).fused), expected, rtol=1e-8, atol=1e-8)
        other = replace(config, sources="accumulate" if overwrite else "overwrite")
        twin = made(other, 32).double().eval()
        twin.load_state_dict(head.state_dict())
        assert not torch.allclose(twin(clips).fused, head(clips).fused, atol=1e-3)


def test_scores_do_not_depend_on_the_batch_in_paper_but_do_in_code() -> None:
    given = batch(4, seed=3)
    for config, apart in ((SMALL, False), (CODE, True)):
        torch.manual_seed(0)
        head, _ = poured(replace(config, threshold=0.5), 8, seed=2)
        clips = given.clips["visual"].double()
        with torch.no_grad():
            full = head(clips).fused
            alone = torch.cat([head(clip[None]).fused for clip in clips])
        assert torch.allclose(full, alone, atol=1e-9) != apart


def test_released_names_are_all_known() -> None:
    state = loops.released_state(WIDTH, (2, 4, 8, 16), CLASSES)
    head = made(replace(CODE, rates=(2, 4, 8, 16)), 32)
    assert {our_name(f"module.{name}") for name in state} == set(head.state_dict())
    assert our_name("visual.proj") is None


def test_weights_that_do_not_fit_are_refused() -> None:
    state = loops.released_state(WIDTH, (2, 4, 8), CLASSES + 1)
    with pytest.raises(BadInput, match=r"classifier.weight: \[6, 16\] in the file, \[5, 16\] in this head"):
        load_released(made(CODE), state)
    with pytest.raises(BadInput, match=r"visual.proj: not a name of the released code; .*: missing; .* and 45 more"):
        load_released(made(replace(CODE, rates=(2, 4, 8, 16))), {**state, "visual.proj": torch.zeros(1)})


# ------------------------------------------------------------------------------------------ parts and losses


@pytest.mark.parametrize(("frames", "rate"), [(8, 2), (8, 8), (7, 3), (8, 16)])
def test_one_kept_frame_and_half_of_the_others(frames: int, rate: int) -> None:
    torch.manual_seed(0)
    clips = batch(3, frames).clips["visual"]
    with torch.no_grad():
        result, _ = RgSTA(WIDTH, rate, Grouping())(clips)
    for b in range(len(clips)):
        for place, start in enumerate(range(0, frames, rate)):
            window = clips[b, start : start + rate]
            near = [(result[b, place] - 0.5 * (window.sum(dim=0) + selected)).abs().max() for selected in window]
            assert min(near) < 1e-3 * result.abs().max()


def test_shares_of_the_rest_sum_to_one() -> None:
    torch.manual_seed(0)
    module = RgSTA(WIDTH, 4, Grouping(merge_norm="rest", alpha=0.0))
    clips = batch(3).clips["visual"]
    with torch.no_grad():
        result, _ = module(clips)
        unit = torch.nn.functional.normalize(module.metric(clips), dim=-1)
        for b in range(3):
            for start in (0, 4):
                window = clips[b, start : start + 4]
                selected = int(window.norm(dim=-1).argmax())
                rest = [a for a in range(4) if a != selected]
                weight = torch.stack([unit[b, start + a] @ unit[b, start + selected] / 0.1 for a in rest]).softmax(
                    dim=0
                )
                expected = window[selected] + 0.5 * (weight[:, None] * window[rest]).sum(dim=0)
                torch.testing.assert_close(result[b, start // 4], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["hard", "avg", "max"])
def test_plain_windows(kind: Any) -> None:
    clips = batch(2, 7).clips["visual"]
    result, ranked = Plain(3, kind)(clips)
    assert ranked is None
    for place, window in enumerate(clips.split(3, dim=1)):
        expected = {"hard": window[:, 0], "avg": window.mean(dim=1), "max": window.amax(dim=1)}[kind]
        torch.testing.assert_close(result[:, place], expected)


def test_losses_equal_their_equations() -> None:
    generator = torch.Generator().manual_seed(0)
    experts = torch.randn(4, 3, 6, generator=generator)
    shares = torch.rand(4, 3, generator=generator).softmax(dim=1)
    pairs = [(i, j) for i in range(3) for j in range(3) if i < j]
    apart = [loops.cosine(clip[i], clip[j]) for clip in experts for i, j in pairs]
    assert float(diversity(experts)) == pytest.approx(float(sum(apart) / len(apart)), rel=1e-5)
    assert float(diversity_of_clips(experts)) == pytest.approx(float(loops.clips_apart(experts)), rel=1e-5)
    assert float(diversity_of_clips(experts[:1])) == 0
    means = [sum(float(row[e]) for row in shares) / 4 for e in range(3)]
    assert float(balance(shares)) == pytest.approx(3 * sum(m * m for m in means), rel=1e-5)
    assert float(balance(torch.full((5, 4), 0.25))) == pytest.approx(1)
    projected, texts, labels = experts[:, 0], experts[:, 1], torch.tensor([0, 2, 1, 3])
    cosines = torch.stack([torch.stack([loops.cosine(p, t) for t in texts]) for p in projected])
    assert float(text_contrast(projected, texts, labels)) == pytest.approx(
        float(cross_entropy(cosines, labels)), rel=1e-5
    )


def test_shares_sum_to_one_and_start_as_the_lengths_are() -> None:
    head, given = made(Config(), 32).eval(), batch(6, 32)
    with torch.no_grad():
        usage = head.usage(given)
    assert list(usage) == ["rate 2", "rate 4", "rate 8", "rate 16"]
    shares = torch.stack(list(usage.values()), dim=1)
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(6))
    torch.testing.assert_close(shares.mean(dim=0), torch.tensor([16, 8, 4, 2]) / 30, atol=0.02, rtol=0)


# ------------------------------------------------------------------------------------------ ablations

ABLATIONS: list[dict[str, Any]] = [
    *({"rates": rates} for rates in [(2,), (16,), (2, 4), (8, 16), (2, 16), (4, 8, 16), (3, 8), (8, 2)]),
    *({name: 0.0} for name in ("rank_weight", "div_weight", "gate_weight")),
    *({"aggregation": kind} for kind in ("hard", "avg", "max")),
    *({"interaction": kind} for kind in ("none", "slow-to-fast", "fast-to-slow")),
    *({"combination": way} for way in ("avg", "linear", "mlp", "local")),
    {"merge_norm": "rest"}, {"gates": "symmetric"}, {"pairs": "all"}, {"activation": "gelu"}, {"positions": "learned"},
    {"threshold": 0.9}, {"sources": "overwrite"}, {"diversity": "clips"},
    {"text_weight": 0.01}, {"attention_heads": 2}, {"alpha": 0.0}, {"delta": 0.25}, {"preset": "code"},
]  # fmt: skip


@pytest.mark.parametrize("change", ABLATIONS, ids=str)
def test_every_ablation_changes_something_and_trains(change: dict[str, Any]) -> None:
    config = replace(SMALL, rates=(2, 4, 8, 16), interaction="dbi")
    torch.manual_seed(0)
    head, given = Head(replace(config, **change), specs(frames=32)), batch(6, 32)
    terms = head.loss(given)
    torch.stack(list(terms.values())).sum().backward()
    idle = {name for name, p in head.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
    gated = "threshold" in change or change.get("sources") == "overwrite" or "preset" in change
    assert {name for name in idle if not name.startswith("interaction.")} <= unranked(change)
    if not gated and head.interaction is not None and not head.interaction.idle:
        acting = {f"interaction.gates.{4 * i + j}.2.weight" for i, j in ((0, 2), (0, 3), (1, 2), (1, 3))}
        if "rates" not in change and not {"interaction", "gates"} & change.keys():
            assert not acting & idle
    full = Head(config, specs(frames=32))
    shared = {name: v for name, v in head.state_dict().items() if name in full.state_dict()}
    if "rates" not in change:
        full.load_state_dict(shared, strict=False)
    there = full.loss(given)
    assert terms.keys() != there.keys() or any(not torch.equal(terms[name], there[name]) for name in terms)


def unranked(change: dict[str, Any]) -> set[str]:
    """What only the ranking loss trains: the scores; and nearly so, the metric."""
    if change.get("rank_weight") != 0:
        return set()
    return {f"streams.{e}.score.{part}" for e in range(4) for part in ("0.weight", "0.bias", "1.weight")}


def test_order_within_a_window_hardly_matters_but_the_order_of_windows_does() -> None:
    head, clips = made(replace(SMALL, merge_norm="kept"), 8).eval(), batch(4).clips["visual"]
    swapped = clips[:, [1, 0, 3, 2, 5, 4, 7, 6]]
    with torch.no_grad():
        torch.testing.assert_close(head(swapped).fused, head(clips).fused, rtol=1e-3, atol=1e-3)
        assert not torch.allclose(head(clips.flip(1)).fused, head(clips).fused, atol=1e-2)


def test_symmetric_gates_are_one_for_both_directions() -> None:
    head = made(replace(SMALL, gates="symmetric"))
    head.loss(batch())["cross-entropy"].backward()
    assert head.interaction is not None
    used = {number for number, gate in enumerate(head.interaction.gates) if gate[2].weight.grad is not None}
    assert used == {2, 5}


def test_defaults_and_notes() -> None:
    assert configs("vidprism")["head"] == Config()
    assert made(Config(), 4).rates == (2, 4)
    assert made(Config(), 1).rates == (1,)
    assert any("all slow or all fast" in note for note in made(replace(SMALL, rates=(2, 4))).notes)
    assert any("in one batch" in note for note in made(CODE).notes)
    assert not made(SMALL).notes


def test_the_report_tells_how_much_each_expert_counted(make_store: MakeStore, tmp_path: Path) -> None:
    store = make_store(classes=3, clips=5, split=False)
    task = classification.Config(cache=store)
    train_config = TrainConfig(steps=2, batch=4, validate_every=2, select="last", device="cpu", out=tmp_path / "run")
    result = train("vidprism", task, Config(), train_config, Silent())
    usage: Any = result.row["usage"]
    assert list(usage["class00"]) == ["rate 2", "rate 4"]
    assert {"class00", "class01", "class02"} < usage.keys()
    for shares in usage.values():
        assert sum(shares.values()) == pytest.approx(1)
    assert "rate 4" in (tmp_path / "run" / "report.html").read_text()


def test_what_the_head_wants_of_a_store() -> None:
    assert not Head.wants(Config()).classes
    assert Head.wants(Config(preset="code")).classes == {"text": "embedding"}
    assert "--text-weight 0" in Head.wants(Config(preset="code")).remedy
    assert not Head.wants(Config(preset="code", text_weight=0.0)).classes
    with pytest.raises(UnknownName, match=r"The head 'vidprism' needs a stream 'class\.text'"):
        Head(CODE, {name: spec for name, spec in specs().items() if name != "class.text"})


@pytest.mark.parametrize(
    ("change", "shape", "told"),
    [
        ({"rates": (2, 2)}, {}, "Rates of 2, 2 frames per token are not possible"),
        ({"rates": (0,)}, {}, "--rates 0 cannot be used"),
        ({"attention_heads": 3}, {}, "A width of 16 cannot be divided among 3"),
        ({"attention_heads": 1}, {"width": 2}, "A width of 2 is too small"),
        ({"rates": (2,), "pairs": "all"}, {}, "there are no pairs"),
        ({}, {"frames": None}, "needs clips of the same length"),
    ],
)
def test_settings_that_cannot_be_are_refused(change: dict[str, Any], shape: dict[str, Any], told: str) -> None:
    with pytest.raises(BadInput, match=told):
        Head(replace(Config(), **change), specs(**shape))


def test_rates_above_the_number_of_frames_are_refused_before_the_training(make_store: MakeStore) -> None:
    task = classification.Config(cache=make_store(classes=3, clips=5, split=False))
    quick = TrainConfig(steps=1, batch=4, select="last", device="cpu")
    with pytest.raises(BadInput, match=r"^--rates 2,99 asks for 99 frames per token; a clip has 4\.\nGive rates of 4"):
        train("vidprism", task, Config(rates=(2, 99)), quick, Silent())
