"""ViCLIP: class token and patches of all frames at any block, projected embedding of the video; CLIP's text tower.

`embedding`, of videos and of texts, is what a cosine compares, **without** the L2 normalisation. Layer 0 is what
enters block 1, behind `ln_pre`; `norm` is `ln_post` over all tokens of the last block, in the text tower `ln_final`.
Tokens lie class token first, then patch by patch, and of each patch frame by frame.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from vfc.cache_schema.values.errors import BadInput
from vfc.cache_schema.values.layout import PATCH_MAJOR, TOKENS, Layout, array_name
from vfc.cache_schema.values.record import ArraySpec, Dtype, Json
from vfc.extract.backbone import BackboneOptions, Frames, Prepared, versions
from vfc.extract.frames.pixels import PixelRule
from vfc.extract.frames.processor_defaults import IMAGENET_MEAN, IMAGENET_STD
from vfc.extract.models.checkpoint import locate
from vfc.extract.models.layers import check_kept, chosen_layers, kept_streams, layer_names, layer_specs
from vfc.extract.models.taps import COMPUTE, require_device, transferred

from .architecture import ACTIVATION, EPS, architecture_of
from .network import NORM, TextTower, VisionTower
from .tokens import Texts
from .weights import check, fill, shapes_of, tensors_of

DEFAULT_CHECKPOINT: str | None = "OpenGVLab/ViCLIP-B-16-hf"
PIXELS: Final = ("resize", "centre-crop")
"""`resize`: the whole frame onto a square, bicubic, as in its own evaluation. `centre-crop`: short side to 8/7 of the
edge, bilinear, then the middle, as those who train heads on it do."""
STREAMS: Final = {"video": ("embedding", "visual"), "text": ("embedding", "text")}
VISION: Final = "vision_encoder."
TEXT: Final = "text_encoder."
TEXTS_PER_FORWARD: Final = 64


class ViclipBackbone:
    """ViCLIP over clips and over texts, and its upper blocks for heads; see `TextBackbone` and `tail.TailBackbone`."""

    shared_space = (frozenset({"embedding"}),)

    def __init__(self, options: BackboneOptions) -> None:
        self.options = options
        self.checkpoint = locate(options.checkpoint, default=DEFAULT_CHECKPOINT, family="viclip", bare=True)
        self.architecture = architecture_of(
            self.checkpoint.config, lambda: shapes_of(self.checkpoint), self.checkpoint.id
        )
        if options.attention not in (None, "sdpa"):
            raise BadInput(
                f"viclip attends with torch's sdpa; {options.attention} was asked for.", "Leave --attention out."
            )
        towers = {"visual": self.architecture.vision, "text": self.architecture.text}
        self._known = {stream: layer_names(tower.layers) for stream, tower in towers.items()}
        kept = kept_streams(options.keep, STREAMS)
        self._layers = {
            "visual": chosen_layers(options.layers, self._known["visual"], "the vision tower"),
            "text": chosen_layers(options.text_layers, self._known["text"], "the text tower"),
        }
        check_kept(self._layers["visual"], kept["video"], STREAMS["video"], "--layer")
        if options.texts:
            check_kept(self._layers["text"], kept["text"], STREAMS["text"], "--text-layer")
        self._embeds = {"visual": "embedding" in kept["video"], "text": "embedding" in kept["text"]}
        self._dtype = options.dtype or "fp32"
        self._storage: Dtype = options.storage or "fp16"
        self.rule = pixel_rule(options.pixels or PIXELS[0], self.architecture.image)
        self._tokens = Texts.of(self.checkpoint, self.architecture, options.cut_texts) if options.texts else None
        self._vision: VisionTower | None = None
        self._text: TextTower | None = None

    def specs(self) -> Mapping[str, tuple[ArraySpec, ...]]:
        """See `Backbone.specs`. video: `layer<l>.visual` `[1 + N*T, D]`, class token first; `embedding` `[E]`.

        text: `text.ids` int64 `[L]` from start to end of text, `text.eot` int64 `[1]`, `embedding` `[E]`,
        `layer<l>.text` `[L, D]`. What has too few rows for int8 is kept as fp16 beside it.
        """
        taps = self.taps()
        embedding = ArraySpec("embedding", self._few, (self.architecture.embedding,))
        video = [taps["visual"][layer] for layer in self._layers["visual"]]
        video += [embedding] if self._embeds["visual"] else []
        if not self.options.texts:
            return {"video": tuple(video)}
        text = [ArraySpec("text.ids", "int64", (None,)), ArraySpec("text.eot", "int64", (1,))]
        text += [embedding] if self._embeds["text"] else []
        text += [taps["text"][layer] for layer in self._layers["text"]]
        return {"video": tuple(video), "text": tuple(text)}

    def taps(self) -> Mapping[str, Mapping[str, ArraySpec]]:
        """See `Backbone.taps`."""
        made, frames = self.architecture, self.options.num_frames
        layout = Layout(PATCH_MAJOR, grid=(made.grid, made.grid), frames=frames)
        shape = (1 + made.grid**2 * frames if frames else None, made.vision.width)
        return {
            "visual": layer_specs("visual", self._known["visual"], self._storage, shape, layout),
            "text": layer_specs("text", self._known["text"], self._few, (None, made.text.width), TOKENS),
        }

    def recipe(self) -> dict[str, Json]:
        """See `Backbone.recipe`."""
        return {
            "backbone": "viclip",
            "checkpoint": {
                "id": self.checkpoint.id,
                "revision": self.checkpoint.revision,
                "digest": self.checkpoint.digest(),
                "tokenizer": self.checkpoint.tokenizer_digest(),
                "architecture": "ViCLIP",
            },
            "taps": {
                "visual": list(self._layers["visual"]),
                "embedding": "projected class token, not normalised" if self._embeds["visual"] else None,
            },
            "pixels": self.rule.recipe(),
            "time": f"first of {self.architecture.frames} places, mean for one frame, linear for more",
            "compute": {"dtype": self._dtype, "attention": "sdpa"},
            "storage": self._storage,
            "versions": versions(),
        }

    def load(self) -> None:
        """See `Backbone.load`."""
        require_device(self.options.device)
        check(shapes_of(self.checkpoint), self.architecture, self.checkpoint.id)
        self._vision = self._tower(VisionTower, "visual", VISION)
        if self.options.texts:
            self._text = self._tower(TextTower, "text", TEXT)

    def pixels(self, clip: Frames) -> Prepared:
        """See `Backbone.pixels`: `pixels` float32 `[T, 3, h, w]`."""
        return Prepared({"pixels": self.rule(clip.frames)}, {})

    @torch.inference_mode()
    def encode_videos(self, batch: Sequence[Mapping[str, Tensor]]) -> list[dict[str, Tensor]]:
        """See `Backbone.encode_videos`."""
        clips = [item["pixels"] for item in batch]
        if len({len(clip) for clip in clips}) > 1:
            return [self._videos(clip[None])[0] for clip in clips]
        return self._videos(torch.stack(clips))

    def tokens(self, text: str) -> Prepared:
        """See `TextBackbone.tokens`, and `clip_tokens.ClipTokens`."""
        assert self._tokens is not None, "texts were not asked for"
        return self._tokens(text)

    @torch.inference_mode()
    def encode_texts(self, batch: Sequence[Mapping[str, Tensor]]) -> list[dict[str, Tensor]]:
        """See `TextBackbone.encode_texts`."""
        assert self._text is not None, "load() comes first"
        encoded: list[dict[str, Tensor]] = []
        device = self.options.device
        for start in range(0, len(batch), TEXTS_PER_FORWARD):
            part = batch[start : start + TEXTS_PER_FORWARD]
            ids = torch.stack([item["ids"] for item in part]).to(device, non_blocking=True)
            layers, embeddings = self._text(ids, self._layers["text"], self._keep_few, embed=self._embeds["text"])
            for row, item in enumerate(part):
                length = int(item["eot"]) + 1
                arrays = {"text.ids": item["ids"][:length].to(device), "text.eot": item["eot"].to(device)}
                if embeddings is not None:
                    arrays["embedding"] = self._keep_few(embeddings[row])
                arrays.update({array_name(layer, "text"): tokens[row, :length] for layer, tokens in layers.items()})
                encoded.append(arrays)
        return encoded

    def blocks(self) -> int:
        """See `TailBackbone.blocks`."""
        return self.architecture.vision.layers

    def tail(self, k: int) -> tuple[Mapping[str, Tensor], Mapping[str, str]]:
        """See `TailBackbone.tail`: blocks k and above of both towers, final norms, projections and `temp`."""
        made = self.architecture
        shapes = shapes_of(self.checkpoint)
        check(shapes, made, self.checkpoint.id)
        told = {
            "architecture": "viclip",
            "k": k,
            "vision.layers": made.vision.layers,
            "vision.width": made.vision.width,
            "vision.heads": made.vision.heads,
            "text.layers": made.text.layers,
            "text.width": made.text.width,
            "text.heads": made.text.heads,
            "embedding": made.embedding,
            "activation": ACTIVATION,
            "eps": EPS,
            "grid": f"{made.grid}x{made.grid}",
            "frames": self.options.num_frames or "",
            "context": made.context,
            "checkpoint": self.checkpoint.id,
            "digest": self.checkpoint.digest(),
        }
        tensors = tensors_of(self.checkpoint, {name for name in shapes if _in_tail(name, k)})
        return tensors, {name: str(value) for name, value in told.items()}

    @property
    def _few(self) -> Dtype:
        """int8 keeps a scale per channel, which few rows are not worth."""
        return "fp16" if self._storage == "int8" else self._storage

    def _keep_few(self, tensor: Tensor) -> Tensor:
        return transferred(tensor, self._few)

    def _tower(self, cls: Any, stream: str, prefix: str) -> Any:
        """One tower with its weights, no higher than its highest tap."""
        layers, embeds = self._layers[stream], self._embeds[stream]
        head = embeds or NORM in layers
        depth = None if head else int(layers[-1])
        with torch.device("meta"):
            tower = cls(self.architecture, depth, head=head)
        names = {prefix + name for name in tower.state_dict()}
        fill(tower, tensors_of(self.checkpoint, names), prefix)
        return tower.eval().to(self.options.device, COMPUTE[self._dtype])

    def _videos(self, clips: Tensor) -> list[dict[str, Tensor]]:
        assert self._vision is not None, "load() comes first"
        clips = clips.to(self.options.device, COMPUTE[self._dtype], non_blocking=True)
        layers, embeddings = self._vision(
            clips, self._layers["visual"], lambda x: transferred(x, self._storage), embed=self._embeds["visual"]
        )
        by_name = {array_name(layer, "visual"): tokens for layer, tokens in layers.items()}
        found = [{name: tokens[i] for name, tokens in by_name.items()} for i in range(len(clips))]
        if embeddings is not None:
            for arrays, embedding in zip(found, embeddings, strict=True):
                arrays["embedding"] = self._keep_few(embedding)
        return found


def pixel_rule(name: str, edge: int) -> PixelRule:
    """One of `PIXELS` for frames of edge x edge, normalised as ImageNet is."""
    whole = name == "resize"
    return PixelRule(
        processor=f"ViCLIP {name}",
        shortest_edge=None if whole else round(edge * 8 / 7),
        longest_edge=None,
        exact=(edge, edge) if whole else None,
        resample="bicubic" if whole else "bilinear",
        crops=() if whole else ((edge, edge),),
        rescale=1 / 255,
        mean=tuple(IMAGENET_MEAN),
        std=tuple(IMAGENET_STD),
    )


def _in_tail(name: str, k: int) -> bool:
    _, found, rest = name.partition(".transformer.resblocks.")
    if found:
        return int(rest.partition(".")[0]) >= k - 1
    last = ("ln_post.weight", "ln_post.bias", "proj", "ln_final.weight", "ln_final.bias", "text_projection", "temp")
    return name.rpartition("encoder.")[2] in last


def build(options: BackboneOptions) -> ViclipBackbone:
    """See `Family.build`."""
    return ViclipBackbone(options)
