"""Pixels as the library's own PIL processor makes them, for comparison with a family's `pixels()`.

Nothing here uses the project's pixel code. The PIL processors of transformers need no torchvision; their resize differs
from the torchvision processors, which the project reproduces, by one or two grey levels.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import transformers
from torch import Tensor

FILES = ("processor_config.json", "video_preprocessor_config.json", "preprocessor_config.json")
SECTIONS = ("video_processor", "image_processor")
PIL_CLASSES = {"VideoLlava": "CLIP", "Qwen3VL": "Qwen2VL"}
"""Families whose own PIL processor does not exist or does another thing: the one with the same arithmetic."""


def processor_files(folder: Path) -> Iterator[tuple[Path, dict[str, Any], dict[str, Any]]]:
    """Each processor file of a checkpoint: its path, its whole content, and the section in it that holds the rule."""
    for name in FILES:
        if (path := folder / name).is_file():
            content = json.loads(path.read_text(encoding="utf-8"))
            section = next((content[key] for key in SECTIONS if key in content), content)
            yield path, content, section


def library_processor(folder: Path) -> Any:
    """The PIL processor that a checkpoint's files describe."""
    _, _, section = next(processor_files(folder))
    kinds = ("image_processor_type", "video_processor_type", "feature_extractor_type")
    named = next((section[key] for key in kinds if key in section), "VideoLlavaVideoProcessor")
    stem = re.sub("Fast$|VideoProcessor|ImageProcessor|FeatureExtractor", "", named)
    parameters = {key: value for key, value in section.items() if key not in kinds}
    if stem in ("Qwen2VL", "Qwen3VL") and "size" not in parameters:
        limits = {"shortest_edge": parameters.pop("min_pixels"), "longest_edge": parameters.pop("max_pixels")}
        parameters["size"] = limits
    if stem == "Qwen3VL":
        parameters |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    return getattr(transformers, f"{PIL_CLASSES.get(stem, stem)}ImageProcessorPil")(**parameters)


def still_image(height: int = 32, width: int = 40) -> npt.NDArray[np.uint8]:
    """A smooth RGB image `[H, W, 3]`: red grows to the right, green downwards, blue is dark; no two channels alike."""
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return np.stack([across, down, 0.3 * (255 - across)], axis=-1).round().astype(np.uint8)


def library_pixels(folder: Path, frames: npt.NDArray[np.uint8]) -> Tensor:
    """Frames `[T, H, W, 3]` one by one through the library: `[T, 3, h, w]`, or patches `[N, P]` of each."""
    processor = library_processor(folder)
    if "Qwen" in type(processor).__name__:
        # An image is two equal frames to this processor; each pair of equal frames of a clip gives the same patches.
        return torch.cat([processor(images=[frame], return_tensors="pt")["pixel_values"] for frame in frames[::2]])
    pixels = processor(list(frames), return_tensors="pt")["pixel_values"]
    return torch.as_tensor(pixels).reshape(len(frames), *pixels.shape[-3:])
