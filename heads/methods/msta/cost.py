"""Compute saved by caching: multiply-accumulates of a training step, from the sizes of a video tower."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """A video tower: tokens S of a video, width D, blocks, width of the MLP, numbers per patch of pixels."""

    tokens: int
    width: int
    blocks: int
    wide: int
    patch: int = 3 * 16 * 16

    @property
    def embed(self) -> int:
        """Patch embedding."""
        return (self.tokens - 1) * self.patch * self.width

    @property
    def linear(self) -> int:
        """Linear layers of a block."""
        return self.tokens * self.width * (4 * self.width + 2 * self.wide)

    @property
    def attention(self) -> int:
        """Attention products of a block."""
        return 2 * self.tokens**2 * self.width

    @property
    def forward(self) -> int:
        """Patch embedding and all blocks."""
        return self.embed + self.blocks * (self.linear + self.attention)

    def step(self, first: int) -> int:
        """Forward pass, and backward pass to the activations of all blocks above `first`, the lowest adapted one."""
        return self.forward + (self.blocks - first) * (self.linear + 2 * self.attention)

    def cached(self, first: int, *, output: bool) -> int:
        """What is not computed if the input of block `first` is cached, and with `output` its frozen output too."""
        return self.embed + (first - 1 + output) * (self.linear + self.attention)

    def saved(self, first: int, *, output: bool) -> float:
        """The share of a training step's compute that caching saves."""
        return self.cached(first, output=output) / self.step(first)


def saving_note(sizes: Sizes, first: int, *, output: bool) -> str:
    """The compute saved by caching, as a sentence."""
    share = f"{100 * sizes.saved(first, output=output):.1f} %"
    cached = f"layer {first - 1}" + (f" and the frozen layer {first}" if output else "")
    line = f"Adapted from block {first} on cached {cached}: {share} of a training step's compute is saved."
    if first == 1:
        line += " Decoded pixels would take half the space: adapt from a higher block (8) to save compute."
    return line
