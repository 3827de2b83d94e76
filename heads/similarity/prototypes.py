"""Prototypes of classes, and their correction by the queries of an episode (CTPCM of FSAR-LLaVA, Eq. 5-7, 11-12)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from .token_distances import Distance, TokenDistances, mpmm, pairwise

PadPolicy = Literal["mask", "literal"]


def prototypes(shots: Tensor, valid: Tensor | None, policy: PadPolicy = "mask") -> tuple[Tensor, Tensor | None]:
    """Mean over the shots, position by position: `[B, W, K, L, D]` to `[B, W, L, D]` and its valid positions.

    Shots of different length are padded with zeros (`valid [B, W, K, L]` marks what is not padding). `mask`: a
    position is the mean over the shots that reach it; `literal`: zeros count.
    """
    if valid is None:
        return shots.mean(dim=2), None
    reached = valid.any(dim=2)
    total = torch.where(valid[..., None], shots, 0).sum(dim=2)
    count = torch.full_like(reached, shots.shape[2], dtype=torch.int64) if policy == "literal" else valid.sum(dim=2)
    return total / count.clamp(min=1)[..., None], reached


def gather_peers(queries: Tensor, peers: Tensor | None) -> Tensor:
    """`[B, Q, ...]` to `[B, G, S, ...]`: the queries looked at together, `peers [B, G, S]`; None: all, G = 1."""
    if peers is None:
        return queries[:, None]
    tasks = torch.arange(len(queries), device=queries.device)[:, None, None]
    return queries[tasks, peers]


def correct_prototypes(
    prototype: Tensor,
    queries: Tensor,
    alpha: Tensor | float,
    *,
    local: bool = True,
    whole: bool = True,
    tau: float = 1.0,
    query_valid: Tensor | None = None,
) -> Tensor:
    """`(P + alpha P_loc + (1 - alpha) P_glb) / 2`: prototypes drawn towards the queries, per group of queries.

    `P_loc` mixes the queries position by position, `P_glb` as wholes; the weights are a softmax over the queries of
    the cosine to the prototype, divided by `tau`. Rows of zeros (padding) have cosine 0. Where one of the two is
    switched off, the other takes its share; without both the prototypes stay.

    Args:
        prototype: `[B, W, L, D]`, zeros where padded.
        queries: `[B, G, S, L, D]`, zeros where padded.
        alpha: A number, or `[B, G]`.
        local: Whether `P_loc` takes part (LPC).
        whole: Whether `P_glb` takes part (GPC).
        tau: Temperature of the softmax; the paper has none, which is 1.
        query_valid: `[B, G, S, L]`; a mean over tokens is over these (its direction is the same with zeros counted).

    Returns:
        `[B, G, W, L, D]`.
    """
    if not local and not whole:
        return prototype[:, None]
    share = 1.0 if not whole else 0.0 if not local else alpha
    if isinstance(share, Tensor):
        share = share[..., None, None, None]
    mixed = torch.zeros_like(prototype[:, None])
    if local:
        near = torch.einsum("bwld,bgsld->bgwsl", _unit(prototype), _unit(queries))
        mixed = mixed + share * torch.einsum("bgwsl,bgsld->bgwld", (near / tau).softmax(dim=3), queries)
    if whole:
        if query_valid is None:
            means = queries.mean(dim=3)
        else:
            means = queries.sum(dim=3) / query_valid.sum(dim=3).clamp(min=1)[..., None]
        near = torch.einsum("bwd,bgsd->bgws", _unit(prototype.mean(dim=2)), _unit(means))
        mixed = mixed + (1 - share) * torch.einsum("bgws,bgsld->bgwld", (near / tau).softmax(dim=3), queries)
    return (prototype[:, None] + mixed) / 2


def _unit(rows: Tensor) -> Tensor:
    return functional.normalize(rows, dim=-1)


def adaptive_alpha(visual: TokenDistances, text: TokenDistances, peers: Tensor | None) -> Tensor:
    """Alpha `[B, G]` of Eq. 12: 0.1 where the visual branch matches better than the text, else 0.9.

    A branch's disagreement is the mean of the largest charges of both directions, averaged over the pairs (class,
    query) of a group of queries; of the text as many charges count as the visual branch has tokens. The paper's
    sentence after Eq. 12 says the opposite of the equation; its motivation agrees with the equation, followed here.
    """
    count = visual.distance.shape[-1]
    means = [gather_peers(mpmm([branch], u=count).mean(dim=-1), peers).mean(dim=-1) for branch in (visual, text)]
    return torch.where(means[0] < means[1], 0.1, 0.9)


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
    """The branch of queries `[B, Q, L, D]` and prototypes `[B, G, W, L, D]`.

    `literal` counts zeros up to the longest of the prototype and the queries that are looked at together (`alone`:
    each query for itself); `mask` counts none.
    """
    found = pairwise(query, prototype, distance)
    if query_valid is None or prototype_valid is None:
        return TokenDistances(found)
    shape = found.shape
    if policy == "mask":
        return TokenDistances(
            found,
            query_valid[:, :, None].expand(shape[:4]),
            prototype_valid[:, None].expand(*shape[:3], shape[4]),
        )
    lengths = query_valid.sum(dim=-1)
    if not alone:
        lengths = gather_peers(lengths, peers).amax(dim=-1).expand(shape[:2])
    common = torch.maximum(lengths[:, :, None], prototype_valid.sum(dim=-1)[:, None])
    counted = torch.arange(shape[-1], device=found.device) < common[..., None]
    return TokenDistances(found, counted, counted)
