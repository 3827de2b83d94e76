"""What Qwen2-VL and Qwen3-VL share: patches of frames in their own size, tokens on a grid (t, h, w), 3-D positions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vfc.cache_schema.values.errors import BadInput
from vfc.cache_schema.values.layout import RAGGED_GRID, array_name
from vfc.cache_schema.values.record import ArraySpec, Json
from vfc.extract.backbone import Frames, Prepared
from vfc.extract.frames.qwen_patches import PatchRule, read_patch_rule

from .chat import ChatPrompt, chat_template, read_tokenizer
from .model import LanguageBackbone
from .runner import VisionOutput


class QwenBackbone(LanguageBackbone):
    """A Qwen model for videos; a family defines the ids of a video (`_video_ids`)."""

    planes = 3
    rule: PatchRule

    def _configure(self, meta: Any) -> None:
        self.rule = read_patch_rule(
            self.checkpoint.folder, model_type=self.model_type, max_pixels=self.options.max_pixels
        )
        vision = self._config.vision_config
        needed = {
            "patch": vision.patch_size,
            "temporal": vision.temporal_patch_size,
            "merge": vision.spatial_merge_size,
        }
        sizes = {name: getattr(self.rule, name) for name in needed}
        if sizes != needed:
            raise BadInput(
                f"The processor of {self.checkpoint.id} makes patches of {sizes}, its vision tower takes {needed}.",
                "Check that its processor files belong to this checkpoint.",
            )
        if self.rule.per_clip and self.options.num_frames == 1:
            raise BadInput(f"{self.family} takes pairs of frames; one frame was asked for.", "Give --num-frames 2.")
        self.video_token = int(self._config.video_token_id)
        tokenizer = read_tokenizer(self.checkpoint)
        template = chat_template(self.checkpoint, tokenizer)
        self.chat = ChatPrompt(tokenizer, _render(tokenizer, template), self.video_token, self.checkpoint.id)
        # The library's own rule for positions, on the CPU; the model behind it has no memory.
        self._rope_index = meta.get_rope_index

    def _vision_inputs(self, clip: Frames) -> Prepared:
        patches, grid = self.rule(clip.frames)
        t = self.rule.temporal
        times = np.pad(clip.seconds, (0, -len(clip.seconds) % t), mode="edge").reshape(-1, t).mean(1)
        tensors = {"pixels": patches, "grid": torch.tensor(grid), "seconds": torch.from_numpy(times)}
        size: list[Json] = [grid[1] * self.rule.patch, grid[2] * self.rule.patch]
        return Prepared(tensors, {"pixels": size, "temporal_patches": grid[0]})

    def _positions(self, ids: Tensor, inputs: Mapping[str, Tensor]) -> tuple[Tensor, int]:
        # With one token more, whose position does not follow from those of the video.
        longer = torch.cat([ids, torch.zeros(1, dtype=ids.dtype)])[None]
        kinds = (longer == self.video_token) * 2
        positions, _ = self._rope_index(longer, mm_token_type_ids=kinds, video_grid_thw=inputs["grid"][None].clone())
        return positions[:, 0, :-1], int(positions[0, 0, -1])

    def _encode_vision(self, batch: Sequence[Mapping[str, Tensor]]) -> VisionOutput:
        pixels = torch.cat([item["pixels"] for item in batch]) if len(batch) > 1 else batch[0]["pixels"]
        grids = torch.stack([item["grid"] for item in batch]).to(self.compute.device, non_blocking=True)
        output = self._model.get_video_features(self.compute.moved(pixels), grids, return_dict=True)
        # Later versions of the library return these video by video.
        deeper = getattr(output, "deepstack_features", None) or ()
        features = [layer if isinstance(layer, Tensor) else torch.cat(tuple(layer)) for layer in deeper]
        return VisionOutput(output.pooler_output, features)

    def _visual_spec(self, layer: str) -> ArraySpec:
        return ArraySpec(array_name(layer, "visual"), self.storage, (None, self.width), RAGGED_GRID)

    def _side_specs(self) -> tuple[ArraySpec, ...]:
        return ArraySpec("visual.grid", "int64", (3,)), ArraySpec("visual.seconds", "float64", (None,))

    def _side_arrays(self, item: Mapping[str, Tensor]) -> dict[str, Tensor]:
        t, rows, columns = item["grid"].tolist()
        return {"visual.grid": torch.tensor(self.rule.tokens((t, rows, columns))), "visual.seconds": item["seconds"]}


def _render(tokenizer: Any, template: str) -> Callable[[str], str]:
    def render(text: str) -> str:
        message = {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": text}]}
        rendered: str = tokenizer.apply_chat_template(
            [message], chat_template=template, tokenize=False, add_generation_prompt=True
        )
        return rendered

    return render
