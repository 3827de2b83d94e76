"""GFLOPs of VidPrism's Table 1 (Kinetics-400): per view, image encoder included."""

from __future__ import annotations

from typing import Final

import torch

from vfc.cache_schema.values.record import ArraySpec
from vfc.heads.contract.head import Head
from vfc.heads.contract.published import PublishedCost
from vfc.heads.tasks.classification import ClipBatch

_CLASSES: Final = 400


def clip(frames: int, width: int) -> tuple[Head, ClipBatch]:
    """The head and one clip `[frames, width]`, 400 classes."""
    from . import Config
    from . import Head as VidPrism

    specs = {"visual": ArraySpec("frames", "fp16", (frames, width)), "classes": ArraySpec("c", "int64", (_CLASSES,))}
    batch = ClipBatch({"visual": torch.zeros(1, frames, width)}, torch.zeros(1, dtype=torch.int64), (), {})
    return VidPrism(Config(preset="code", text_weight=0.0), specs), batch


def _row(model: str, frames: int, width: int, gflops: float, differs: str) -> PublishedCost:
    return PublishedCost(
        f"VidPrism, Table 1: CLIP {model}, {frames} frames",
        "clip",
        lambda: clip(frames, width),
        backbone=f"clip-{model.lower().replace('/', '-')}-{frames}",
        backbone_flops=gflops * 1e9,
        backbone_counts=1,
        differs=f"The paper prints the sum of encoder and head ({gflops:g} G), a multiply-add as one; {differs}",
    )


PUBLISHED: Final = (
    _row("B/16", 8, 512, 162, "encoder and head are 21 G less here."),
    _row("B/16", 32, 512, 721, "encoder and head are 159 G less here."),
    _row("L/14", 8, 768, 632, "less than the encoder alone has."),
    _row("L/14", 32, 768, 2594, "the encoder alone has as many."),
)
"""The released head (`--preset code`) without its text loss. Its cost is no part of the printed numbers that can be
told apart: they are those of MoTE's encoder, or differ from encoder and head by up to 159 G."""
