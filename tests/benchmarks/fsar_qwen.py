"""FSAR's head on the demo's clips and the tokens of a tiny Qwen3-VL: does training beat Dec-Avg?

    python tests/benchmarks/fsar_qwen.py [--folder DIR] [--table FILE]

The counterpart of `fsar_demo.py`, which has the clips, the splits and the rule of `beyond`, for a family whose tokens
are a ragged grid: 8 frames make 4 time steps of 25 tokens. The Qwen3-VL has the real architecture, and random weights
with the three properties of trained ones that `fsar_demo.py` names: patch filters see edges and no flat colour, visual
rows enter the language model with numbers of about 1, and a block's attention adds about as much as it finds.

Settings are chosen by validation alone (`--no-test`); three seeds; test tasks are scored once. About 10 minutes of one
core.
"""

from __future__ import annotations

import statistics
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import fsar_demo
from suites.language import qwen3_checkpoint

from vfc.cache_schema.values.progress import Silent
from vfc.extract.config import ExtractConfig
from vfc.extract.pipeline.run import extract
from vfc.extract.synthetic import render_collection

VISION: Final = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_heads": 4,
    "patch_size": 8,
    "num_position_embeddings": 64,
}
TEXT: Final = {**fsar_demo.TEXT, "head_dim": 16}
ROPE: Final = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [4, 2, 2], "mrope_interleaved": True}
FRAMES: Final = 8
"""The model joins frames in pairs: 4 time steps."""
LAYER: Final = "1"
PIXELS: Final = (FRAMES * 64 * 64, FRAMES * 80 * 80)


def weights(model: Any, seed: int) -> Any:
    """Random values with the properties named above."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, values in model.named_parameters():
            if "patch_embed" in name and values.ndim == 5:
                values[:] = torch.randn(len(values), 1, *values.shape[2:], generator=generator)
                values -= values.mean(dim=(-1, -2), keepdim=True)
                values /= values.flatten(1).norm(dim=1)[:, None, None, None, None] / 3**0.5
            elif "pos_embed" in name:
                values.normal_(0, 0.3, generator=generator)
            elif "merger" in name and values.ndim == 2:
                torch.nn.init.orthogonal_(values, gain=1.5, generator=generator)
            elif "visual.blocks" in name and values.ndim == 2:
                values.normal_(0, values.shape[1] ** -0.5, generator=generator)
            elif "embed_tokens" in name:
                values.normal_(0, 1, generator=generator)
            elif "language_model" in name and "self_attn" in name and values.ndim == 2:
                share = fsar_demo.MIXED if "v_proj" in name or "o_proj" in name else 1.0
                values.normal_(0, share * values.shape[1] ** -0.5, generator=generator)
    return model.eval()


def store(folder: Path) -> Path:
    """The store; what exists is not made again."""
    table = render_collection(folder / "videos", clips_per_class=fsar_demo.CLIPS)
    checkpoint = folder / "qwen3-vl"
    if not checkpoint.exists():
        torch.manual_seed(0)
        qwen3_checkpoint(checkpoint, vision=VISION, pixels=PIXELS, draw=weights, rope_parameters=ROPE, **TEXT)
    settings = ExtractConfig(
        videos=table,
        model="qwen3-vl",
        checkpoint=str(checkpoint),
        layer=(LAYER,),
        prompt=("unknown",),
        num_frames=FRAMES,
    )
    extract(replace(settings, out=folder / "store"), Silent())
    return folder / "store"


def over_classes(rows: list[dict[str, Any]]) -> str:
    """The lead over Dec-Avg with its interval over the test classes, as `vfc report` has it, and class by class."""
    name = "dec-avg, raw visual and textual tokens"
    per_seed = [next(other for other in row["baselines"] if other["name"] == name) for row in rows]
    halves = ", ".join(
        f"{100 * other['difference']:+.2f} ± {100 * other['difference_interval_over_classes']:.2f}"
        for other in per_seed
    )
    classes = ", ".join(
        f"{label} {100 * statistics.mean(row['per_class'][label] for row in rows):.1f}"
        for label in rows[0]["per_class"]
    )
    return (
        f"\nHead - dec-avg, seed by seed, 95 % interval over the 6 test classes: {halves}.\n"
        f"Accuracy by class: {classes}.\n"
    )


if __name__ == "__main__":
    fsar_demo.run(__doc__, store, replace(fsar_demo.TASK, layer=LAYER), over_classes)
