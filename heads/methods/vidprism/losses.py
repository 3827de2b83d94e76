"""VidPrism's losses in addition to cross-entropy: frame ranking, expert diversity, expert balance, class texts."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_LEAST = 1e-9


def rank_loss(learned: Tensor, norm: Tensor, similarity: Tensor, valid: Tensor, temperature: float) -> Tensor:
    """Eq. 17 and 18: KL divergence of the learned scores from a target, norm plus mean similarity within the window.

    Args:
        learned: scores `[B, n, r]`; only these get gradients.
        norm: norms of the frames `[B, n, r]`.
        similarity: cosines `[B, n, r, r]`, 0 on the diagonal (which counts in the mean) and at padding.
        valid: True where a frame is not padding, `[n, r]`. Windows of one frame are left out.
        temperature: of both softmaxes. Probabilities are clamped to 1e-9 or more, as in the released code.
    """
    count = valid.sum(dim=-1)
    goal = norm + similarity.sum(dim=-1) / count[:, None]
    least = torch.finfo(learned.dtype).min
    target = (goal.detach() / temperature).masked_fill(~valid, least).softmax(dim=-1)
    ranked = (learned / temperature).masked_fill(~valid, least).softmax(dim=-1)
    divergence = (target * (target.clamp_min(_LEAST).log() - ranked.clamp_min(_LEAST).log())).sum(dim=-1)
    several = count > 1
    return (divergence * several).sum() / (several.sum() * len(learned)).clamp_min(1)


def diversity(experts: Tensor) -> Tensor:
    """Mean cosine between the experts of one clip, over pairs of experts and clips; `[B, N, D]` means over time."""
    count = experts.shape[1]
    unit = functional.normalize(experts, dim=-1, eps=1e-8)
    return (unit.sum(dim=1).square().sum(dim=-1) - unit.square().sum(dim=(1, 2))).mean() / (count * (count - 1))


def diversity_of_clips(experts: Tensor) -> Tensor:
    """The released code's loss: mean over pairs of clips of 1 - cosine between outputs of the same expert."""
    clips, count = experts.shape[:2]
    if clips < 2:
        return experts.new_zeros(())
    unit = functional.normalize(experts, dim=-1, eps=1e-8)
    pairs = unit.sum(dim=0).square().sum() - unit.square().sum()
    return 1 - pairs / (clips * (clips - 1) * count)


def balance(shares: Tensor) -> Tensor:
    """Number of experts times the sum of squared mean shares `[B, N]`: 1 if all experts are used equally."""
    return shares.shape[1] * shares.mean(dim=0).square().sum()


def text_contrast(projected: Tensor, texts: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy over cosines `[B, C]` of projected clips `[B, D]` and class texts `[C, D]`; no temperature."""
    cosines = functional.normalize(projected, dim=-1) @ functional.normalize(texts, dim=-1).T
    return functional.cross_entropy(cosines.float(), labels)
