"""Cosine similarity of clips and class texts in the joint space of a two-tower model."""

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
"""CLIP's logit scale (inverse temperature): the largest value allowed in training, and the learned one."""


def shared_width(specs: Mapping[str, ArraySpec], head: str) -> tuple[int, int]:
    """Number of frames and width of the stream `visual`, whose width must be that of `class.text`.

    Raises:
        UnknownName: one of the two streams is missing.
        BadInput: the widths differ (features from before the projection).
    """
    visual, text = require(specs, "visual", head), require(specs, "class.text", head)
    frames, width = int(visual.shape[0] or 0), int(visual.shape[-1] or 0)
    if width != text.shape[-1]:
        raise BadInput(
            f"{visual.name} is {width} wide and the class texts are {text.shape[-1]}: they are in different spaces.",
            "Choose projected features with --array (of clip: frames; of viclip: embedding).",
        )
    return frames, width


def cosine_logits(clips: Tensor, texts: Tensor) -> Tensor:
    """Cosines of clips `[B, D]` and texts `[C, D]` at CLIP's scale: logits `[B, C]`, in float32 under autocast too."""
    with torch.autocast(clips.device.type, enabled=False):  # bf16 has steps of 0.5 near 100
        clips, texts = (functional.normalize(rows.float(), dim=-1) for rows in (clips, texts))
        return CLIP_SCALE * clips @ texts.mT
