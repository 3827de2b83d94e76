"""The tail: upper blocks of a frozen network, kept in the store for heads that train something between them.

The weights have their published names and the checkpoint's own dtype. Another k is another file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from vfc.cache_schema.reduction import frozen_blocks as kept
from vfc.cache_schema.values.errors import BadInput
from vfc.cache_schema.values.layer_ranges import expand_layers
from vfc.extract.backbone import Backbone
from vfc.extract.config import ExtractConfig

if TYPE_CHECKING:
    from torch import Tensor


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


def missing_flags(config: ExtractConfig) -> str:
    """The flags that keep the arrays which enter the tail, where they are not given."""
    below = str((config.tail or 1) - 1)
    flags = [] if below in expand_layers(config.layer, [below]) else [f"--layer {below}"]
    if config.texts is not None and below not in expand_layers(config.text_layer, [below]):
        flags.append(f"--text-layer {below}")
    return " ".join(flags)


def publish_tail(root: Path, backbone: TailBackbone, k: int) -> bool:
    """Put the tail from block k into the store at `root` unless it is there; whether this call made it.

    Raises:
        AxisMismatch: another one is there.
        VfcError: the checkpoint or the tail that is there cannot be read, the disk is full.
    """
    from safetensors.torch import save

    tensors, about = backbone.tail(k)
    return kept.publish_tail(root, k, lambda metadata: save(dict(tensors), dict(metadata)), about)
