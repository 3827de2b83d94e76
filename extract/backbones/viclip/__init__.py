"""ViCLIP: class token and patches of all frames at any block, projected embedding of the video; CLIP's text tower.

`embedding`, of videos and of texts, is compared by a cosine, **without** the L2 normalisation here. Layer 0 is what
enters block 1, after `ln_pre`; `norm` is `ln_post` over all tokens of the last block, in the text tower `ln_final`.
Token order: the class token, then all frames of the first patch, all frames of the second patch, and so on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import torch
from torch import Tensor

from vfc.cache_schema.values.errors import BadInput
from vfc.cache_schema.values.layout import PATCH_MAJOR, TOKENS, Layout, array_name
from vfc.cache_schema.values.record import ArraySpec, Dtype, Json
from vfc.extract.backbone import BackboneOptions, Frames, Prepared
from vfc.extract.frames.pixels import PixelRule
from vfc.extract.frames.processor_defaults import IMAGENET_MEAN, IMAGENET_STD
from vfc.extract.frames.windows import Windows
from vfc.extract.models.checkpoint import locate
from vfc.extract.models.clip_tokenizer import encode_texts, text_specs
from vfc.extract.models.layers import check_kept, chosen_layers, kept_streams, layer_names, layer_specs
from vfc.extract.models.loading import Compute, end_to_end, require_device
from vfc.extract.models.recipe import model_recipe
from vfc.extract.models.taps import transferred
from vfc.extract.models.window_encoder import WindowEncoder

from .architecture import ACTIVATION, EPS, architecture_of
from .network import NORM, TextTower, VisionTower
from .tokens import Texts
from .weights import check, fill, shapes_of, tensors_of

DEFAULT_CHECKPOINT: str | None = "OpenGVLab/ViCLIP-B-16-hf"
PIXELS: Final = ("resize", "centre-crop")
"""`resize`: the whole frame to a square, bicubic, as in its own evaluation. `centre-crop`: short side to 8/7 of the
edge, bilinear, then a centre crop, as in work that trains heads on it."""
ONE_VECTOR: Final = True
STREAMS: Final = {"video": ("embedding", "visual"), "text": ("embedding", "text")}
VISION: Final = "vision_encoder."
TEXT: Final = "text_encoder."


class ViclipBackbone:
    """ViCLIP over clips and over texts, and its upper blocks for heads; see `TextBackbone` and `tail.TailBackbone`."""

    shared_space = (frozenset({"embedding"}),)
    meanings: Final = {"embedding": "projected class token, not normalised; of a text its projected end"}

    def __init__(self, options: BackboneOptions) -> None:
        if options.attention not in (None, "sdpa"):
            raise BadInput(
                f"viclip attends with torch's sdpa; {options.attention} was asked for.", "Leave --attention out."
            )
        self.options = options
        self.checkpoint = checkpoint = locate(
            options.checkpoint, default=DEFAULT_CHECKPOINT, family="viclip", bare=True
        )
        self.architecture = architecture_of(checkpoint.config, lambda: shapes_of(checkpoint), checkpoint.id)
        towers = {"visual": self.architecture.vision, "text": self.architecture.text}
        self._known = {stream: layer_names(tower.layers) for stream, tower in towers.items()}
        streams = kept_streams(options.keep, STREAMS)
        self._layers = {
            "visual": chosen_layers(options.layers, self._known["visual"], "the vision tower"),
            "text": chosen_layers(options.text_layers, self._known["text"], "the text tower"),
        }
        check_kept(self._layers["visual"], streams["video"], STREAMS["video"], "--layer")
        if options.texts:
            check_kept(self._layers["text"], streams["text"], STREAMS["text"], "--text-layer")
        self._embeds = {"visual": "embedding" in streams["video"], "text": "embedding" in streams["text"]}
        self.compute = Compute(options.dtype or "fp32", options.device)
        self._storage: Dtype = options.storage or "fp16"
        self.rule = pixel_rule(options.pixels or PIXELS[0], self.architecture.image)
        self._tokens = Texts.of(checkpoint, self.architecture, options.cut_texts) if options.texts else None
        self._vision: VisionTower | None = None
        self._text: TextTower | None = None

    def specs(self) -> Mapping[str, tuple[ArraySpec, ...]]:
        """See `Backbone.specs`. video: `layer<l>.visual` `[1 + N*T, D]`, class token first; `embedding` `[E]`.

        text: `embedding` `[E]`, `layer<l>.text` `[L, D]`, and what `text_specs` adds. With int8 storage, arrays of too
        few rows for it are fp16.
        """
        taps = self.taps()
        embedding = ArraySpec("embedding", self._few_rows_dtype, (self.architecture.embedding,))
        pooled = {stream: [embedding] if embeds else [] for stream, embeds in self._embeds.items()}
        layers = {stream: [taps[stream][layer] for layer in names] for stream, names in self._layers.items()}
        specs: dict[str, tuple[ArraySpec, ...]] = {"video": (*layers["visual"], *pooled["visual"])}
        if self.options.texts:
            specs["text"] = text_specs(pooled["text"], layers["text"])
        return specs

    def taps(self) -> Mapping[str, Mapping[str, ArraySpec]]:
        """See `Backbone.taps`."""
        grid, frames = self.architecture.grid, self.options.num_frames
        layout = Layout(PATCH_MAJOR, grid=(grid, grid), frames=frames)
        shape = (1 + grid**2 * frames if frames else None, self.architecture.vision.width)
        text_shape = (None, self.architecture.text.width)
        return {
            "visual": layer_specs("visual", self._known["visual"], self._storage, shape, layout),
            "text": layer_specs("text", self._known["text"], self._few_rows_dtype, text_shape, TOKENS),
        }

    def recipe(self) -> dict[str, Json]:
        """See `Backbone.recipe`."""
        embedding = "projected class token, not normalised" if self._embeds["visual"] else None
        return model_recipe(
            "viclip",
            checkpoint=self.checkpoint.recipe("ViCLIP", tokenizer=True),
            taps={"visual": list(self._layers["visual"]), "embedding": embedding},
            pixels=self.rule.recipe(),
            compute=self.compute,
            attention="sdpa",
            storage=self._storage,
            time=f"first of {self.architecture.frames} places, mean for one frame, linear for more",
        )

    def load(self) -> None:
        """See `Backbone.load`."""
        require_device(self.options.device)
        check(shapes_of(self.checkpoint), self.architecture, self.checkpoint.id)
        self._vision = self._tower(VisionTower, "visual", VISION)
        if self.options.texts:
            self._text = self._tower(TextTower, "text", TEXT)

    def pixels(self, clip: Frames) -> Prepared:
        """See `Backbone.pixels`: `pixels` `[T, 3, h, w]`, float32; for a GPU as `Compute.pixels` leaves them."""
        return Prepared({"pixels": self.compute.pixels(self.rule, clip.frames)}, {})

    @torch.inference_mode()
    def encode_videos(self, batch: Sequence[Mapping[str, Tensor]]) -> list[dict[str, Tensor]]:
        """See `Backbone.encode_videos`."""
        clips = [item["pixels"] for item in batch]
        if len({len(clip) for clip in clips}) > 1:
            return [self._videos(clip[None])[0] for clip in clips]
        return self._videos(end_to_end([clip[None] for clip in clips], self.compute.device))

    def tokens(self, text: str) -> Prepared:
        """See `TextBackbone.tokens`, and `Texts`."""
        assert self._tokens is not None, "texts were not asked for"
        return self._tokens(text)

    @torch.inference_mode()
    def encode_texts(self, batch: Sequence[Mapping[str, Tensor]]) -> list[dict[str, Tensor]]:
        """See `TextBackbone.encode_texts`."""
        tower = self._text
        assert tower is not None, "load() comes first"

        def run(ids: Tensor, _: Tensor) -> tuple[dict[str, Tensor], Tensor | None]:
            layers, embeddings = tower(ids, self._layers["text"], self._few_rows, embed=self._embeds["text"])
            return layers, None if embeddings is None else self._few_rows(embeddings)

        return encode_texts(batch, run, self.options.device)

    def blocks(self) -> int:
        """See `TailBackbone.blocks`."""
        return self.architecture.vision.layers

    def tail(self, k: int) -> tuple[Mapping[str, Tensor], Mapping[str, str]]:
        """See `TailBackbone.tail`: blocks k and above of both towers, final norms, projections and `temp`."""
        architecture, shapes = self.architecture, shapes_of(self.checkpoint)
        check(shapes, architecture, self.checkpoint.id)
        metadata = {
            "architecture": "viclip",
            "k": k,
            "vision.layers": architecture.vision.layers,
            "vision.width": architecture.vision.width,
            "vision.heads": architecture.vision.heads,
            "text.layers": architecture.text.layers,
            "text.width": architecture.text.width,
            "text.heads": architecture.text.heads,
            "embedding": architecture.embedding,
            "activation": ACTIVATION,
            "eps": EPS,
            "grid": f"{architecture.grid}x{architecture.grid}",
            "frames": self.options.num_frames or "",
            "context": architecture.context,
            "checkpoint": self.checkpoint.id,
            "digest": self.checkpoint.digest(),
        }
        tensors = tensors_of(self.checkpoint, {name for name in shapes if _in_tail(name, k)})
        return tensors, {name: str(value) for name, value in metadata.items()}

    @property
    def _few_rows_dtype(self) -> Dtype:
        """Storage dtype of arrays of few rows: int8 keeps a scale per channel, too much for them."""
        return "fp16" if self._storage == "int8" else self._storage

    def _few_rows(self, tensor: Tensor) -> Tensor:
        return transferred(tensor, self._few_rows_dtype)

    def _tower(self, cls: Any, stream: str, prefix: str) -> Any:
        """One tower with its weights, no higher than its highest tap."""
        layers, embeds = self._layers[stream], self._embeds[stream]
        head = embeds or NORM in layers
        depth = None if head else int(layers[-1])
        with torch.device("meta"):
            tower = cls(self.architecture, depth, head=head)
        names = {prefix + name for name in tower.state_dict()}
        fill(tower, tensors_of(self.checkpoint, names), prefix)
        return tower.eval().to(self.compute.device, self.compute.torch_dtype)

    def _videos(self, clips: Tensor) -> list[dict[str, Tensor]]:
        assert self._vision is not None, "load() comes first"
        layers, embeddings = self._vision(
            self.compute.moved(clips, self.rule),
            self._layers["visual"],
            lambda x: transferred(x, self._storage),
            embed=self._embeds["visual"],
        )
        by_name = {array_name(layer, "visual"): tokens for layer, tokens in layers.items()}
        if embeddings is not None:
            by_name["embedding"] = self._few_rows(embeddings)
        return [{name: rows[i] for name, rows in by_name.items()} for i in range(len(clips))]


class ViclipWindows(WindowEncoder):
    """The embedding of every window of a video, and ViCLIP over texts; see `TextBackbone`."""

    shared_space = (frozenset({"frames", "embedding"}),)

    def __init__(self, options: BackboneOptions) -> None:
        self._texts = clips = ViclipBackbone(replace(options, layers=()))
        windows = Windows.of(options.window, options.stride, options.border, default=clips.architecture.frames)
        meaning = "projected class token of the window, not normalised"
        width = clips.architecture.embedding
        super().__init__(clips, windows, options, array="embedding", width=width, meaning=meaning)
        if options.texts:
            self.meanings["embedding"] = "projected end of a text, not normalised"

    def tokens(self, text: str) -> Prepared:
        """See `TextBackbone.tokens`."""
        return self._texts.tokens(text)

    def encode_texts(self, batch: Sequence[Mapping[str, Tensor]]) -> list[dict[str, Tensor]]:
        """See `TextBackbone.encode_texts`."""
        return self._texts.encode_texts(batch)


def pixel_rule(name: str, edge: int) -> PixelRule:
    """One of `PIXELS` for frames of edge x edge, normalised as ImageNet is."""
    to_square = name == "resize"
    return PixelRule(
        processor=f"ViCLIP {name}",
        shortest_edge=None if to_square else round(edge * 8 / 7),
        longest_edge=None,
        exact=(edge, edge) if to_square else None,
        resample="bicubic" if to_square else "bilinear",
        crops=() if to_square else ((edge, edge),),
        rescale=1 / 255,
        mean=tuple(IMAGENET_MEAN),
        std=tuple(IMAGENET_STD),
    )


def _in_tail(name: str, k: int) -> bool:
    _, is_block, rest = name.partition(".transformer.resblocks.")
    if is_block:
        return int(rest.partition(".")[0]) >= k - 1
    last = ("ln_post.weight", "ln_post.bias", "proj", "ln_final.weight", "ln_final.bias", "text_projection", "temp")
    return name.rpartition("encoder.")[2] in last


def build_windows(options: BackboneOptions) -> ViclipWindows:
    """See `Family`."""
    return ViclipWindows(options)


def build(options: BackboneOptions) -> ViclipBackbone:
    """See `Family.build`."""
    return ViclipBackbone(options)
