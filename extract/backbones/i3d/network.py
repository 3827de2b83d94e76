"""The network: Inception-v1 inflated to 3D (Carreira & Zisserman 2017), up to its last map and its mean.

Two details are easily missed. Padding is TensorFlow's SAME, which depends on the size of the input and puts the odd
zero at the end; and the epsilon of the batch norms is 1e-3.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

BATCH_NORM_EPS: Final = 1e-3
LEAST_FRAMES: Final = 9
"""Fewer give one time step in the last map, and the pool needs two."""

MIXED: Final[dict[str, tuple[int, int, int, int, int, int]]] = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}
"""Channels of the units b0, b1a, b1b, b2a, b2b, b3b; the output of a block has those of b0, b1b, b2b and b3b."""
WIDTH: Final = 1024
STEM: Final = 64
_POOLS: Final[dict[str, tuple[tuple[int, int, int], tuple[int, int, int]]]] = {
    "MaxPool3d_2a_3x3": ((1, 3, 3), (1, 2, 2)),
    "MaxPool3d_3a_3x3": ((1, 3, 3), (1, 2, 2)),
    "MaxPool3d_4a_3x3": ((3, 3, 3), (2, 2, 2)),
    "MaxPool3d_5a_2x2": ((2, 2, 2), (2, 2, 2)),
}


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros before and after one axis that give `ceil(size / stride)` outputs; the odd one comes after."""
    rest = size % stride or stride
    total = max(kernel - rest, 0)
    return total // 2, total - total // 2


def padded(x: Tensor, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> Tensor:
    """`x` `[B, C, T, H, W]` with the zeros of SAME padding around it."""
    both = [same_padding(size, k, s) for size, k, s in zip(x.shape[2:], kernel, stride, strict=True)]
    flat = [zeros for pair in reversed(both) for zeros in pair]
    return functional.pad(x, flat) if any(flat) else x


class Unit(nn.Module):
    """Convolution without bias, batch norm, ReLU."""

    def __init__(self, channels: int, out: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.kernel, self.stride = (kernel,) * 3, (stride,) * 3
        self.conv3d = nn.Conv3d(channels, out, kernel, stride, bias=False)
        self.bn = nn.BatchNorm3d(out, eps=BATCH_NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, T, H, W]` to `[B, C', ceil(T / stride), ...]`."""
        return functional.relu(self.bn(self.conv3d(padded(x, self.kernel, self.stride))), inplace=True)


class MaxPool(nn.Module):
    """Maximum over a box. Padded with zeros, as all inputs are 0 or above."""

    def __init__(self, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, T, H, W]` to `[B, C, ceil(T / stride), ...]`."""
        return functional.max_pool3d(padded(x, self.kernel, self.stride), self.kernel, self.stride)


class Mixed(nn.Module):
    """Four branches side by side: 1x1x1; 1x1x1 and 3x3x3, twice; a maximum and 1x1x1."""

    def __init__(self, channels: int, out: tuple[int, ...]) -> None:
        super().__init__()
        self.b0 = Unit(channels, out[0])
        self.b1a, self.b1b = Unit(channels, out[1]), Unit(out[1], out[2], 3)
        self.b2a, self.b2b = Unit(channels, out[3]), Unit(out[3], out[4], 3)
        self.b3a, self.b3b = MaxPool((3, 3, 3), (1, 1, 1)), Unit(channels, out[5])
        self.width = out[0] + out[2] + out[4] + out[5]

    def forward(self, x: Tensor) -> Tensor:
        """The channels of the branches, concatenated in order."""
        branches = (self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x)))
        return torch.cat(branches, dim=1)


class InceptionI3d(nn.Module):
    """The trunk of one tower, without its classifier.

    Args:
        channels: Of the input: 3 for RGB, 2 for flow.
        narrow: Every width is divided by this; 1 is the published network. 8 is the largest without a remainder.
    """

    def __init__(self, channels: int = 3, narrow: int = 1) -> None:
        super().__init__()
        self.narrow = narrow
        stem = STEM // narrow
        layers: dict[str, nn.Module] = {
            "Conv3d_1a_7x7": Unit(channels, stem, 7, 2),
            "MaxPool3d_2a_3x3": MaxPool(*_POOLS["MaxPool3d_2a_3x3"]),
            "Conv3d_2b_1x1": Unit(stem, stem),
            "Conv3d_2c_3x3": Unit(stem, 3 * stem, 3),
            "MaxPool3d_3a_3x3": MaxPool(*_POOLS["MaxPool3d_3a_3x3"]),
        }
        width = 3 * stem
        for name, out in MIXED.items():
            before = {"Mixed_4b": "MaxPool3d_4a_3x3", "Mixed_5b": "MaxPool3d_5a_2x2"}.get(name)
            if before:
                layers[before] = MaxPool(*_POOLS[before])
            mixed = Mixed(width, tuple(each // narrow for each in out))
            layers[name], width = mixed, mixed.width
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        """The last map: `[B, C, T, H, W]` in [-1, 1] to `[B, 1024, ceil(T / 8), ceil(H / 32), ceil(W / 32)]`."""
        for layer in self.children():
            x = layer(x)
        return x

    def vectors(self, x: Tensor) -> Tensor:
        """One vector per time step: `[B, C, T, H, W]` to `[B, ceil(T / 8) - 1, 1024]`.

        Means over two neighbouring time steps of the last map and over all of its height and width (7 x 7 for 224
        pixels). T is 9 or more.
        """
        last = self.forward(x)
        pooled = functional.avg_pool3d(last, (2, last.shape[3], last.shape[4]), stride=1)
        return pooled.flatten(2).transpose(1, 2)
