"""Both towers from block k up: frozen blocks with adapters, then the embeddings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from vfc.cache_schema.values.errors import BadInput

from .adapter import Branch, TextUp, VideoUp, initialise, shared_layer
from .blocks import Tail, Tower
from .rivals import AdaptFormer, Lora
from .settings import Config, adapter_settings

Adapted = Callable[..., Tensor]


class Adapters(nn.Module):
    """The trained part: for each adapted block `str(number)` a video and a text branch and their shared layer."""

    def __init__(self, config: Config, tail: Tail) -> None:
        super().__init__()
        last = tail.vision.last if config.to_block is None else config.to_block
        if not config.first <= last <= tail.vision.last:
            raise BadInput(
                f"Blocks {config.first} to {last} are to be adapted; the model has {tail.vision.last}.",
                f"Give --from-block and --to-block between 1 and {tail.vision.last}, in this order.",
            )
        self.numbers = range(config.first, last + 1)
        towers = [tower for tower in ("video", "text") if config.towers in ("both", tower)]
        self.branches = nn.ModuleDict(
            {
                tower: nn.ModuleDict({str(number): _branch(config, tail, tower) for number in self.numbers})
                for tower in towers
            }
        )
        self.shared = nn.ModuleDict()
        if config.adapter == "msta":
            for number in self.numbers:
                self.shared[str(number)] = shared_layer(config.middle) if config.shared else nn.Identity()
            initialise(self)
        if config.factor == 0:
            self.requires_grad_(False)

    def of(self, tower: str, number: int) -> Adapted | None:
        """The adapted block `number` of `tower` (video, text), called as a `Branch`; None: the block is not adapted."""
        if tower not in self.branches or number not in self.numbers:
            return None
        branch = self.branches[tower].get_submodule(str(number))
        if not isinstance(branch, Branch):
            return branch
        shared = self.shared[str(number)]
        return lambda block, x, **how: branch(block, shared, x, **how)


def _branch(config: Config, tail: Tail, tower: str) -> nn.Module:
    width = (tail.vision if tower == "video" else tail.text).width
    if config.adapter == "lora":
        return Lora(width, config.middle)
    if config.adapter == "adaptformer":
        return AdaptFormer(width, config.middle, config.adapter_dropout)
    if tower == "text":
        up: Any = TextUp(width, config.middle)
    else:
        up = VideoUp(width, config.middle, tail.frames, config.class_token)
    return Branch(up, width, config.middle, **adapter_settings(config))


def video_embeddings(tower: Tower, adapters: Adapters, tokens: Tensor, frozen: Tensor | None = None) -> Tensor:
    """Input of the lowest block `[B, 1 + N T, D]` to embeddings `[B, E]`, not normalised.

    `frozen` is that block's own output, if stored. Of the last block only the class token is computed, since nothing
    uses the others.
    """
    x = tokens
    for number in range(tower.first, tower.last + 1):
        adapted, block = adapters.of("video", number), tower.block(number)
        rows = 1 if number == tower.last else None
        stored = {} if frozen is None or number > tower.first else {"frozen": frozen}
        x = block(x, rows=rows) if adapted is None else adapted(block, x, rows=rows, **stored)
    return tower.project(x[:, 0])


def text_embeddings(tower: Tower, adapters: Adapters, tokens: Tensor, end: Tensor) -> Tensor:
    """Input of the lowest block `[C, L, D]`, padded after the end of text at `end [C]`, to `[C, E]`, not normalised.

    Attention is causal, so padding has no effect.
    """
    x, length = tokens, tokens.shape[1]
    mask = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
    for number in range(tower.first, tower.last + 1):
        adapted, block = adapters.of("text", number), tower.block(number)
        x = block(x, mask=mask) if adapted is None else adapted(block, x, mask=mask)
    return tower.project(x[torch.arange(len(x), device=x.device), end])
