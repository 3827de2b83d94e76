"""Every family on real clips: stored arrays against the library, from the video file on; see `suites.meaning`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file
from suites.by_hand import (
    CLIP_MEAN,
    HALF,
    IMAGENET_MEAN,
    Film,
    i3d_vectors,
    normalised,
    patches,
    pixels,
    resized,
)
from suites.checkpoints import clip_checkpoint, image_checkpoint, videomae_checkpoint
from suites.i3d import i3d_checkpoint
from suites.language import qwen2_checkpoint, qwen3_checkpoint, video_llava_checkpoint
from suites.language_inputs import qwen2_inputs, qwen3_inputs, video_llava_inputs
from suites.meaning import PROMPT, MeaningSuite
from suites.prompted import full_model, library_row
from suites.viclip import text_states, vision_states
from torch import Tensor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize as qwen2_size
from transformers.models.qwen3_vl.video_processing_qwen3_vl import smart_resize as qwen3_size

from vfc.extract.backbones.viclip.tiny import write_tiny_viclip
from vfc.extract.backbones.viclip.tokens import read_bpe
from vfc.extract.models.checkpoint import BPE


class TestClip(MeaningSuite):
    family = "clip"
    settings: ClassVar[Mapping[str, Any]] = {"layer": ("0", "2", "norm"), "text_layer": ("0", "2", "norm")}
    has_texts = True

    @classmethod
    def checkpoint_of(cls, folder: Path) -> Path:
        return clip_checkpoint(folder)

    def pixels(self, film: Film) -> Tensor:
        return pixels(film.frames, 32, 40, "bicubic", CLIP_MEAN)

    @torch.inference_mode()
    def expected(self, checkpoint: Path, film: Film, pixels: Tensor) -> dict[str, Tensor]:
        model = transformers.CLIPModel.from_pretrained(checkpoint).eval()
        output = model.vision_model(pixel_values=pixels, output_hidden_states=True)
        normed = model.vision_model.post_layernorm(output.hidden_states[-1])
        states = {"0": output.hidden_states[0], "2": output.hidden_states[2]}
        frames = model.visual_projection(output.pooler_output)
        return {"frames": frames, **{f"layer{i}.visual": rows for i, rows in states.items()}, "norm.visual": normed}

    @torch.inference_mode()
    def expected_text(self, checkpoint: Path, text: str) -> dict[str, Tensor]:
        model = transformers.CLIPModel.from_pretrained(checkpoint).eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
        inputs = tokenizer(text, padding="max_length", max_length=16, return_tensors="pt")
        output = model.text_model(**inputs, output_hidden_states=True)
        length = int(inputs["attention_mask"].sum())
        return {
            "embedding": model.text_projection(output.pooler_output)[0],
            "layer0.text": output.hidden_states[0][0, :length],
            "layer2.text": output.hidden_states[2][0, :length],
            "norm.text": output.last_hidden_state[0, :length],
        }


class TestImage(MeaningSuite):
    family = "image"
    settings: ClassVar[Mapping[str, Any]] = {"layer": ("0", "2", "norm")}

    @classmethod
    def checkpoint_of(cls, folder: Path) -> Path:
        return image_checkpoint(folder, "siglip")

    def pixels(self, film: Film) -> Tensor:
        return pixels(film.frames, 32, 40, "bicubic", CLIP_MEAN)

    @torch.inference_mode()
    def expected(self, checkpoint: Path, film: Film, pixels: Tensor) -> dict[str, Tensor]:
        model = transformers.AutoModel.from_pretrained(checkpoint).eval()
        output = model(pixel_values=pixels, output_hidden_states=True)
        layers = {f"layer{i}.visual": output.hidden_states[i] for i in (0, 2)}
        return {"frames": output.pooler_output, **layers, "norm.visual": output.last_hidden_state}


class TestVideomae(MeaningSuite):
    family = "videomae"
    settings: ClassVar[Mapping[str, Any]] = {"layer": ("0", "2", "norm")}

    @classmethod
    def checkpoint_of(cls, folder: Path) -> Path:
        return videomae_checkpoint(folder)

    def pixels(self, film: Film) -> Tensor:
        return pixels(film.frames, 32, 40, "bilinear", IMAGENET_MEAN)

    @torch.inference_mode()
    def expected(self, checkpoint: Path, film: Film, pixels: Tensor) -> dict[str, Tensor]:
        model = transformers.VideoMAEModel.from_pretrained(checkpoint).eval()
        output = model(pixel_values=pixels[None], output_hidden_states=True)
        states = {
            "layer0": output.hidden_states[0],
            "layer2": output.hidden_states[2],
            "norm": output.last_hidden_state,
        }
        tokens = {f"{name}.visual": rows.reshape(2, 16, -1) for name, rows in states.items()}
        return {"frames": tokens["norm.visual"].mean(dim=1), **tokens}


class TestI3d(MeaningSuite):
    family = "i3d"
    settings: ClassVar[Mapping[str, Any]] = {"window": 16, "stride": 16}
    frames = None
    exact = False

    @classmethod
    def checkpoint_of(cls, folder: Path) -> Path:
        return i3d_checkpoint(folder)

    def pixels(self, film: Film) -> Tensor:
        return pixels(film.frames, 32, 40, "bilinear", HALF)

    @torch.inference_mode()
    def expected(self, checkpoint: Path, film: Film, pixels: Tensor) -> dict[str, Tensor]:
        weights = torch.load(checkpoint / "rgb_tiny.pt", weights_only=True)
        starts = range(0, len(pixels) - 15, 16)
        seconds = torch.tensor([film.seconds[start + 8] for start in starts], dtype=torch.float64)
        return {
            "frames": torch.stack([i3d_vectors(weights, pixels[start : start + 16]) for start in starts]),
            "seconds": seconds,
        }


class TestViclip(MeaningSuite):
    family = "viclip"
    settings: ClassVar[Mapping[str, Any]] = {"layer": ("0", "2", "norm"), "text_layer": ("0", "2", "norm")}
    has_texts = True
    exact = False

    @classmethod
    def checkpoint_of(cls, folder: Path) -> Path:
        return write_tiny_viclip(folder)

    def pixels(self, film: Film) -> Tensor:
        return pixels(film.frames, 32, None, "bicubic", IMAGENET_MEAN)

    def processor_pixels(self, checkpoint: Path, film: Film) -> Tensor:
        images = [Image.fromarray(frame).resize((32, 32), Image.Resampling.BICUBIC) for frame in film.frames]
        values = torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2)
        return normalised(values, IMAGENET_MEAN)

    def expected(self, checkpoint: Path, film: Film, pixels: Tensor) -> dict[str, Tensor]:
        states, embedding = vision_states(load_file(checkpoint / "model.safetensors"), pixels, heads=2)
        layers = {"layer0.visual": states[0], "layer2.visual": states[2], "norm.visual": states[4]}
        return {"embedding": embedding, **layers}

    def expected_text(self, checkpoint: Path, text: str) -> dict[str, Tensor]:
        ids = torch.tensor(read_bpe(checkpoint / BPE)(text)["input_ids"])
        states, embedding = text_states(load_file(checkpoint / "model.safetensors"), ids, heads=2)
        layers = {"layer0.text": states[0], "layer2.text": states[2], "norm.text": states[4]}
        return {"embedding": embedding, **layers, "text.ids": ids}


class LanguageMeaning(MeaningSuite):
    """`single` is the one batching that claims equality with the library's own forward pass."""

    settings: ClassVar[Mapping[str, Any]] = {
        "layer": ("0", "2", "norm"),
        "prompt_text": (f"mine={PROMPT}",),
        "prompt_batching": "single",
    }

    def inputs(self, checkpoint: Path, film: Film, pixels: Tensor) -> dict[str, Any]:
        raise NotImplementedError

    def states(self, checkpoint: Path, film: Film, pixels: Tensor, *, visual: bool) -> dict[str, Tensor]:
        inputs = self.inputs(checkpoint, film, pixels)
        config = transformers.AutoConfig.from_pretrained(checkpoint)
        token = getattr(config, "video_token_id", None) or config.video_token_index
        marks = (inputs["input_ids"][0] == token) == visual
        rows = {layer: states[marks] for layer, states in library_row(full_model(checkpoint), inputs).items()}
        stream = "visual" if visual else "text"
        names = {"layer0": "0", "layer2": "2", "norm": "norm"}
        text = {} if visual else {"text.ids": inputs["input_ids"][0][marks]}
        return {**{f"{name}.{stream}": rows[layer] for name, layer in names.items()}, **text}

    def expected(self, checkpoint: Path, film: Film, pixels: Tensor) -> dict[str, Tensor]:
        return self.states(checkpoint, film, pixels, visual=True)

    def expected_prompted(self, checkpoint: Path, film: Film, pixels: Tensor) -> dict[str, Tensor]:
        return self.states(checkpoint, film, pixels, visual=False)


class TestVideoLlava(LanguageMeaning):
    family = "video-llava"

    @classmethod
    def checkpoint_of(cls, folder: Path) -> Path:
        return video_llava_checkpoint(folder)

    def pixels(self, film: Film) -> Tensor:
        return pixels(film.frames, 28, 28, "bicubic", CLIP_MEAN)

    def inputs(self, checkpoint: Path, film: Film, pixels: Tensor) -> dict[str, Any]:
        return video_llava_inputs(checkpoint, {"pixels": pixels}, PROMPT, 5)

    def expected(self, checkpoint: Path, film: Film, pixels: Tensor) -> dict[str, Tensor]:
        return {name: rows.view(4, 5, -1) for name, rows in super().expected(checkpoint, film, pixels).items()}


class TestQwen2VL(LanguageMeaning):
    family = "qwen2-vl"
    scale: ClassVar[Any] = CLIP_MEAN

    @classmethod
    def checkpoint_of(cls, folder: Path) -> Path:
        return qwen2_checkpoint(folder)

    def pixels(self, film: Film) -> Tensor:
        height, width = film.frames.shape[1:3]
        size = qwen2_size(height, width, factor=8, min_pixels=256, max_pixels=1280)
        return normalised(resized(film.frames, size, "bicubic"), self.scale)

    def processor_pixels(self, checkpoint: Path, film: Film) -> Tensor:
        size = self.pixels(film).shape[:1:-1]
        images = [Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC) for frame in film.frames]
        values = torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2)
        return normalised(values, self.scale)

    def inputs(self, checkpoint: Path, film: Film, pixels: Tensor) -> dict[str, Any]:
        values, grid = patches(pixels, 4)
        return qwen2_inputs(checkpoint, {"pixels": values, "grid": grid}, PROMPT)

    def expected(self, checkpoint: Path, film: Film, pixels: Tensor) -> dict[str, Tensor]:
        pairs, rows, columns = patches(pixels, 4)[1].tolist()
        seconds = torch.tensor(film.seconds, dtype=torch.float64).view(-1, 2).mean(dim=1)
        side = {"visual.grid": torch.tensor([pairs, rows // 2, columns // 2]), "visual.seconds": seconds}
        return {**super().expected(checkpoint, film, pixels), **side}


class TestQwen3VL(TestQwen2VL):
    family = "qwen3-vl"
    scale = HALF

    @classmethod
    def checkpoint_of(cls, folder: Path) -> Path:
        return qwen3_checkpoint(folder)

    def pixels(self, film: Film) -> Tensor:
        count, height, width = film.frames.shape[:3]
        size = qwen3_size(count, height, width, factor=8, min_pixels=512, max_pixels=6000)
        return normalised(resized(film.frames, size, "bicubic"), self.scale)

    def inputs(self, checkpoint: Path, film: Film, pixels: Tensor) -> dict[str, Any]:
        values, grid = patches(pixels, 4)
        return qwen3_inputs(checkpoint, film, {"pixels": values, "grid": grid}, PROMPT)
