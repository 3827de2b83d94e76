"""The demo's network: a vision transformer of real architecture, small, with random weights, as a checkpoint.

The weights are random because the demo downloads nothing, and trained weights are too large to ship. A random network
still maps different inputs to different features, so a head can learn motion from the features of successive frames.
It cannot recognise objects.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, Final

EDGE: Final = 64
"""Height and width of the network's input in pixels."""

_ARCHITECTURE: Final[dict[str, Any]] = {
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "image_size": EDGE,
    "patch_size": 8,
}
_PROCESSOR: Final[dict[str, Any]] = {
    "image_processor_type": "ViTImageProcessor",
    "size": {"height": EDGE, "width": EDGE},
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}


def write_tiny_vit(folder: Path, seed: int = 0) -> Path:
    """Write the checkpoint to `folder`, unless that exists; the same seed gives the same weights.

    `vfc extract --model image --checkpoint <folder>` reads it like a checkpoint from the hub.
    """
    if folder.exists():
        return folder
    import torch
    import transformers

    part = folder.with_name(f".{folder.name}-{os.getpid()}")
    shutil.rmtree(part, ignore_errors=True)
    progress_bars = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = transformers.ViTModel(transformers.ViTConfig(**_ARCHITECTURE))
        model.save_pretrained(part)
    finally:
        if progress_bars:
            transformers.utils.logging.enable_progress_bar()
    (part / "preprocessor_config.json").write_text(json.dumps(_PROCESSOR), encoding="utf-8")
    part.rename(folder)
    return folder
