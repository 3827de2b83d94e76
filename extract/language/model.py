"""A language model that sees a video, then a prompt: what the families have in common (see `PromptedBackbone`).

A family says which class and which pixels, and how a video becomes tokens. Here are the taps, the specs, the recipe,
and what is read of a checkpoint.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

import torch
from torch import Tensor

from vfc.cache_schema.values.errors import RecordRejected
from vfc.cache_schema.values.layout import TOKENS, ArrayName, array_name
from vfc.cache_schema.values.record import ArraySpec, Dtype, Json
from vfc.extract.backbone import BackboneOptions, Encoded, Frames, Prepared, versions
from vfc.extract.models.checkpoint import locate
from vfc.extract.models.layers import chosen_layers, layer_names, layer_specs
from vfc.extract.models.taps import attention_of, compute_dtype, load, on_meta, transferred

from .chat import Question
from .choices import check_prompt_batching, checked_config, cut_config, kept_of
from .plans import buckets
from .rows import Split
from .run import MASKED, Runner, Seen, Streams, Text, Video

USUAL_FRAMES: Final = 8
"""How many frames a clip is taken to have, where that differs from clip to clip."""


class LanguageBackbone(ABC):
    """A backbone for videos and prompts; see `backbone.PromptedBackbone`."""

    family: ClassVar[str]
    model_type: ClassVar[str]
    planes: ClassVar[int] = 1
    """How many numbers the position of a token has."""

    question: Question
    video_token: int
    rest: tuple[int, ...] = ()
    """Ids of the expanded video that follow its last visual token."""

    def __init__(self, options: BackboneOptions, default: str | None) -> None:
        self.options = options
        self.checkpoint = locate(options.checkpoint, default=default, family=self.family)
        self._config = checked_config(self.checkpoint, family=self.family, model_type=self.model_type)
        check_prompt_batching(options.prompt_batching, self._config, self.checkpoint)
        self.kept = kept_of(options, self.family)
        depth = int(self._config.text_config.num_hidden_layers)
        self.known = layer_names(depth)
        # Unless asked otherwise the penultimate block, whose states told actions apart best where that was tried.
        asked = options.layers or (str(depth - 1),)
        self.layers = chosen_layers(asked, self.known, f"the language model of {self.checkpoint.id}")
        self.storage: Dtype = options.storage or "bf16"
        # Some checkpoints say their dtype of the language model alone.
        said = self._config if self._config.dtype is not None else self._config.text_config
        self.dtype = compute_dtype(options.dtype, said, options.device)
        self._class = self._model_class()
        meta = on_meta(self._class, self._cut_config(), options.attention)
        self.attention = attention_of(meta.language_model)
        self.prompt_batching = options.prompt_batching
        if options.prompt_batching == "packed" and self.attention not in MASKED:
            self.prompt_batching = "batched"
        self._model: Any = None
        self._prepare(meta)

    # -- what a family says ------------------------------------------------------------------------------------------

    @abstractmethod
    def _model_class(self) -> Any:
        """The library's class, without a head, without towers that are not needed."""

    def _cut_config(self) -> Any:
        """The configuration of what is read: no block above the highest tap."""
        return cut_config(self._config, self.layers)

    @abstractmethod
    def _prepare(self, meta: Any) -> None:
        """Set `question`, `video_token`, `rest` and what pixels need; `meta` is the model without memory."""

    @abstractmethod
    def _see(self, clip: Frames) -> Prepared:
        """What the vision tower takes of a clip (`pixels` and more), and what its record remembers."""

    @abstractmethod
    def _body(self, frames: int, height: int, width: int, indices: Sequence[int], fps: float) -> list[int]:
        """Ids of the expanded video through its last visual token."""

    def _positions(self, ids: Tensor, seen: Mapping[str, Tensor]) -> tuple[Tensor, int]:
        """Positions `[planes, P]` of a video's row, and that of the token after it; from there on they count by one."""
        return torch.arange(len(ids))[None], len(ids)

    @abstractmethod
    def _features(self, batch: Sequence[Mapping[str, Tensor]]) -> Seen:
        """The vision tower and its projection over a batch."""

    @abstractmethod
    def _visual_spec(self, layer: str) -> ArraySpec:
        """The visual stream of a layer, as stored."""

    @abstractmethod
    def _visual(self, tokens: Tensor, item: Mapping[str, Tensor]) -> Tensor:
        """Visual rows `[N, D]` of one video in the shape of their spec."""

    def _side_specs(self) -> tuple[ArraySpec, ...]:
        """Side arrays of the visual stream."""
        return ()

    def _side_arrays(self, item: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Those of one video."""
        return {}

    @abstractmethod
    def _pixels_recipe(self) -> dict[str, Json]:
        """How pixels are made."""

    # -- the contract ------------------------------------------------------------------------------------------------

    def specs(self) -> Mapping[str, tuple[ArraySpec, ...]]:
        """See `Backbone.specs`. prompted: `layer<l>.text` `[L, D]`, all rows that are not visual, in order.

        With `text.ids` int64 `[L]` and `text.positions` int64 `[L]`: places in the whole row, visual tokens counted.
        """
        taps = self.taps()
        found: dict[str, tuple[ArraySpec, ...]] = {}
        if "visual" in self.kept:
            found["video"] = (*(taps["visual"][layer] for layer in self.layers), *self._side_specs())
        if "text" in self.kept:
            side = (ArraySpec("text.ids", "int64", (None,)), ArraySpec("text.positions", "int64", (None,)))
            found["prompted"] = (*(taps["text"][layer] for layer in self.layers), *side)
        return found

    def taps(self) -> Mapping[str, Mapping[str, ArraySpec]]:
        """See `Backbone.taps`."""
        shape = (None, self.width)
        return {
            "visual": {layer: self._visual_spec(layer) for layer in self.known},
            "text": layer_specs("text", self.known, self.storage, shape, TOKENS),
        }

    def recipe(self) -> dict[str, Json]:
        """See `Backbone.recipe`. Without `kept`: streams may be added to a store later."""
        return {
            "backbone": self.family,
            "checkpoint": {
                "id": self.checkpoint.id,
                "revision": self.checkpoint.revision,
                "digest": self.checkpoint.digest(),
                "tokenizer": self.checkpoint.tokenizer_digest(),
                "architecture": self._class.__name__,
            },
            "taps": list(self.layers),
            "question": self.question.form,
            "plan": self.prompt_batching,
            "pixels": self._pixels_recipe(),
            "compute": {"dtype": self.dtype, "attention": self.attention},
            "storage": self.storage,
            "versions": versions(),
        }

    def load(self) -> None:
        """See `Backbone.load`: the vision tower and its projection, blocks up to the highest tap, no head."""
        self._model = load(
            self._class,
            self.checkpoint,
            self._cut_config(),
            dtype=self.dtype,
            attention=self.options.attention,
            device=self.options.device,
        )

    def pixels(self, clip: Frames) -> Prepared:
        """See `Backbone.pixels`: also `ids` int64 `[P]`, `positions` int64 `[planes, P]` and `next` int64 `[1]`."""
        seen = self._see(clip)
        frames, height, width = clip.frames.shape[:3]
        ids = torch.tensor([*self.question.head, *self._body(frames, height, width, clip.indices.tolist(), clip.fps)])
        positions, following = self._positions(ids, seen.tensors)
        self._check_length(following + 1)
        tensors = {**seen.tensors, "ids": ids, "positions": positions, "next": torch.tensor([following])}
        return Prepared(tensors, {"visual_tokens": int((ids == self.video_token).sum()), **seen.metadata})

    def prompt(self, text: str) -> Prepared:
        """See `PromptedBackbone.prompt`: `ids` int64 `[n]`."""
        ids = torch.tensor([*self.rest, *self.question.tail(text)])
        return Prepared({"ids": ids}, {"prompt": text, "prompt_tokens": len(ids)})

    def rows(self, height: int, width: int, prompt: str = "") -> Mapping[str, int]:
        """See `PromptedBackbone.rows`. Time stamps in a row are taken to be those of ten seconds at 25 frames."""
        frames = self.options.num_frames or USUAL_FRAMES
        indices = [round((i + 0.5) * 250 / frames) for i in range(frames)]
        ids = [*self.question.head, *self._body(frames, height, width, indices, 25.0)]
        visual = ids.count(self.video_token)
        text = len(ids) - visual + len(self.rest) + len(self.question.tail(prompt or "What is seen?"))
        counts = {"text": text, "visual": visual, "seconds": -(-frames // 2)}
        found = {}
        for spec in (spec for specs in self.specs().values() for spec in specs if spec.ragged):
            name = ArrayName.parse(spec.name)
            framewise = name.stream == "visual" and len(spec.shape) == 3
            found[spec.name] = frames if framewise else counts[name.side if name.side in counts else name.stream]
        return found

    def encode_videos(self, batch: Sequence[Mapping[str, Tensor]]) -> list[dict[str, Tensor]]:
        """See `Backbone.encode_videos`."""
        return [encoded.video for encoded in self.encode_prompted(batch, [()] * len(batch))]

    @torch.inference_mode()
    def encode_prompted(
        self,
        batch: Sequence[Mapping[str, Tensor]],
        prompts: Sequence[Sequence[Mapping[str, Tensor]]],
        *,
        visual: Sequence[bool] | None = None,
    ) -> list[Encoded]:
        """See `PromptedBackbone.encode_prompted`. Side arrays stay on the CPU."""
        for item, asked in zip(batch, prompts, strict=True):
            self._check_length(int(item["next"]) + max((len(one["ids"]) for one in asked), default=0))
        found: dict[int, Encoded] = {}
        # `single` runs rows of its own anyway; it shares the vision tower with nobody, to be the library bit for bit.
        alone = self.prompt_batching == "single"
        for together in [[i] for i in range(len(batch))] if alone else buckets([len(item["ids"]) for item in batch]):
            part = [batch[i] for i in together]
            videos = [
                Video(item["ids"], item["positions"], int(item["next"]), Split.of(item["ids"], self.video_token))
                for item in part
            ]
            ids = [[one["ids"] for one in prompts[i]] for i in together]
            for i, item, streams in zip(together, part, self._runner(videos, self._features(part), ids), strict=True):
                wanted = "visual" in self.kept and (visual is None or visual[i])
                answers = tuple(self._text_arrays(text) for text in streams.texts)
                found[i] = Encoded(self._video_arrays(streams, item) if wanted else {}, answers)
        return [found[i] for i in range(len(batch))]

    # -- inside ------------------------------------------------------------------------------------------------------

    @property
    def width(self) -> int:
        """D of the language model."""
        return int(self._config.text_config.hidden_size)

    @property
    def longest(self) -> int:
        """How many positions the language model knows."""
        return int(self._config.text_config.max_position_embeddings)

    @property
    def _runner(self) -> Runner:
        return Runner(
            model=self._model.language_model,
            embed=self._model.get_input_embeddings(),
            keep=lambda _, states: transferred(states, self.storage),
            layers=self.layers,
            plan=self.prompt_batching,
            attention=self.attention,
            planes=self.planes,
            device=self.options.device,
        )

    def _check_length(self, positions: int) -> None:
        if positions > self.longest:
            raise RecordRejected(
                f"Video and prompt make a row of {positions} positions; {self.checkpoint.id} takes {self.longest}.",
                "Give fewer --num-frames, a smaller --max-pixels, or a shorter prompt.",
            )

    def _video_arrays(self, streams: Streams, item: Mapping[str, Tensor]) -> dict[str, Tensor]:
        visual = {array_name(layer, "visual"): self._visual(rows, item) for layer, rows in streams.visual.items()}
        return {**visual, **self._side_arrays(item)}

    def _text_arrays(self, text: Text) -> dict[str, Tensor]:
        arrays = {array_name(layer, "text"): rows for layer, rows in text.states.items()}
        return {**arrays, "text.ids": text.ids, "text.positions": text.places}
