"""Any image encoder of transformers, frame by frame: one pooled vector per frame, and hidden layers on request.

Convolutional nets and transformers alike (MobileNet, ResNet, ConvNeXt, RegNet, EfficientNet; ViT, DINOv2, BEiT, the
vision towers of CLIP and SigLIP). Layers mean what `output_hidden_states=True` of the library means, see `anatomy.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, Final

import torch
from torch import Tensor

from vfc.cache_schema.values.errors import BadInput
from vfc.cache_schema.values.layout import FRAME_MAJOR, Layout, array_name
from vfc.cache_schema.values.record import ArraySpec, Dtype, Json
from vfc.extract.backbone import BackboneOptions, versions
from vfc.extract.frames.pixels import read_pixel_rule
from vfc.extract.models.block_discovery import SHUFFLED, anatomy, token_grid
from vfc.extract.models.checkpoint import Checkpoint, locate
from vfc.extract.models.frame_encoder import Framewise
from vfc.extract.models.layers import check_kept, chosen_layers, kept_streams
from vfc.extract.models.taps import (
    attention_of,
    caught,
    compute_dtype,
    load,
    on_meta,
    shortened,
    transferred,
)

DEFAULT_CHECKPOINT: str | None = None
STREAMS: Final = {"video": ("frames", "visual")}


class ImageBackbone(Framewise):
    """An image encoder over the frames of a clip; see `backbone.Backbone`."""

    def __init__(self, options: BackboneOptions) -> None:
        self.options = options
        self.checkpoint = locate(options.checkpoint, default=DEFAULT_CHECKPOINT, family="image")
        self._class, self._config = image_model(self.checkpoint)
        self.rule = read_pixel_rule(self.checkpoint.folder, model_type=self.checkpoint.model_type)
        if self.rule.size is None:
            raise BadInput(
                f"The processor of {self.checkpoint.id} leaves each video its own shape ({self.rule.processor}).",
                "Set do_center_crop and crop_size, or a size of height and width, in preprocessor_config.json.",
            )
        if options.texts:
            raise BadInput("image has no text tower.", "Use --model clip for texts, or leave out --texts.")
        meta = on_meta(self._class, self._config, options.attention)
        self._attention = attention_of(meta)
        self._anatomy = anatomy(meta, self.rule.size)
        self._pooler = [name for name, _ in meta.named_parameters() if name.startswith("pooler.")]
        self.layers = chosen_layers(
            options.layers, tuple(self._anatomy.taps), f"{self._class.__name__} of {self.checkpoint.id}"
        )
        self._kept = kept_streams(options.keep, STREAMS)["video"]
        check_kept(self.layers, self._kept, STREAMS["video"], "--layer")
        self._dtype = compute_dtype(options.dtype, self._config, options.device)
        self._storage: Dtype = options.storage or "fp16"
        self._model: Any = None

    def specs(self) -> Mapping[str, tuple[ArraySpec, ...]]:
        """See `Backbone.specs`: `frames` `[T, D]`, then `layer<l>.visual` `[T, N, D]` from the lowest layer up."""
        known = self.taps()["visual"]
        frames = ArraySpec("frames", self._storage, (self.options.num_frames, self._pooled_width), FRAME_MAJOR)
        return {"video": (*([frames] if "frames" in self._kept else []), *(known[layer] for layer in self.layers))}

    def taps(self) -> Mapping[str, Mapping[str, ArraySpec]]:
        """See `Backbone.taps`."""
        return {"visual": {layer: self._spec(layer) for layer in self._anatomy.taps}}

    def recipe(self) -> dict[str, Json]:
        """See `Backbone.recipe`."""
        return {
            "backbone": "image",
            "checkpoint": {
                "id": self.checkpoint.id,
                "revision": self.checkpoint.revision,
                "digest": self.checkpoint.digest(),
                "architecture": self._class.__name__,
            },
            "taps": {
                "visual": list(self.layers),
                "frames": self._pooling if "frames" in self._kept else None,
            },
            "pixels": self.rule.recipe(),
            "compute": {"dtype": self._dtype, "attention": self._attention},
            "storage": self._storage,
            "versions": versions(),
        }

    def load(self) -> None:
        """See `Backbone.load`."""
        highest = self._highest_block
        self._model = load(
            self._class if highest is None else shortened(self._class, highest),
            self.checkpoint,
            self._config,
            dtype=self._dtype,
            attention=self.options.attention,
            device=self.options.device,
            may_lack=("pooler.",) if self._pooling != "pooler_output" else (),
        )

    @torch.inference_mode()
    def _forward(self, pixels: Tensor) -> dict[str, Tensor]:
        names = {layer: self._spec(layer).name for layer in self.layers}
        taps = {names[layer]: self._anatomy.taps[layer] for layer in self.layers}
        frames: dict[str, Tensor] = {}
        with caught(
            self._model, taps, lambda _, t: transferred(t, self._storage), stop="frames" not in self._kept
        ) as found:
            output = self._model(pixel_values=pixels)
            frames["frames"] = transferred(self._pooled(output), self._storage)
        return {**frames, **{name: found[name] for name in taps}}

    def _pooled(self, output: Any) -> Tensor:
        """One vector per frame `[n, D]`."""
        if self._pooling == "pooler_output":
            return output.pooler_output.flatten(1)  # type: ignore[no-any-return]
        last: Tensor = output.last_hidden_state
        if self._pooling == "class token":
            return last[:, 0]
        return last.mean(dim=(2, 3) if last.ndim == 4 else 1)

    @cached_property
    def _pooling(self) -> str:
        """How a frame's vector is made; `pooler_output` only where the checkpoint has the pooler's weights."""
        if self._anatomy.pooled is not None and self._has_pooler():
            return "pooler_output"
        grid = self._grid(self._anatomy.last)
        return "class token" if grid and grid[0] else "mean"

    def _has_pooler(self) -> bool:
        if not self._pooler:
            return True
        stored = self.checkpoint.tensor_names()
        return all(any(f".{name}".endswith(f".{wanted}") for name in stored) for wanted in self._pooler)

    @property
    def _pooled_width(self) -> int:
        if self._anatomy.pooled is not None:
            return self._anatomy.pooled
        return self._anatomy.last[0] if len(self._anatomy.last) == 3 else self._anatomy.last[-1]

    @property
    def _highest_block(self) -> str | None:
        """The block above which nothing is needed, or None where all of it is."""
        if "frames" in self._kept or self.layers[-1] == "norm":
            return None
        return self._anatomy.taps[self.layers[-1]].module

    def _grid(self, shape: tuple[int, ...]) -> tuple[int, int, int] | None:
        assert self.rule.size is not None
        patch = getattr(self._config, "patch_size", None)
        if self._config.model_type in SHUFFLED:
            return None
        return token_grid(shape, self.rule.size, patch if isinstance(patch, int) else None)

    def _spec(self, layer: str) -> ArraySpec:
        shape = self._anatomy.shapes[layer]
        tokens, width = (shape[1] * shape[2], shape[0]) if len(shape) == 3 else shape
        name = array_name(layer, "visual")
        return ArraySpec(
            name, self._storage, (self.options.num_frames, tokens, width), str(frame_layout(self._grid(shape)))
        )


def frame_layout(grid: tuple[int, int, int] | None) -> Layout:
    """The layout of frames of tokens: tokens before the patches, rows and columns of the patches; None if unclear."""
    return Layout(FRAME_MAJOR) if grid is None else Layout(FRAME_MAJOR, grid[0], grid[1:])


def image_model(checkpoint: Checkpoint) -> tuple[Any, Any]:
    """(model class, its configuration) of the image encoder in a checkpoint; of a two-tower model the vision tower.

    Raises BadInput where transformers has none for it.
    """
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_MAPPING

    try:
        config = AutoConfig.from_pretrained(checkpoint.folder, trust_remote_code=False, local_files_only=True)
    except (ValueError, KeyError, OSError) as error:
        raise BadInput(
            f"transformers does not know the architecture {checkpoint.model_type!r} of {checkpoint.id}.",
            "Pick a checkpoint of an architecture that transformers carries itself.",
        ) from error
    config = getattr(config, "vision_config", None) or config
    found: Any = MODEL_MAPPING.get(type(config), None)
    if not isinstance(found, type):
        raise BadInput(
            f"{checkpoint.id} is a {checkpoint.model_type} model; it has no image encoder that stands alone.",
            "Pick an image encoder (vit, dinov2, clip, siglip, resnet, convnext, mobilenet_v1 ...).",
        )
    return found, config


def build(options: BackboneOptions) -> ImageBackbone:
    """See `Family.build`. Needs a checkpoint: there is no default."""
    return ImageBackbone(options)
