"""Class prototypes and their correction by the queries of an episode (CTPCM of FSAR-LLaVA, Eq. 5-7, 11-12)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from .token_distances import Distance, TokenDistances, pairwise

PadPolicy = Literal["mask", "literal"]


def prototypes(shots: Tensor, valid: Tensor | None, policy: PadPolicy = "mask") -> tuple[Tensor, Tensor | None]:
    """Mean over the shots, position by position: `[B, W, K, L, D]` to `[B, W, L, D]` and its mask `[B, W, L]`.

    Shots of different length are padded with zeros (`valid [B, W, K, L]` is False there). `mask`: a position is the
    mean over the shots that have it; `literal`: padding counts as zeros.
    """
    if valid is None:
        return shots.mean(dim=2), None
    prototype_valid = valid.any(dim=2)
    total = torch.where(valid[..., None], shots, 0).sum(dim=2)
    count = (
        torch.full_like(prototype_valid, shots.shape[2], dtype=torch.int64) if policy == "literal" else valid.sum(dim=2)
    )
    return total / count.clamp(min=1)[..., None], prototype_valid


def gather_peers(queries: Tensor, peers: Tensor | None) -> Tensor:
    """`[B, Q, ...]` to `[B, G, S, ...]`: groups of queries by their positions `peers [B, G, S]`; None: all, G = 1."""
    if peers is None:
        return queries[:, None]
    tasks = torch.arange(len(queries), device=queries.device)[:, None, None]
    return queries[tasks, peers]


def correct_prototypes(
    prototype: Tensor,
    queries: Tensor,
    alpha: Tensor | float,
    *,
    locally: bool = True,
    globally: bool = True,
    tau: float = 1.0,
    query_valid: Tensor | None = None,
    policy: PadPolicy = "mask",
) -> Tensor:
    """`(P + alpha P_loc + (1 - alpha) P_glb) / 2`: prototypes moved towards the queries, per group of queries.

    `P_loc` averages the queries position by position, `P_glb` as whole videos; the weights are a softmax over the
    queries of the cosine to the prototype, divided by `tau`. If one of the two is off, the other gets its weight;
    without both the prototypes are unchanged. Queries of different length: with the policy `mask` a query that has
    ended takes no part at a position, and a position that no query has stays as it is; with `literal` its zeros are
    averaged too, with cosine 0.

    Args:
        prototype: `[B, W, L, D]`, zeros at padding.
        queries: `[B, G, S, L, D]`, zeros at padding.
        alpha: A number, or `[B, G]`.
        locally: Use `P_loc` (LPC).
        globally: Use `P_glb` (GPC).
        tau: Temperature of the softmax; the paper has none, which is 1.
        query_valid: `[B, G, S, L]`, False at padding.
        policy: What padding of the queries counts for.

    Returns:
        `[B, G, W, L, D]`.
    """
    if not locally and not globally:
        return prototype[:, None]
    share = 1.0 if not globally else 0.0 if not locally else alpha
    if isinstance(share, Tensor):
        share = share[..., None, None, None]
    mixed = torch.zeros_like(prototype[:, None])
    in_use = None if query_valid is None or policy == "literal" else query_valid[:, :, None]
    if locally:
        similarity = torch.einsum("bwld,bgsld->bgwsl", _unit(prototype), _unit(queries))
        mixed = mixed + share * _average(similarity / tau, queries, in_use)
    if globally:
        if query_valid is None:
            means = queries.mean(dim=3)
        else:
            means = queries.sum(dim=3) / query_valid.sum(dim=3).clamp(min=1)[..., None]
        similarity = torch.einsum("bwd,bgsd->bgws", _unit(prototype.mean(dim=2)), _unit(means))[..., None]
        mixed = mixed + (1 - share) * _average(similarity / tau, queries, in_use)
    corrected = (prototype[:, None] + mixed) / 2
    if in_use is None:
        return corrected
    return torch.where(in_use.any(dim=3)[..., None], corrected, prototype[:, None])


def _average(similarity: Tensor, queries: Tensor, in_use: Tensor | None) -> Tensor:
    """Queries `[B, G, S, L, D]` averaged by a softmax over S of `similarity [B, G, W, S, L or 1]`: `[B, G, W, L, D]`.

    `in_use [B, G, 1, S, L]` leaves out queries, position by position.
    """
    if in_use is not None:
        # A position without any query gets equal weights; what comes out is not used.
        similarity = similarity.masked_fill(~in_use & in_use.any(dim=3, keepdim=True), -torch.inf)
    elif similarity.shape[4] == 1:
        return torch.einsum("bgws,bgsld->bgwld", similarity[..., 0].softmax(dim=3), queries)
    weights = similarity.softmax(dim=3)
    return torch.einsum("bgwsl,bgsld->bgwld", weights, queries)


def _unit(rows: Tensor) -> Tensor:
    return functional.normalize(rows, dim=-1)


def adaptive_alpha(visual: TokenDistances, text: TokenDistances, peers: Tensor | None) -> Tensor:
    """Alpha `[B, G]` of Eq. 12: 0.1 if the visual branch matches better than the text branch, else 0.9.

    The distance of a branch is averaged over the pairs (class, query) of a group of queries. Of a pair it is the mean
    of the largest nearest-neighbour distances, as many in both branches as the pair has visual tokens (Eq. 11): those
    of the prototype one way, those of the query the other way. The paper, where each video has 8, names one number.
    The paper's sentence after Eq. 12 says the opposite of the equation; its motivation agrees with the equation, which
    is followed here.
    """
    visual_to_query, visual_to_support = visual.nearest()
    counts = _count(visual_to_query, visual.support_valid), _count(visual_to_support, visual.query_valid)
    means = []
    for branch in (visual, text):
        to_query, to_support = branch.nearest()
        pairs = _largest(to_query, branch.support_valid, counts[0], visual_to_query.shape[-1])
        pairs = pairs + _largest(to_support, branch.query_valid, counts[1], visual_to_support.shape[-1])
        means.append(gather_peers(pairs.mean(dim=-1), peers).mean(dim=-1))
    return torch.where(means[0] < means[1], 0.1, 0.9)


def _count(values: Tensor, valid: Tensor | None) -> Tensor:
    """How many of `values [..., L]` are no padding, `[...]`."""
    return torch.full_like(values[..., 0], values.shape[-1], dtype=torch.int64) if valid is None else valid.sum(dim=-1)


def _largest(values: Tensor, valid: Tensor | None, count: Tensor, most: int) -> Tensor:
    """Mean of the `count [...]` largest valid values of `[..., L]`, or of all if fewer; no count is above `most`."""
    count = torch.minimum(count, _count(values, valid)).clamp(min=1)
    if valid is not None:
        values = values.masked_fill(~valid, -torch.inf)
    top = values.topk(min(values.shape[-1], most), dim=-1).values
    used = torch.arange(top.shape[-1], device=top.device) < count[..., None]
    return torch.where(used, top, 0).sum(dim=-1) / count


def prototype_distances(
    query: Tensor,
    query_valid: Tensor | None,
    prototype: Tensor,
    prototype_valid: Tensor | None,
    peers: Tensor | None,
    *,
    distance: Distance = "euclidean",
    policy: PadPolicy = "mask",
    alone: bool = False,
) -> TokenDistances:
    """Token distances of queries `[B, Q, L, D]` and prototypes `[B, G, W, L, D]`.

    `literal` counts padding as zeros up to the longest of the prototype and the queries of a group (`alone`: each
    query is its own group); `mask` counts no padding.
    """
    distances = pairwise(query, prototype, distance)
    if query_valid is None or prototype_valid is None:
        return TokenDistances(distances)
    shape = distances.shape
    if policy == "mask":
        return TokenDistances(
            distances,
            query_valid[:, :, None].expand(shape[:4]),
            prototype_valid[:, None].expand(*shape[:3], shape[4]),
        )
    lengths = query_valid.sum(dim=-1)
    if not alone:
        lengths = gather_peers(lengths, peers).amax(dim=-1).expand(shape[:2])
    common = torch.maximum(lengths[:, :, None], prototype_valid.sum(dim=-1)[:, None])
    valid = torch.arange(shape[-1], device=distances.device) < common[..., None]
    return TokenDistances(distances, valid, valid)
