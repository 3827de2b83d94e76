"""The multi-modal spatio-temporal adapter: beside a whole frozen block, one shared layer between the two towers."""

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
        """Of the first `rows` tokens, or of all."""
        added: Tensor = self.spatial(hidden[:, :rows])
        return added


class VideoUp(nn.Module):
    """The sum of a Linear m -> D and a convolution over time, of `[M, 1 + N T, m]` (class first, patch-major).

    The convolution has kernel (3, 1, 1), zero padding in time and m groups: each middle channel feeds D / m channels.
    The class token has no neighbours in time and gets the linear part alone.
    """

    def __init__(self, width: int, middle: int, frames: int, class_token: ClassToken = "spatial") -> None:
        super().__init__()
        if width % middle:
            raise BadInput(
                f"A middle width of {middle} does not divide the video tower's width of {width}, so that its channels "
                "cannot be shared out among the groups of the temporal convolution.",
                f"Give --dim a divisor of {width}.",
            )
        self._frames, self._class_token = frames, class_token
        self.spatial = nn.Linear(middle, width)
        self.temporal = nn.Conv3d(middle, width, (3, 1, 1), padding=(1, 0, 0), groups=middle)

    def forward(self, hidden: Tensor, rows: int | None = None) -> Tensor:
        """All tokens, or, for `rows` = 1, the class token alone."""
        spatial: Tensor = self.spatial(hidden[:, :rows])
        first = spatial[:, :1] if self._class_token == "spatial" else torch.zeros_like(spatial[:, :1])
        if rows == 1:
            return first
        count, _, middle = hidden.shape
        # [M, N, T, m] to [M, m, T, N, 1]: no patch meets another, so the grid need not be a grid.
        maps = hidden[:, 1:].view(count, -1, self._frames, middle).permute(0, 3, 2, 1)[..., None]
        moved = self.temporal(maps)[..., 0].permute(0, 3, 2, 1).reshape(count, -1, spatial.shape[-1])
        return torch.cat([first, spatial[:, 1:] + moved], dim=1)


class Branch(nn.Module):
    """The adapter of one tower: down, shared, up, added to the block's output with the factor `strength` (lambda).

    Beside the block: it reads what the block reads, and its result does not go through the block's own MLP. Gradients
    are multiplied by lambda where it reads and divided by it where it ends, so its weights learn as if lambda were 1
    and what lies below sees no difference.
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
        """The adapted block over `x [M, S, D]`; `frozen` is the block's own output, where it is known already."""
        own = block(x, mask, rows) if frozen is None else frozen[:, :rows]
        if self._strength == 0:
            return own
        read = block.ln_1(x) if self._reads == "ln_1" else x
        if rows is not None:
            read = read[:, :rows]
        if self._scales:
            read = gradient_times(read, self._strength)
        added = self.up(shared(self.down(read)), rows)
        if self._scales:
            added = gradient_times(added, 1 / self._strength)
        adapted: Tensor = own + self._strength * added
        return adapted


def shared_layer(middle: int) -> nn.Sequential:
    """Linear m -> m, ReLU: one per block, for both towers."""
    return nn.Sequential(nn.Linear(middle, middle), nn.ReLU())


def initialise(module: nn.Module) -> None:
    """Kaiming normal by fan-out with the gain of a ReLU, biases at zero: a start near the frozen model, not at it."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv3d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def consistency(embeddings: Tensor, described: Tensor) -> Tensor:
    """Mean over classes of the summed cosine distances of `[C, E]` to each of its frozen descriptions `[C, P, E]`."""
    near = functional.cosine_similarity(embeddings[:, None], described, dim=-1)
    return (1 - near).sum(dim=-1).mean()
