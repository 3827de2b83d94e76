"""A shared prefix: a small decoder of the library against the same row in one piece; no hook stays."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from suites.checkpoints import randomise

from vfc.extract.language.shared_prefix import SuffixRows, suffixes_along
from vfc.extract.models.taps import Tap, captured


@pytest.fixture(scope="module")
def model() -> Any:
    config = transformers.LlamaConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=20,
    )
    return randomise(transformers.LlamaModel(config))


def kept(_: str, states: torch.Tensor) -> torch.Tensor:
    return states.clone()


def one_suffix(model: Any, ids: torch.Tensor, prefix: int) -> SuffixRows:
    hidden = model.embed_tokens(ids)
    n = ids.shape[1]
    mask = torch.cat([torch.ones(n, prefix, dtype=torch.bool), torch.ones(n, n, dtype=torch.bool).tril()], dim=1)
    rope = model.rotary_emb(hidden, prefix + torch.arange(n)[None])
    return SuffixRows(hidden, rope, mask[None, None], slice(0, 1), prefix)


def run(model: Any, ids: torch.Tensor, suffixes: list[SuffixRows], layers: tuple[str, ...]) -> None:
    with suffixes_along(model, suffixes, layers, kept) as cache:
        model(inputs_embeds=model.embed_tokens(ids), past_key_values=cache, use_cache=True)


@torch.inference_mode()
def test_a_suffix_has_the_states_of_the_whole_row(model: Any) -> None:
    ids = torch.randint(20, (1, 11), generator=torch.Generator().manual_seed(1))
    last: list[torch.Tensor] = []
    handle = model.layers[2].register_forward_hook(lambda _m, _a, out: last.append(out))
    whole = model(ids, output_hidden_states=True).hidden_states
    handle.remove()
    suffixes = [one_suffix(model, ids[:, 7:], 7), one_suffix(model, ids[:, 7:9], 7)]
    run(model, ids[:, :7], suffixes, ("0", "1", "3", "norm"))
    expected = {"0": whole[0], "1": whole[1], "3": last[0], "norm": whole[3]}
    for suffix, length in zip(suffixes, (4, 2), strict=True):
        assert suffix.states.keys() == expected.keys()
        for layer, states in expected.items():
            torch.testing.assert_close(suffix.states[layer], states[:, 7 : 7 + length], rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_many_suffixes_share_one_row_of_the_prefix(model: Any) -> None:
    ids = torch.randint(20, (2, 9), generator=torch.Generator().manual_seed(2))
    suffix = one_suffix(model, torch.tensor([[1, 2, 3], [4, 5, 6]]), 5)
    suffix.rows = slice(1, 2)
    run(model, ids[:, :5], [suffix], ("3",))
    for row in range(2):
        alone = one_suffix(model, torch.tensor([[1, 2, 3], [4, 5, 6]])[row : row + 1], 5)
        run(model, ids[1:, :5], [alone], ("3",))
        torch.testing.assert_close(suffix.states["3"][row], alone.states["3"][0], rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_only_one_block_s_keys_and_values_are_held(model: Any) -> None:
    newest = []
    with suffixes_along(model, [one_suffix(model, torch.tensor([[1, 2]]), 5)], ("3",), kept) as cache:
        for block in model.layers:
            block.register_forward_hook(lambda *_: newest.append(cache.newest))
        model(inputs_embeds=model.embed_tokens(torch.ones(1, 5, dtype=torch.int64)), past_key_values=cache)
    assert newest == [None] * 3
    assert cache.get_seq_length() == 0
    for block in model.layers:
        block._forward_hooks.clear()


@torch.inference_mode()
def test_suffixes_have_run_when_the_last_tap_ends_the_forward(model: Any) -> None:
    suffix = one_suffix(model, torch.tensor([[1, 2]]), 5)
    hidden = model.embed_tokens(torch.ones(1, 5, dtype=torch.int64))
    with (
        suffixes_along(model, [suffix], ("2",), kept) as cache,
        captured(model, {"2": Tap("layers.1")}, kept, stop=True) as captured_states,
    ):
        model(inputs_embeds=hidden, past_key_values=cache)
    assert captured_states.keys() == suffix.states.keys() == {"2"}


def test_no_hook_stays_when_a_forward_fails(model: Any) -> None:
    suffix = one_suffix(model, torch.tensor([[1]]), 3)
    suffix.columns = "three"  # type: ignore[assignment]
    with pytest.raises(TypeError):
        run(model, torch.ones(1, 3, dtype=torch.int64), [suffix], ("1",))
    assert not any(block._forward_hooks for block in model.layers)
