"""One small store of the same videos per family of models, really extracted with tiny checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from suites.checkpoints import clip_checkpoint, image_checkpoint, videomae_checkpoint
from suites.i3d import i3d_checkpoint
from suites.language import qwen2_checkpoint, qwen3_checkpoint, video_llava_checkpoint
from suites.toy import write_clip

from vfc.cache_schema.values.progress import Silent
from vfc.extract.backbones.viclip.tiny import write_tiny_viclip
from vfc.extract.pipeline.run import ExtractConfig, extract

CLASSES: Final = 10
SHAPES: Final = ((20, (32, 24)), (40, (32, 24)), (20, (48, 32)))
"""Frames and size of the clips of a class: grids and sequences of windows differ in length, grids also in tokens."""

TEXTS: Final[dict[str, Any]] = {"texts": "classes", "template": ("a video of {label}",)}
FAMILIES: Final[dict[str, tuple[Callable[[Path], Path], dict[str, Any]]]] = {
    "clip": (clip_checkpoint, {"num_frames": 4, **TEXTS}),
    "i3d": (i3d_checkpoint, {"frames": "all", "window": 10}),
    "image": (lambda folder: image_checkpoint(folder, "dinov2-registers"), {"num_frames": 4}),
    "qwen2-vl": (qwen2_checkpoint, {"frames": "stride:8", "prompt": ("unknown",)}),
    "qwen3-vl": (qwen3_checkpoint, {"frames": "stride:5", "prompt": ("unknown",)}),
    "viclip": (lambda folder: write_tiny_viclip(folder, layers=9), {"num_frames": 4, **TEXTS}),
    "video-llava": (video_llava_checkpoint, {"num_frames": 4, "prompt": ("unknown",)}),
    "videomae": (videomae_checkpoint, {"num_frames": 4}),
}
"""Family -> how its tiny checkpoint is written, and the settings of its store."""
ADAPTED: Final[dict[str, Any]] = {
    "layer": ("7", "8"),
    "text_layer": ("7",),
    "keep": ("visual", "text", "embedding"),
    "tail": 8,
}
"""What msta needs of a ViCLIP store."""


def write_videos(folder: Path) -> Path:
    """Clips of CLASSES classes, one of each of SHAPES."""
    for label in range(CLASSES):
        for clip, (frames, size) in enumerate(SHAPES):
            write_clip(folder / f"class{label}" / f"{clip}.mp4", 100 * label + clip, frames=frames, size=size)
    return folder


def extract_family(family: str, videos: Path, folder: Path, **settings: Any) -> Path:
    """The store of a family in `folder`."""
    write, own = FAMILIES[family]
    checkpoint = folder / f"tiny-{family}"
    if not checkpoint.exists():
        write(checkpoint)
    common: dict[str, Any] = {"threads": 1, "decode_workers": 1, "device": "cpu"}
    out = folder / f"store-{family}"
    given = {**common, **own, "out": out, **settings}
    extract(ExtractConfig(videos=videos, model=family, checkpoint=str(checkpoint), **given), Silent())
    return Path(given["out"])
