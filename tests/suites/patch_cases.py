"""Processor files and clips that patches.py is proved on, with and without torchvision; see `pixel_cases`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from suites.pixel_cases import frames
from torch import Tensor

CLIPS = ((2, 240, 320), (5, 97, 131), (3, 224, 224), (4, 20, 300), (4, 361, 205))
"""(frames, height, width): even and odd counts, sides below a patch, enlarged, made smaller, left as they are."""

PATCH_CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen2-vl": ("qwen2_vl", {}),
    "qwen2-vl-hub": (
        "qwen2_vl",
        {
            "image_processor_type": "Qwen2VLImageProcessor",
            "min_pixels": 3136,
            "max_pixels": 12845056,
            "patch_size": 14,
            "temporal_patch_size": 2,
            "merge_size": 2,
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_std": [0.26862954, 0.26130258, 0.27577711],
        },
    ),
    "qwen2-vl-small": ("qwen2_vl", {"size": {"shortest_edge": 3136, "longest_edge": 20000}}),
    "qwen2-vl-plain": ("qwen2_vl", {"min_pixels": 3136, "max_pixels": 40000, "do_normalize": False, "resample": 2}),
    "qwen3-vl": ("qwen3_vl", {}),
    "qwen3-vl-hub": (
        "qwen3_vl",
        {
            "video_processor_type": "Qwen3VLVideoProcessor",
            "size": {"longest_edge": 25165824, "shortest_edge": 4096},
            "patch_size": 16,
            "temporal_patch_size": 2,
            "merge_size": 2,
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
        },
    ),
    "qwen3-vl-small": ("qwen3_vl", {"size": {"shortest_edge": 4096, "longest_edge": 60000}}),
}
"""Model type and section of a processor file by the name of the case."""


def patch_sha(make: Callable[[npt.NDArray[np.uint8]], tuple[Tensor, tuple[int, int, int]]]) -> str:
    """One hash over patches and grids that `make` gives for all CLIPS."""
    whole = hashlib.sha256()
    for count, height, width in CLIPS:
        values, grid = make(frames(height, width, count))
        values = values.to(torch.float32).contiguous()
        whole.update(repr((tuple(values.shape), tuple(grid))).encode() + values.numpy().tobytes())
    return whole.hexdigest()[:16]


PATCH_GOLDEN: dict[str, str] = {
    "qwen2-vl": "82297755f55d8fae",
    "qwen2-vl-hub": "2655ea491b7189b1",
    "qwen2-vl-small": "eb630cbad5e19699",
    "qwen2-vl-plain": "bd57d49e729b4ffa",
    "qwen3-vl": "13d5797ec0bc8e7a",
    "qwen3-vl-hub": "099b8065161471ff",
    "qwen3-vl-small": "f8624339f8ec1322",
}
