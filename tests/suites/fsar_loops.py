"""FSAR-LLaVA's equations as slow loops over classes, shots, queries and tokens; no padding, no batches, no masks.

A video is a pair (visual `[T, D]`, text `[L, D]`) of its own true length. `pad` lengthens by zeros where the paper
does. Only `layer` takes weights from the module under test.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vfc.heads.layers.attention import Layer


def layer(module: Layer, query: Tensor, context: Tensor) -> Tensor:
    """One pre-norm layer on `[L, D]` and `[S, D]`, head by head, row by row."""
    weights = dict(module.named_parameters())

    def norm(row: Tensor) -> Tensor:
        spread = ((row - row.mean()) ** 2).mean()
        return (row - row.mean()) / torch.sqrt(spread + 1e-5) * weights["norm.weight"] + weights["norm.bias"]

    queries = [weights["query.weight"] @ norm(row) for row in query]
    keys = [weights["key.weight"] @ norm(row) for row in context]
    values = [weights["value.weight"] @ norm(row) for row in context]
    heads, width = module._heads, query.shape[1] // module._heads
    rows = []
    for i, row in enumerate(query):
        read = []
        for head in range(heads):
            part = slice(head * width, (head + 1) * width)
            energies = torch.stack([(queries[i][part] * key[part]).sum() / math.sqrt(width) for key in keys])
            shares = energies.exp() / energies.exp().sum()
            read.append(
                sum((share * value[part] for share, value in zip(shares, values, strict=True)), torch.zeros(width))
            )
        hidden = row + weights["out.0.weight"] @ torch.cat(read) + weights["out.0.bias"]
        inner = weights["ffn.0.weight"] @ hidden + weights["ffn.0.bias"]
        inner = inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))
        rows.append(hidden + weights["ffn.3.weight"] @ inner + weights["ffn.3.bias"])
    return torch.stack(rows)


def pad(tokens: Tensor, length: int) -> Tensor:
    return torch.cat([tokens, torch.zeros(length - len(tokens), tokens.shape[1])])


def cosine(a: Tensor, b: Tensor) -> Tensor:
    scale = a.norm() * b.norm()
    return (a * b).sum() / scale if scale > 0 else torch.tensor(0.0)


def prototype(shots: Sequence[Tensor], policy: str = "mask") -> Tensor:
    """Mean over shots of `[L_k, D]`, position by position."""
    longest = max(len(shot) for shot in shots)
    rows = []
    for position in range(longest):
        there = [shot[position] for shot in shots if position < len(shot)]
        rows.append(sum(there, torch.zeros_like(shots[0][0])) / (len(shots) if policy == "literal" else len(there)))
    return torch.stack(rows)


def correct_prototypes(
    proto: Tensor,
    queries: Sequence[Tensor],
    alpha: float,
    *,
    local: bool = True,
    whole: bool = True,
    tau: float = 1.0,
    policy: str = "mask",
) -> Tensor:
    """Eq. 5-7, at the common length of the prototype and all queries.

    `mask`: at a position only the queries that reach it count, and the prototype stays where none does.
    """
    length = max(len(proto), *(len(query) for query in queries))
    p, f = pad(proto, length), [pad(query, length) for query in queries]
    if not local and not whole:
        return p
    share = 1.0 if not whole else 0.0 if not local else alpha
    near = [cosine(p.mean(dim=0), query.mean(dim=0)) / tau for query in f]
    rows = []
    for position in range(length):
        reach = [i for i, query in enumerate(queries) if policy == "literal" or position < len(query)]
        if not reach:
            rows.append(p[position])
            continue
        here = {i: math.exp(cosine(p[position], f[i][position]) / tau) for i in reach}
        p_loc = sum((here[i] / sum(here.values()) * f[i][position] for i in reach), torch.zeros_like(p[0]))
        total = sum(math.exp(near[i]) for i in reach)
        p_glb = sum((math.exp(near[i]) / total * f[i][position] for i in reach), torch.zeros_like(p[0]))
        rows.append((p[position] + share * p_loc + (1 - share) * p_glb) / 2)
    return torch.stack(rows)


def fused(head: Any, frames: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
    """MFM of one video: frames `[T, N, D]`, words `[L, D]`."""
    down, fusion = head.down, head.fusion
    frames, words = down(frames), down(words)
    moving = torch.stack([layer(fusion.spatial, frame, frame).mean(dim=0) for frame in frames])
    moving = layer(fusion.temporal, moving, moving)
    return layer(fusion.visual, moving, words), layer(fusion.text, words, moving)


def scores(
    head: Any,
    support: Sequence[Sequence[tuple[Tensor, Tensor]]],
    queries: Sequence[tuple[Tensor, Tensor]],
    alpha: float,
) -> Tensor:
    """Logits `[Q, W]` of one task; `support[w]` holds the shots of class w."""
    config, asked = head.config, [fused(head, *clip) for clip in queries]
    logits = torch.empty(len(queries), len(support))
    for w, clips in enumerate(support):
        shots = [fused(head, *clip) for clip in clips]
        proto = [prototype([shot[i] for shot in shots], config.pad_policy) for i in (0, 1)]
        for q, query in enumerate(asked):
            peers = [query] if config.mode == "one-query" else asked
            corrected = list(proto)
            if config.mode != "inductive":
                full = [correct_prototypes(proto[i], [peer[i] for peer in peers], alpha) for i in (0, 1)]
                corrected = [full[i][: len(proto[i])] for i in (0, 1)]
            logits[q, w] = -mpmm(query, corrected, config.u, config.distance)
    return logits


def apart(a: Tensor, b: Tensor, distance: str = "euclidean") -> float:
    return float(1 - cosine(a, b)) if distance == "cosine" else math.sqrt(float(((a - b) ** 2).sum()))


def charges(query: Tensor, proto: Tensor, distance: str = "euclidean") -> tuple[list[float], list[float]]:
    """(of every prototype token, of every query token): the distance to the nearest of the other side."""
    to_query = [min(apart(s, q, distance) for q in query) for s in proto]
    to_support = [min(apart(q, s, distance) for s in proto) for q in query]
    return to_query, to_support


def mpmm(query: Sequence[Tensor], proto: Sequence[Tensor], u: int, distance: str = "euclidean") -> float:
    """Eq. 8-10 over branches; u clipped to the number of tokens."""
    both = [charges(q, p, distance) for q, p in zip(query, proto, strict=True)]
    total = 0.0
    for direction in (0, 1):
        full = sorted((value for branch in both for value in branch[direction]), reverse=True)
        count = min(u, len(full))
        total += sum(full[:count]) / count
    return total


def hausdorff(query: Sequence[Tensor], proto: Sequence[Tensor], distance: str = "euclidean") -> float:
    return sum(max(a) + max(b) for a, b in (charges(q, p, distance) for q, p in zip(query, proto, strict=True)))


def bi_mhm(query: Sequence[Tensor], proto: Sequence[Tensor], distance: str = "euclidean") -> float:
    both = [charges(q, p, distance) for q, p in zip(query, proto, strict=True)]
    return sum(sum(a) / len(a) + sum(b) / len(b) for a, b in both)


def otam(query: Sequence[Tensor], proto: Sequence[Tensor], smoothing: float, distance: str = "euclidean") -> float:
    """Both directions, summed over the branches, each by the full table with its zero columns."""

    def one_way(table: list[list[float]]) -> float:
        padded = [[0.0, *row, 0.0] for row in table]
        cost = [[sum(padded[0][: m + 1]) for m in range(len(padded[0]))]]

        def softmin(*values: float) -> float:
            return -smoothing * math.log(sum(math.exp(-value / smoothing) for value in values))

        last = len(padded[0]) - 1
        for row in padded[1:]:
            above, here = cost[-1], [0.0]
            for m in range(1, last + 1):
                if m == 1:
                    here.append(row[m] + softmin(above[m - 1], above[m], here[m - 1]))
                elif m < last:
                    here.append(row[m] + softmin(above[m - 1], here[m - 1]))
                else:
                    here.append(row[m] + softmin(above[m - 1], above[m], here[m - 1]))
            cost.append(here)
        return cost[-1][-1]

    total = 0.0
    for q, p in zip(query, proto, strict=True):
        table = [[apart(a, b, distance) for b in p] for a in q]
        total += one_way(table) + one_way([list(column) for column in zip(*table, strict=True)])
    return total


def gate(queries: Sequence[Sequence[Tensor]], protos: Sequence[Sequence[Tensor]], distance: str = "euclidean") -> float:
    """Eq. 11 averaged over all pairs, Eq. 12; each direction takes as many distances as its side has frames."""
    sums = [0.0, 0.0]
    for query in queries:
        for proto in protos:
            for branch in (0, 1):
                of_both = charges(query[branch], proto[branch], distance)
                for values, frames in zip(of_both, (len(proto[0]), len(query[0])), strict=True):
                    count = min(frames, len(values))
                    sums[branch] += sum(sorted(values, reverse=True)[:count]) / count
    return 0.1 if sums[0] < sums[1] else 0.9
