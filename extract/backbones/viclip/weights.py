"""Weights of a published file, by name: read without running code, wrapping taken off, checked to the last one."""

from __future__ import annotations

import pickle
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import safe_open
from torch import Tensor, nn

from vfc.cache_schema.values.errors import BadInput
from vfc.extract.models.checkpoint import Checkpoint

from .architecture import Architecture, Shapes
from .network import ViCLIP

WRAPPINGS: Final = ("model", "module", "state_dict")
"""Under which names files hold the weights beside other things."""
MARK: Final = "vision_encoder.class_embedding"
SHOWN: Final = 3


def shapes_of(checkpoint: Checkpoint) -> Shapes:
    """Name and shape of every weight, from the headers of the files."""
    headers = _headers(checkpoint)
    start = _prefix(headers)
    return {name.removeprefix(start): shape for name, shape in headers.items()}


def tensors_of(checkpoint: Checkpoint, names: Collection[str]) -> dict[str, Tensor]:
    """These weights, as the files have them; `names` are among those of `shapes_of`."""
    headers = _headers(checkpoint)
    start = _prefix(headers)
    wanted = {name for name in headers if name.removeprefix(start) in names}
    found: dict[str, Tensor] = {}
    for file in checkpoint.weights():
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as opened:
                found |= {name: opened.get_tensor(name) for name in wanted.intersection(opened.keys())}
        else:
            found |= {name: tensor for name, tensor in _pickled(file, "cpu").items() if name in wanted}
    return {name.removeprefix(start): tensor for name, tensor in found.items()}


def check(shapes: Shapes, architecture: Architecture, where: str) -> None:
    """Hold names and shapes of a file against those of the whole network.

    Raises BadInput, with names, where one is lacking, too much, or of another shape.
    """
    with torch.device("meta"):
        wanted = {name: tuple(tensor.shape) for name, tensor in ViCLIP(architecture).state_dict().items()}
    lacking, extra = sorted(wanted.keys() - shapes.keys()), sorted(shapes.keys() - wanted.keys())
    if lacking:
        raise BadInput(
            f"The checkpoint {where} lacks weights that ViCLIP needs: {_listed(lacking)}.",
            "Give a file with the published names: vision_encoder.*, text_encoder.*, temp.",
        )
    if extra:
        raise BadInput(
            f"The checkpoint {where} holds weights that ViCLIP has no place for: {_listed(extra)}.",
            "It was made by another network; features made without these weights would not be its own.",
        )
    other = [
        f"{name} {list(shapes[name])}, not {list(wanted[name])}" for name in wanted if shapes[name] != wanted[name]
    ]
    if other:
        raise BadInput(
            f"Weights of the checkpoint {where} have another shape than its configuration says: {_listed(other)}.",
            "Put config.json and weights of one checkpoint together, or take config.json away.",
        )


def fill(module: nn.Module, tensors: Mapping[str, Tensor], prefix: str) -> None:
    """Give a module that was made on the meta device its weights: those of its own names behind `prefix`."""
    # Copied: a mapped file's tensors lie where they lie, and the last bits of a product depend on alignment.
    own = {name: tensors[prefix + name].clone() for name in module.state_dict()}
    module.load_state_dict(own, strict=True, assign=True)


def _headers(checkpoint: Checkpoint) -> Shapes:
    found: dict[str, tuple[int, ...]] = {}
    for file in checkpoint.weights():
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as opened:
                found |= {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
        else:
            found |= {name: tuple(tensor.shape) for name, tensor in _pickled(file, "meta").items()}
    return found


def _prefix(names: Collection[str]) -> str:
    """What stands before all names, such as `module.`; nothing where the names are not those of a ViCLIP."""
    return next((name.removesuffix(MARK) for name in names if name.endswith(MARK)), "")


def _pickled(file: Path, device: str) -> dict[str, Tensor]:
    try:
        state = _loaded(file, device)
    except pickle.UnpicklingError as error:
        raise BadInput(
            f"{file} holds more than weights, and reading that would run code of its own.",
            "Where it is trusted, load it there and save its weights alone, as safetensors.",
        ) from error
    while isinstance(state, dict) and (inner := [state[key] for key in WRAPPINGS if isinstance(state.get(key), dict)]):
        state = inner[0]
    if not isinstance(state, dict):
        raise BadInput(f"{file} holds a {type(state).__name__}, no weights by name.", "Give a file of a state dict.")
    return {str(name): tensor for name, tensor in state.items() if isinstance(tensor, Tensor)}


def _loaded(file: Path, device: str) -> Any:
    try:
        return torch.load(file, map_location=device, mmap=True, weights_only=True)
    except RuntimeError:
        # Files from before torch 1.6 cannot be mapped.
        return torch.load(file, map_location=device, weights_only=True)


def _listed(names: list[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")
