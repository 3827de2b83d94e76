"""VidPrism's losses beside cross-entropy: ranking of frames, difference of experts, balance of experts, class texts."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_LEAST = 1e-9


def rank_loss(learned: Tensor, norm: Tensor, likeness: Tensor, valid: Tensor, temperature: float) -> Tensor:
    """Eq. 17 and 18: what the learned scores are to rank is the frame's norm plus its mean likeness in the window.

    Args:
        learned: scores `[B, n, r]`; the only part that gradients reach.
        norm: lengths of the frames `[B, n, r]`.
        likeness: cosines `[B, n, r, r]`, 0 on the diagonal, which the mean counts, and at padding.
        valid: what is no padding, `[n, r]`. Windows of one frame have nothing to rank and are left out.
        temperature: of both softmaxes; probabilities below 1e-9 count as that, as in the released code.
    """
    count = valid.sum(dim=-1)
    goal = norm + likeness.sum(dim=-1) / count[:, None]
    least = torch.finfo(learned.dtype).min
    asked = (goal.detach() / temperature).masked_fill(~valid, least).softmax(dim=-1)
    given = (learned / temperature).masked_fill(~valid, least).softmax(dim=-1)
    apart = (asked * (asked.clamp_min(_LEAST).log() - given.clamp_min(_LEAST).log())).sum(dim=-1)
    several = count > 1
    return (apart * several).sum() / (several.sum() * len(learned)).clamp_min(1)


def diversity(experts: Tensor) -> Tensor:
    """Mean cosine between the experts of one clip, over pairs of experts and clips; `[B, N, D]` means over time."""
    count = experts.shape[1]
    unit = functional.normalize(experts, dim=-1, eps=1e-8)
    return (unit.sum(dim=1).square().sum(dim=-1) - unit.square().sum(dim=(1, 2))).mean() / (count * (count - 1))


def diversity_of_clips(experts: Tensor) -> Tensor:
    """What the released training minimises: mean over pairs of clips of 1 - cosine of the same expert's outputs."""
    clips, count = experts.shape[:2]
    if clips < 2:
        return experts.new_zeros(())
    unit = functional.normalize(experts, dim=-1, eps=1e-8)
    pairs = unit.sum(dim=0).square().sum() - unit.square().sum()
    return 1 - pairs / (clips * (clips - 1) * count)


def balance(shares: Tensor) -> Tensor:
    """Number of experts times the sum of squared mean shares `[B, N]`: 1 where all experts are used alike."""
    return shares.shape[1] * shares.mean(dim=0).square().sum()


def text_contrast(projected: Tensor, texts: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy over cosines `[B, C]` of projected clips `[B, D]` and class texts `[C, D]`; no temperature."""
    cosines = functional.normalize(projected, dim=-1) @ functional.normalize(texts, dim=-1).T
    return functional.cross_entropy(cosines.float(), labels)
