"""MSTA's parameter counts (Table 5 and the public logs); the paper prints no FLOPs, but 0.51 s for a training step."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import nn

from vfc.cache_schema.values.layout import PATCH_MAJOR, Layout, array_name
from vfc.cache_schema.values.record import ArraySpec
from vfc.heads.contract.head import Head
from vfc.heads.contract.published import PublishedCost
from vfc.heads.tasks.classification import ClipBatch

from .blocks import Block, Tail, Tower

_FRAMES, _PATCHES, _TOKENS = 8, 196, 32
_LAYOUT: Final = str(Layout(PATCH_MAJOR, grid=(14, 14), frames=_FRAMES))


def viclip_b(first: int) -> Tail:
    """Blocks `first` to 12 of both towers of ViCLIP-B/16."""
    vision, text = (
        Tower(
            first,
            [Block(width, 4 * width, width // 64) for _ in range(first, 13)],
            nn.LayerNorm(width),
            torch.zeros(width, 512),
        )
        for width in (768, 512)
    )
    return Tail(vision, text, 0.01, _FRAMES, _PATCHES)


def clip(classes: int, **settings: Any) -> tuple[Head, ClipBatch]:
    """The head of these settings and one clip of 1 + 196 x 8 tokens; texts of 32 tokens of so many classes."""
    from . import Config
    from . import Head as Msta

    config = Config(**settings)
    below = config.first - 1
    width, shape = 768, (1 + _PATCHES * _FRAMES, 768)
    specs = {
        "visual": ArraySpec(array_name(str(below), "visual"), "fp16", shape, _LAYOUT),
        "frozen": ArraySpec(array_name(str(below + 1), "visual"), "fp16", shape, _LAYOUT),
        "class.tokens": ArraySpec(array_name(str(below), "text"), "fp16", (None, 512)),
        "classes": ArraySpec("classes", "int64", (classes,)),
    }
    clips = {role: torch.zeros(1, shape[0], width) for role in ("visual", "frozen")}
    batch = ClipBatch(clips, torch.zeros(1, dtype=torch.int64), (), {"tokens": torch.zeros(classes, _TOKENS, 512)})
    return Msta(config, specs, viclip_b(config.first)), batch


_DIFFERS: Final = (
    "The paper prints parameters and seconds, no FLOPs. Here: one clip from the cached input and output of the lowest "
    "block, the class token alone in block 12; the texts of all classes are encoded once per training step and test."
)
PUBLISHED: Final = (
    PublishedCost(
        "MSTA, public logs: few-shot, blocks 8 to 12, 51 classes",
        "clip",
        lambda: clip(51),
        parameters=1_744_000,
        backbone="viclip-b-16-8",
        differs=_DIFFERS,
    ),
    PublishedCost(
        "MSTA, Table 5: supervised, blocks 1 to 12, 400 classes",
        "clip",
        lambda: clip(400, preset="supervised"),
        parameters=8_700_000,
        backbone="viclip-b-16-8",
        differs=_DIFFERS,
    ),
)
