"""A tiny ViCLIP and the tail of it, made on the spot: what MSTA is tested on, beside extraction's own network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from vfc.extract.backbones.viclip.architecture import Architecture, Tower
from vfc.extract.backbones.viclip.network import ViCLIP
from vfc.extract.backbones.viclip.tiny import random_weights

TINY = Architecture(
    Tower(24, 4, 2), Tower(16, 4, 2), patch=8, image=16, frames=4, context=12, vocabulary=40, embedding=20
)
END = TINY.vocabulary - 1


@dataclass(frozen=True)
class Pair:
    """The network, and the file of its blocks `first` and above as a store's `tail/` has it."""

    network: ViCLIP
    tail: Path

    def taps(self, clips: Tensor, layers: tuple[int, ...]) -> tuple[dict[str, Tensor], Tensor]:
        """States of the video tower by layer, and the embedding."""
        found, embedding = self.network.vision_encoder(clips, {str(layer) for layer in layers} | {"norm"})
        assert embedding is not None
        return found, embedding

    def texts(self, ids: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """The state of the text tower at a layer, and the embedding."""
        found, embedding = self.network.text_encoder(ids, {str(layer)})
        assert embedding is not None
        return found[str(layer)], embedding


def pair(folder: Path, first: int, *, architecture: Architecture = TINY, seed: int = 0) -> Pair:
    """A ViCLIP with random weights, and its tail from block `first`."""
    weights = random_weights(architecture, seed)
    network = ViCLIP(architecture)
    network.load_state_dict(weights)
    kept = {}
    for name, tensor in weights.items():
        parts = name.split(".")
        if "resblocks" in parts:
            if int(parts[parts.index("resblocks") + 1]) >= first - 1:
                kept[name] = tensor
        elif any(word in name for word in ("ln_post", "ln_final", "text_projection", "temp")) or name.endswith(".proj"):
            kept[name] = tensor
    kept.pop("vision_encoder.temporal_positional_embedding", None)
    told = {
        "architecture": "viclip",
        "k": str(first),
        "vision.heads": str(architecture.vision.heads),
        "text.heads": str(architecture.text.heads),
        "activation": "quick_gelu",
        "eps": "1e-05",
        "grid": f"{architecture.grid}x{architecture.grid}",
        "frames": str(architecture.frames),
    }
    path = folder / "tail" / f"blocks-{first}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(kept, path, told)
    return Pair(network.eval().requires_grad_(False), path)


def class_ids(count: int, architecture: Architecture = TINY, seed: int = 0) -> Tensor:
    """Token ids `[C, context]` of made-up class texts of different lengths, padded with 0 behind the end of text."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.zeros(count, architecture.context, dtype=torch.int64)
    for row in range(count):
        length = 3 + row % (architecture.context - 3)
        ids[row, :length] = torch.randint(1, architecture.vocabulary - 1, (length,), generator=generator)
        ids[row, length - 1] = architecture.vocabulary - 1
    return ids
