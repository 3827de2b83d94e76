"""Any image encoder of transformers, frame by frame: one pooled vector per frame, and hidden layers on request.

Convolutional nets and transformers alike (MobileNet, ResNet, ConvNeXt, RegNet, EfficientNet; ViT, DINOv2, BEiT, the
vision towers of CLIP and SigLIP). Layers are those of the library's `output_hidden_states=True`, see `block_discovery`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any, Final

import torch
from torch import Tensor

from vfc.cache_schema.values.errors import BadInput
from vfc.cache_schema.values.layout import FRAME_MAJOR, Layout, array_name
from vfc.cache_schema.values.record import ArraySpec, Dtype, Json
from vfc.extract.backbone import BackboneOptions
from vfc.extract.frames.pixels import PixelRule, read_pixel_rule
from vfc.extract.models.block_discovery import SHUFFLED, discover_blocks, token_grid
from vfc.extract.models.checkpoint import Checkpoint, locate
from vfc.extract.models.frame_encoder import FrameEncoder
from vfc.extract.models.layers import NORM, check_kept, chosen_layers, kept_streams
from vfc.extract.models.loading import Compute, attention_of, load, on_meta
from vfc.extract.models.recipe import model_recipe
from vfc.extract.models.taps import captured, shortened, transferred
from vfc.extract.models.window_encoder import FrameWindows, require_frames_kept

DEFAULT_CHECKPOINT: str | None = None
STREAMS: Final = {"video": ("frames", "visual")}


class ImageBackbone(FrameEncoder):
    """An image encoder over the frames of a clip; see `backbone.Backbone`."""

    def __init__(self, options: BackboneOptions) -> None:
        if options.texts:
            raise BadInput("image has no text tower.", "Use --model clip for texts, or leave out --texts.")
        self.options = options
        self.checkpoint = locate(options.checkpoint, default=DEFAULT_CHECKPOINT, family="image")
        self._class, self._config = image_model(self.checkpoint)
        self.rule, self._size = _pixel_rule(self.checkpoint)
        meta = on_meta(self._class, self._config, options.attention)
        self._attention = attention_of(meta)
        self._blocks = discover_blocks(meta, self._size)
        self._pooler_weights = [name for name, _ in meta.named_parameters() if name.startswith("pooler.")]
        where = f"{self._class.__name__} of {self.checkpoint.id}"
        self.layers = chosen_layers(options.layers, tuple(self._blocks.taps), where)
        streams = kept_streams(options.keep, STREAMS)["video"]
        check_kept(self.layers, streams, STREAMS["video"], "--layer")
        self._pooled = "frames" in streams
        self.compute = Compute.of(options, self._config)
        self._storage: Dtype = options.storage or "fp16"
        self._model: Any = None

    @property
    def width(self) -> int:
        """D of `frames`."""
        if self._blocks.pooled is not None:
            return self._blocks.pooled
        return self._blocks.last[0] if len(self._blocks.last) == 3 else self._blocks.last[-1]

    @property
    def pooling(self) -> str:
        """How a frame's vector is made."""
        return self._pooling

    def specs(self) -> Mapping[str, tuple[ArraySpec, ...]]:
        """See `Backbone.specs`: `frames` `[T, D]`, then `layer<l>.visual` `[T, N, D]` from the lowest layer up."""
        frames = ArraySpec("frames", self._storage, (self.options.num_frames, self.width), FRAME_MAJOR)
        return {"video": (*([frames] if self._pooled else []), *(self._spec(layer) for layer in self.layers))}

    def taps(self) -> Mapping[str, Mapping[str, ArraySpec]]:
        """See `Backbone.taps`."""
        return {"visual": {layer: self._spec(layer) for layer in self._blocks.taps}}

    def recipe(self) -> dict[str, Json]:
        """See `Backbone.recipe`."""
        return model_recipe(
            "image",
            checkpoint=self.checkpoint.recipe(self._class.__name__),
            taps={"visual": list(self.layers), "frames": self._pooling if self._pooled else None},
            pixels=self.rule.recipe(),
            compute=self.compute,
            attention=self._attention,
            storage=self._storage,
        )

    def load(self) -> None:
        """See `Backbone.load`."""
        cls = self._class
        if not self._pooled and self.layers[-1] != NORM:
            cls = shortened(cls, self._blocks.taps[self.layers[-1]].module)
        may_lack = () if self._pooling == "pooler_output" else ("pooler.",)
        self._model = load(cls, self.checkpoint, self._config, self.compute, may_lack)

    @torch.inference_mode()
    def _forward(self, pixels: Tensor) -> dict[str, Tensor]:
        taps = {array_name(layer, "visual"): self._blocks.taps[layer] for layer in self.layers}
        frames: dict[str, Tensor] = {}
        with captured(
            self._model, taps, lambda _, tensor: transferred(tensor, self._storage), stop=not self._pooled
        ) as states:
            output = self._model(pixel_values=pixels)
            frames["frames"] = transferred(self._pooled_vectors(output), self._storage)
        return {**frames, **{name: states[name] for name in taps}}

    def _pooled_vectors(self, output: Any) -> Tensor:
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
        if self._blocks.pooled is not None and self._has_pooler():
            return "pooler_output"
        grid = self._grid(self._blocks.last)
        return "class token" if grid and grid[0] else "mean"

    def _has_pooler(self) -> bool:
        stored = self.checkpoint.tensor_names() if self._pooler_weights else ()
        return all(any(f".{name}".endswith(f".{weight}") for name in stored) for weight in self._pooler_weights)

    def _grid(self, shape: tuple[int, ...]) -> tuple[int, int, int] | None:
        """See `token_grid`."""
        patch = getattr(self._config, "patch_size", None)
        if self._config.model_type in SHUFFLED:
            return None
        return token_grid(shape, self._size, patch if isinstance(patch, int) else None)

    def _spec(self, layer: str) -> ArraySpec:
        shape = self._blocks.shapes[layer]
        tokens, width = (shape[1] * shape[2], shape[0]) if len(shape) == 3 else shape
        layout = str(frame_layout(self._grid(shape)))
        return ArraySpec(array_name(layer, "visual"), self._storage, (self.options.num_frames, tokens, width), layout)


def frame_layout(grid: tuple[int, int, int] | None) -> Layout:
    """The layout of frames of tokens: tokens before the patches, rows and columns of the patches; None if unclear."""
    return Layout(FRAME_MAJOR) if grid is None else Layout(FRAME_MAJOR, grid[0], grid[1:])


def _pixel_rule(checkpoint: Checkpoint) -> tuple[PixelRule, tuple[int, int]]:
    """The pixel rule and the (height, width) of its images. Raises BadInput where that follows the video."""
    rule = read_pixel_rule(checkpoint.folder, model_type=checkpoint.model_type)
    if rule.size is None:
        raise BadInput(
            f"The processor of {checkpoint.id} leaves each video its own shape ({rule.processor}).",
            "Set do_center_crop and crop_size, or a size of height and width, in preprocessor_config.json.",
        )
    return rule, rule.size


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
    cls: Any = MODEL_MAPPING.get(type(config), None)
    if not isinstance(cls, type):
        raise BadInput(
            f"{checkpoint.id} is a {checkpoint.model_type} model; it has no image encoder that stands alone.",
            "Pick an image encoder (vit, dinov2, clip, siglip, resnet, convnext, mobilenet_v1 ...).",
        )
    return cls, config


def build_windows(options: BackboneOptions) -> FrameWindows:
    """See `Family`: of each window the mean over its frames."""
    require_frames_kept(options)
    frames = ImageBackbone(replace(options, layers=(), storage="fp32"))
    return FrameWindows(frames, options, width=frames.width, of=frames.pooling)


def build(options: BackboneOptions) -> ImageBackbone:
    """See `Family.build`. Needs a checkpoint: there is no default."""
    return ImageBackbone(options)
