"""What Qwen2-VL and Qwen3-VL share: patches of frames in their own size, tokens on a grid (t, h, w), 3-D positions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vfc.cache_schema.values.devices import on_device
from vfc.cache_schema.values.errors import BadInput
from vfc.cache_schema.values.layout import RAGGED_GRID, array_name
from vfc.cache_schema.values.record import ArraySpec, Json
from vfc.extract.backbone import Frames, Prepared
from vfc.extract.frames.qwen_patches import PatchRule, read_patch_rule
from vfc.extract.models.loading import end_to_end

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
        device = self.compute.device
        pixels = self.compute.moved(end_to_end([item["pixels"] for item in batch], device))
        grids = torch.stack([item["grid"] for item in batch])
        places = _tower_inputs(self._model.visual, grids)
        if places:
            # The library splits rows by the grids, on the host: grids on the device would be waited for.
            flash = self._model.visual.config._attn_implementation.startswith("flash")
            on_host = () if flash else ("video_cu_seqlens",)
            places = {name: value if name in on_host else on_device(value, device) for name, value in places.items()}
            if flash:
                places["video_max_seqlen"] = int((grids[:, 1] * grids[:, 2]).max())
        else:
            grids = on_device(grids, device)
        output = self._model.get_video_features(pixels, grids, return_dict=True, **places)
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


def _tower_inputs(visual: Any, grids: Tensor) -> dict[str, Any]:
    """What the vision tower derives from `grids` `[B, 3]`, on the host; empty for a library that takes none of it.

    Cumulative lengths of the frames, places of the patches, and where the table of positions is read.
    """
    try:
        from transformers import vision_utils as library
    except ImportError:
        return {}
    interpolated = hasattr(visual, "pos_embed")
    if interpolated and not hasattr(library, "get_vision_interpolation_indices_and_weights"):
        return {}
    inputs = {
        "video_cu_seqlens": library.get_vision_cu_seqlens(grids),
        "video_position_ids": library.get_vision_position_ids(grids, visual.spatial_merge_size),
    }
    if interpolated:
        indices, weights = library.get_vision_interpolation_indices_and_weights(
            grids,
            num_grid_per_side=visual.num_grid_per_side,
            mode=visual.interpolation_mode,
            align_corners=visual.interpolation_align_corners,
            spatial_merge_size=visual.config.spatial_merge_size,
        )
        inputs |= {"video_interp_indices": indices, "video_interp_weights": weights}
    return inputs


def _render(tokenizer: Any, template: str) -> Callable[[str], str]:
    def render(text: str) -> str:
        message = {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": text}]}
        rendered: str = tokenizer.apply_chat_template(
            [message], chat_template=template, tokenize=False, add_generation_prompt=True
        )
        return rendered

    return render
