"""CLIP, both towers: projected image embeddings and block tokens per frame; projected text embedding and block tokens.

`frames` and `embedding` are the library's `image_embeds` and `text_embeds` **without** the L2 normalisation that a
cosine similarity applies. Layer 0 of the vision tower is what enters block 1, after `pre_layrnorm`; `norm` is
`post_layernorm` over all tokens (the library applies it to the class token alone, with the same numbers), in the text
tower `final_layer_norm`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, cast

import torch
from torch import Tensor
from transformers.masking_utils import create_causal_mask

from vfc.cache_schema.values.devices import on_device
from vfc.cache_schema.values.layout import FRAME_MAJOR, TOKENS, Layout, array_name
from vfc.cache_schema.values.record import ArraySpec, Dtype, Json
from vfc.extract.backbone import BackboneOptions, Prepared
from vfc.extract.models.checkpoint import Checkpoint, locate
from vfc.extract.models.clip_tokenizer import ClipTokens, encode_texts, text_specs
from vfc.extract.models.frame_encoder import FrameEncoder, square_pixel_rule
from vfc.extract.models.layers import NORM, check_kept, chosen_layers, kept_streams, layer_names, layer_specs
from vfc.extract.models.loading import Compute, attention_of, load, on_meta
from vfc.extract.models.recipe import model_recipe
from vfc.extract.models.taps import block_tap, captured, shortened, transferred
from vfc.extract.models.window_encoder import FrameWindows, require_frames_kept

DEFAULT_CHECKPOINT: str | None = "openai/clip-vit-base-patch16"
STREAMS: Final = {"video": ("frames", "visual"), "text": ("embedding", "text")}


@dataclass
class Tower:
    """One of the two towers with its taps chosen: a stack of blocks, a final norm, a projection.

    `norm`: path of the final norm. `pooled`: whether the projected embedding is kept.
    """

    cls: Any
    config: Any
    name: str
    norm: str
    layers: tuple[str, ...]
    pooled: bool
    model: Any = None

    def load(self, checkpoint: Checkpoint, compute: Compute) -> None:
        """Read this tower alone, cut above its highest tap where its embedding is not kept."""
        needs_all = self.pooled or self.layers[-1] == NORM
        cls = self.cls if needs_all else shortened(self.cls, self._taps[self.layers[-1]].module)
        self.model = load(cls, checkpoint, self.config, compute)

    def run(self, inputs: Mapping[str, Tensor], storage: Dtype) -> tuple[dict[str, Tensor], Any]:
        """Tokens by layer `[n, S, D]` in transfer dtype, and the library's output (None where it is not needed)."""
        norm = self.model.get_submodule(f"{self.name}.{self.norm}")

        def keep(layer: str, tensor: Tensor) -> Tensor:
            return transferred(norm(tensor) if layer == NORM else tensor, storage)

        output = None
        with captured(self.model, self._taps, keep, stop=not self.pooled) as states:
            output = self.model(**inputs)
        return states, output

    def causal_mask(self, mask: Tensor) -> Tensor | None:
        """The library's mask of texts with valid tokens `mask` `[n, L]`, as its attention takes it; None: causal."""
        config = self.model.get_submodule(self.name).config
        of_states = torch.empty(*mask.shape, 1, dtype=self.model.dtype)
        return cast(
            "Tensor | None",
            create_causal_mask(config=config, inputs_embeds=of_states, attention_mask=mask, past_key_values=None),
        )

    @property
    def _taps(self) -> dict[str, Any]:
        depth = self.config.num_hidden_layers
        blocks = f"{self.name}.encoder.layers"
        return {layer: block_tap(blocks, depth if layer == NORM else layer) for layer in self.layers}

    def specs(self, stream: str, storage: Dtype, rows: tuple[int | None, ...], layout: Layout | str) -> Any:
        """The spec of every layer that can be chosen; `rows`: the shape of an array but for its width."""
        layers = layer_names(self.config.num_hidden_layers)
        return layer_specs(stream, layers, storage, (*rows, self.config.hidden_size), layout)


class ClipBackbone(FrameEncoder):
    """CLIP over the frames of a clip, and over texts; see `backbone.TextBackbone`."""

    shared_space = (frozenset({"frames", "embedding"}),)
    meanings: Final = {"frames": "image_embeds, not normalised", "embedding": "text_embeds, not normalised"}

    def __init__(self, options: BackboneOptions, video_storage: Dtype | None = None) -> None:
        """`video_storage`: the storage dtype of arrays of videos, where it is not that of the options."""
        self.options = options
        self.checkpoint = locate(options.checkpoint, default=DEFAULT_CHECKPOINT, family="clip")
        config = joint_config(self.checkpoint)
        self._visual, self._text = towers(config, options)
        self.compute = Compute.of(options, config)
        self._storage: Dtype = options.storage or "fp16"
        self._video_storage: Dtype = video_storage or self._storage
        self._attention = attention_of(on_meta(self._visual.cls, config.vision_config, options.attention))
        self.rule = square_pixel_rule(self.checkpoint, config.vision_config.image_size, model_type="clip")
        self._grid = config.vision_config.image_size // config.vision_config.patch_size
        self._width = int(config.projection_dim)
        self._tokens = ClipTokens.of(self.checkpoint, self._text.config, options.cut_texts) if options.texts else None

    def specs(self) -> Mapping[str, tuple[ArraySpec, ...]]:
        """See `Backbone.specs`. video: `frames` `[T, D]`, `layer<l>.visual` `[T, 1 + N, D]`, class token first.

        text: `embedding` `[D]`, `layer<l>.text` `[L, D]`, and what `text_specs` adds.
        """
        taps, shape = self.taps(), (self.options.num_frames, self._width)
        frames = [ArraySpec("frames", self._video_storage, shape, FRAME_MAJOR)] if self._visual.pooled else []
        specs = {"video": (*frames, *(taps["visual"][layer] for layer in self._visual.layers))}
        if self.options.texts:
            embedding = [ArraySpec("embedding", self._storage, (self._width,))] if self._text.pooled else []
            specs["text"] = text_specs(embedding, [taps["text"][layer] for layer in self._text.layers])
        return specs

    def taps(self) -> Mapping[str, Mapping[str, ArraySpec]]:
        """See `Backbone.taps`."""
        rows, layout = (self.options.num_frames, 1 + self._grid**2), Layout(FRAME_MAJOR, 1, (self._grid, self._grid))
        return {
            "visual": self._visual.specs("visual", self._video_storage, rows, layout),
            "text": self._text.specs("text", self._storage, (None,), TOKENS),
        }

    def recipe(self) -> dict[str, Json]:
        """See `Backbone.recipe`."""
        frames = self.meanings["frames"] if self._visual.pooled else None
        return model_recipe(
            "clip",
            checkpoint=self.checkpoint.recipe("CLIPModel", tokenizer=True),
            taps={"visual": list(self._visual.layers), "frames": frames},
            pixels=self.rule.recipe(),
            compute=self.compute,
            attention=self._attention,
            storage=self._storage,
        )

    def load(self) -> None:
        """See `Backbone.load`."""
        for tower in (self._visual, self._text) if self.options.texts else (self._visual,):
            tower.load(self.checkpoint, self.compute)

    def tokens(self, text: str) -> Prepared:
        """See `TextBackbone.tokens`, and `ClipTokens`."""
        assert self._tokens is not None, "texts were not asked for"
        return self._tokens(text)

    @torch.inference_mode()
    def encode_texts(self, batch: Sequence[Mapping[str, Tensor]]) -> list[dict[str, Tensor]]:
        """See `TextBackbone.encode_texts`."""

        def run(ids: Tensor, mask: Tensor) -> tuple[dict[str, Tensor], Tensor | None]:
            # The library asks whether anything is masked, for which the host would wait were the mask on the device.
            causal = self._text.causal_mask(mask)
            masks = {} if causal is None else {"attention_mask": on_device(causal, self.options.device)}
            layers, output = self._text.run({"input_ids": ids, **masks}, self._storage)
            return layers, None if output is None else transferred(output.text_embeds, self._storage)

        return encode_texts(batch, run, self.options.device)

    @property
    def width(self) -> int:
        """D of `frames`."""
        return self._width

    @torch.inference_mode()
    def _forward(self, pixels: Tensor) -> dict[str, Tensor]:
        layers, output = self._visual.run({"pixel_values": pixels}, self._video_storage)
        frames = {} if output is None else {"frames": transferred(output.image_embeds, self._video_storage)}
        return {**frames, **{array_name(layer, "visual"): tokens for layer, tokens in layers.items()}}


class ClipWindows(FrameWindows):
    """The mean image embedding of every window of a video, and CLIP over texts; see `TextBackbone`."""

    shared_space = ClipBackbone.shared_space

    def __init__(self, options: BackboneOptions) -> None:
        self._texts = clips = ClipBackbone(replace(options, layers=()), video_storage="fp32")
        super().__init__(clips, options, width=clips.width, of=clips.meanings["frames"])
        if options.texts:
            self.meanings["embedding"] = clips.meanings["embedding"]

    def tokens(self, text: str) -> Prepared:
        """See `TextBackbone.tokens`."""
        return self._texts.tokens(text)

    def encode_texts(self, batch: Sequence[Mapping[str, Tensor]]) -> list[dict[str, Tensor]]:
        """See `TextBackbone.encode_texts`."""
        return self._texts.encode_texts(batch)


def joint_config(checkpoint: Checkpoint) -> Any:
    """The configuration of both towers. Raises BadInput for another architecture."""
    from transformers import CLIPConfig

    checkpoint.require("clip", "clip")
    config: Any = CLIPConfig.from_pretrained(checkpoint.folder, local_files_only=True)
    for part in (config.vision_config, config.text_config):
        # The joint model projects to the outer width, whatever the configurations of the towers say.
        part.projection_dim = config.projection_dim
    return config


def towers(config: Any, options: BackboneOptions) -> tuple[Tower, Tower]:
    """The vision and the text tower with their taps.

    Raises BadInput for layers that do not exist or would not be kept, UnknownName for an unknown stream.
    """
    from transformers import CLIPTextModelWithProjection, CLIPVisionModelWithProjection

    streams = kept_streams(options.keep, STREAMS)
    vision, text = config.vision_config, config.text_config
    layers = chosen_layers(options.layers, layer_names(vision.num_hidden_layers), "the vision tower")
    text_layers = chosen_layers(options.text_layers, layer_names(text.num_hidden_layers), "the text tower")
    check_kept(layers, streams["video"], STREAMS["video"], "--layer")
    if options.texts:
        check_kept(text_layers, streams["text"], STREAMS["text"], "--text-layer")
    pooled, embeds = "frames" in streams["video"], "embedding" in streams["text"]
    return (
        Tower(CLIPVisionModelWithProjection, vision, "vision_model", "post_layernorm", layers, pooled),
        Tower(CLIPTextModelWithProjection, text, "text_model", "final_layer_norm", text_layers, embeds),
    )


def build_windows(options: BackboneOptions) -> ClipWindows:
    """See `Family`."""
    require_frames_kept(options)
    return ClipWindows(options)


def build(options: BackboneOptions) -> ClipBackbone:
    """See `Family.build`."""
    return ClipBackbone(options)
