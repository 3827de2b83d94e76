"""Synchronous successive halving: at a quarter and at half of the updates, the worse half of the trials ends.

Trials train in lockstep, so that a decision depends on scores alone and not on the order in which they arrive
(Jamieson and Talwalkar, "Non-stochastic best arm identification and hyperparameter optimization", AISTATS 2016).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from vfc.heads.results.tables import read_rows
from vfc.heads.training.trial import Trial

_SHARES = (0.25, 0.5)


class Halving:
    """Decides at each rung; `ended` are the trials that were left out, with the update and the score they had there."""

    def __init__(self, trials: Sequence[Trial]) -> None:
        self._competing = list(trials)
        self.ended: dict[Trial, tuple[int, float]] = {}
        self._rungs = _rungs(trials)

    def __call__(self, trials: Sequence[Trial]) -> list[Trial]:
        """Of the remaining trials those that end now. Trials that failed since, or finished early, need no decision."""
        left_out: list[Trial] = []
        self._competing = [trial for trial in self._competing if trial in trials]
        while self._rungs and all(t.state.update >= self._rungs[0] or t.is_complete for t in self._competing):
            update = self._rungs.pop(0)
            scores = {trial: score_at(trial, update) for trial in self._competing}
            ranked = sorted(self._competing, key=lambda trial: scores[trial], reverse=True)
            for trial in ranked[math.ceil(len(ranked) / 2) :]:
                self.ended[trial] = (update, scores[trial])
                left_out.append(trial)
            self._competing = [trial for trial in self._competing if trial not in left_out]
        return left_out


def score_at(trial: Trial, update: int) -> float:
    """The best validation score up to an update, which a resumed run knows as well as an uninterrupted one."""
    rows = read_rows(trial.folder / "curve.jsonl")
    scores = [row["validation"] for row in rows if row["step"] <= update and row.get("validation") is not None]
    return max(scores, default=-math.inf)


def _rungs(trials: Sequence[Trial]) -> list[int]:
    """The updates at which all trials have just been validated, nearest above each share of the longest training."""
    if not trials:
        return []
    steps = max(trial.config.steps for trial in trials)
    every = math.lcm(*(trial.config.validate_every for trial in trials))
    rungs = {math.ceil(share * steps / every) * every for share in _SHARES}
    return sorted(rung for rung in rungs if 0 < rung < steps)
