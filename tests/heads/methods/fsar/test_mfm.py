"""Attention, the narrowing and MFM against loops, with ragged text and several texts per video."""

from __future__ import annotations

import pytest
import torch
from suites import fsar_loops as loops

from vfc.cache_schema.values.errors import BadInput
from vfc.heads.layers.attention import Layer
from vfc.heads.methods.fsar.mfm import Downsample, Fusion


def small(seed: int) -> Layer:
    torch.manual_seed(seed)
    built = Layer(8, heads=2, ffn=12).eval()
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return built


def test_a_layer_equals_its_loop_whatever_is_padded() -> None:
    layer = small(0)
    query, context = torch.randn(3, 4, 8), torch.randn(3, 6, 8)
    lengths = [6, 1, 4]
    valid = torch.arange(6)[None] < torch.tensor(lengths)[:, None]
    with torch.no_grad():
        result, alone = layer(query, context, valid), layer(query)
        for i, length in enumerate(lengths):
            torch.testing.assert_close(
                result[i], loops.layer(layer, query[i], context[i, :length]), rtol=1e-5, atol=1e-5
            )
            torch.testing.assert_close(alone[i], loops.layer(layer, query[i], query[i]), rtol=1e-5, atol=1e-5)


def test_a_layer_has_the_published_number_of_parameters() -> None:
    for width in (128, 256, 512, 1024):
        assert sum(p.numel() for p in Layer(width).parameters()) == 4 * width**2 + 4100 * width + 2048


def test_a_width_that_the_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(BadInput, match=r"A width of 60 cannot be divided among 8 attention heads"):
        Layer(60)


def test_narrowing_has_no_bias_and_one_relu() -> None:
    down = Downsample(5, 7, 3)
    first, second = (dict(down.named_parameters())[f"{i}.weight"] for i in (0, 2))
    rows = torch.randn(2, 4, 5)
    torch.testing.assert_close(down(rows), (rows @ first.mT).clamp(min=0) @ second.mT)


@pytest.mark.parametrize(
    "on", [(True, True, True, True), (False, True, True, True), (True, False, True, False), (False, False, False, True)]
)
def test_mfm_equals_its_loop(on: tuple[bool, bool, bool, bool]) -> None:
    parts = [small(i) if used else None for i, used in enumerate(on)]
    fusion = Fusion(*parts)
    spatial, temporal, visual, text = parts
    frames, words = torch.randn(2, 3, 4, 8), torch.randn(5, 6, 8)
    lengths, video = [6, 2, 1, 5, 3], torch.tensor([0, 1, 1, 0, 1])
    valid = torch.arange(6)[None] < torch.tensor(lengths)[:, None]
    with torch.no_grad():
        result, told = fusion(frames, words, valid, video)
        assert told is not None
        for i, length in enumerate(lengths):
            rows = []
            for frame in frames[video[i]]:
                rows.append((frame if spatial is None else loops.layer(spatial, frame, frame)).mean(dim=0))
            moving = torch.stack(rows)
            if temporal is not None:
                moving = loops.layer(temporal, moving, moving)
            said = words[i, :length]
            slow_visual = moving if visual is None else loops.layer(visual, moving, said)
            slow_text = said if text is None else loops.layer(text, said, moving)
            torch.testing.assert_close(result[i], slow_visual, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(told[i, :length], slow_text, rtol=1e-5, atol=1e-5)
            assert torch.equal(told[i, length:], torch.zeros(6 - length, 8))


def test_without_text_only_frames_are_mixed() -> None:
    fusion = Fusion(small(0), small(1), None, None)
    frames = torch.randn(2, 3, 4, 8)
    result, told = fusion(frames)
    assert told is None
    assert result.shape == (2, 3, 8)


@pytest.mark.parametrize("on", [(True, True), (False, True), (True, False)])
def test_attention_over_grids_equals_its_loop_whatever_the_padding_holds(on: tuple[bool, bool]) -> None:
    spatial, temporal = (small(i) if used else None for i, used in enumerate(on))
    fusion = Fusion(spatial, temporal, small(2), small(3))
    sizes, lengths = [(3, 4), (1, 2), (2, 5), (3, 1)], [6, 1, 3, 2]
    frames, words = torch.full((4, 4, 6, 8), torch.nan), torch.full((4, 7, 8), torch.nan)
    valid, said = torch.zeros(4, 4, 6, dtype=torch.bool), torch.zeros(4, 7, dtype=torch.bool)
    for video, ((steps, tokens), length) in enumerate(zip(sizes, lengths, strict=True)):
        frames[video, :steps, :tokens], valid[video, :steps, :tokens] = torch.randn(steps, tokens, 8), True
        words[video, :length], said[video, :length] = torch.randn(length, 8), True
    with torch.no_grad():
        attended = fusion.self_attention(frames, valid)
        fused, text = fusion.mix(attended, words, said, None, valid.any(dim=2))
        assert text is not None
        for video, ((steps, tokens), length) in enumerate(zip(sizes, lengths, strict=True)):
            moving = torch.stack(
                [
                    (frame if spatial is None else loops.layer(spatial, frame, frame)).mean(dim=0)
                    for frame in frames[video, :steps, :tokens]
                ]
            )
            moving = moving if temporal is None else loops.layer(temporal, moving, moving)
            own = words[video, :length]
            parts = (
                (attended[video], moving),
                (fused[video], loops.layer(small(2), moving, own)),
                (text[video], loops.layer(small(3), own, moving)),
            )
            for result, slow in parts:
                torch.testing.assert_close(result[: len(slow)], slow, rtol=1e-5, atol=1e-5)
                assert torch.equal(result[len(slow) :], torch.zeros(len(result) - len(slow), 8))
