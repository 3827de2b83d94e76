"""Prompts that ride behind a prefix: each block of the model runs the prefix's rows, then at once those of the prompts.

The library's own forward runs the prefix; a hook on every block runs the riders through the same block, where they
attend to the keys and values that the prefix has just made there. So these are held for one block at a time, never for
the whole depth, and nothing of the model's loop is written a second time.
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
class Rider:
    """Rows that go through the blocks behind (part of) the prefix.

    `hidden` `[R, n, D]`: at first embeddings, then what the last block made of them. `rope`: their rotary embedding.
    `mask`: bool or additive `[1 | R, 1, n, columns + n]`, None where the attention kernel knows that rows see all of
    the prefix and one another causally. `rows`, `columns`: the part of the prefix that they see; one row of it serves
    all of theirs. `found`: what was kept, by layer.
    """

    hidden: Tensor
    rope: Any
    mask: Tensor | None
    rows: slice
    columns: int
    found: dict[str, Tensor] = field(default_factory=dict)


class Newest(DynamicCache):
    """A cache that holds the keys and values of the block that ran last, and looks empty to the model."""

    def __init__(self) -> None:
        super().__init__()
        self.newest: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Keep these instead of the ones before."""
        self.newest = key_states, value_states
        return key_states, value_states


class Behind:
    """What a rider's attention takes for a cache: the prefix's keys and values in front of its own; keeps nothing."""

    def __init__(self, prefix: tuple[Tensor, Tensor], rider: Rider) -> None:
        self._prefix = [part[rider.rows, :, : rider.columns] for part in prefix]

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Both together, `[R, heads, columns + n, width]`."""
        own = key_states, value_states
        keys, values = (
            torch.cat([part.expand(new.shape[0], -1, -1, -1), new], dim=2)
            for part, new in zip(self._prefix, own, strict=True)
        )
        return keys, values


@contextmanager
def riding(
    model: nn.Module, riders: Sequence[Rider], layers: Sequence[str], keep: Callable[[str, Tensor], Tensor]
) -> Iterator[Newest]:
    """Run one forward of the language `model` inside, with the cache that this gives; riders go along.

    Afterwards `rider.found` holds `keep(layer, states)` of every layer in `layers`. The hooks come before those that
    are registered inside, so that a forward may be ended at its last tap.
    """
    blocks, norm = cast("nn.ModuleList", model.layers), cast("nn.Module", model.norm)
    cache = Newest()
    last = str(len(blocks))

    def after(number: int) -> Callable[..., None]:
        def hook(block: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], _: object) -> None:
            assert cache.newest is not None
            for rider in riders:
                rider.hidden = _through(block, args, kwargs, rider, cache.newest)
                if str(number) in layers:
                    rider.found[str(number)] = keep(str(number), rider.hidden)
                if str(number) == last and "norm" in layers:
                    # Past the hooks of the module itself, which are the prefix's.
                    rider.found["norm"] = keep("norm", norm.forward(rider.hidden))
            cache.newest = None

        return hook

    for rider in riders:
        if "0" in layers:
            rider.found["0"] = keep("0", rider.hidden)
    handles = (
        [block.register_forward_hook(after(i), with_kwargs=True) for i, block in enumerate(blocks, start=1)]
        if riders
        else []
    )
    try:
        yield cache
    finally:
        for handle in handles:
            handle.remove()


def _through(
    block: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    rider: Rider,
    prefix: tuple[Tensor, Tensor],
) -> Tensor:
    """A rider's states behind one block, called as the library called it for the prefix."""
    own = {
        **kwargs,
        "attention_mask": rider.mask,
        "position_embeddings": rider.rope,
        "past_key_values": Behind(prefix, rider),
    }
    if "position_ids" in kwargs:
        own["position_ids"] = None
    if args:
        output = block.forward(rider.hidden, *args[1:], **own)
    else:
        output = block.forward(**{**own, "hidden_states": rider.hidden})
    return cast("Tensor", output[0] if isinstance(output, tuple) else output)
