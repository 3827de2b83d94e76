"""From decoded frames to the patches that Qwen's vision towers read: the size follows the video, within a budget.

Bit-equal to the torchvision video processors of transformers. A frame keeps its aspect ratio; both sides become
multiples of merged patches, and the pixels are brought between `min_pixels` and `max_pixels`: counted over one frame
by Qwen2-VL, over all frames of the clip by Qwen3-VL. Frames go in pairs; the last one is repeated where one is missing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy.typing as npt
import torch
from torch import Tensor

from vfc.cache_schema.values.errors import BadInput, RecordRejected
from vfc.cache_schema.values.record import Json

from .pixels import PixelRule
from .processor_defaults import CLIP_MEAN, CLIP_STD, HALF
from .processor_file import Settings, is_length, processor_section

MOST_ASPECT: Final = 200

_SHARED: Final[dict[str, Any]] = {
    "resample": 3,
    "do_resize": True,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "cap_pixels_per_frame": None,
}
DEFAULTS: Final[dict[str, dict[str, Any]]] = {
    "qwen2_vl": {
        **_SHARED,
        "processor": "Qwen2VLVideoProcessor",
        "size": {"shortest_edge": 128 * 28 * 28, "longest_edge": 768 * 28 * 28},
        "image_mean": CLIP_MEAN,
        "image_std": CLIP_STD,
        "patch_size": 14,
    },
    "qwen3_vl": {
        **_SHARED,
        "processor": "Qwen3VLVideoProcessor",
        "size": {"shortest_edge": 128 * 32 * 32, "longest_edge": 768 * 32 * 32},
        "image_mean": HALF,
        "image_std": HALF,
        "patch_size": 16,
    },
}
"""Defaults by model type: class attributes of transformers' video processors."""


@dataclass(frozen=True)
class PatchRule:
    """The steps from uint8 frames to patches of one checkpoint, with every parameter.

    `frames` normalises (and resizes to a size set per clip); `per_clip`: whether the budget of `min_pixels` and
    `max_pixels` is for all frames together. `patch`, `temporal`, `merge`: edge of a patch in pixels, frames per
    patch, edge of a merged token in patches.
    """

    frames: PixelRule
    min_pixels: int
    max_pixels: int
    per_clip: bool
    patch: int
    temporal: int
    merge: int

    def recipe(self) -> dict[str, Json]:
        """Implementation, version and all parameters, for the recipe of a store."""
        own: dict[str, Json] = {
            "min_pixels": self.min_pixels,
            "max_pixels": self.max_pixels,
            "pixels_counted": "over the clip" if self.per_clip else "per frame",
            "patch": self.patch,
            "temporal_patch": self.temporal,
            "merge": self.merge,
        }
        unset = ("shortest_edge", "longest_edge", "exact", "crops")
        return {**{name: v for name, v in self.frames.recipe().items() if name not in unset}, **own}

    def size(self, frames: int, height: int, width: int) -> tuple[int, int]:
        """(height, width) that `frames` frames of this size are brought to.

        Raises:
            RecordRejected: a frame more than 200 times as long as wide, or too few frames for a patch.
        """
        if self.per_clip and frames < self.temporal:
            raise RecordRejected(
                f"{self.frames.processor} takes {self.temporal} frames or more; this clip has {frames}.",
                "Give a larger --num-frames.",
            )
        factor = self.patch * self.merge
        if self.per_clip and min(height, width) < factor:
            scale = max(factor / height, factor / width)
            height, width = int(height * scale), int(width * scale)
        if max(height, width) > MOST_ASPECT * min(height, width):
            raise RecordRejected(
                f"Frames of {height}x{width} are too long for their width.",
                f"{self.frames.processor} takes an aspect ratio of {MOST_ASPECT} at most.",
            )
        # Python's round, half to even, as the library does.
        high, wide = round(height / factor) * factor, round(width / factor) * factor
        rounded, real = (round(frames / self.temporal) * self.temporal, frames) if self.per_clip else (1, 1)
        if rounded * high * wide > self.max_pixels:
            beta = math.sqrt((real * height * width) / self.max_pixels)
            return self._down(height / beta, factor), self._down(width / beta, factor)
        if rounded * high * wide < self.min_pixels:
            beta = math.sqrt(self.min_pixels / (real * height * width))
            return math.ceil(height * beta / factor) * factor, math.ceil(width * beta / factor) * factor
        return high, wide

    def grid(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """(T, rows, columns) of the patches, before merging, of `frames` frames of this size."""
        high, wide = self.size(frames, height, width)
        return -(-frames // self.temporal), high // self.patch, wide // self.patch

    def tokens(self, grid: tuple[int, int, int]) -> tuple[int, int, int]:
        """(T, rows, columns) of the tokens that a grid of patches is merged to."""
        return grid[0], grid[1] // self.merge, grid[2] // self.merge

    def __call__(self, frames: npt.NDArray[Any] | Tensor) -> tuple[Tensor, tuple[int, int, int]]:
        """Patches float32 `[T * rows * columns, 3 * temporal * patch * patch]` of uint8 `[T, H, W, 3]`, and their grid.

        Patches that make one token are adjacent. Safe to call from several threads.

        Raises:
            BadInput: anything but uint8 RGB frames.
            RecordRejected: see `size`.
        """
        x = torch.as_tensor(frames)
        size = self.size(*x.shape[:3]) if x.ndim == 4 else None
        x = replace(self.frames, exact=size)(x)
        if missing := -len(x) % self.temporal:
            x = torch.cat([x, x[-1:].expand(missing, -1, -1, -1)])
        t, p, m = self.temporal, self.patch, self.merge
        grid = (len(x) // t, x.shape[-2] // p, x.shape[-1] // p)
        x = x.view(grid[0], t, 3, grid[1] // m, m, p, grid[2] // m, m, p)
        return x.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(math.prod(grid), 3 * t * p * p), grid

    @staticmethod
    def _down(length: float, factor: int) -> int:
        return max(factor, math.floor(length / factor) * factor)


def read_patch_rule(folder: Path, *, model_type: str, max_pixels: int | None = None) -> PatchRule:
    """The rule that a checkpoint folder's processor files describe; see `pixels.read_pixel_rule` for the files.

    Args:
        folder: The checkpoint.
        model_type: `qwen2_vl` or `qwen3_vl`.
        max_pixels: Instead of the file's own budget.

    Raises:
        MissingPath: there is no such file.
        BadInput: a parameter that is not reproduced, or a budget that holds nothing.
    """
    return patch_rule(
        processor_section(folder, video=True), model_type=model_type, max_pixels=max_pixels, where=str(folder)
    )


def patch_rule(
    section: dict[str, Any], *, model_type: str, max_pixels: int | None = None, where: str = "the checkpoint"
) -> PatchRule:
    """The rule that one processor's JSON object describes; see `read_patch_rule`."""
    kind = str(DEFAULTS[model_type]["processor"])
    settings = Settings(kind, {**DEFAULTS[model_type], **section}, where)
    capped = settings.step("cap_pixels_per_frame")
    if capped or not settings.step("do_resize"):
        raise BadInput(
            f"The processor {kind} of {where} has {'cap_pixels_per_frame' if capped else 'do_resize false'}, "
            "which is not reproduced here.",
            "Take that out of its file, and bound the pixels with --max-pixels.",
        )
    patch, temporal, merge = map(settings.length, ("patch_size", "temporal_patch_size", "merge_size"))
    per_clip = model_type == "qwen3_vl"
    low, high = _budget(settings, with_limits=not per_clip)
    high, least = max_pixels or high, max(low, (patch * merge) ** 2)
    if high < least:
        counted = "over the clip" if per_clip else "per frame"
        raise BadInput(
            f"At most {high} pixels {counted} were asked for; {kind} of {where} starts at {least}.",
            f"Give --max-pixels {least} or more; {(patch * merge) ** 2} pixels make one token.",
        )
    normalise = settings.step("do_normalize")
    frames = PixelRule(
        processor=kind,
        shortest_edge=None,
        longest_edge=None,
        exact=None,
        resample=settings.filter_name(),
        crops=(),
        rescale=settings.number("rescale_factor") if settings.step("do_rescale") else None,
        mean=settings.channels("image_mean") if normalise else None,
        std=settings.channels("image_std") if normalise else None,
    )
    return PatchRule(frames, low, high, per_clip, patch, temporal, merge)


def _budget(settings: Settings, *, with_limits: bool) -> tuple[int, int]:
    """(fewest, most) pixels. `with_limits`: whether the processor takes `min_pixels` and `max_pixels` over its size."""
    size = settings.values["size"]
    size = size if isinstance(size, dict) else {}
    limits: list[Any] = [size.get("shortest_edge"), size.get("longest_edge")]
    if with_limits:
        names = ("min_pixels", "max_pixels")
        limits = [settings.values.get(name) or limit for name, limit in zip(names, limits, strict=True)]
    if not all(map(is_length, limits)):
        raise settings.error("size", "It takes shortest_edge and longest_edge, both in pixels of area.")
    return int(limits[0]), int(limits[1])
