"""The attentive probe: the suite, published sizes, its identities, and transformers' pooler with the same weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
import torch
from suites.head import ClassifierHeadSuite
from torch import Tensor
from torch.nn import functional

from vfc.cache_schema.values.errors import BadInput
from vfc.cache_schema.values.record import ArraySpec
from vfc.heads.methods.attentive_probe import Config, Head
from vfc.heads.methods.attentive_probe.released import load_released
from vfc.heads.tasks.classification import ClipBatch


def specs(width: int, classes: int = 3, *leading: int | None) -> dict[str, ArraySpec]:
    shape = (*(leading or (2, 5)), width)
    return {"visual": ArraySpec("norm.visual", "fp32", shape), "classes": ArraySpec("classes", "int64", (classes,))}


def probe(depth: int, width: int = 24, *, heads: int = 4, classes: int = 3) -> Head:
    """A probe in float64 whose parameters are all far from 0."""
    head = Head(Config(depth=depth, heads=heads), specs(width, classes)).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in head.named_parameters():
            drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(0.3 * drawn + (1.0 if "norm" in name and name.endswith("weight") else 0.0))
    return head.eval()


def clips(*shape: int, valid: Tensor | None = None, seed: int = 2) -> ClipBatch:
    generator = torch.Generator().manual_seed(seed)
    visual = torch.randn(*shape, generator=generator, dtype=torch.float64)
    more = {} if valid is None else {"visual.valid": valid}
    return ClipBatch({"visual": visual, **more}, torch.arange(shape[0]) % 3, ("a", "b", "c"), {})


class TestAttentiveProbe(ClassifierHeadSuite):
    method = "attentive-probe"
    specs: ClassVar[Mapping[str, ArraySpec]] = specs(24)


class TestFourBlocks(ClassifierHeadSuite):
    method = "attentive-probe"
    config = Config(preset="vjepa2")
    specs: ClassVar[Mapping[str, ArraySpec]] = specs(24, 3, None, 5)


class TestFramesWithoutTokens(ClassifierHeadSuite):
    method = "attentive-probe"
    specs: ClassVar[Mapping[str, ArraySpec]] = specs(24, 3, 4)


@pytest.mark.parametrize(
    ("width", "depth", "classes", "count"),
    [
        (768, 1, 174, 6_631_854),
        (1024, 1, 400, 11_957_648),
        (1024, 4, 174, 49_514_670),
        (1280, 4, 48, 77_132_848),
        (1408, 4, 174, 93_494_190),
        (1664, 4, 1000, 131_889_640),
    ],
)
def test_it_has_as_many_parameters_as_the_public_code(width: int, depth: int, classes: int, count: int) -> None:
    with torch.device("meta"):
        head = Head(Config(depth=depth), specs(width, classes))
    assert sum(parameter.numel() for parameter in head.parameters()) == count
    assert head.notes == ()


def test_the_weights_that_add_to_the_residual_start_smaller_block_by_block() -> None:
    torch.manual_seed(0)
    pooler = Head(Config(preset="vjepa2"), specs(256)).pooler
    ends = [block.get_submodule("mlp.fc2").weight.std().item() for block in pooler.blocks]
    assert ends == pytest.approx([0.0141, 0.0100, 0.0082], rel=0.02)
    assert pooler.cross_attention_block.mlp.fc2.weight.std().item() == pytest.approx(0.0082, rel=0.02)
    assert pooler.cross_attention_block.xattn.kv.weight.std().item() == pytest.approx(0.02, rel=0.02)


@pytest.mark.parametrize("depth", [1, 4])
def test_the_order_of_the_tokens_and_how_often_all_are_given_have_no_effect(depth: int) -> None:
    head, batch = probe(depth), clips(3, 2, 5, 24)
    tokens = batch.clips["visual"].flatten(1, 2)
    with torch.no_grad():
        scores = head.scores(batch)
        for same in (tokens[:, torch.randperm(10)], torch.cat([tokens, tokens], dim=1)):
            other = ClipBatch({"visual": same[:, None]}, batch.labels, batch.names, {})
            torch.testing.assert_close(head.scores(other), scores, rtol=1e-12, atol=1e-12)
        partly = ClipBatch({"visual": torch.cat([tokens, tokens[:, :4]], dim=1)}, batch.labels, batch.names, {})
        assert (head.scores(partly) - scores).abs().max() > 1e-3


def by_hand(head: Head, batch: ClipBatch, parameters: Mapping[str, Tensor]) -> Tensor:
    """The logits of a probe of depth 1, clip by clip and head by head, with keys and values of every token."""
    weight = {name.removeprefix("pooler.cross_attention_block."): value for name, value in parameters.items()}
    width, size = 24, 6
    query = weight["pooler.query_tokens"][0, 0]
    logits = []
    for tokens in batch.clips["visual"].flatten(1, 2):
        normed = functional.layer_norm(tokens, (width,), weight["norm1.weight"], weight["norm1.bias"], 1e-5)
        keys, values = functional.linear(normed, weight["xattn.kv.weight"], weight["xattn.kv.bias"]).chunk(2, dim=1)
        asked = functional.linear(query, weight["xattn.q.weight"], weight["xattn.q.bias"])
        parts = []
        for start in range(0, width, size):
            of_head = slice(start, start + size)
            share = (keys[:, of_head] @ asked[of_head] / math.sqrt(size)).softmax(dim=0)
            parts.append(share @ values[:, of_head])
        pooled = query + torch.cat(parts)
        hidden = functional.layer_norm(pooled, (width,), weight["norm2.weight"], weight["norm2.bias"], 1e-5)
        hidden = functional.gelu(functional.linear(hidden, weight["mlp.fc1.weight"], weight["mlp.fc1.bias"]))
        pooled = pooled + functional.linear(hidden, weight["mlp.fc2.weight"], weight["mlp.fc2.bias"])
        logits.append(functional.linear(pooled, weight["linear.weight"], weight["linear.bias"]))
    return torch.stack(logits)


def test_the_folded_query_gives_the_logits_and_gradients_of_the_attention_written_out() -> None:
    head, batch = probe(1), clips(3, 2, 5, 24)
    torch.testing.assert_close(head.scores(batch), by_hand(head, batch, dict(head.named_parameters())))
    functional.cross_entropy(head.scores(batch), batch.labels).backward()
    apart = {name: value.detach().clone().requires_grad_() for name, value in head.named_parameters()}
    functional.cross_entropy(by_hand(head, batch, apart), batch.labels).backward()
    for name, parameter in head.named_parameters():
        torch.testing.assert_close(parameter.grad, apart[name].grad, rtol=1e-9, atol=1e-12, msg=name)


@pytest.fixture(scope="module")
def library() -> Any:
    """transformers' classifier with random weights; norms and biases too."""
    from transformers import VJEPA2Config, VJEPA2ForVideoClassification

    sizes: dict[str, Any] = {
        "hidden_size": 48,
        "num_attention_heads": 4,
        "num_hidden_layers": 1,
        "pred_hidden_size": 24,
    }
    sizes |= {
        "pred_num_attention_heads": 2,
        "pred_num_hidden_layers": 1,
        "crop_size": 32,
        "frames_per_clip": 4,
        "num_labels": 5,
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = VJEPA2ForVideoClassification(VJEPA2Config(**sizes, num_pooler_layers=3)).double().eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(0.2 * torch.randn_like(parameter) + ("norm" in name and name.endswith("weight")))
    for module in model.pooler.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 1e-5
    return model


def official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of our head as V-JEPA 2's files have it."""
    return {f"module.{name}": value for name, value in state.items()}


def test_with_the_weights_of_the_library_its_logits_are_those_of_the_library(library: Any) -> None:
    head = Head(Config(preset="vjepa2", heads=4), specs(48, 5)).double().eval()
    load_released(head, library.state_dict())
    batch = clips(3, 2, 6, 48)
    with torch.no_grad():
        expected = library.classifier(library.pooler(batch.clips["visual"].flatten(1, 2)))
        torch.testing.assert_close(head.scores(batch), expected, rtol=1e-10, atol=1e-10)
    again = Head(Config(preset="vjepa2", heads=4), specs(48, 5)).double().eval()
    load_released(again, official(head.state_dict()))
    with torch.no_grad():
        assert torch.equal(again.scores(batch), head.scores(batch))


def test_published_weights_that_lack_something_or_have_more_are_refused_by_name(library: Any) -> None:
    head, state = Head(Config(preset="vjepa2", heads=4), specs(48, 5)).double(), library.state_dict()
    without = {
        name: value for name, value in state.items() if name != "pooler.cross_attention_layer.cross_attn.q_proj.bias"
    }
    with pytest.raises(BadInput, match=r"cross_attention_block\.xattn\.q\.bias: missing"):
        load_released(head, without)
    halved = {
        name: value for name, value in state.items() if name != "pooler.cross_attention_layer.cross_attn.v_proj.bias"
    }
    with pytest.raises(BadInput, match=r"xattn\.kv\.bias: missing"):
        load_released(head, halved)
    with pytest.raises(BadInput, match=r"verb_classifier\.bias: not in this head"):
        load_released(head, {**state, "verb_classifier.bias": torch.zeros(5)})
    with pytest.raises(BadInput, match=r"linear\.bias: \[5\] in the file, \[7\] in this head"):
        load_released(Head(Config(preset="vjepa2", heads=4), specs(48, 7)), state)


def test_a_number_of_heads_that_does_not_divide_the_width_is_refused_and_the_default_is_told() -> None:
    with pytest.raises(BadInput, match=r"--heads 16 does not divide the width of the tokens, 24\."):
        Head(Config(heads=16), specs(24))
    assert Head(Config(), specs(24)).notes == (
        "A width of 24 is not a multiple of 16: the probe has 12 attention heads.",
    )
