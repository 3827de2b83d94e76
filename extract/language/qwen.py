"""What Qwen2-VL and Qwen3-VL share: patches in a size of the video's own, tokens on a grid (t, h, w), 3-D positions."""

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
from vfc.extract.frames.qwen_patches import read_patch_rule
from vfc.extract.models.taps import COMPUTE

from .chat import Question, chat_template, read_tokenizer
from .model import LanguageBackbone
from .run import Seen


class QwenBackbone(LanguageBackbone):
    """A Qwen that sees videos; a family says how the tokens of a video are written down (`_body`)."""

    planes = 3

    def _prepare(self, meta: Any) -> None:
        self.rule = read_patch_rule(
            self.checkpoint.folder, model_type=self.model_type, max_pixels=self.options.max_pixels
        )
        vision = self._config.vision_config
        own = {"patch": vision.patch_size, "temporal": vision.temporal_patch_size, "merge": vision.spatial_merge_size}
        said = {name: getattr(self.rule, name) for name in own}
        if said != own:
            raise BadInput(
                f"The processor of {self.checkpoint.id} makes patches of {said}, its vision tower takes {own}.",
                "Check that its processor files belong to this checkpoint.",
            )
        if self.rule.per_clip and self.options.num_frames == 1:
            raise BadInput(f"{self.family} takes pairs of frames; one frame was asked for.", "Give --num-frames 2.")
        self.video_token = int(self._config.video_token_id)
        tokenizer = read_tokenizer(self.checkpoint)
        template = chat_template(self.checkpoint, tokenizer)
        self.question = Question(tokenizer, _asked(tokenizer, template), self.video_token, self.checkpoint.id)
        # A bound method of the model without memory: the library's own rule for positions, on the CPU.
        self._rope_index = meta.get_rope_index

    def _see(self, clip: Frames) -> Prepared:
        patches, grid = self.rule(clip.frames)
        t = self.rule.temporal
        times = np.pad(clip.seconds, (0, -len(clip.seconds) % t), mode="edge").reshape(-1, t).mean(1)
        tensors = {"pixels": patches, "grid": torch.tensor(grid), "seconds": torch.from_numpy(times)}
        size: list[Json] = [grid[1] * self.rule.patch, grid[2] * self.rule.patch]
        return Prepared(tensors, {"pixels": size, "temporal_patches": grid[0]})

    def _positions(self, ids: Tensor, seen: Mapping[str, Tensor]) -> tuple[Tensor, int]:
        # One token more, because what follows the video does not follow from the video's own positions.
        longer = torch.cat([ids, torch.zeros(1, dtype=ids.dtype)])[None]
        kinds = (longer == self.video_token) * 2
        positions, _ = self._rope_index(longer, mm_token_type_ids=kinds, video_grid_thw=seen["grid"][None].clone())
        return positions[:, 0, :-1], int(positions[0, 0, -1])

    def _features(self, batch: Sequence[Mapping[str, Tensor]]) -> Seen:
        pixels = torch.cat([item["pixels"] for item in batch]) if len(batch) > 1 else batch[0]["pixels"]
        device = self.options.device
        output = self._model.get_video_features(
            pixels.to(device, COMPUTE[self.dtype], non_blocking=True),
            torch.stack([item["grid"] for item in batch]).to(device, non_blocking=True),
            return_dict=True,
        )
        # Later versions of the library hand these on video by video.
        deeper = getattr(output, "deepstack_features", None) or ()
        return Seen(
            output.pooler_output, [each if isinstance(each, Tensor) else torch.cat(tuple(each)) for each in deeper]
        )

    def _visual_spec(self, layer: str) -> ArraySpec:
        return ArraySpec(array_name(layer, "visual"), self.storage, (None, self.width), RAGGED_GRID)

    def _visual(self, tokens: Tensor, item: Mapping[str, Tensor]) -> Tensor:
        return tokens

    def _side_specs(self) -> tuple[ArraySpec, ...]:
        return ArraySpec("visual.grid", "int64", (3,)), ArraySpec("visual.seconds", "float64", (None,))

    def _side_arrays(self, item: Mapping[str, Tensor]) -> dict[str, Tensor]:
        t, rows, columns = item["grid"].tolist()
        return {"visual.grid": torch.tensor(self.rule.tokens((t, rows, columns))), "visual.seconds": item["seconds"]}

    def _pixels_recipe(self) -> dict[str, Json]:
        return self.rule.recipe()


def _asked(tokenizer: Any, template: str) -> Callable[[str], str]:
    def render(text: str) -> str:
        message = {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": text}]}
        rendered: str = tokenizer.apply_chat_template(
            [message], chat_template=template, tokenize=False, add_generation_prompt=True
        )
        return rendered

    return render
