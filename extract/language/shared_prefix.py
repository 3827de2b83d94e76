"""A shared prefix: each block of the model runs the rows of the videos, then at once those of their prompts.

The library's own forward pass runs the prefix; a hook on every block runs the suffixes through the same block, where
they attend to the keys and values that the block has just computed for the prefix. So keys and values are kept for one
block at a time, never for the whole depth, and the model's loop over blocks is not written a second time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import DynamicCache


@dataclass
class SuffixRows:
    """Rows of prompts that go through the blocks after (part of) the prefix.

    `hidden` `[R, n, D]`: first the embeddings, then the output of the latest block. `rope`: their rotary embedding.
    `mask`: bool or additive `[1 | R, 1, n, columns + n]`, None where the attention implementation itself lets rows see
    all of the prefix and one another causally. `rows`, `columns`: the part of the prefix that they attend to; where
    that is one row, all of them do. `states`: what was kept, by layer.
    """

    hidden: Tensor
    rope: Any
    mask: Tensor | None
    rows: slice
    columns: int
    states: dict[str, Tensor] = field(default_factory=dict)


class PrefixCache(DynamicCache):
    """A cache that holds the keys and values of the latest block alone, and looks empty to the model."""

    def __init__(self) -> None:
        super().__init__()
        self.newest: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Replace the keys and values of the block before."""
        self.newest = key_states, value_states
        return key_states, value_states


class PrefixView:
    """The cache of a suffix: puts the prefix's keys and values before its own; stores nothing."""

    def __init__(self, prefix: tuple[Tensor, Tensor], suffix: SuffixRows) -> None:
        self._prefix = [part[suffix.rows, :, : suffix.columns] for part in prefix]

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Keys and values of prefix and suffix, `[R, heads, columns + n, width]`."""
        own = key_states, value_states
        keys, values = (
            torch.cat([part.expand(new.shape[0], -1, -1, -1), new], dim=2)
            for part, new in zip(self._prefix, own, strict=True)
        )
        return keys, values


@contextmanager
def suffixes_along(
    model: nn.Module, suffixes: Sequence[SuffixRows], layers: Sequence[str], keep: Callable[[str, Tensor], Tensor]
) -> Iterator[PrefixCache]:
    """Run one forward pass of the language `model` inside, with the cache that this yields; suffixes run along.

    Afterwards `states` of each suffix holds `keep(layer, states)` of every layer in `layers`. The hooks run before
    those that are registered inside, so that the pass may be ended at its last tap.
    """
    blocks, norm = cast("nn.ModuleList", model.layers), cast("nn.Module", model.norm)
    cache = PrefixCache()

    def after_block(layer: str) -> Callable[..., None]:
        def hook(block: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], _: object) -> None:
            assert cache.newest is not None
            for suffix in suffixes:
                suffix.hidden = _block_output(block, args, kwargs, suffix, cache.newest)
                if layer in layers:
                    suffix.states[layer] = keep(layer, suffix.hidden)
                if layer == str(len(blocks)) and "norm" in layers:
                    # `forward` runs no hooks of the module, which are those of the prefix.
                    suffix.states["norm"] = keep("norm", norm.forward(suffix.hidden))
            cache.newest = None

        return hook

    for suffix in suffixes:
        if "0" in layers:
            suffix.states["0"] = keep("0", suffix.hidden)
    hooked = enumerate(blocks, start=1) if suffixes else ()
    handles = [block.register_forward_hook(after_block(str(i)), with_kwargs=True) for i, block in hooked]
    try:
        yield cache
    finally:
        for handle in handles:
            handle.remove()


def _block_output(
    block: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    suffix: SuffixRows,
    prefix: tuple[Tensor, Tensor],
) -> Tensor:
    """The output of one block for a suffix, called as the library called it for the prefix."""
    own = {
        **kwargs,
        "attention_mask": suffix.mask,
        "position_embeddings": suffix.rope,
        "past_key_values": PrefixView(prefix, suffix),
    }
    if "position_ids" in kwargs:
        own["position_ids"] = None
    if args:
        output = block.forward(suffix.hidden, *args[1:], **own)
    else:
        output = block.forward(**{**own, "hidden_states": suffix.hidden})
    return cast("Tensor", output[0] if isinstance(output, tuple) else output)
