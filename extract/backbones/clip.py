"""CLIP, both towers: projected image embeddings and block tokens per frame; projected text embedding and block tokens.

`frames` and `embedding` are the library's `image_embeds` and `text_embeds` **without** the L2 normalisation that a
similarity applies: scale them yourself. Layer 0 of the vision tower is what enters block 1, behind `pre_layrnorm`;
`norm` is `post_layernorm` over all tokens (the library applies it to the class token alone, with the same numbers),
in the text tower `final_layer_norm`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from vfc.cache_schema.values.errors import BadInput
from vfc.cache_schema.values.layout import FRAME_MAJOR, TOKENS, Layout, array_name
from vfc.cache_schema.values.record import ArraySpec, Dtype, Json
from vfc.extract.backbone import BackboneOptions, Prepared, versions
from vfc.extract.frames.pixels import read_pixel_rule
from vfc.extract.models.checkpoint import Checkpoint, locate
from vfc.extract.models.clip_tokenizer import ClipTokens
from vfc.extract.models.frame_encoder import Framewise
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

DEFAULT_CHECKPOINT: str | None = "openai/clip-vit-base-patch16"
STREAMS: Final = {"video": ("frames", "visual"), "text": ("embedding", "text")}
TEXTS_PER_FORWARD: Final = 64


class Tower:
    """One of the two towers with its taps chosen: a stack of blocks, a final norm, a projection."""

    def __init__(
        self,
        cls: Any,
        config: Any,
        layers: Sequence[str],
        *,
        stack: str,
        norm: str,
        attention: str | None,
        pooled: bool,
    ) -> None:
        self.cls, self.config, self.norm, self.pooled = cls, config, norm, pooled
        self.known = layer_names(config.num_hidden_layers)
        self.layers = chosen_layers(layers, self.known, f"the {stack.split('_')[0]} tower")
        self.blocks = f"{stack}.encoder.layers"
        self.attention = attention
        self.model: Any = None

    def load(self, checkpoint: Checkpoint, *, dtype: str, device: str) -> None:
        """Read this tower alone, cut above its highest tap where its embedding is not wanted."""
        whole = self.pooled or self.layers[-1] == "norm"
        cls = self.cls if whole else shortened(self.cls, self._tap(self.layers[-1]).module)
        self.model = load(cls, checkpoint, self.config, dtype=dtype, attention=self.attention, device=device)

    def run(self, inputs: Mapping[str, Tensor], storage: Dtype) -> tuple[dict[str, Tensor], Any]:
        """Tokens by layer `[n, S, D]` in transfer dtype, and the library's output (None where it was not wanted)."""
        final = self.model.get_submodule(self.norm)

        def keep(layer: str, tensor: Tensor) -> Tensor:
            return transferred(final(tensor) if layer == "norm" else tensor, storage)

        output = None
        with caught(
            self.model, {layer: self._tap(layer) for layer in self.layers}, keep, stop=not self.pooled
        ) as found:
            output = self.model(**inputs)
        return found, output

    def _tap(self, layer: str) -> Tap:
        if layer == "0":
            return Tap(f"{self.blocks}.0", "input")
        last = self.config.num_hidden_layers if layer == "norm" else int(layer)
        return Tap(f"{self.blocks}.{last - 1}")


class ClipBackbone(Framewise):
    """CLIP over the frames of a clip, and over texts; see `backbone.TextBackbone`."""

    shared_space = (frozenset({"frames", "embedding"}),)

    def __init__(self, options: BackboneOptions) -> None:
        self.options = options
        self.checkpoint = locate(options.checkpoint, default=DEFAULT_CHECKPOINT, family="clip")
        config = joint_config(self.checkpoint)
        kept = kept_streams(options.keep, STREAMS)
        self._visual, self._text = towers(config, options, kept)
        check_kept(self._visual.layers, kept["video"], STREAMS["video"], "--layer")
        if options.texts:
            check_kept(self._text.layers, kept["text"], STREAMS["text"], "--text-layer")
        self._width = int(config.projection_dim)
        self._dtype = compute_dtype(options.dtype, config, options.device)
        self._storage: Dtype = options.storage or "fp16"
        self._attention = attention_of(on_meta(self._visual.cls, config.vision_config, options.attention))
        self.rule = read_pixel_rule(self.checkpoint.folder, model_type="clip")
        edge = config.vision_config.image_size
        if self.rule.size != (edge, edge):
            raise BadInput(
                f"The processor of {self.checkpoint.id} makes images of {self.rule.size}, not {edge, edge}.",
                "Check that preprocessor_config.json belongs to this checkpoint.",
            )
        self._grid = edge // config.vision_config.patch_size
        self._tokens = ClipTokens.of(self.checkpoint, self._text.config, options.cut_texts) if options.texts else None

    def specs(self) -> Mapping[str, tuple[ArraySpec, ...]]:
        """See `Backbone.specs`. video: `frames` `[T, D]`, `layer<l>.visual` `[T, 1 + N, D]`, class token first.

        text: `text.ids` int64 `[L]` from start to end of text, `text.eot` int64 `[1]` (the row that the embedding
        comes from), `embedding` `[D]`, `layer<l>.text` `[L, D]`.
        """
        taps, frames = self.taps(), self.options.num_frames
        video = [ArraySpec("frames", self._storage, (frames, self._width), FRAME_MAJOR)] if self._visual.pooled else []
        video += [taps["visual"][layer] for layer in self._visual.layers]
        if not self.options.texts:
            return {"video": tuple(video)}
        text = [ArraySpec("text.ids", "int64", (None,)), ArraySpec("text.eot", "int64", (1,))]
        text += [ArraySpec("embedding", self._storage, (self._width,))] if self._text.pooled else []
        text += [taps["text"][layer] for layer in self._text.layers]
        return {"video": tuple(video), "text": tuple(text)}

    def taps(self) -> Mapping[str, Mapping[str, ArraySpec]]:
        """See `Backbone.taps`."""
        frames, tokens = self.options.num_frames, 1 + self._grid**2
        visual, text = self._visual.config.hidden_size, self._text.config.hidden_size
        layout = Layout(FRAME_MAJOR, 1, (self._grid, self._grid))
        return {
            "visual": layer_specs("visual", self._visual.known, self._storage, (frames, tokens, visual), layout),
            "text": layer_specs("text", self._text.known, self._storage, (None, text), TOKENS),
        }

    def recipe(self) -> dict[str, Json]:
        """See `Backbone.recipe`."""
        return {
            "backbone": "clip",
            "checkpoint": {
                "id": self.checkpoint.id,
                "revision": self.checkpoint.revision,
                "digest": self.checkpoint.digest(),
                "tokenizer": self.checkpoint.tokenizer_digest(),
                "architecture": "CLIPModel",
            },
            "taps": {
                "visual": list(self._visual.layers),
                "frames": "image_embeds, not normalised" if self._visual.pooled else None,
            },
            "pixels": self.rule.recipe(),
            "compute": {"dtype": self._dtype, "attention": self._attention},
            "storage": self._storage,
            "versions": versions(),
        }

    def load(self) -> None:
        """See `Backbone.load`."""
        for tower in (self._visual, self._text) if self.options.texts else (self._visual,):
            tower.load(self.checkpoint, dtype=self._dtype, device=self.options.device)

    def tokens(self, text: str) -> Prepared:
        """See `TextBackbone.tokens`, and `clip_tokens.ClipTokens`."""
        assert self._tokens is not None, "texts were not asked for"
        return self._tokens(text)

    @torch.inference_mode()
    def encode_texts(self, batch: Sequence[Mapping[str, Tensor]]) -> list[dict[str, Tensor]]:
        """See `TextBackbone.encode_texts`."""
        encoded: list[dict[str, Tensor]] = []
        for start in range(0, len(batch), TEXTS_PER_FORWARD):
            part = batch[start : start + TEXTS_PER_FORWARD]
            device = self.options.device
            inputs = {
                "input_ids": torch.stack([item["ids"] for item in part]).to(device, non_blocking=True),
                "attention_mask": torch.stack([item["mask"] for item in part]).to(device, non_blocking=True),
            }
            layers, output = self._text.run(inputs, self._storage)
            for row, item in enumerate(part):
                length = int(item["eot"]) + 1
                arrays = {"text.ids": item["ids"][:length].to(device), "text.eot": item["eot"].to(device)}
                if output is not None:
                    arrays["embedding"] = transferred(output.text_embeds[row], self._storage)
                arrays.update({array_name(layer, "text"): tokens[row, :length] for layer, tokens in layers.items()})
                encoded.append(arrays)
        return encoded

    @torch.inference_mode()
    def _forward(self, pixels: Tensor) -> dict[str, Tensor]:
        layers, output = self._visual.run({"pixel_values": pixels}, self._storage)
        frames = {} if output is None else {"frames": transferred(output.image_embeds, self._storage)}
        return {**frames, **{array_name(layer, "visual"): tokens for layer, tokens in layers.items()}}


def joint_config(checkpoint: Checkpoint) -> Any:
    """The configuration of both towers. Raises BadInput for another architecture."""
    from transformers import CLIPConfig

    if checkpoint.model_type != "clip":
        raise BadInput(
            f"The checkpoint {checkpoint.id} is a {checkpoint.model_type} model; clip needs a clip one.",
            "Give another --checkpoint, or try --model image with this one.",
        )
    config: Any = CLIPConfig.from_pretrained(checkpoint.folder, local_files_only=True)
    for part in (config.vision_config, config.text_config):
        # The joint model projects to the outer width, whatever the towers' own configurations say.
        part.projection_dim = config.projection_dim
    return config


def towers(config: Any, options: BackboneOptions, kept: Mapping[str, frozenset[str]]) -> tuple[Tower, Tower]:
    """The vision and the text tower with their taps."""
    from transformers import CLIPTextModelWithProjection, CLIPVisionModelWithProjection

    visual = Tower(
        CLIPVisionModelWithProjection,
        config.vision_config,
        options.layers,
        stack="vision_model",
        norm="vision_model.post_layernorm",
        attention=options.attention,
        pooled="frames" in kept["video"],
    )
    text = Tower(
        CLIPTextModelWithProjection,
        config.text_config,
        options.text_layers,
        stack="text_model",
        norm="text_model.final_layer_norm",
        attention=options.attention,
        pooled="embedding" in kept["text"],
    )
    return visual, text


def build(options: BackboneOptions) -> ClipBackbone:
    """See `Family.build`."""
    return ClipBackbone(options)
