"""I3D checkpoints for tests: the real architecture with an eighth of the channels, random weights, both spellings."""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch
from suites.checkpoints import randomise
from torch import Tensor

from vfc.extract.backbones.i3d.network import InceptionI3d

NARROW = 8
BRANCHES = {"b0": "branch_0", "b1a": "branch_1.0", "b1b": "branch_1.1", "b2a": "branch_2.0", "b2b": "branch_2.1"}


def piergiaj(channels: int, seed: int = 0) -> dict[str, Tensor]:
    """A state dict as pytorch-i3d has it, from before norms counted their batches, classifier included."""
    state = randomise(InceptionI3d(channels, NARROW), seed).state_dict()
    state = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    return {**state, "logits.conv3d.weight": torch.zeros(4, 128, 1, 1, 1), "logits.conv3d.bias": torch.zeros(4)}


def hassony(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same as kinetics_i3d_pytorch has it."""

    def renamed(name: str) -> str:
        found = re.fullmatch(r"(Mixed_\w\w)\.(b\d\w?)\.(.+)", name)
        if found:
            block, branch, rest = found.groups()
            name = f"{block}.{BRANCHES.get(branch, 'branch_3.1')}.{rest}"
        name = name.replace("logits.", "conv3d_0c_1x1.").replace(".bn.", ".batch3d.")
        return name[0].lower() + name[1:]

    return {renamed(name): tensor for name, tensor in state.items()}


def i3d_checkpoint(folder: Path, *, edge: int = 32) -> Path:
    """A folder with both towers, for small frames."""
    folder.mkdir(parents=True)
    torch.save(piergiaj(3), folder / "rgb_tiny.pt")
    torch.save(hassony(piergiaj(2, seed=1)), folder / "flow_tiny.pt")
    pixels = {
        "video_processor_type": "VideoMAEVideoProcessor",
        "size": {"shortest_edge": edge + 8},
        "crop_size": {"height": edge, "width": edge},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(pixels), encoding="utf-8")
    return folder
