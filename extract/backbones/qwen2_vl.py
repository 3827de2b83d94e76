"""Qwen2-VL: pairs of frames in their own size, one run of visual tokens on a grid; 2B, 7B and 72B.

The default is the 7B of FSAR-LLaVA; `--checkpoint Qwen/Qwen2-VL-2B-Instruct` is the small one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from vfc.extract.backbone import BackboneOptions
from vfc.extract.language.qwen import QwenBackbone

DEFAULT_CHECKPOINT: str | None = "Qwen/Qwen2-VL-7B-Instruct"


class Qwen2VLBackbone(QwenBackbone):
    """Qwen2-VL over a clip and prompts; see `backbone.PromptedBackbone`."""

    family = "qwen2-vl"
    model_type = "qwen2_vl"

    def _model_class(self) -> Any:
        from transformers import Qwen2VLModel

        return Qwen2VLModel

    def _video_ids(self, frames: int, height: int, width: int, indices: Sequence[int], fps: float) -> list[int]:
        return [self.video_token] * math.prod(self.rule.tokens(self.rule.grid(frames, height, width)))


def build(options: BackboneOptions) -> Qwen2VLBackbone:
    """See `Family.build`."""
    return Qwen2VLBackbone(options, DEFAULT_CHECKPOINT)
