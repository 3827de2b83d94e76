"""Weights of a published file, by name: read without running code, unwrapped, and all checked."""

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
"""Keys under which files hold the weights beside other things."""
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
    full_names = {name for name in headers if name.removeprefix(start) in names}
    tensors: dict[str, Tensor] = {}
    for file in checkpoint.weights():
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as opened:
                tensors |= {name: opened.get_tensor(name) for name in full_names.intersection(opened.keys())}
        else:
            tensors |= {name: tensor for name, tensor in _pickled(file, "cpu").items() if name in full_names}
    return {name.removeprefix(start): tensor for name, tensor in tensors.items()}


def check(shapes: Shapes, architecture: Architecture, where: str) -> None:
    """Compare names and shapes of a file with those of the whole network.

    Raises BadInput, with names, where one is missing, unexpected, or of another shape.
    """
    with torch.device("meta"):
        expected = {name: tuple(tensor.shape) for name, tensor in ViCLIP(architecture).state_dict().items()}
    lacking, extra = sorted(expected.keys() - shapes.keys()), sorted(shapes.keys() - expected.keys())
    if lacking:
        raise BadInput(
            f"The checkpoint {where} lacks weights that ViCLIP needs: {_listed(lacking)}.",
            "Give a file with the published names: vision_encoder.*, text_encoder.*, temp.",
        )
    if extra:
        raise BadInput(
            f"The checkpoint {where} holds weights that ViCLIP has no place for: {_listed(extra)}.",
            "It belongs to another network; features computed without these weights would be wrong.",
        )
    other = [
        f"{name} {list(shapes[name])}, not {list(expected[name])}"
        for name in expected
        if shapes[name] != expected[name]
    ]
    if other:
        raise BadInput(
            f"Weights of the checkpoint {where} have another shape than its configuration says: {_listed(other)}.",
            "Put config.json and weights of one checkpoint together, or remove config.json.",
        )


def fill(module: nn.Module, tensors: Mapping[str, Tensor], prefix: str) -> None:
    """Set the weights of a module on the meta device: the tensors of its own names after `prefix`."""
    # Copied: tensors of a mapped file are not aligned, and the last bits of a product depend on alignment.
    own = {name: tensors[prefix + name].clone() for name in module.state_dict()}
    module.load_state_dict(own, strict=True, assign=True)


def _headers(checkpoint: Checkpoint) -> Shapes:
    shapes: dict[str, tuple[int, ...]] = {}
    for file in checkpoint.weights():
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as opened:
                shapes |= {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
        else:
            shapes |= {name: tuple(tensor.shape) for name, tensor in _pickled(file, "meta").items()}
    return shapes


def _prefix(names: Collection[str]) -> str:
    """The common prefix of all names, such as `module.`; empty where the names are not those of a ViCLIP."""
    return next((name.removesuffix(MARK) for name in names if name.endswith(MARK)), "")


def _pickled(file: Path, device: str) -> dict[str, Tensor]:
    try:
        state = _loaded(file, device)
    except pickle.UnpicklingError as error:
        raise BadInput(
            f"{file} holds more than weights, and reading it would run code from the file.",
            "If you trust it, load it yourself and save its weights alone, as safetensors.",
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
