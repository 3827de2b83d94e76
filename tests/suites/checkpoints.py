"""Tiny checkpoints with random weights, of real architectures, made on the spot; all load offline.

Every parameter and running statistic is drawn anew: freshly built networks hold too many ones and zeros to tell a
norm, a layer scale or a position embedding from its absence.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

TOWER: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
}
VIDEOMAE: dict[str, Any] = {
    "image_size": 32,
    "patch_size": 8,
    "num_frames": 4,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 48,
}
VIDEOMAE_PIXELS = {
    "feature_extractor_type": "VideoMAEFeatureExtractor",
    "size": {"shortest_edge": 40},
    "crop_size": {"height": 32, "width": 32},
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}
WORDS = ("a", "video", "of", "someone", "waving", "kicking", "ball", "the", "hand", "shake", "point")


def image_configs() -> dict[str, Callable[[], Any]]:
    """Image encoders by name: transformers of several habits, convolutional nets of several habits."""
    t = transformers
    return {
        "vit": lambda: t.ViTConfig(**TOWER),
        "deit": lambda: t.DeiTConfig(**TOWER),
        "beit": lambda: t.BeitConfig(**TOWER, use_relative_position_bias=True),
        "dinov2": lambda: t.Dinov2Config(**{**TOWER, "intermediate_size": None}),
        "dinov2-registers": lambda: t.Dinov2WithRegistersConfig(
            **{**TOWER, "intermediate_size": None}, num_register_tokens=4
        ),
        "dinov3": lambda: t.DINOv3ViTConfig(**TOWER, num_register_tokens=2),
        "siglip": lambda: t.SiglipVisionConfig(**TOWER),
        "clip-vision": lambda: t.CLIPVisionConfig(**TOWER),
        "swin": lambda: t.SwinConfig(
            image_size=32, patch_size=2, embed_dim=8, depths=[1, 1, 2], num_heads=[1, 2, 2], window_size=4
        ),
        "pvt": lambda: t.PvtConfig(
            image_size=32,
            depths=[1, 2],
            hidden_sizes=[8, 16],
            num_encoder_blocks=2,
            num_attention_heads=[1, 2],
            patch_sizes=[4, 2],
            strides=[4, 2],
            sequence_reduction_ratios=[2, 1],
            mlp_ratios=[2, 2],
        ),
        "resnet": lambda: t.ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 16, 24], depths=[1, 2, 1], layer_type="basic"
        ),
        "regnet": lambda: t.RegNetConfig(embedding_size=8, hidden_sizes=[8, 16, 24], depths=[1, 2, 1], groups_width=8),
        "convnext": lambda: t.ConvNextConfig(hidden_sizes=[8, 12, 16, 24], depths=[1, 1, 2, 1]),
        "mobilenet-v1": lambda: t.MobileNetV1Config(depth_multiplier=0.25, image_size=32),
        "mobilenet-v2": lambda: t.MobileNetV2Config(depth_multiplier=0.35, image_size=32),
        "efficientnet": lambda: t.EfficientNetConfig(
            image_size=32, width_coefficient=0.25, depth_coefficient=0.5, hidden_dim=320
        ),
    }


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Draw all parameters and running statistics of `model` from one seed, in place."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if not tensor.is_floating_point():
                continue
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5, generator=generator)
            elif tensor.ndim > 1:
                fan = tensor[0].numel() if "embed" not in name else 4
                tensor.normal_(0, min(1.0, (2 / fan) ** 0.5), generator=generator)
            elif name.endswith("weight"):
                tensor.uniform_(0.7, 1.3, generator=generator)
            elif name.split(".")[-1] in ("bias", "running_mean", "lambda1", "layer_scale_parameter"):
                tensor.normal_(0, 0.3, generator=generator)
    return model.eval()


def save(model: Any, folder: Path, pixels: Mapping[str, Any] | None = None) -> Path:
    """Write a model, and its processor's parameters, as a checkpoint folder."""
    bar = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()
    model.save_pretrained(folder)
    if bar:
        transformers.utils.logging.enable_progress_bar()
    if pixels is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(pixels), encoding="utf-8")
    return folder


def image_pixels(edge: int = 32) -> dict[str, Any]:
    """A processor file: short side to edge + 8, centre crop."""
    return {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": edge + 8},
        "crop_size": {"height": edge, "width": edge},
    }


def image_checkpoint(folder: Path, name: str, *, dtype: torch.dtype = torch.float32, seed: int = 0) -> Path:
    """A tiny image encoder of `image_configs`."""
    model = transformers.AutoModel.from_config(image_configs()[name]())
    return save(randomise(model, seed).to(dtype), folder, image_pixels())


def videomae_checkpoint(folder: Path, *, pooling: bool = False, seed: int = 0) -> Path:
    """A tiny VideoMAE for clips of 4 frames; `pooling` as in fine-tuned checkpoints, which have no final norm."""
    config = transformers.VideoMAEConfig(**VIDEOMAE, use_mean_pooling=pooling)
    return save(randomise(transformers.VideoMAEModel(config), seed), folder, VIDEOMAE_PIXELS)


def clip_checkpoint(
    folder: Path, *, legacy_eos: bool = False, seed: int = 0, vision: Mapping[str, Any] | None = None
) -> Path:
    """A tiny CLIP with a tokenizer of bytes and a few words; `legacy_eos` says `eos_token_id` 2, as old files do.

    `vision` changes the size of the image tower.
    """
    tokenizer = clip_tokenizer()
    text = {
        "hidden_size": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 40,
        "max_position_embeddings": 16,
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": 2 if legacy_eos else tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = transformers.CLIPConfig(text_config=text, vision_config={**TOWER, **(vision or {})}, projection_dim=20)
    save(randomise(transformers.CLIPModel(config), seed), folder, image_pixels())
    tokenizer.save_pretrained(folder)
    return folder


def clip_tokenizer() -> Any:
    """CLIP's tokenizer over single bytes and the WORDS; the end of text has the largest id, as in the real one."""
    symbols = byte_symbols()
    merges = []
    made = set(symbols) | {f"{symbol}</w>" for symbol in symbols}
    vocabulary = [*symbols, *(f"{symbol}</w>" for symbol in symbols)]
    for word in WORDS:
        pieces = [*word[:-1], f"{word[-1]}</w>"]
        while len(pieces) > 1:
            left, right, *rest = pieces
            if left + right not in made:
                made.add(left + right)
                vocabulary.append(left + right)
                merges.append((left, right))
            pieces = [left + right, *rest]
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    return transformers.CLIPTokenizer(
        vocab={piece: i for i, piece in enumerate(vocabulary)}, merges=merges, model_max_length=16
    )


def byte_symbols() -> list[str]:
    """The printable stand-ins of the 256 bytes that byte-level tokenizers use, in the order of CLIP's vocabulary."""
    from tokenizers.pre_tokenizers import ByteLevel

    return sorted(ByteLevel.alphabet())
