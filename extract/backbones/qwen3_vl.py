"""Qwen3-VL: a time stamp before every pair of frames, features of the vision tower's depth added behind early blocks.

What is caught behind those first blocks is what they hand on, before the addition. The default is the 8B; `--checkpoint
Qwen/Qwen3-VL-2B-Instruct` or `Qwen/Qwen3-VL-4B-Instruct` takes a smaller one.
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
FIXED_ROWS = False


class Qwen3VLBackbone(QwenBackbone):
    """Qwen3-VL over a clip and prompts; see `backbone.PromptedBackbone`."""

    family = "qwen3-vl"
    model_type = "qwen3_vl"

    def _model_class(self) -> Any:
        from transformers import Qwen3VLModel

        return Qwen3VLModel

    def _prepare(self, meta: Any) -> None:
        super()._prepare(meta)
        self.rest = (int(self._config.vision_end_token_id),)

    def _see(self, clip: Frames) -> Prepared:
        if not clip.fps > 0:
            raise RecordRejected(
                "The video does not say how many frames it has a second, and qwen3-vl reads time stamps.",
                "Write the file anew, or give --model qwen2-vl.",
            )
        seen = super()._see(clip)
        stamps: list[Json] = [*stamps_of(clip.indices.tolist(), clip.fps, self.rule.temporal)]
        return replace(seen, metadata={**seen.metadata, "timestamps": stamps})

    def _body(self, frames: int, height: int, width: int, indices: Sequence[int], fps: float) -> list[int]:
        _, rows, columns = self.rule.tokens(self.rule.grid(frames, height, width))
        start, body = int(self._config.vision_start_token_id), list[int]()
        for stamp in stamps_of(indices, fps, self.rule.temporal):
            body += [*self.question.plain(stamp), start, *[self.video_token] * (rows * columns), *self.rest]
        return body[: len(body) - len(self.rest)]


def stamps_of(indices: Sequence[int], fps: float, together: int) -> list[str]:
    """The time of every `together` frames in words: the mean of the first and the last one's, in tenths of a second."""
    padded = [*indices, *[indices[-1]] * (-len(indices) % together)]
    times = [i / fps for i in padded]
    return [f"<{(times[i] + times[i + together - 1]) / 2:.1f} seconds>" for i in range(0, len(times), together)]


def build(options: BackboneOptions) -> Qwen3VLBackbone:
    """See `Family.build`."""
    return Qwen3VLBackbone(options, DEFAULT_CHECKPOINT)
