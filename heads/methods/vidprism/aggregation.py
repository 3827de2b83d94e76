"""Temporal aggregation: one token per window of `rate` frames (RgSTA, and the simpler ways it is compared with)."""

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
    """Settings of RgSTA. `alpha`, `tau`, `delta` are the paper's symbols; the values are those of the released code."""

    alpha: float = 0.7
    tau: float = 0.1
    delta: float = 0.5
    merge_norm: Literal["kept", "rest"] = "kept"
    rank_temperature: float = 0.2


def windows(values: Tensor, rate: int) -> tuple[Tensor, Tensor]:
    """`[B, T, ...]` as windows `[B, n = ceil(T / rate), rate, ...]`, padded with 0, and a frame mask `[n, rate]`."""
    length = values.shape[1]
    missing = -length % rate
    padded = torch.cat([values, values.new_zeros(values.shape[0], missing, *values.shape[2:])], dim=1)
    valid = torch.arange(length + missing, device=values.device) < length
    return padded.unflatten(1, (-1, rate)), valid.unflatten(0, (-1, rate))


class RgSTA(nn.Module):
    """Selects the frame with the highest score of every window and merges the others into it.

    The score is `alpha * learned + (1 - alpha) * norm of the frame` (Eq. 2). The token is `selected + delta * weighted
    sum of the others`. With one selected frame, the paper's merge weights (a softmax over the selected frames, Eq. 6)
    are 1. The code's are `w / (w + 1e-6)` with `w` from a softmax over the window: close to 1, but near 0 for a frame
    that is far less similar than the rest. This is `merge_norm="kept"`; `"rest"` is a softmax over the other frames by
    their similarity to the selected one.
    """

    def __init__(self, width: int, rate: int, settings: Grouping) -> None:
        super().__init__()
        self._rate, self._settings = rate, settings
        self.metric = nn.Linear(width, width)
        self.score = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 1, bias=False))

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """`[B, T, D]` to the stream `[B, ceil(T / rate), D]` and the ranking loss, mean over clips and windows."""
        # In float32: the selection must not depend on the rounding of mixed precision.
        with torch.autocast(frames.device.type, enabled=False):
            projected = self.metric(frames)
            inside, valid = windows(frames, self._rate)
            unit, _ = windows(functional.normalize(projected, dim=-1), self._rate)
            itself = torch.eye(self._rate, dtype=torch.bool, device=frames.device)
            similarity = (unit @ unit.transpose(-1, -2)).masked_fill(itself, 0)
            learned, _ = windows(self.score(projected).squeeze(-1), self._rate)
            norm = inside.norm(dim=-1)
            alpha = self._settings.alpha
            mixed = alpha * learned + (1 - alpha) * norm
            selected = mixed.masked_fill(~valid, -torch.inf).argmax(dim=-1, keepdim=True)
            share = self._weights(similarity, selected, valid)
            stream = inside.gather(2, selected[..., None].expand(-1, -1, -1, inside.shape[-1])).squeeze(2)
            stream = stream + self._settings.delta * (share[..., None, :] @ inside).squeeze(-2)
            ranked = rank_loss(learned, norm, similarity, valid, self._settings.rank_temperature)
        return stream, ranked

    def _weights(self, similarity: Tensor, selected: Tensor, valid: Tensor) -> Tensor:
        """Merge weight of each frame, `[B, n, rate]`; 0 for the selected frame and for padding."""
        others = valid & (torch.arange(valid.shape[-1], device=selected.device) != selected)
        column = selected[..., None, :].expand(-1, -1, similarity.shape[-2], -1)
        logits = (similarity / self._settings.tau).masked_fill(~valid[:, None, :], torch.finfo(similarity.dtype).min)
        if self._settings.merge_norm == "kept":
            share = logits.softmax(dim=-1).gather(-1, column).squeeze(-1)
            share = share / (share + _SMALL)
        else:
            towards = logits.gather(-1, column).squeeze(-1)
            share = towards.masked_fill(~others, torch.finfo(towards.dtype).min).softmax(dim=-1)
        return share * others


class Plain(nn.Module):
    """Fixed aggregation of a window: its first frame (`hard`), mean (`avg`) or maximum per channel (`max`)."""

    def __init__(self, rate: int, kind: Literal["hard", "avg", "max"]) -> None:
        super().__init__()
        self._rate, self._kind = rate, kind

    def forward(self, frames: Tensor) -> tuple[Tensor, None]:
        """`[B, T, D]` to `[B, ceil(T / rate), D]`; no ranking loss."""
        if self._kind == "hard":
            return frames[:, :: self._rate], None
        inside, valid = windows(frames, self._rate)
        if self._kind == "max":
            return inside.masked_fill(~valid[..., None], -torch.inf).amax(dim=2), None
        return inside.sum(dim=2) / valid.sum(dim=-1)[:, None], None
