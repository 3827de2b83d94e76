"""A tiny ViCLIP with random weights, as a checkpoint folder: for tests and examples without a real checkpoint."""

from __future__ import annotations

import gzip
import json
import math
import os
import shutil
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import save_file

from vfc.extract.models.checkpoint import BPE

from .architecture import Architecture, Tower
from .network import ViCLIP

WORDS: Final = ("a", "video", "of", "someone", "waving", "kicking", "ball", "the", "hand", "shake", "point", "about")
"""What the merges of its vocabulary are made of; it spells most other words."""


def write_tiny_viclip(
    folder: Path,
    *,
    layers: int = 3,
    width: int = 24,
    text_width: int = 16,
    heads: int = 2,
    image: int = 32,
    patch: int = 8,
    frames: int = 8,
    embedding: int = 20,
    context: int = 32,
    seed: int = 0,
) -> Path:
    """Write the checkpoint to `folder`, unless that exists: config.json, fp32 weights, vocabulary; fixed by `seed`.

    `vfc extract --model viclip --checkpoint <folder>` takes it like a published one. All numbers of
    `Architecture` can be set but the vocabulary, which is bytes and `WORDS`.
    """
    if folder.exists():
        return folder
    merges = _merges()
    towers = Tower(width, layers, heads), Tower(text_width, layers, heads)
    architecture = Architecture(*towers, patch, image, frames, context, 512 + len(merges) + 2, embedding)
    part = folder.with_name(f".{folder.name}-{os.getpid()}")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    save_file(random_weights(architecture, seed), part / "model.safetensors", {"format": "pt"})
    (part / "config.json").write_text(json.dumps(architecture.to_json(), indent=1), encoding="utf-8")
    lines = "\n".join(["#version", *(f"{first} {second}" for first, second in merges), ""])
    (part / BPE).write_bytes(gzip.compress(lines.encode(), mtime=0))
    part.rename(folder)
    return folder


def random_weights(architecture: Architecture, seed: int = 0) -> dict[str, torch.Tensor]:
    """All weights by their published names, no two alike; `temp` is the published 0.01."""
    generator = torch.Generator().manual_seed(seed)
    with torch.device("meta"):
        empty = ViCLIP(architecture).state_dict()

    def drawn(name: str, shape: torch.Size) -> torch.Tensor:
        values = torch.randn(shape, generator=generator)
        if "ln_" in name:
            return 1 + 0.2 * values if name.endswith("weight") else 0.2 * values
        if name.endswith("bias"):
            return 0.2 * values
        if "embedding" in name:
            return 0.5 * values
        # `proj` and `text_projection` are laid out [in, out], all other matrices [out, in, ...].
        fan: int = shape[0] if name.endswith(("proj", "projection")) else shape[1:].numel()
        return values / math.sqrt(fan)

    weights = {name: drawn(name, tensor.shape) for name, tensor in empty.items() if name != "temp"}
    return {**weights, "temp": torch.tensor(0.01)}


def _merges() -> list[tuple[str, str]]:
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        pieces = [*word[:-1], f"{word[-1]}</w>"]
        while len(pieces) > 1:
            if (pieces[0], pieces[1]) not in merges:
                merges.append((pieces[0], pieces[1]))
            pieces = [pieces[0] + pieces[1], *pieces[2:]]
    return merges
