"""The models of the papers at their true size, without weights: for counting parameters and operations.

To be called where tensors hold no memory (`vfc.heads.efficiency.flops.without_memory`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn

from vfc.cache_schema.values.errors import unknown_name
from vfc.extract.backbones.viclip.architecture import PUBLISHED
from vfc.extract.backbones.viclip.network import VisionTower

_PIXELS: Final = 224
_TEXT: Final = 60
"""Tokens of a prompt of Video-LLaVA; the paper does not say how many."""


@dataclass(frozen=True)
class TrueSize:
    """A model, and its forward pass over one clip (and one prompt, for a language model)."""

    model: nn.Module
    forward: Callable[[], object]

    @property
    def parameters(self) -> int:
        """All weights that the pass reads."""
        return sum(parameter.numel() for parameter in self.model.parameters())


def clip(size: str, frames: int) -> TrueSize:
    """The image tower of CLIP ViT-B/16 or L/14 with its projection, over the frames of a clip."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    sizes: dict[str, dict[str, Any]] = {
        "b-16": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12},
        "l-14": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16},
    }
    patch, width = (16, 512) if size == "b-16" else (14, 768)
    config = CLIPVisionConfig(**sizes[size], image_size=_PIXELS, patch_size=patch, projection_dim=width)
    model = CLIPVisionModelWithProjection(config).eval()
    return TrueSize(model, partial(model, pixel_values=torch.zeros(frames, 3, _PIXELS, _PIXELS)))


def viclip(frames: int) -> TrueSize:
    """The video tower of ViCLIP-B/16, all tokens of all blocks."""
    architecture = PUBLISHED["b"]
    model = VisionTower(architecture).eval()
    pixels = torch.zeros(1, frames, 3, _PIXELS, _PIXELS)
    return TrueSize(model, lambda: model(pixels, ("12",)))


def video_llava() -> TrueSize:
    """Video-LLaVA-7B: 8 frames of 257 tokens through its image tower (up to the layer it reads) and all 32 blocks."""
    from transformers import VideoLlavaConfig, VideoLlavaModel

    from vfc.extract.models.taps import without

    # The defaults of the library are the sizes of Video-LLaVA-7B.
    config: Any = VideoLlavaConfig()
    config.vision_config.num_hidden_layers -= 1
    config.vision_feature_layer = -1
    model = without(VideoLlavaModel, "image_tower")(config).eval()

    def forward() -> Tensor:
        pixels = torch.zeros(1, 8, 3, _PIXELS, _PIXELS)
        visual = model.get_video_features(pixel_values_videos=pixels, return_dict=True).pooler_output.flatten(0, 1)
        rows = torch.cat([visual, torch.zeros(_TEXT, visual.shape[-1])])[None]
        states: Tensor = model.language_model(inputs_embeds=rows, use_cache=False).last_hidden_state
        return states

    return TrueSize(model, forward)


TRUE_SIZES: Final[Mapping[str, Callable[[], TrueSize]]] = {
    **{f"clip-{size}-{frames}": partial(clip, size, frames) for size in ("b-16", "l-14") for frames in (8, 32)},
    "viclip-b-16-8": partial(viclip, 8),
    "video-llava-7b": video_llava,
}
"""By model and number of frames."""


def true_size(name: str) -> TrueSize:
    """The model of that name; raises UnknownName for another."""
    if name not in TRUE_SIZES:
        raise unknown_name("model at true size", name, [*TRUE_SIZES])
    return TRUE_SIZES[name]()
