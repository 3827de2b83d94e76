"""A language model that sees a video, then a prompt: what the families share (see `PromptedBackbone`).

A family defines the class, the pixels, and the tokens of a video. Here are the taps, the specs, the recipe, and what is
read of a checkpoint.
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
from vfc.extract.backbone import BackboneOptions, Encoded, Frames, Prepared
from vfc.extract.frames.pixels import PixelRule
from vfc.extract.frames.qwen_patches import PatchRule
from vfc.extract.models.checkpoint import locate
from vfc.extract.models.layers import chosen_layers, layer_names, layer_specs
from vfc.extract.models.loading import Compute, attention_of, load, on_meta
from vfc.extract.models.recipe import model_recipe
from vfc.extract.models.taps import transferred

from .chat import ChatPrompt
from .options import check_prompt_batching, cut_config, effective_prompt_batching, streams_to_keep
from .prompt_batching import length_buckets
from .rows import Split
from .runner import Runner, Streams, TextRows, TokenRow, VisionOutput

USUAL_FRAMES: Final = 8
"""Assumed frames of a clip, for estimates, where that differs from clip to clip."""


class LanguageBackbone(ABC):
    """A backbone for videos and prompts; see `backbone.PromptedBackbone`."""

    family: ClassVar[str]
    model_type: ClassVar[str]
    planes: ClassVar[int] = 1
    """Numbers in the position of a token."""

    rule: PixelRule | PatchRule
    chat: ChatPrompt
    video_token: int
    after_video: tuple[int, ...] = ()
    """Ids of the expanded video that follow its last visual token."""

    def __init__(self, options: BackboneOptions, default: str | None) -> None:
        self.options = options
        self.checkpoint = locate(options.checkpoint, default=default, family=self.family)
        self._config = self._read_config()
        check_prompt_batching(options.prompt_batching, self._config, self.checkpoint)
        self.streams = streams_to_keep(options, self.family)
        depth = int(self._config.text_config.num_hidden_layers)
        self.available = layer_names(depth)
        # The default is the penultimate block: its states separated actions best where that was compared.
        requested = options.layers or (str(depth - 1),)
        self.layers = chosen_layers(requested, self.available, f"the language model of {self.checkpoint.id}")
        self.storage: Dtype = options.storage or "bf16"
        # Some checkpoints state a dtype for the language model only.
        self.compute = Compute.of(options, self._config if self._config.dtype is not None else self._config.text_config)
        self._class = self._model_class()
        meta = on_meta(self._class, self._cut_config(), options.attention)
        self.attention = attention_of(meta.language_model)
        self.prompt_batching = effective_prompt_batching(options.prompt_batching, self.attention)
        self._model: Any = None
        self._configure(meta)

    # -- what a family defines ---------------------------------------------------------------------------------------

    @abstractmethod
    def _model_class(self) -> Any:
        """The library's class, without a head, without towers that are not needed."""

    def _cut_config(self) -> Any:
        """The configuration of the part that is read: no block above the highest tap."""
        return cut_config(self._config, self.layers)

    @abstractmethod
    def _configure(self, meta: Any) -> None:
        """Set `rule`, `chat`, `video_token`, `after_video`; `meta` is the model without memory."""

    @abstractmethod
    def _vision_inputs(self, clip: Frames) -> Prepared:
        """The inputs of the vision tower for a clip (`pixels` and more), and the metadata of its record."""

    @abstractmethod
    def _video_ids(self, frames: int, height: int, width: int, indices: Sequence[int], fps: float) -> list[int]:
        """Ids of the expanded video up to its last visual token."""

    def _positions(self, ids: Tensor, inputs: Mapping[str, Tensor]) -> tuple[Tensor, int]:
        """Positions `[planes, P]` of a video's row, and that of the next token; from there on they count by one."""
        return torch.arange(len(ids))[None], len(ids)

    @abstractmethod
    def _encode_vision(self, batch: Sequence[Mapping[str, Tensor]]) -> VisionOutput:
        """The vision tower and its projection over a batch."""

    @abstractmethod
    def _visual_spec(self, layer: str) -> ArraySpec:
        """The spec of the visual stream of a layer."""

    def _shaped(self, tokens: Tensor, item: Mapping[str, Tensor]) -> Tensor:
        """Visual rows `[N, D]` of one video in the shape of their spec."""
        return tokens

    def _side_specs(self) -> tuple[ArraySpec, ...]:
        """Specs of the side arrays of the visual stream."""
        return ()

    def _side_arrays(self, item: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The side arrays of one video."""
        return {}

    # -- the contract ------------------------------------------------------------------------------------------------

    def specs(self) -> Mapping[str, tuple[ArraySpec, ...]]:
        """See `Backbone.specs`. prompted: `layer<l>.text` `[L, D]`, all rows that are not visual, in order.

        With `text.ids` int64 `[L]` and `text.positions` int64 `[L]`: places in the whole row, visual tokens counted.
        """
        taps = self.taps()
        specs: dict[str, tuple[ArraySpec, ...]] = {}
        if "visual" in self.streams:
            specs["video"] = (*(taps["visual"][layer] for layer in self.layers), *self._side_specs())
        if "text" in self.streams:
            side = (ArraySpec("text.ids", "int64", (None,)), ArraySpec("text.positions", "int64", (None,)))
            specs["prompted"] = (*(taps["text"][layer] for layer in self.layers), *side)
        return specs

    def taps(self) -> Mapping[str, Mapping[str, ArraySpec]]:
        """See `Backbone.taps`."""
        return {
            "visual": {layer: self._visual_spec(layer) for layer in self.available},
            "text": layer_specs("text", self.available, self.storage, (None, self.width), TOKENS),
        }

    def recipe(self) -> dict[str, Json]:
        """See `Backbone.recipe`. Without the streams: those may be added to a store later."""
        return model_recipe(
            self.family,
            checkpoint=self.checkpoint.recipe(self._class.__name__, tokenizer=True),
            taps=list(self.layers),
            question=self.chat.form,
            plan=self.prompt_batching,
            pixels=self.rule.recipe(),
            compute=self.compute,
            attention=self.attention,
            storage=self.storage,
        )

    def load(self) -> None:
        """See `Backbone.load`: the vision tower and its projection, blocks up to the highest tap, no head."""
        self._model = load(self._class, self.checkpoint, self._cut_config(), self.compute)

    def pixels(self, clip: Frames) -> Prepared:
        """See `Backbone.pixels`: also `ids` int64 `[P]`, `positions` int64 `[planes, P]` and `next` int64 `[1]`."""
        inputs = self._vision_inputs(clip)
        frames, height, width = clip.frames.shape[:3]
        video = self._video_ids(frames, height, width, clip.indices.tolist(), clip.fps)
        ids = torch.tensor([*self.chat.head, *video])
        positions, following = self._positions(ids, inputs.tensors)
        self._check_length(following + 1)
        tensors = {**inputs.tensors, "ids": ids, "positions": positions, "next": torch.tensor([following])}
        return Prepared(tensors, {"visual_tokens": int((ids == self.video_token).sum()), **inputs.metadata})

    def prompt(self, text: str) -> Prepared:
        """See `PromptedBackbone.prompt`: `ids` int64 `[n]`."""
        ids = torch.tensor([*self.after_video, *self.chat.tail(text)])
        return Prepared({"ids": ids}, {"prompt": text, "prompt_tokens": len(ids)})

    def rows(self, height: int, width: int, prompt: str = "", frames: int | None = None) -> Mapping[str, int]:
        """See `PromptedBackbone.rows`. Time stamps are taken to be those of ten seconds at 25 frames per second."""
        frames = self.options.num_frames or frames or USUAL_FRAMES
        indices = [round((i + 0.5) * 250 / frames) for i in range(frames)]
        ids = [*self.chat.head, *self._video_ids(frames, height, width, indices, 25.0)]
        visual = ids.count(self.video_token)
        text = len(ids) - visual + len(self.after_video) + len(self.chat.tail(prompt or "What is seen?"))
        counts = {"text": text, "visual": visual, "seconds": -(-frames // 2)}
        rows = {}
        for spec in (spec for specs in self.specs().values() for spec in specs if spec.ragged):
            name = ArrayName.parse(spec.name)
            by_frame = name.stream == "visual" and len(spec.shape) == 3
            rows[spec.name] = frames if by_frame else counts[name.side if name.side in counts else name.stream]
        return rows

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
        ids = [[prompt["ids"] for prompt in of_video] for of_video in prompts]
        for item, of_video in zip(batch, ids, strict=True):
            self._check_length(int(item["next"]) + max(map(len, of_video), default=0))
        # `single` runs rows of its own anyway, and the vision tower too, to equal the library bit for bit.
        single = self.prompt_batching == "single"
        buckets = [[i] for i in range(len(batch))] if single else length_buckets([len(item["ids"]) for item in batch])
        encoded: dict[int, Encoded] = {}
        for bucket in buckets:
            items = [batch[i] for i in bucket]
            videos = [self._token_row(item) for item in items]
            for i, streams in zip(
                bucket, self._runner(videos, self._encode_vision(items), [ids[i] for i in bucket]), strict=True
            ):
                keeps_video = "visual" in self.streams and (visual is None or visual[i])
                arrays = self._video_arrays(streams, batch[i]) if keeps_video else {}
                encoded[i] = Encoded(arrays, tuple(self._text_arrays(text) for text in streams.texts))
        return [encoded[i] for i in range(len(batch))]

    # -- inside ------------------------------------------------------------------------------------------------------

    @property
    def width(self) -> int:
        """D of the language model."""
        return int(self._config.text_config.hidden_size)

    @property
    def longest(self) -> int:
        """The number of positions of the language model."""
        return int(self._config.text_config.max_position_embeddings)

    @property
    def _runner(self) -> Runner:
        return Runner(
            model=self._model.language_model,
            embed=self._model.get_input_embeddings(),
            keep=lambda _, states: transferred(states, self.storage),
            layers=self.layers,
            prompt_batching=self.prompt_batching,
            attention=self.attention,
            planes=self.planes,
            device=self.compute.device,
        )

    def _read_config(self) -> Any:
        """The configuration of the checkpoint. Raises BadInput for another architecture."""
        from transformers import AutoConfig

        self.checkpoint.require(self.model_type, self.family)
        return AutoConfig.from_pretrained(self.checkpoint.folder, trust_remote_code=False, local_files_only=True)

    def _token_row(self, item: Mapping[str, Tensor]) -> TokenRow:
        split = Split.of(item["ids"], self.video_token)
        return TokenRow(item["ids"], item["positions"], int(item["next"]), split)

    def _check_length(self, positions: int) -> None:
        if positions > self.longest:
            raise RecordRejected(
                f"Video and prompt make a row of {positions} positions; {self.checkpoint.id} takes {self.longest}.",
                "Give fewer --num-frames, a smaller --max-pixels, or a shorter prompt.",
            )

    def _video_arrays(self, streams: Streams, item: Mapping[str, Tensor]) -> dict[str, Tensor]:
        visual = {array_name(layer, "visual"): self._shaped(rows, item) for layer, rows in streams.visual.items()}
        return {**visual, **self._side_arrays(item)}

    def _text_arrays(self, text: TextRows) -> dict[str, Tensor]:
        arrays = {array_name(layer, "text"): rows for layer, rows in text.states.items()}
        return {**arrays, "text.ids": text.ids, "text.positions": text.places}
