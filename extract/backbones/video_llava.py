"""Video-LLaVA: every frame through a CLIP tower, class token kept, then a Vicuna; T x 257 visual tokens.

The hub's port (`Video-LLaVA-7B-hf`) sees frames one by one and carries a second tower for images, which is not read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from vfc.cache_schema.values.errors import BadInput
from vfc.cache_schema.values.layout import FRAME_MAJOR, Layout, array_name
from vfc.cache_schema.values.record import ArraySpec, Json
from vfc.extract.backbone import BackboneOptions, Frames, Prepared
from vfc.extract.frames.pixels import read_pixel_rule
from vfc.extract.language.chat import Question, read_tokenizer
from vfc.extract.language.model import LanguageBackbone
from vfc.extract.language.run import Seen
from vfc.extract.models.taps import COMPUTE, FRAMES_PER_FORWARD, without

DEFAULT_CHECKPOINT: str | None = "LanguageBind/Video-LLaVA-7B-hf"
QUESTION: Final = "USER: <video>\n{prompt} ASSISTANT:"


class VideoLlavaBackbone(LanguageBackbone):
    """Video-LLaVA over a clip and prompts; see `backbone.PromptedBackbone`."""

    family = "video-llava"
    model_type = "video_llava"

    def _model_class(self) -> Any:
        from transformers import VideoLlavaModel

        return without(VideoLlavaModel, "image_tower")

    def _cut_config(self) -> Any:
        config = super()._cut_config()
        vision, layer = config.vision_config, config.vision_feature_layer
        # Features are read below the tower's end; a CLIP tower hands on its last block's states as they are.
        if vision.model_type == "clip_vision_model" and isinstance(layer, int):
            vision.num_hidden_layers = max(1, layer % (vision.num_hidden_layers + 1))
            config.vision_feature_layer = -1 if layer else 0
        return config

    def _prepare(self, meta: Any) -> None:
        options, vision = self.options, self._config.vision_config
        if options.max_pixels is not None:
            raise BadInput(
                f"--max-pixels {options.max_pixels} was given; video-llava sees every frame in one size.",
                "Leave out --max-pixels, or give --model qwen2-vl.",
            )
        self.rule = read_pixel_rule(self.checkpoint.folder, model_type="video_llava", video=True)
        edge = vision.image_size
        if self.rule.size != (edge, edge):
            raise BadInput(
                f"The processor of {self.checkpoint.id} makes frames of {self.rule.size}, not {edge, edge}.",
                "Check that its processor files belong to this checkpoint.",
            )
        self._grid = int(edge // vision.patch_size)
        self.video_token = int(self._config.video_token_index)
        self.question = Question(
            read_tokenizer(self.checkpoint),
            lambda text: QUESTION.replace("{prompt}", text),
            self.video_token,
            self.checkpoint.id,
        )
        frames = options.num_frames or 1
        if (length := len(self.question.head) + frames * self._tokens) >= self.longest:
            raise BadInput(
                f"{frames} frames make a row of {length} tokens; {self.checkpoint.id} takes {self.longest}.",
                f"A frame takes {self._tokens}: give fewer --num-frames.",
            )

    @property
    def _tokens(self) -> int:
        return 1 + self._grid * self._grid

    def _see(self, clip: Frames) -> Prepared:
        return Prepared({"pixels": self.rule(clip.frames)}, {})

    def _body(self, frames: int, height: int, width: int, indices: Sequence[int], fps: float) -> list[int]:
        return [self.video_token] * (frames * self._tokens)

    def _features(self, batch: Sequence[Mapping[str, Tensor]]) -> Seen:
        frames = torch.cat([item["pixels"] for item in batch]) if len(batch) > 1 else batch[0]["pixels"]
        parts = [
            self._model.get_video_features(
                pixel_values_videos=part.to(self.options.device, COMPUTE[self.dtype], non_blocking=True)[None],
                return_dict=True,
            ).pooler_output
            for part in frames.split(FRAMES_PER_FORWARD)
        ]
        tokens = torch.cat(parts) if len(parts) > 1 else parts[0]
        return Seen([part.flatten(0, 1) for part in tokens.split([len(item["pixels"]) for item in batch])])

    def _visual_spec(self, layer: str) -> ArraySpec:
        layout = Layout(FRAME_MAJOR, 1, (self._grid, self._grid))
        shape = (self.options.num_frames, self._tokens, self.width)
        return ArraySpec(array_name(layer, "visual"), self.storage, shape, str(layout))

    def _visual(self, tokens: Tensor, item: Mapping[str, Tensor]) -> Tensor:
        return tokens.view(len(item["pixels"]), self._tokens, -1)

    def _pixels_recipe(self) -> dict[str, Json]:
        return self.rule.recipe()


def build(options: BackboneOptions) -> VideoLlavaBackbone:
    """See `Family.build`."""
    return VideoLlavaBackbone(options, DEFAULT_CHECKPOINT)
