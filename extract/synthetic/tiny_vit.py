"""The demo's network: a vision transformer of real architecture, small, with random weights, as a checkpoint.

Why random: nothing may be fetched, and weights for real use are too large to ship. A random network still tells its
inputs apart, so motion can be learned from what it says of neighbouring frames; what it cannot do is recognise things.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, Final

EDGE: Final = 64
"""Height and width in pixels that the network takes."""

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
    """Write the checkpoint to `folder`, unless it is there; the same seed gives the same weights.

    `vfc extract --model image --checkpoint <folder>` takes it as it would one from a hub.
    """
    if folder.exists():
        return folder
    import torch
    import transformers

    part = folder.with_name(f".{folder.name}-{os.getpid()}")
    shutil.rmtree(part, ignore_errors=True)
    shown = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = transformers.ViTModel(transformers.ViTConfig(**_ARCHITECTURE))
        model.save_pretrained(part)
    finally:
        if shown:
            transformers.utils.logging.enable_progress_bar()
    (part / "preprocessor_config.json").write_text(json.dumps(_PROCESSOR), encoding="utf-8")
    part.rename(folder)
    return folder
