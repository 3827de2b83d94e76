"""Tiny checkpoints of language models that see videos, with tokenizers and chat templates; all load offline."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from suites.checkpoints import randomise, save
from tokenizers import models, pre_tokenizers, trainers
from torch import nn

CORPUS = (
    "USER: What's the action of the video? ASSISTANT: Please describe if the 'AC' action is present in the video.",
    "Watch the video and identify the main action category from these options: 'hug', 'kick'.",
    "How does the interaction between the person and the object evolve? system user assistant",
    "You are a helpful assistant. <0.6 seconds> 0 1 2 3 4 5 6 7 8 9",
)
SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
QWEN2_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message.role != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message.role }}\n{% if message.content is string %}{{ message.content }}{% else %}"
    "{% for part in message.content %}{% if part.type == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN3_TEMPLATE = QWEN2_TEMPLATE.replace(
    "{% if loop.first and message.role != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% endif %}",
    "",
)
TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
}


def llama_tokenizer() -> Any:
    """Bytes and a few merges in Vicuna's manner: `<s>` in front, the placeholders of Video-LLaVA at the end."""
    tokenizer = tokenizers.Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    special = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    vocabulary, merges = _trained(tokenizer, trainers.BpeTrainer(vocab_size=400, special_tokens=special))
    made = transformers.LlamaTokenizer(vocab=vocabulary, merges=merges, add_bos_token=True)
    made.add_tokens(["<image>", "<video>", "<pad>"], special_tokens=True)
    made.pad_token = "<pad>"
    return made


def qwen_tokenizer(template: str | None) -> Any:
    """Bytes and a few merges in Qwen's manner, its special tokens, its chat template."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    vocabulary, merges = _trained(tokenizer, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet))
    made = transformers.Qwen2Tokenizer(
        vocab=vocabulary, merges=merges, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    made.add_tokens(list(SPECIAL), special_tokens=True)
    made.chat_template = template
    return made


def _trained(tokenizer: Any, trainer: Any) -> tuple[dict[str, int], list[tuple[str, str]]]:
    trainer.show_progress = False
    tokenizer.train_from_iterator(CORPUS, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [tuple(merge) for merge in model["merges"]]


def video_llava_checkpoint(
    folder: Path,
    *,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    vision: Mapping[str, Any] | None = None,
    draw: Callable[[nn.Module, int], nn.Module] = randomise,
    **text: Any,
) -> Path:
    """A tiny Video-LLaVA: frames of 28 pixels, 2x2 patches and a class token each; `vision`, `text` change its size.

    `draw` gives it its random weights.
    """
    tokenizer = llama_tokenizer()
    ids = {name: tokenizer.convert_tokens_to_ids(f"<{name}>") for name in ("image", "video", "pad")}
    tower = {
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
        **(vision or {}),
    }
    edge = tower["image_size"]
    words = {"vocab_size": len(tokenizer), "pad_token_id": ids["pad"]}
    config = transformers.VideoLlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**tower),
        text_config=transformers.LlamaConfig(**{**words, **TEXT, **text}),
        image_token_index=ids["image"],
        video_token_index=ids["video"],
        image_seq_length=4,
        video_seq_length=8 * 5,
    )
    _save(transformers.VideoLlavaForConditionalGeneration(config), folder, tokenizer, dtype, seed, draw)
    _write(folder / "processor_config.json", {"video_processor": {"size": {"shortest_edge": edge}, "crop_size": edge}})
    return folder


def qwen2_checkpoint(folder: Path, *, dtype: torch.dtype = torch.float32, seed: int = 0, **text: Any) -> Path:
    """A tiny Qwen2-VL; its processor allows 4 to 20 tokens per pair of frames."""
    tokenizer = qwen_tokenizer(QWEN2_TEMPLATE)
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [1, 1, 2]}
    given = {**TEXT, "rope_parameters": rope, **text}
    config = transformers.Qwen2VLConfig(
        text_config={**given, "vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id},
        vision_config={
            "depth": 2,
            "embed_dim": 16,
            "hidden_size": given["hidden_size"],
            "num_heads": 2,
            "mlp_ratio": 2,
            "patch_size": 4,
        },
        **_ids(tokenizer),
    )
    _save(transformers.Qwen2VLForConditionalGeneration(config), folder, tokenizer, dtype, seed)
    _write(
        folder / "preprocessor_config.json",
        {"image_processor_type": "Qwen2VLImageProcessor", "min_pixels": 256, "max_pixels": 1280, "patch_size": 4},
    )
    return folder


def qwen3_checkpoint(
    folder: Path,
    *,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    vision: Mapping[str, Any] | None = None,
    pixels: tuple[int, int] = (512, 6000),
    draw: Callable[[nn.Module, int], nn.Module] = randomise,
    **text: Any,
) -> Path:
    """A tiny Qwen3-VL with features added behind its first two blocks; `vision`, `text` change its size.

    `pixels`: the fewest and the most of a clip. `draw` gives it its random weights.
    """
    tokenizer = qwen_tokenizer(QWEN3_TEMPLATE)
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 1, 1], "mrope_interleaved": True}
    given = {**TEXT, "head_dim": 8, "rope_parameters": rope, **text}
    config = transformers.Qwen3VLConfig(
        text_config={**given, "vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id},
        vision_config={
            "depth": 3,
            "hidden_size": 16,
            "out_hidden_size": given["hidden_size"],
            "intermediate_size": 24,
            "num_heads": 2,
            "patch_size": 4,
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0, 1],
            **(vision or {}),
        },
        **_ids(tokenizer),
    )
    _save(transformers.Qwen3VLForConditionalGeneration(config), folder, tokenizer, dtype, seed, draw)
    size = dict(zip(("shortest_edge", "longest_edge"), pixels, strict=True))
    patch_size = config.vision_config.patch_size
    _write(
        folder / "video_preprocessor_config.json",
        {"video_processor_type": "Qwen3VLVideoProcessor", "size": size, "patch_size": patch_size},
    )
    return folder


def _ids(tokenizer: Any) -> dict[str, int]:
    names = {
        "image_token_id": "<|image_pad|>",
        "video_token_id": "<|video_pad|>",
        "vision_start_token_id": "<|vision_start|>",
        "vision_end_token_id": "<|vision_end|>",
    }
    return {name: tokenizer.convert_tokens_to_ids(token) for name, token in names.items()}


def _save(
    model: Any,
    folder: Path,
    tokenizer: Any,
    dtype: torch.dtype,
    seed: int,
    draw: Callable[[nn.Module, int], nn.Module] = randomise,
) -> None:
    draw(model, seed)
    save(model.to(dtype), folder)
    tokenizer.save_pretrained(folder)


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


PROMPTS: Sequence[str] = (
    "What's the action of the video?",
    "Please describe if the 'hug' action is present in the video in one sentence.",
    "Who?",
    "Watch the video and identify the main action category from these options: 'hug', 'kick', 'point'.",
    "How does the interaction between the person and the object evolve?",
)


def many_prompts(count: int) -> list[str]:
    """So many prompts, of differing lengths."""
    return [PROMPTS[i % len(PROMPTS)] + " And then?" * (i // len(PROMPTS)) for i in range(count)]
