"""The tail: the frozen upper blocks of a network, put into the store for heads that train something between them.

`tail/blocks-<k>.safetensors` holds the weights of blocks k and above by their published names, in the checkpoint's own
dtype, and in its metadata what is needed to build them. Another k is another file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from vfc.cache_schema.errors import AxisMismatch, BadInput, Damaged
from vfc.cache_schema.publish import create_file

from .backbone import Backbone


@runtime_checkable
class TailBackbone(Backbone, Protocol):
    """A backbone whose upper blocks a head may take over."""

    def blocks(self) -> int:
        """The highest block that a tail may begin with; the lowest is 1."""

    def tail(self, k: int) -> tuple[Mapping[str, Tensor], Mapping[str, str]]:
        """Weights of blocks k and above with what follows them, and what they are.

        Raises BadInput where the checkpoint lacks any, MissingPath where there are no weights.
        """


def with_tail(backbone: Backbone, model: str, k: int) -> TailBackbone:
    """The backbone, if it has a tail from block k. Raises BadInput where it has none, or not from there."""
    if not isinstance(backbone, TailBackbone):
        raise BadInput(
            f"--tail {k} is given, but no head takes over the upper blocks of {model}.",
            "Leave --tail out, or give --model viclip.",
        )
    if not 1 <= k <= backbone.blocks():
        raise BadInput(f"There is no block {k} in {model}.", f"--tail takes 1 to {backbone.blocks()}.")
    return backbone


def publish_tail(root: Path, backbone: TailBackbone, k: int) -> bool:
    """Put the tail from block k into the store at `root` unless it is there; whether this call made it.

    Raises:
        AxisMismatch: another one is there.
        Damaged: the one that is there cannot be read.
        VfcError: the checkpoint cannot be read, the disk is full.
    """
    path = root / "tail" / f"blocks-{k}.safetensors"
    tensors, about = backbone.tail(k)
    if not path.exists() and create_file(path, save(dict(tensors), dict(about))):
        return True
    try:
        with safe_open(path, framework="pt") as there:
            names = set(there.keys())
            same = there.metadata() == dict(about) and names == set(tensors)
            same = same and all(torch.equal(there.get_tensor(name), tensors[name]) for name in names)
    except SafetensorError as error:
        raise Damaged(f"{path} cannot be read: {error}.", "Remove it, and run the same command again.") from error
    if not same:
        raise AxisMismatch(
            f"{path} holds blocks of another checkpoint, or for another number of frames.",
            "Use the flags of the store, or another --out.",
        )
    return False
