"""The I3D network: its size, TensorFlow's padding worked by hand, lengths of outputs, and a slow second formulation."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from suites.checkpoints import randomise
from torch import Tensor

from vfc.extract.backbones.i3d.network import MIXED, InceptionI3d, MaxPool, Unit, padded, same_padding


def small(channels: int = 3, seed: int = 0) -> InceptionI3d:
    model = randomise(InceptionI3d(channels, 8), seed)
    assert isinstance(model, InceptionI3d)
    return model


@pytest.fixture(scope="module")
def shapes() -> InceptionI3d:
    with torch.device("meta"):
        return InceptionI3d()


def test_the_trunks_have_the_published_numbers_of_parameters() -> None:
    for channels, count in ((3, 12_287_264), (2, 12_265_312)):
        with torch.device("meta"):
            model = InceptionI3d(channels)
        assert sum(p.numel() for p in model.parameters()) == count
        assert model.width == 1024
    assert list(MIXED) == ["Mixed_3b", "Mixed_3c", *(f"Mixed_4{c}" for c in "bcdef"), "Mixed_5b", "Mixed_5c"]


# Worked by hand: outputs = ceil(size / stride), zeros = (outputs - 1) * stride + kernel - size, the odd one behind.
BY_HAND = [
    (224, 7, 2, (2, 3)),  # 112 outputs: 111 * 2 + 7 - 224 = 5
    (21, 7, 2, (3, 3)),  # 11 outputs: 10 * 2 + 7 - 21 = 6
    (64, 7, 2, (2, 3)),  # 32: 62 + 7 - 64 = 5
    (79, 7, 2, (3, 3)),  # 40: 78 + 7 - 79 = 6
    (112, 3, 2, (0, 1)),  # 56: 110 + 3 - 112 = 1
    (11, 3, 2, (1, 1)),  # 6: 10 + 3 - 11 = 2
    (8, 2, 2, (0, 0)),  # 4: 6 + 2 - 8 = 0
    (7, 2, 2, (0, 1)),  # 4: 6 + 2 - 7 = 1
    (6, 3, 1, (1, 1)),  # 6: 5 + 3 - 6 = 2
    (1, 7, 2, (3, 3)),  # 1: 0 + 7 - 1 = 6
    (5, 1, 1, (0, 0)),
    (9, 1, 2, (0, 0)),  # 5: 8 + 1 - 9 = 0
    (8, 1, 2, (0, 0)),  # 4: 6 + 1 - 8 = -1, none
]


@pytest.mark.parametrize(("size", "kernel", "stride", "zeros"), BY_HAND)
def test_padding_is_tensorflow_s_same(size: int, kernel: int, stride: int, zeros: tuple[int, int]) -> None:
    assert same_padding(size, kernel, stride) == zeros


@given(st.integers(1, 300), st.integers(1, 7), st.integers(1, 3))
def test_padding_gives_as_many_outputs_as_strides_fit(size: int, kernel: int, stride: int) -> None:
    before, behind = same_padding(size, kernel, stride)
    assert 0 <= behind - before <= 1
    if kernel >= stride:
        assert (size + before + behind - kernel) // stride + 1 == math.ceil(size / stride)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9))
@settings(max_examples=20, deadline=None)
def test_zeros_go_around_the_axes_they_belong_to(frames: int, height: int, width: int) -> None:
    x = torch.rand(1, 2, frames, height, width) + 1
    kernel, stride = (7, 3, 2), (2, 1, 2)
    y = padded(x, kernel, stride)
    (t, t_), (h, h_), (w, w_) = (same_padding(n, k, s) for n, k, s in zip(x.shape[2:], kernel, stride, strict=True))
    assert y.shape[2:] == (frames + t + t_, height + h + h_, width + w + w_)
    assert torch.equal(y[:, :, t : t + frames, h : h + height, w : w + width], x)
    assert y.count_nonzero() == x.numel()


@pytest.mark.parametrize("size", [(5, 6, 7), (6, 5, 4)])
def test_a_unit_is_convolution_norm_relu(size: tuple[int, int, int]) -> None:
    unit = randomise(Unit(2, 3, kernel=3, stride=2), 1)
    x = torch.randn(1, 2, *size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        got = unit(x)
    weight, bn = unit.conv3d.weight.detach(), unit.bn
    outs = [math.ceil(n / 2) for n in size]
    fronts = [max((o - 1) * 2 + 3 - n, 0) // 2 for o, n in zip(outs, size, strict=True)]
    for index in torch.cartesian_prod(*(torch.arange(o) for o in outs)).tolist():
        total = torch.zeros(3)
        for offset in torch.cartesian_prod(*(torch.arange(3),) * 3).tolist():
            place = [i * 2 + k - f for i, k, f in zip(index, offset, fronts, strict=True)]
            if all(0 <= p < n for p, n in zip(place, size, strict=True)):
                total += weight[:, :, *offset] @ x[0, :, *place]
        total = (total - bn.running_mean) / (bn.running_var + 1e-3).sqrt() * bn.weight.detach() + bn.bias.detach()
        torch.testing.assert_close(got[0, :, *index], total.clamp(min=0), rtol=1e-4, atol=1e-5)


def test_a_pool_sees_zeros_beyond_the_edge() -> None:
    pool = MaxPool((3, 3, 3), (2, 2, 2))
    x = -torch.ones(1, 1, 3, 2, 2)
    assert pool(x).flatten().tolist() == [0.0, 0.0]  # every box touches the edge
    assert pool(x + 3).flatten().tolist() == [2.0, 2.0]


@pytest.mark.parametrize(("frames", "steps"), [(16, 1), (21, 2), (64, 7), (79, 9), (9, 1)])
def test_time_steps_after_the_pool(shapes: InceptionI3d, frames: int, steps: int) -> None:
    x = torch.zeros(1, 3, frames, 224, 224, device="meta")
    assert shapes(x).shape == (1, 1024, math.ceil(frames / 8), 7, 7)
    assert shapes.vectors(x).shape == (1, steps, 1024)


def test_vectors_are_means_over_space_and_pairs_of_steps() -> None:
    model = small()
    x = torch.rand(2, 3, 21, 40, 33, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.inference_mode():
        last, vectors = model(x), model.vectors(x)
    assert last.shape == (2, 128, 3, 2, 2)
    by_step = last.mean(dim=(3, 4))
    torch.testing.assert_close(vectors, torch.stack([by_step[..., :2].mean(-1), by_step[..., 1:].mean(-1)], dim=1))


def test_branches_lie_in_order() -> None:
    block = small().Mixed_4b
    x = torch.rand(1, 60, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    widths = [unit.conv3d.out_channels for unit in (block.b0, block.b1b, block.b2b, block.b3b)]
    with torch.inference_mode():
        parts = block(x).split(widths, dim=1)
        pooled = torch.nn.functional.max_pool3d(x, 3, 1, 1)  # all of x is above 0, as here after every ReLU
        expected: list[Tensor] = [block.b0(x), block.b1b(block.b1a(x)), block.b2b(block.b2a(x)), block.b3b(pooled)]
    for part, one in zip(parts, expected, strict=True):
        assert torch.equal(part, one)
