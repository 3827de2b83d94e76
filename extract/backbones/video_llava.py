"""Video-LLaVA: a CLIP tower for every frame, class token kept, then a Vicuna; T x 257 visual tokens.

The hub's port (`Video-LLaVA-7B-hf`) encodes frames one by one and has a second tower for images, which is not read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from torch import Tensor

from vfc.cache_schema.values.errors import BadInput
from vfc.cache_schema.values.layout import FRAME_MAJOR, Layout, array_name
from vfc.cache_schema.values.record import ArraySpec
from vfc.extract.backbone import BackboneOptions, Frames, Prepared
from vfc.extract.frames.pixels import PixelRule
from vfc.extract.language.chat import ChatPrompt, read_tokenizer
from vfc.extract.language.model import LanguageBackbone
from vfc.extract.language.runner import VisionOutput
from vfc.extract.models.frame_encoder import over_frames, square_pixel_rule
from vfc.extract.models.taps import without

DEFAULT_CHECKPOINT: str | None = "LanguageBind/Video-LLaVA-7B-hf"
QUESTION: Final = "USER: <video>\n{prompt} ASSISTANT:"


class VideoLlavaBackbone(LanguageBackbone):
    """Video-LLaVA over a clip and prompts; see `backbone.PromptedBackbone`."""

    family = "video-llava"
    model_type = "video_llava"
    rule: PixelRule

    def _model_class(self) -> Any:
        from transformers import VideoLlavaModel

        return without(VideoLlavaModel, "image_tower")

    def _cut_config(self) -> Any:
        config = super()._cut_config()
        vision, layer = config.vision_config, config.vision_feature_layer
        # Features are read below the end of the tower; a CLIP tower returns the states of its last block un-normed.
        if vision.model_type == "clip_vision_model" and isinstance(layer, int):
            vision.num_hidden_layers = max(1, layer % (vision.num_hidden_layers + 1))
            config.vision_feature_layer = -1 if layer else 0
        return config

    def _configure(self, meta: Any) -> None:
        options, vision = self.options, self._config.vision_config
        if options.max_pixels is not None:
            raise BadInput(
                f"--max-pixels {options.max_pixels} is given; video-llava takes frames of one size.",
                "Leave out --max-pixels, or give --model qwen2-vl.",
            )
        self.rule = square_pixel_rule(self.checkpoint, vision.image_size, model_type="video_llava", video=True)
        self._grid = int(vision.image_size // vision.patch_size)
        self.video_token = int(self._config.video_token_index)
        self.chat = ChatPrompt(
            read_tokenizer(self.checkpoint),
            lambda text: QUESTION.replace("{prompt}", text),
            self.video_token,
            self.checkpoint.id,
        )
        frames = options.num_frames or 1
        if (length := len(self.chat.head) + frames * self._tokens) >= self.longest:
            raise BadInput(
                f"{frames} frames make a row of {length} tokens; {self.checkpoint.id} takes {self.longest}.",
                f"A frame takes {self._tokens}: give fewer --num-frames.",
            )

    @property
    def _tokens(self) -> int:
        return 1 + self._grid * self._grid

    def _vision_inputs(self, clip: Frames) -> Prepared:
        return Prepared({"pixels": self.compute.pixels(self.rule, clip.frames)}, {})

    def _video_ids(self, frames: int, height: int, width: int, indices: Sequence[int], fps: float) -> list[int]:
        return [self.video_token] * (frames * self._tokens)

    def _encode_vision(self, batch: Sequence[Mapping[str, Tensor]]) -> VisionOutput:
        def run(pixels: Tensor) -> dict[str, Tensor]:
            output = self._model.get_video_features(pixel_values_videos=pixels[None], return_dict=True)
            return {"tokens": output.pooler_output}

        return VisionOutput(
            [arrays["tokens"].flatten(0, 1) for arrays in over_frames(batch, run, self.compute, self.rule)]
        )

    def _visual_spec(self, layer: str) -> ArraySpec:
        layout = Layout(FRAME_MAJOR, 1, (self._grid, self._grid))
        shape = (self.options.num_frames, self._tokens, self.width)
        return ArraySpec(array_name(layer, "visual"), self.storage, shape, str(layout))

    def _shaped(self, tokens: Tensor, item: Mapping[str, Tensor]) -> Tensor:
        return tokens.view(len(item["pixels"]), self._tokens, -1)


def build(options: BackboneOptions) -> VideoLlavaBackbone:
    """See `Family.build`."""
    return VideoLlavaBackbone(options, DEFAULT_CHECKPOINT)
