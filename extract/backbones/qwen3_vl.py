"""Qwen3-VL: a time stamp before every pair of frames; features of vision blocks are added after the first text blocks.

The layers of those first blocks are their outputs before that addition. The default is the 8B; `--checkpoint
Qwen/Qwen3-VL-2B-Instruct` or `Qwen/Qwen3-VL-4B-Instruct` is smaller.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from vfc.cache_schema.values.errors import RecordRejected
from vfc.cache_schema.values.record import Json
from vfc.extract.backbone import BackboneOptions, Frames, Prepared
from vfc.extract.language.qwen import QwenBackbone

DEFAULT_CHECKPOINT: str | None = "Qwen/Qwen3-VL-8B-Instruct"


class Qwen3VLBackbone(QwenBackbone):
    """Qwen3-VL over a clip and prompts; see `backbone.PromptedBackbone`."""

    family = "qwen3-vl"
    model_type = "qwen3_vl"

    def _model_class(self) -> Any:
        from transformers import Qwen3VLModel

        return Qwen3VLModel

    def _configure(self, meta: Any) -> None:
        super()._configure(meta)
        self.after_video = (int(self._config.vision_end_token_id),)

    def _vision_inputs(self, clip: Frames) -> Prepared:
        if not clip.fps > 0:
            raise RecordRejected(
                "The video has no frame rate, and qwen3-vl needs time stamps.",
                "Write the file anew, or give --model qwen2-vl.",
            )
        inputs = super()._vision_inputs(clip)
        stamps: list[Json] = [*stamps_of(clip.indices.tolist(), clip.fps, self.rule.temporal)]
        return replace(inputs, metadata={**inputs.metadata, "timestamps": stamps})

    def _video_ids(self, frames: int, height: int, width: int, indices: Sequence[int], fps: float) -> list[int]:
        _, rows, columns = self.rule.tokens(self.rule.grid(frames, height, width))
        start, ids = int(self._config.vision_start_token_id), list[int]()
        for stamp in stamps_of(indices, fps, self.rule.temporal):
            ids += [*self.chat.plain(stamp), start, *[self.video_token] * (rows * columns), *self.after_video]
        return ids[: len(ids) - len(self.after_video)]


def stamps_of(indices: Sequence[int], fps: float, together: int) -> list[str]:
    """The time stamp of every `together` frames: the mean of the first and the last time, in tenths of a second."""
    padded = [*indices, *[indices[-1]] * (-len(indices) % together)]
    times = [i / fps for i in padded]
    return [f"<{(times[i] + times[i + together - 1]) / 2:.1f} seconds>" for i in range(0, len(times), together)]


def build(options: BackboneOptions) -> Qwen3VLBackbone:
    """See `Family.build`."""
    return Qwen3VLBackbone(options, DEFAULT_CHECKPOINT)
