"""What caching saves: multiply-accumulates of a training step, as the sizes of a video tower say."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """A video tower: tokens S of a video, width D, blocks, width of the MLP, numbers of a patch in pixels."""

    tokens: int
    width: int
    blocks: int
    wide: int
    patch: int = 3 * 16 * 16

    @property
    def embed(self) -> int:
        """Patches to tokens."""
        return (self.tokens - 1) * self.patch * self.width

    @property
    def linear(self) -> int:
        """What the linear layers of a block take."""
        return self.tokens * self.width * (4 * self.width + 2 * self.wide)

    @property
    def attention(self) -> int:
        """What attention itself takes in a block."""
        return 2 * self.tokens**2 * self.width

    @property
    def forward(self) -> int:
        """Patch embedding and all blocks."""
        return self.embed + self.blocks * (self.linear + self.attention)

    def step(self, first: int) -> int:
        """Forward, and backward to the activations of all blocks above `first`, the lowest adapted one."""
        return self.forward + (self.blocks - first) * (self.linear + 2 * self.attention)

    def cached(self, first: int, *, output: bool) -> int:
        """What need not be computed with the input of block `first` at hand, and with its frozen output."""
        return self.embed + (first - 1 + output) * (self.linear + self.attention)

    def saved(self, first: int, *, output: bool) -> float:
        """The share of a training step that caching saves."""
        return self.cached(first, output=output) / self.step(first)


def told(sizes: Sizes, first: int, *, output: bool) -> str:
    """What caching saves, as a sentence."""
    share = f"{100 * sizes.saved(first, output=output):.1f} %"
    kept = f"layer {first - 1}" + (f" and the frozen layer {first}" if output else "")
    line = f"Adapted from block {first} on cached {kept}: {share} of a training step's arithmetic is saved."
    if first == 1:
        line += " Decoded pixels would be half as many bytes: to save work, adapt from a higher block (8)."
    return line
