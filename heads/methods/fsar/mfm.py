"""Multimodal feature fusion (MFM of FSAR-LLaVA, Eq. 1-4): down-projection and attention of frame and text tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vfc.heads.layers.attention import Layer


class Downsample(nn.Sequential):
    """`D` to `D'`: two linear layers without bias and a ReLU in between, shared by frames and text.

    The paper shows one box; its parameter counts imply two layers with a hidden width of 1024.
    """

    def __init__(self, width: int, hidden: int, narrow: int) -> None:
        super().__init__(nn.Linear(width, hidden, bias=False), nn.ReLU(), nn.Linear(hidden, narrow, bias=False))


class Fusion(nn.Module):
    """Attention within frames, over frames, and between frames and text; any of the four layers may be None.

    A layer that is None is skipped. The mean over the tokens of a frame is always taken.
    """

    def __init__(self, spatial: Layer | None, temporal: Layer | None, visual: Layer | None, text: Layer | None) -> None:
        super().__init__()
        self.spatial, self.temporal, self.visual, self.text = spatial, temporal, visual, text

    def forward(
        self, frames: Tensor, text: Tensor | None = None, valid: Tensor | None = None, video: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Fused visual `[M, T, D']` and textual `[M, L, D']` tokens of `frames [V, T, N, D']`; see `mix`."""
        return self.mix(self.self_attention(frames), text, valid, video)

    def self_attention(self, frames: Tensor, valid: Tensor | None = None) -> Tensor:
        """`[V, T, N, D']` to `[V, T, D']`: the part that does not depend on the text.

        `valid [V, T, N]` is False at padding, whose values are never used; a step of padding becomes zeros.
        """
        count, times = frames.shape[:2]
        tokens = frames.flatten(0, 1)
        if valid is None:
            tokens = tokens if self.spatial is None else self.spatial(tokens)
            pooled: Tensor = tokens.mean(dim=1).view(count, times, -1)
            return pooled if self.temporal is None else self.temporal(pooled)
        steps, within = valid.any(dim=2), valid.flatten(0, 1)
        # A masked key still multiplies: 0 times a number that is none is none.
        tokens = torch.where(within[..., None], tokens, 0)
        if self.spatial is not None:
            # A step of padding reads its own zeros: softmax over no key at all is not a number.
            tokens = self.spatial(tokens, valid=within | ~within.any(dim=1, keepdim=True))
        total = torch.where(within[..., None], tokens, 0).sum(dim=1)
        pooled = (total / within.sum(dim=1).clamp(min=1)[:, None]).view(count, times, -1)
        mixed = pooled if self.temporal is None else self.temporal(pooled, valid=steps)
        return torch.where(steps[..., None], mixed, 0)

    def mix(
        self,
        frames: Tensor,
        text: Tensor | None = None,
        valid: Tensor | None = None,
        video: Tensor | None = None,
        steps: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Fused visual `[M, T, D']` and textual `[M, L, D']` tokens.

        Args:
            frames: `[V, T, D']`, from `self_attention`.
            text: `[M, L, D']`, one row per (video, prompt).
            valid: `[M, L]`, False for padding, whose values are never used.
            video: `[M]`, the position in V of each text's video; None if M = V in the same order.
            steps: `[V, T]`, False for time steps that are padding, which must be zeros.
        """
        if video is not None:
            frames = frames[video]
            steps = None if steps is None else steps[video]
        if text is None:
            return frames, None
        if valid is not None:
            text = torch.where(valid[..., None], text, 0)
        # Both directions read the tokens before fusion, not each other's output.
        fused_frames = frames if self.visual is None else self.visual(frames, text, valid)
        fused_text = text if self.text is None else self.text(text, frames, steps)
        if steps is not None:
            fused_frames = torch.where(steps[..., None], fused_frames, 0)
        if valid is not None:
            fused_text = torch.where(valid[..., None], fused_text, 0)
        return fused_frames, fused_text
