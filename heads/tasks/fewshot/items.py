"""What predictions.jsonl holds of few-shot tasks: their queries, by name, with the true and the predicted class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from vfc.cache_schema.protocol import Episode
from vfc.cache_schema.values.record import Json

from .episodes import Score

RANK: Final = 3
"""Classes per query of which the probability is written."""
MOST_SCORED: Final = 100_000
"""Queries in all of which probabilities are written; of longer lists the names alone, so that files stay small."""


def items(episodes: Sequence[Episode], score: Score) -> list[Json]:
    """One row per task: the share of right queries, and per query its clip, its class, the predicted one, scores.

    `scores`: per query the likeliest classes with their probabilities, rounded; left out of lists with more than
    `MOST_SCORED` queries; null where a head gave no number.
    """
    assert score.ranked is not None
    assert score.shares is not None
    scored = score.ranked.shape[0] * score.ranked.shape[1] <= MOST_SCORED
    shares = np.round(score.shares, 4)
    return [_row(i, episode, score, shares[i].tolist() if scored else None) for i, episode in enumerate(episodes)]


def _row(number: int, episode: Episode, score: Score, shares: list[list[float]] | None) -> dict[str, Json]:
    assert score.ranked is not None
    names = episode.classes
    ranked = [[names[place] for place in places] for places in score.ranked[number].tolist()]
    row: dict[str, Json] = {
        "item": str(number),
        "correct": float(score.per_task[number]),
        "clips": [clip for clips in episode.query for clip in clips],
        "labels": [name for name, clips in zip(names, episode.query, strict=True) for _ in clips],
        "predicted": [labels[0] for labels in ranked],
    }
    if shares is not None:
        row["scores"] = [
            {name: share if np.isfinite(share) else None for name, share in zip(labels, values, strict=True)}
            for labels, values in zip(ranked, shares, strict=True)
        ]
    return row
