"""VideoMAE, v1 and v2: tokens of every pair of frames at any block, and their mean per pair.

A tubelet is a patch of two frames, so a clip of 16 frames has 8 rows of 14 x 14 tokens. `frames` are means over the
tokens of the encoder's last state: after its final norm in a pretrained checkpoint; a fine-tuned one has none, and the
norm of its classifier (`fc_norm`) is not applied. A video of no fixed length is encoded clip by clip; a last clip that
is too short repeats its last frame, and rows of repeats alone are dropped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import torch
from torch import Tensor

from vfc.cache_schema.values.devices import on_device
from vfc.cache_schema.values.errors import BadInput
from vfc.cache_schema.values.layout import FRAME_MAJOR, Layout, array_name
from vfc.cache_schema.values.record import ArraySpec, Dtype, Json
from vfc.extract.backbone import BackboneOptions, Chunking
from vfc.extract.frames.windows import Windows
from vfc.extract.models.checkpoint import Checkpoint, locate
from vfc.extract.models.frame_encoder import FrameEncoder, divided, joined, square_pixel_rule
from vfc.extract.models.layers import NORM, check_kept, chosen_layers, kept_streams, layer_names, layer_specs
from vfc.extract.models.loading import Compute, attention_of, end_to_end, load, on_meta
from vfc.extract.models.recipe import model_recipe
from vfc.extract.models.taps import block_tap, captured, shortened, transferred
from vfc.extract.models.window_encoder import WindowEncoder

from .weights import is_original, load_original, original_config

DEFAULT_CHECKPOINT: str | None = "MCG-NJU/videomae-base"
STREAMS: Final = {"video": ("frames", "visual")}
CLIPS_PER_FORWARD: Final = 8


class VideomaeBackbone(FrameEncoder):
    """VideoMAE over clips; see `backbone.StreamingBackbone`."""

    def __init__(self, options: BackboneOptions) -> None:
        from transformers import VideoMAEModel

        if options.texts:
            raise BadInput("videomae has no text tower.", "Use --model clip for texts, or leave out --texts.")
        self.options = options
        self.checkpoint = _checkpoint(options.checkpoint)
        self._class: Any = VideoMAEModel
        self._config = config_of(self.checkpoint)
        self._length, self._tubelet = int(self._config.num_frames), int(self._config.tubelet_size)
        self._check_num_frames()
        self.rule = square_pixel_rule(self.checkpoint, self._config.image_size, model_type="videomae", video=True)
        self._grid = int(self._config.image_size // self._config.patch_size)
        meta = on_meta(self._class, self._config, options.attention)
        self._attention = attention_of(meta)
        self._available = layer_names(self._config.num_hidden_layers, norm=meta.layernorm is not None)
        self.layers = chosen_layers(options.layers, self._available, f"the encoder of {self.checkpoint.id}")
        streams = kept_streams(options.keep, STREAMS)["video"]
        check_kept(self.layers, streams, STREAMS["video"], "--layer")
        self._pooled = "frames" in streams
        self.compute = Compute.of(options, self._config)
        self._storage: Dtype = options.storage or "fp16"
        self._model: Any = None

    def specs(self) -> Mapping[str, tuple[ArraySpec, ...]]:
        """See `Backbone.specs`: `frames` `[T / 2, D]`, then `layer<l>.visual` `[T / 2, N, D]` from the lowest up."""
        taps = self.taps()["visual"]
        frames = ArraySpec("frames", self._storage, (self._rows, self._config.hidden_size), FRAME_MAJOR)
        return {"video": (*([frames] if self._pooled else []), *(taps[layer] for layer in self.layers))}

    def taps(self) -> Mapping[str, Mapping[str, ArraySpec]]:
        """See `Backbone.taps`."""
        shape = (self._rows, self._grid**2, self._config.hidden_size)
        layout = Layout(FRAME_MAJOR, grid=(self._grid, self._grid))
        return {"visual": layer_specs("visual", self._available, self._storage, shape, layout)}

    @property
    def meanings(self) -> dict[str, str]:
        """See `Backbone`. A fine-tuned encoder has no final norm; its classifier norms the mean over the clip."""
        if NORM in self._available:
            return {"frames": "mean over the tokens of the normed last state"}
        return {"frames": "mean over the tokens of the last state, without the classifier's norm (fc_norm)"}

    def recipe(self) -> dict[str, Json]:
        """See `Backbone.recipe`."""
        return model_recipe(
            "videomae",
            checkpoint=self.checkpoint.recipe("VideoMAEModel"),
            taps={"visual": list(self.layers), "frames": self.meanings["frames"] if self._pooled else None},
            clips={"frames": self._length, "tubelet": self._tubelet, "last": "repeat last frame"},
            pixels=self.rule.recipe(),
            compute=self.compute,
            attention=self._attention,
            storage=self._storage,
        )

    def load(self) -> None:
        """See `Backbone.load`."""
        needs_all = self._pooled or self.layers[-1] == NORM
        cls = self._class if needs_all else shortened(self._class, self._taps[self.layers[-1]].module)
        read = load_original if is_original(self.checkpoint) else load
        self._model = read(cls, self.checkpoint, self._config, self.compute, () if needs_all else ("layernorm.",))
        # The library's table is no buffer: it would be copied to the device in every forward.
        embeddings = self._model.embeddings
        embeddings.position_embeddings = on_device(embeddings.position_embeddings, self.compute.device)

    def rows_of(self, frames: int) -> Mapping[str, int]:
        """See `CountingBackbone`: a row per tubelet, the last one perhaps with a repeated frame."""
        return {spec.name: -(-frames // self._tubelet) for spec in self.specs()["video"]}

    @property
    def chunking(self) -> Chunking:
        """See `StreamingBackbone`: a clip at a time."""
        return Chunking(self._length)

    def encode_videos(self, batch: Sequence[Mapping[str, Tensor]]) -> list[dict[str, Tensor]]:
        """See `Backbone.encode_videos`: the clips of one video one by one, those of several in batches."""
        clips = [self._clips(item["pixels"]) for item in batch]
        size = 1 if len(batch) == 1 else CLIPS_PER_FORWARD
        arrays = joined([self._forward(part) for part in end_to_end(clips, self.compute.device).split(size)])
        videos = divided(arrays, [len(of_video) * (self._length // self._tubelet) for of_video in clips])
        rows = [-(-len(item["pixels"]) // self._tubelet) for item in batch]
        return [{name: array[:count] for name, array in one.items()} for one, count in zip(videos, rows, strict=True)]

    def _check_num_frames(self) -> None:
        if self.options.num_frames is not None and self.options.num_frames % self._length:
            raise BadInput(
                f"{self.checkpoint.id} takes clips of {self._length} frames; {self.options.num_frames} were asked for.",
                f"Give --num-frames {self._length} (or a multiple), or --frames all, fps:x, stride:n.",
            )

    def _clips(self, pixels: Tensor) -> Tensor:
        """`[T, 3, h, w]` as whole clips `[n, length, 3, h, w]`, the last frame repeated."""
        lacking = -len(pixels) % self._length
        if lacking:
            pixels = torch.cat([pixels, pixels[-1:].expand(lacking, -1, -1, -1)])
        return pixels.reshape(-1, self._length, *pixels.shape[1:])

    @torch.inference_mode()
    def _forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Arrays of the clips `[n, length, 3, h, w]`, laid end to end."""
        norm, tokens = self._model.layernorm, self._grid**2

        def keep(layer: str, tensor: Tensor) -> Tensor:
            states = norm(tensor) if layer == NORM else tensor
            return transferred(states.reshape(-1, tokens, states.shape[-1]), self._storage)

        frames: dict[str, Tensor] = {}
        with captured(self._model, self._taps, keep, stop=not self._pooled) as states:
            last = self._model(pixel_values=self.compute.moved(pixels, self.rule)).last_hidden_state
            frames["frames"] = transferred(last.reshape(-1, tokens, last.shape[-1]).mean(dim=1), self._storage)
        return {**frames, **{array_name(layer, "visual"): states[layer] for layer in self.layers}}

    @property
    def width(self) -> int:
        """D."""
        return int(self._config.hidden_size)

    @property
    def _rows(self) -> int | None:
        return None if self.options.num_frames is None else self.options.num_frames // self._tubelet

    @property
    def _taps(self) -> dict[str, Any]:
        depth = self._config.num_hidden_layers
        return {layer: block_tap("encoder.layer", depth if layer == NORM else layer) for layer in self.layers}


def config_of(checkpoint: Checkpoint) -> Any:
    """The library's configuration of a checkpoint in its own form or the authors'. Raises BadInput for others."""
    from transformers import VideoMAEConfig

    if is_original(checkpoint):
        return original_config(checkpoint)
    checkpoint.require("videomae", "videomae")
    return VideoMAEConfig.from_pretrained(checkpoint.folder, local_files_only=True)


def clip_frames(checkpoint: str | None) -> int:
    """See `Family`: the frames of a clip, 16 in published checkpoints."""
    return int(config_of(_checkpoint(checkpoint)).num_frames)


def _checkpoint(name: str | None) -> Checkpoint:
    return locate(name, default=DEFAULT_CHECKPOINT, family="videomae")


def build_windows(options: BackboneOptions) -> WindowEncoder:
    """See `Family`: of each window the mean over all its tokens.

    Raises BadInput for windows of another length than the checkpoint's clips.
    """
    length = clip_frames(options.checkpoint)
    if options.window not in (None, length):
        raise BadInput(
            f"--window {options.window} is given, but this checkpoint takes clips of {length} frames.",
            f"Give --window {length}, or leave it out; --frames stride:n or fps:x makes a window span more time.",
        )
    clips = VideomaeBackbone(replace(options, layers=(), num_frames=length, storage="fp32"))
    return WindowEncoder(
        clips,
        Windows.of(length, options.stride, options.border),
        options,
        array="frames",
        width=clips.width,
        meaning=clips.meanings["frames"].replace("the tokens", "the window's tokens"),
    )


def build(options: BackboneOptions) -> VideomaeBackbone:
    """See `Family.build`."""
    return VideomaeBackbone(options)
