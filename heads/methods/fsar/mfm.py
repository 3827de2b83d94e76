"""Multimodal feature fusion: tokens of frames and of a text, made narrow and mixed (MFM of FSAR-LLaVA, Eq. 1-4)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vfc.heads.layers.attention import Layer


class Downsample(nn.Sequential):
    """`D` to `D'` in two linear maps without bias and a ReLU between; frames and text share it.

    The paper shows one box; two maps with 1024 in between are what its parameter counts say.
    """

    def __init__(self, width: int, hidden: int, narrow: int) -> None:
        super().__init__(nn.Linear(width, hidden, bias=False), nn.ReLU(), nn.Linear(hidden, narrow, bias=False))


class Fusion(nn.Module):
    """Attention within frames, over frames, and between frames and text; any of the four layers may be None.

    A layer that is None is skipped: its input is its output. The mean over the tokens of a frame is always taken.
    """

    def __init__(self, spatial: Layer | None, temporal: Layer | None, visual: Layer | None, text: Layer | None) -> None:
        super().__init__()
        self.spatial, self.temporal, self.visual, self.text = spatial, temporal, visual, text

    def forward(
        self, frames: Tensor, text: Tensor | None = None, valid: Tensor | None = None, video: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Fused visual `[M, T, D']` and textual `[M, L, D']` tokens of `frames [V, T, N, D']`; see `mix`."""
        return self.mix(self.moving(frames), text, valid, video)

    def moving(self, frames: Tensor) -> Tensor:
        """`[V, T, N, D']` to `[V, T, D']`: what does not depend on the text."""
        count, times = frames.shape[:2]
        tokens = frames.flatten(0, 1)
        if self.spatial is not None:
            tokens = self.spatial(tokens)
        moving: Tensor = tokens.mean(dim=1).view(count, times, -1)
        if self.temporal is not None:
            moving = self.temporal(moving)
        return moving

    def mix(
        self, moving: Tensor, text: Tensor | None = None, valid: Tensor | None = None, video: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Fused visual `[M, T, D']` and textual `[M, L, D']` tokens.

        Args:
            moving: `[V, T, D']`.
            text: `[M, L, D']`, one row per (video, prompt).
            valid: `[M, L]`, False for padding.
            video: `[M]`, the position in V of each text's video; None where M is V, in order.
        """
        if video is not None:
            moving = moving[video]
        if text is None:
            return moving, None
        # Both directions read what came before fusion: neither sees the other's result.
        fused = moving if self.visual is None else self.visual(moving, text, valid)
        told = text if self.text is None else self.text(text, moving)
        if valid is not None:
            told = torch.where(valid[..., None], told, 0)
        return fused, told
