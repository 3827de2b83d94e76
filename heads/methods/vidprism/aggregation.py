"""From frames to streams of different speed: of every `rate` frames one token is left (RgSTA, and what it replaces)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from .losses import rank_loss

_SMALL = 1e-6


@dataclass(frozen=True)
class Grouping:
    """What RgSTA leaves open: `alpha`, `tau`, `delta` as in the paper, which prints no values; the code's are kept."""

    alpha: float = 0.7
    tau: float = 0.1
    delta: float = 0.5
    merge_norm: Literal["kept", "rest"] = "kept"
    rank_temperature: float = 0.2


def windows(values: Tensor, rate: int) -> tuple[Tensor, Tensor]:
    """`[B, T, ...]` in windows of `rate`, `[B, ceil(T / rate), rate, ...]`, and which are no padding, `[n, rate]`."""
    length = values.shape[1]
    missing = -length % rate
    padded = torch.cat([values, values.new_zeros(values.shape[0], missing, *values.shape[2:])], dim=1)
    valid = torch.arange(length + missing, device=values.device) < length
    return padded.unflatten(1, (-1, rate)), valid.unflatten(0, (-1, rate))


class RgSTA(nn.Module):
    """Keeps the frame of every window that scores highest, and adds the others to it.

    The score is `alpha * learned + (1 - alpha) * norm of the frame` (Eq. 2). As one frame is kept, the paper's weights
    of the others (a softmax over what is kept, Eq. 6) and the code's (over the window, then renormalised over what is
    kept) are all 1: the token is `kept + delta * sum of the others`. `merge_norm="rest"` makes them a softmax over the
    others instead, by their likeness to the kept frame.
    """

    def __init__(self, width: int, rate: int, settings: Grouping) -> None:
        super().__init__()
        self._rate, self._settings = rate, settings
        self.metric = nn.Linear(width, width)
        self.score = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 1, bias=False))

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """`[B, T, D]` to the stream `[B, ceil(T / rate), D]` and the ranking loss, mean over clips and windows."""
        # Which frame is kept must not hang on the rounding of mixed precision.
        with torch.autocast(frames.device.type, enabled=False):
            projected = self.metric(frames)
            inside, valid = windows(frames, self._rate)
            unit, _ = windows(functional.normalize(projected, dim=-1), self._rate)
            itself = torch.eye(self._rate, dtype=torch.bool, device=frames.device)
            likeness = (unit @ unit.transpose(-1, -2)).masked_fill(itself, 0)
            learned, _ = windows(self.score(projected).squeeze(-1), self._rate)
            norm = inside.norm(dim=-1)
            alpha = self._settings.alpha
            mixed = alpha * learned + (1 - alpha) * norm
            kept = mixed.masked_fill(~valid, -torch.inf).argmax(dim=-1, keepdim=True)
            share = self._shares(likeness, kept, valid)
            stream = inside.gather(2, kept[..., None].expand(-1, -1, -1, inside.shape[-1])).squeeze(2)
            stream = stream + self._settings.delta * (share[..., None, :] @ inside).squeeze(-2)
            ranked = rank_loss(learned, norm, likeness, valid, self._settings.rank_temperature)
        return stream, ranked

    def _shares(self, likeness: Tensor, kept: Tensor, valid: Tensor) -> Tensor:
        """How much of each frame is added to the kept one, `[B, n, rate]`; 0 for the kept one and for padding."""
        others = valid & (torch.arange(valid.shape[-1], device=kept.device) != kept)
        column = kept[..., None, :].expand(-1, -1, likeness.shape[-2], -1)
        logits = (likeness / self._settings.tau).masked_fill(~valid[:, None, :], torch.finfo(likeness.dtype).min)
        if self._settings.merge_norm == "kept":
            share = logits.softmax(dim=-1).gather(-1, column).squeeze(-1)
            share = share / (share + _SMALL)
        else:
            towards = logits.gather(-1, column).squeeze(-1)
            share = towards.masked_fill(~others, torch.finfo(towards.dtype).min).softmax(dim=-1)
        return share * others


class Plain(nn.Module):
    """A window without learning: its first frame (`hard`), its mean (`avg`), its maximum per channel (`max`)."""

    def __init__(self, rate: int, kind: Literal["hard", "avg", "max"]) -> None:
        super().__init__()
        self._rate, self._kind = rate, kind

    def forward(self, frames: Tensor) -> tuple[Tensor, None]:
        """`[B, T, D]` to `[B, ceil(T / rate), D]`; there is no ranking."""
        if self._kind == "hard":
            return frames[:, :: self._rate], None
        inside, valid = windows(frames, self._rate)
        if self._kind == "max":
            return inside.masked_fill(~valid[..., None], -torch.inf).amax(dim=2), None
        return inside.sum(dim=2) / valid.sum(dim=-1)[:, None], None
