"""From a video file to the inputs of a network, once more and by hand: nothing here uses the code of the project.

Decoding by PyAV, one formula for the frames, pixels and patches in a few lines of torch. `i3d_vectors` is the I3D
network from its weights by published names.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

CLIP_MEAN = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
IMAGENET_MEAN = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

Frames = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Film:
    """Frames of a file: RGB `[T, H, W, 3]`, their numbers in the file, their times in seconds, frames per second."""

    frames: Frames
    indices: list[int]
    seconds: list[float]
    fps: float


def decoded(path: Path, count: int | None) -> Film:
    """All frames of a file, or `count` of them: the middle one of each of `count` equal parts."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(stream))
        rate = stream.average_rate
        assert rate is not None
        total = len(frames)
        indices = list(range(total)) if count is None else [int((i + 0.5) * total / count) for i in range(count)]
        images = np.stack([frames[i].to_ndarray(format="rgb24") for i in indices])
        return Film(images, indices, [float(frames[i].time or 0) for i in indices], float(rate))


def pixels(
    frames: Frames, edge: int, short: int | None, mode: str, scale: tuple[Sequence[float], Sequence[float]]
) -> Tensor:
    """`[T, 3, edge, edge]`: short side to `short`, centre crop; without `short` the whole frame to the square."""
    height, width = frames.shape[1:3]
    size = (edge, edge)
    if short is not None:
        size = (short, int(short * width / height)) if height < width else (int(short * height / width), short)
    values = resized(frames, size, mode)
    top, left = (size[0] - edge) // 2, (size[1] - edge) // 2
    return normalised(values[..., top : top + edge, left : left + edge], scale)


def resized(frames: Frames, size: tuple[int, int], mode: str) -> Tensor:
    """Uint8 `[T, 3, h, w]`, antialiased."""
    values = torch.from_numpy(frames).permute(0, 3, 1, 2).contiguous()
    return functional.interpolate(values, size, mode=mode, antialias=True)


def normalised(values: Tensor, scale: tuple[Sequence[float], Sequence[float]]) -> Tensor:
    """Grey levels less 255 x mean, divided by 255 x standard deviation."""
    mean, std = (255 * torch.tensor(numbers).view(3, 1, 1) for numbers in scale)
    return (values.float() - mean) / std


def patches(values: Tensor, patch: int) -> tuple[Tensor, Tensor]:
    """Pixels `[T, 3, h, w]` as Qwen's patches `[N, 3 * 2 * patch^2]` and their grid (pairs, rows, columns).

    Order: pair of frames, then blocks of 2 x 2 patches row by row, then the patches of a block row by row.
    """
    count, _, height, width = values.shape
    if count % 2:
        values, count = torch.cat([values, values[-1:]]), count + 1
    rows = []
    corners = itertools.product(range(0, height, 2 * patch), range(0, width, 2 * patch))
    for t, (top, left) in itertools.product(range(0, count, 2), list(corners)):
        for y, x in ((top, left), (top, left + patch), (top + patch, left), (top + patch, left + patch)):
            rows.append(values[t : t + 2, :, y : y + patch, x : x + patch].transpose(0, 1).flatten())
    return torch.stack(rows), torch.tensor([count // 2, height // patch, width // patch])


def i3d_vectors(weights: Mapping[str, Tensor], rgb: Tensor) -> Tensor:
    """Of one window `[T, 3, h, w]`: mean of Mixed_5c over places and pairs of time steps, then over time `[D]`."""

    def padded(x: Tensor, kernel: Sequence[int], stride: Sequence[int]) -> Tensor:
        sides: list[int] = []
        for size, k, s in reversed(list(zip(x.shape[2:], kernel, stride, strict=True))):
            zeros = max((-(-size // s) - 1) * s + k - size, 0)
            sides += [zeros // 2, zeros - zeros // 2]
        return functional.pad(x, sides)

    def unit(x: Tensor, name: str, kernel: int = 1, stride: int = 1) -> Tensor:
        x = functional.conv3d(padded(x, [kernel] * 3, [stride] * 3), weights[f"{name}.conv3d.weight"], None, stride)
        mean, variance, weight, bias = (
            weights[f"{name}.bn.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return functional.batch_norm(x, mean, variance, weight, bias, eps=1e-3).relu()

    def pool(x: Tensor, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> Tensor:
        return functional.max_pool3d(padded(x, kernel, stride), kernel, stride)

    def mixed(x: Tensor, name: str) -> Tensor:
        inner = [unit(unit(x, f"{name}.b{i}a"), f"{name}.b{i}b", 3) for i in (1, 2)]
        return torch.cat([unit(x, f"{name}.b0"), *inner, unit(pool(x, (3, 3, 3), (1, 1, 1)), f"{name}.b3b")], dim=1)

    x = unit(rgb.transpose(0, 1)[None], "Conv3d_1a_7x7", 7, 2)
    x = unit(pool(x, (1, 3, 3), (1, 2, 2)), "Conv3d_2b_1x1")
    x = pool(unit(x, "Conv3d_2c_3x3", 3), (1, 3, 3), (1, 2, 2))
    for block in ("3b", "3c", "4b", "4c", "4d", "4e", "4f", "5b", "5c"):
        if block == "4b":
            x = pool(x, (3, 3, 3), (2, 2, 2))
        if block == "5b":
            x = pool(x, (2, 2, 2), (2, 2, 2))
        x = mixed(x, f"Mixed_{block}")
    steps = x.mean(dim=(0, 3, 4))
    return ((steps[:, 1:] + steps[:, :-1]) / 2).mean(dim=1)
