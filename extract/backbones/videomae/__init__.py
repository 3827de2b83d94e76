"""VideoMAE, v1 and v2: tokens of every pair of frames at any block, and their mean per pair.

A tubelet is a patch of two frames, so a clip of 16 frames has 8 rows of 14 x 14 tokens. `frames` are means over the
tokens of the encoder's last state (behind its final norm, where the checkpoint has one). A video of no fixed length
goes through clip by clip; a last clip that is too short repeats its last frame, and rows of repeats alone are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from vfc.cache_schema.values.errors import BadInput
from vfc.cache_schema.values.layout import FRAME_MAJOR, Layout, array_name
from vfc.cache_schema.values.record import ArraySpec, Dtype, Json
from vfc.extract.backbone import BackboneOptions, Chunking, Frames, Prepared, versions
from vfc.extract.frames.pixels import read_pixel_rule
from vfc.extract.models.checkpoint import Checkpoint, locate
from vfc.extract.models.layers import check_kept, chosen_layers, kept_streams, layer_names, layer_specs
from vfc.extract.models.taps import (
    Tap,
    attention_of,
    caught,
    compute_dtype,
    load,
    on_meta,
    shortened,
    transferred,
)

from .weights import is_original, load_original, original_config

DEFAULT_CHECKPOINT: str | None = "MCG-NJU/videomae-base"
STREAMS: Final = {"video": ("frames", "visual")}
CLIPS_PER_FORWARD: Final = 8
_BLOCKS: Final = "encoder.layer"


class VideomaeBackbone:
    """VideoMAE over clips; see `backbone.StreamingBackbone`."""

    def __init__(self, options: BackboneOptions) -> None:
        from transformers import VideoMAEModel

        self.options = options
        self.checkpoint = locate(options.checkpoint, default=DEFAULT_CHECKPOINT, family="videomae")
        self._class: Any = VideoMAEModel
        self._config = config_of(self.checkpoint)
        if options.texts:
            raise BadInput("videomae has no text tower.", "Use --model clip for texts, or leave out --texts.")
        self._length, self._tubelet = int(self._config.num_frames), int(self._config.tubelet_size)
        if options.num_frames is not None and options.num_frames % self._length:
            raise BadInput(
                f"{self.checkpoint.id} takes clips of {self._length} frames; {options.num_frames} were asked for.",
                f"Give --num-frames {self._length} (or a multiple), or --frames all, fps:x, stride:n.",
            )
        self.rule = read_pixel_rule(self.checkpoint.folder, model_type="videomae", video=True)
        edge, patch = int(self._config.image_size), int(self._config.patch_size)
        if self.rule.size != (edge, edge):
            raise BadInput(
                f"The processor of {self.checkpoint.id} makes images of {self.rule.size}, not {edge, edge}.",
                "Check that preprocessor_config.json belongs to this checkpoint.",
            )
        self._grid = edge // patch
        meta = on_meta(self._class, self._config, options.attention)
        self._attention = attention_of(meta)
        self.known = layer_names(self._config.num_hidden_layers, norm=meta.layernorm is not None)
        self.layers = chosen_layers(options.layers, self.known, f"the encoder of {self.checkpoint.id}")
        self._kept = kept_streams(options.keep, STREAMS)["video"]
        check_kept(self.layers, self._kept, STREAMS["video"], "--layer")
        self._dtype = compute_dtype(options.dtype, self._config, options.device)
        self._storage: Dtype = options.storage or "fp16"
        self._model: Any = None

    def specs(self) -> Mapping[str, tuple[ArraySpec, ...]]:
        """See `Backbone.specs`: `frames` `[T / 2, D]`, then `layer<l>.visual` `[T / 2, N, D]` from the lowest up."""
        known = self.taps()["visual"]
        frames = ArraySpec("frames", self._storage, (self._rows, self._config.hidden_size), FRAME_MAJOR)
        return {"video": (*([frames] if "frames" in self._kept else []), *(known[layer] for layer in self.layers))}

    def taps(self) -> Mapping[str, Mapping[str, ArraySpec]]:
        """See `Backbone.taps`."""
        shape = (self._rows, self._grid**2, self._config.hidden_size)
        layout = Layout(FRAME_MAJOR, grid=(self._grid, self._grid))
        return {"visual": layer_specs("visual", self.known, self._storage, shape, layout)}

    def recipe(self) -> dict[str, Json]:
        """See `Backbone.recipe`."""
        normed = "normed " if "norm" in self.known else ""
        return {
            "backbone": "videomae",
            "checkpoint": {
                "id": self.checkpoint.id,
                "revision": self.checkpoint.revision,
                "digest": self.checkpoint.digest(),
                "architecture": "VideoMAEModel",
            },
            "taps": {
                "visual": list(self.layers),
                "frames": f"mean over the tokens of the {normed}last state" if "frames" in self._kept else None,
            },
            "clips": {"frames": self._length, "tubelet": self._tubelet, "last": "repeat last frame"},
            "pixels": self.rule.recipe(),
            "compute": {"dtype": self._dtype, "attention": self._attention},
            "storage": self._storage,
            "versions": versions(),
        }

    def load(self) -> None:
        """See `Backbone.load`."""
        whole = "frames" in self._kept or self.layers[-1] == "norm"
        cls = self._class if whole else shortened(self._class, self._tap(self.layers[-1]).module)
        read = load_original if is_original(self.checkpoint) else load
        self._model = read(
            cls,
            self.checkpoint,
            self._config,
            dtype=self._dtype,
            attention=self.options.attention,
            device=self.options.device,
            may_lack=() if whole else ("layernorm.",),
        )

    @property
    def chunking(self) -> Chunking:
        """See `StreamingBackbone`: a clip at a time."""
        return Chunking(self._length)

    def pixels(self, clip: Frames) -> Prepared:
        """See `Backbone.pixels`: `pixels` float32 `[T, 3, h, w]`."""
        return Prepared({"pixels": self.rule(clip.frames)}, {})

    def encode_stream(self, chunks: Iterable[Mapping[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
        """See `StreamingBackbone`."""
        for chunk in chunks:
            yield self.encode_videos([chunk])[0]

    def encode_videos(self, batch: Sequence[Mapping[str, Tensor]]) -> list[dict[str, Tensor]]:
        """See `Backbone.encode_videos`: the clips of one video singly, those of several together."""
        clips: list[Tensor] = [self._clips(item["pixels"]) for item in batch]
        together = 1 if len(batch) == 1 else CLIPS_PER_FORWARD
        parts = [self._forward(part) for part in torch.cat(clips).split(together)]
        joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        found, start = [], 0
        for item, of in zip(batch, clips, strict=True):
            rows = -(-len(item["pixels"]) // self._tubelet)
            found.append({name: whole[start : start + rows] for name, whole in joined.items()})
            start += len(of) * (self._length // self._tubelet)
        return found

    def _clips(self, pixels: Tensor) -> Tensor:
        """`[T, 3, h, w]` as whole clips `[n, length, 3, h, w]`, the last frame repeated."""
        lacking = -len(pixels) % self._length
        if lacking:
            pixels = torch.cat([pixels, pixels[-1:].expand(lacking, -1, -1, -1)])
        return pixels.reshape(-1, self._length, *pixels.shape[1:])

    @torch.inference_mode()
    def _forward(self, clips: Tensor) -> dict[str, Tensor]:
        """Arrays of clips `[n, length, 3, h, w]`, laid end to end."""
        clips = clips.to(self.options.device, self._model.dtype, non_blocking=True)
        norm, tokens = self._model.layernorm, self._grid**2

        def keep(layer: str, tensor: Tensor) -> Tensor:
            states = norm(tensor) if layer == "norm" else tensor
            return transferred(states.reshape(-1, tokens, states.shape[-1]), self._storage)

        frames: dict[str, Tensor] = {}
        taps = {layer: self._tap(layer) for layer in self.layers}
        with caught(self._model, taps, keep, stop="frames" not in self._kept) as found:
            last = self._model(pixel_values=clips).last_hidden_state
            pooled = last.reshape(-1, tokens, last.shape[-1]).mean(dim=1)
            frames["frames"] = transferred(pooled, self._storage)
        return {**frames, **{array_name(layer, "visual"): found[layer] for layer in self.layers}}

    @property
    def _rows(self) -> int | None:
        return None if self.options.num_frames is None else self.options.num_frames // self._tubelet

    def _tap(self, layer: str) -> Tap:
        if layer == "0":
            return Tap(f"{_BLOCKS}.0", "input")
        last = self._config.num_hidden_layers if layer == "norm" else int(layer)
        return Tap(f"{_BLOCKS}.{last - 1}")


def config_of(checkpoint: Checkpoint) -> Any:
    """The library's configuration of a checkpoint in its own form or the authors'. Raises BadInput for others."""
    from transformers import VideoMAEConfig

    if is_original(checkpoint):
        return original_config(checkpoint)
    if checkpoint.model_type != "videomae":
        raise BadInput(
            f"The checkpoint {checkpoint.id} is a {checkpoint.model_type} model; videomae needs a videomae one.",
            "Give another --checkpoint, for instance MCG-NJU/videomae-base.",
        )
    return VideoMAEConfig.from_pretrained(checkpoint.folder, local_files_only=True)


def build(options: BackboneOptions) -> VideomaeBackbone:
    """See `Family.build`."""
    return VideomaeBackbone(options)
