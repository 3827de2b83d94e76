"""What the library's language models take for a clip and a prompt: the text written out in full, then tokenised."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import transformers
from torch import Tensor


def video_llava_inputs(checkpoint: Path, tensors: Mapping[str, Tensor], prompt: str, tokens: int) -> dict[str, Any]:
    """Of `pixels` `[T, 3, h, w]`; `tokens`: of each frame."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    video = "<video>" * (len(tensors["pixels"]) * tokens)
    encoded = tokenizer(f"USER: {video}\n{prompt} ASSISTANT:", return_tensors="pt")
    return {
        "input_ids": encoded["input_ids"],
        "attention_mask": encoded["attention_mask"],
        "pixel_values_videos": tensors["pixels"][None],
    }


def qwen2_inputs(checkpoint: Path, tensors: Mapping[str, Tensor], prompt: str) -> dict[str, Any]:
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    t, rows, columns = tensors["grid"].tolist()
    pads = "<|video_pad|>" * (t * (rows // 2) * (columns // 2))
    text = (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        f"<|im_start|>user\n<|vision_start|>{pads}<|vision_end|>{prompt}<|im_end|>\n<|im_start|>assistant\n"
    )
    encoded = tokenizer(text, return_tensors="pt")
    return {
        "input_ids": encoded["input_ids"],
        "attention_mask": encoded["attention_mask"],
        "mm_token_type_ids": (encoded["input_ids"] == tokenizer.convert_tokens_to_ids("<|video_pad|>")) * 2,
        "pixel_values_videos": tensors["pixels"],
        "video_grid_thw": tensors["grid"][None],
    }


def qwen3_inputs(checkpoint: Path, clip: Any, tensors: Mapping[str, Tensor], prompt: str) -> dict[str, Any]:
    """The text expanded as the library's processor does, then tokenised whole."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    t, rows, columns = tensors["grid"].tolist()
    pads = "<|video_pad|>" * ((rows // 2) * (columns // 2))
    indices = [int(i) for i in clip.indices]
    indices += indices[-1:] * (len(indices) % 2)
    times = [(indices[2 * i] / clip.fps + indices[2 * i + 1] / clip.fps) / 2 for i in range(t)]
    video = "".join(f"<{time:.1f} seconds><|vision_start|>{pads}<|vision_end|>" for time in times)
    text = f"<|im_start|>user\n<|vision_start|>{video}<|vision_end|>{prompt}<|im_end|>\n<|im_start|>assistant\n"
    encoded = tokenizer(text, return_tensors="pt")
    return {
        "input_ids": encoded["input_ids"],
        "attention_mask": encoded["attention_mask"],
        "mm_token_type_ids": (encoded["input_ids"] == tokenizer.convert_tokens_to_ids("<|video_pad|>")) * 2,
        "pixel_values_videos": tensors["pixels"],
        "video_grid_thw": tensors["grid"][None],
    }
