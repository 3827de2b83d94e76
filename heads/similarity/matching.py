"""Clip representations and few-shot metrics between clips.

Every metric has one signature: queries `[B, Q, T, D]` and supports `[B, W, K, T, D]` in, logits `[B, Q, W]` out
(larger is closer). They are differentiable, computed in float32 also under autocast, and have no loop over tasks,
classes, shots or queries.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from vfc.cache_schema.values.errors import BadInput, unknown_name

from . import token_distances
from .token_distances import Distance, TokenDistances, pairwise
from .token_distances import alignment as alignment

Metric = Callable[..., Tensor]


def mean(frames: Tensor) -> Tensor:
    """`[..., T, D]` to `[..., D]`: the mean over time; independent of the order of the frames."""
    return frames.mean(dim=-2)


def ordered(frames: Tensor) -> Tensor:
    """`[..., T, D]` to `[..., T*D]`: the frames concatenated."""
    return frames.flatten(-2)


def difference(frames: Tensor) -> Tensor:
    """`[..., T, D]` to `[..., (T-1)*D]`: differences between neighbouring frames."""
    return frames.diff(dim=-2).flatten(-2)


REPRESENTATIONS: Final[dict[str, Callable[[Tensor], Tensor]]] = {
    "mean": mean,
    "ordered": ordered,
    "difference": difference,
}
"""Clip representations: one vector from the frames of a clip; all are linear."""


def cosine(query: Tensor, support: Tensor, epsilon: float = 0.0) -> Tensor:
    """Cosine of every query row with every support row: `[B, Q, T, D]`, `[B, W, K, S, D]` to `[B, Q, W, K, T, S]`.

    `epsilon` is added to the product of the two norms: 0.01 in the OTAM code of the field (TRX's evaluation code,
    HyRSM), which shrinks the cosine of vectors with a small norm. With 0 the rows are normalised;
    zero rows stay zero.
    """
    b, q, t, d = query.shape
    _, w, k, s, _ = support.shape
    similarity: Tensor
    with torch.autocast(query.device.type, enabled=False):
        rows, columns = query.float().reshape(b, q * t, d), support.float().reshape(b, w * k * s, d)
        if epsilon:
            norms = rows.norm(dim=-1)[:, :, None] * columns.norm(dim=-1)[:, None, :]
            similarity = rows @ columns.mT / (norms + epsilon)
        else:
            similarity = functional.normalize(rows, dim=-1) @ functional.normalize(columns, dim=-1).mT
    return similarity.view(b, q, t, w, k, s).permute(0, 1, 3, 4, 2, 5)


def mean_cosine(query: Tensor, support: Tensor) -> Tensor:
    """Mean over time, class prototype = mean over the shots, then one cosine per class.

    This is the "Avg" row of the FSAR-LLaVA paper (prototype first). Plain cosine, so the scale of the features does not
    matter. With T = 1 it works for every clip representation.
    """
    prototypes = support.float().mean(dim=(2, 3))
    return cosine(query.float().mean(dim=2)[:, :, None], prototypes[:, :, None, None])[:, :, :, 0, 0, 0]


def _prototype_distance(query: Tensor, support: Tensor) -> Tensor:
    """`1 - cosine` to the frame-wise mean of the shots: `[B, Q, W, T, T]`."""
    return 1 - cosine(query, support.float().mean(dim=2, keepdim=True))[:, :, :, 0]


def hausdorff(query: Tensor, support: Tensor) -> Tensor:
    """Minus the Hausdorff distance, max over min in both directions, summed; prototype = mean of the shots.

    The FSAR-LLaVA paper's Table 7 has this row without a formula; this form is our reading. The frame distance is
    1 - cosine, so identical clips have distance 0.
    """
    distance = _prototype_distance(query, support)
    return -(distance.amin(dim=-1).amax(dim=-1) + distance.amin(dim=-2).amax(dim=-1))


def bi_mhm(query: Tensor, support: Tensor) -> Tensor:
    """Minus the bidirectional mean Hausdorff distance of HyRSM (CVPR 2022), in the scale of its code.

    Sums, over the frames of both clips, the distance (1 - cosine) of a frame to its nearest frame of the other clip.
    K shots: frame-wise mean of the shots first.
    """
    distance = _prototype_distance(query, support)
    return -(distance.amin(dim=-1).sum(dim=-1) + distance.amin(dim=-2).sum(dim=-1))


def otam(query: Tensor, support: Tensor, smoothing: float = 0.1) -> Tensor:
    """Minus the ordered temporal alignment distance of OTAM, query to support plus support to query.

    Frame distance 1 - cosine with 0.01 added to the norms; the distance is averaged over the K shots. `smoothing` is
    lambda of the soft minimum: 0.1 in the public OTAM code, 0.5 in CLIP-FSAR's. A soft minimum is below the
    minimum, so values may be negative and identical clips are not at 0.
    """
    distance = 1 - cosine(query, support, epsilon=0.01)
    both = alignment(distance, smoothing) + alignment(distance.mT, smoothing)
    return -both.mean(dim=-1)


def mpmm(query: Tensor, support: Tensor, u: int = 10, distance: Distance = "euclidean") -> Tensor:
    """Minus FSAR-LLaVA's distance: the mean of the `u` largest nearest-neighbour distances, per direction.

    Prototype = mean of the shots.
    """
    prototype = support.float().mean(dim=2)
    return -token_distances.mpmm([TokenDistances(pairwise(query.float(), prototype[:, None], distance))], u)


METRICS: Final[dict[str, Metric]] = {
    "mean-cosine": mean_cosine,
    "hausdorff": hausdorff,
    "bi-mhm": bi_mhm,
    "otam": otam,
    "mpmm": mpmm,
}
"""Name to metric; all have the same signature."""


def comparable(frames: Tensor, metric: str, representation: str | None = None) -> Tensor:
    """The input of a metric from frames: `[n, T, D]` to `[n, 1, R]` for mean-cosine, to a sequence for the others.

    mean-cosine takes one vector per clip: `mean` (its default), `ordered` or `difference`. The sequence metrics take
    the frames themselves (`ordered`, their default) or the T-1 `difference`s of neighbours.

    Raises:
        UnknownName: no such metric or representation (with a suggestion).
        BadInput: the mean of a clip for a sequence metric; differences of a single frame.
    """
    if metric not in METRICS:
        raise unknown_name("metric", metric, METRICS)
    if representation is not None and representation not in REPRESENTATIONS:
        raise unknown_name("representation", representation, REPRESENTATIONS)
    if representation == "difference" and frames.shape[1] < 2:
        raise BadInput(
            "--representation difference needs several frames; the array holds one vector per clip.",
            "Use --representation mean, or an array with several frames.",
        )
    if metric == "mean-cosine":
        return REPRESENTATIONS[representation or "mean"](frames)[:, None]
    if representation == "mean":
        raise BadInput(
            f"The metric {metric!r} compares sequences of frames; a mean is not a sequence.",
            "Use --representation ordered or difference, or --metric mean-cosine.",
        )
    return frames.diff(dim=1) if representation == "difference" else frames
