"""The multi-modal spatio-temporal adapter: parallel to a frozen block, with a layer shared by both towers."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from vfc.cache_schema.values.errors import BadInput
from vfc.heads.layers.gradient_scaling import gradient_times

from .blocks import Block

Reads = Literal["ln_1", "raw"]
ClassToken = Literal["spatial", "none"]


class Down(nn.Sequential):
    """Linear D -> m, ReLU, dropout."""

    def __init__(self, width: int, middle: int, dropout: float) -> None:
        super().__init__(nn.Linear(width, middle), nn.ReLU(), nn.Dropout(dropout))


class TextUp(nn.Module):
    """Linear m -> D over text tokens `[M, L, m]`."""

    def __init__(self, width: int, middle: int) -> None:
        super().__init__()
        self.spatial = nn.Linear(middle, width)

    def forward(self, hidden: Tensor, rows: int | None = None) -> Tensor:
        """Output for the first `rows` tokens, or for all."""
        added: Tensor = self.spatial(hidden[:, :rows])
        return added


class VideoUp(nn.Module):
    """Linear m -> D plus a convolution over time, on `[M, 1 + N T, m]` (class token first, patch-major).

    The convolution has kernel (3, 1, 1), zero padding in time and m groups: each middle channel feeds D / m channels.
    The class token has no neighbours in time and gets only the linear part.
    """

    def __init__(self, width: int, middle: int, frames: int, class_token: ClassToken = "spatial") -> None:
        super().__init__()
        if width % middle:
            raise BadInput(
                f"A middle width of {middle} does not divide the video tower's width of {width}, as the "
                "groups of the temporal convolution require.",
                f"Give --dim a divisor of {width}.",
            )
        self._frames, self._class_token = frames, class_token
        self.spatial = nn.Linear(middle, width)
        self.temporal = nn.Conv3d(middle, width, (3, 1, 1), padding=(1, 0, 0), groups=middle)

    def forward(self, hidden: Tensor, rows: int | None = None) -> Tensor:
        """Output for all tokens, or for the class token alone if `rows` = 1."""
        spatial: Tensor = self.spatial(hidden[:, :rows])
        first = spatial[:, :1] if self._class_token == "spatial" else torch.zeros_like(spatial[:, :1])
        if rows == 1:
            return first
        count, _, middle = hidden.shape
        # [M, N, T, m] to [M, m, T, N, 1]: the kernel does not mix patches, so their grid does not matter.
        maps = hidden[:, 1:].view(count, -1, self._frames, middle).permute(0, 3, 2, 1)[..., None]
        temporal = self.temporal(maps)[..., 0].permute(0, 3, 2, 1).reshape(count, -1, spatial.shape[-1])
        return torch.cat([first, spatial[:, 1:] + temporal], dim=1)


class Branch(nn.Module):
    """The adapter of one tower: down, shared, up, added to the block's output with the factor `strength` (lambda).

    Parallel to the block: it has the block's input, and its output does not go through the block's MLP. Gradients are
    divided by lambda at its output and multiplied by lambda at its input, so its weights learn as if lambda were 1 and
    the layers below get unchanged gradients.
    """

    def __init__(
        self,
        up: TextUp | VideoUp,
        width: int,
        middle: int,
        *,
        strength: float,
        dropout: float = 0.1,
        reads: Reads = "ln_1",
        scale_gradients: bool = True,
    ) -> None:
        super().__init__()
        self._strength, self._reads = strength, reads
        self._scales = scale_gradients
        self.down, self.up = Down(width, middle, dropout), up

    def forward(
        self,
        block: Block,
        shared: nn.Module,
        x: Tensor,
        *,
        mask: Tensor | None = None,
        rows: int | None = None,
        frozen: Tensor | None = None,
    ) -> Tensor:
        """The adapted block on `x [M, S, D]`; `frozen` is the block's own output, if it is stored."""
        block_output = block(x, mask, rows) if frozen is None else frozen[:, :rows]
        if self._strength == 0:
            return block_output
        hidden = block.ln_1(x) if self._reads == "ln_1" else x
        if rows is not None:
            hidden = hidden[:, :rows]
        if self._scales:
            hidden = gradient_times(hidden, self._strength)
        added = self.up(shared(self.down(hidden)), rows)
        if self._scales:
            added = gradient_times(added, 1 / self._strength)
        adapted: Tensor = block_output + self._strength * added
        return adapted


def shared_layer(middle: int) -> nn.Sequential:
    """Linear m -> m, ReLU: one per block, for both towers."""
    return nn.Sequential(nn.Linear(middle, middle), nn.ReLU())


def initialise(module: nn.Module) -> None:
    """Kaiming normal by fan-out with the gain of a ReLU, biases zero: close to the frozen model, not equal to it."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv3d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def consistency(embeddings: Tensor, described: Tensor) -> Tensor:
    """Sum of cosine distances of a class `[C, E]` to its frozen descriptions `[C, P, E]`, mean over classes."""
    similarity = functional.cosine_similarity(embeddings[:, None], described, dim=-1)
    return (1 - similarity).sum(dim=-1).mean()
