"""Clips beside class texts in the space that both towers of a model project into."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from vfc.cache_schema.values.errors import BadInput
from vfc.cache_schema.values.record import ArraySpec
from vfc.heads.contract.head import require

CLIP_SCALE: Final = 100.0
"""What CLIP multiplies cosines by: the largest value its learned temperature may take, and the one it has."""


def shared_width(specs: Mapping[str, ArraySpec], head: str) -> tuple[int, int]:
    """Frames and width of the stream `visual`, which must have the width of `class.text`.

    Raises:
        UnknownName: one of the two is not there.
        BadInput: other widths: features from before the projection.
    """
    visual, text = require(specs, "visual", head), require(specs, "class.text", head)
    frames, width = int(visual.shape[0] or 0), int(visual.shape[-1] or 0)
    if width != text.shape[-1]:
        raise BadInput(
            f"{visual.name} is {width} wide and the class texts are {text.shape[-1]}: they lie in different spaces.",
            "Choose projected features with --array (of clip: frames; of viclip: embedding).",
        )
    return frames, width


def cosine_logits(clips: Tensor, texts: Tensor) -> Tensor:
    """Cosines of clips `[B, D]` and texts `[C, D]` at CLIP's scale: logits `[B, C]`, in float32 under autocast too."""
    with torch.autocast(clips.device.type, enabled=False):  # bf16 goes in steps of a half at the top of this scale
        clips, texts = (functional.normalize(rows.float(), dim=-1) for rows in (clips, texts))
        return CLIP_SCALE * clips @ texts.mT
