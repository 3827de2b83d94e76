"""Trains one head or several in lockstep: each batch is read once and given to every training that takes it."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from vfc.cache_schema.values.progress import Progress
from vfc.heads.contract.head import Task, Watching

from .trial import Trial

Drop = Callable[[Trial, Exception], bool]
"""Told of an error of one trial; True: the trial is left out and the others go on; False: the error is raised."""

Prune = Callable[[Sequence[Trial]], Sequence[Trial]]
"""Given the trials after every validation, before the first batch too: those that are not to go on."""


class Lockstep:
    """Trials on one task, trained together from one stream of batches; a trial behind the others catches up first.

    Trials share the task and hence batch size, seed of the draws and precision; steps, accumulation, validations and
    everything of the head and the optimizer may differ.
    """

    def __init__(
        self,
        trials: Sequence[Trial],
        task: Task,
        progress: Progress,
        drop: Drop = lambda *_: False,
        prune: Prune = lambda _: (),
    ) -> None:
        self._trials, self._task, self._progress, self._drop, self._prune = list(trials), task, progress, drop, prune

    def run(self) -> None:
        """Train all trials for their remaining updates, with checkpoints at their validations."""
        self._progress.begin("Train", sum(trial.config.steps for trial in self._trials), "updates")
        self._progress.advance(sum(trial.state.update for trial in self._trials))
        self._leave_out()
        while active := self._active():
            self._train_from(min(trial.position for trial in active))
        for trial in self._trials:
            if trial.stopped_early:
                config, update = trial.config, trial.state.update
                self._progress.say(
                    f"{trial.label}No better validation in {config.patience}: stopped at update {update}."
                )

    def _active(self) -> list[Trial]:
        return [trial for trial in self._trials if not trial.is_complete]

    def _train_from(self, first: int) -> None:
        """Train on batches `first`, `first + 1` ... as long as there is a trial that takes the next one."""
        with contextlib.closing(self._task.batches(first)) as batches:
            for number in itertools.count(first):
                trials = [trial for trial in self._active() if trial.position == number]
                if not trials:
                    return
                self._give(trials, batches)
                due = [trial for trial in self._trials if trial.awaits_validation]
                self._validate(due)
                if due:
                    self._leave_out()

    def _leave_out(self) -> None:
        for trial in self._prune(self._trials):
            self._trials.remove(trial)

    def _give(self, trials: Sequence[Trial], batches: Iterator[Any]) -> None:
        """Read the next batch and train every trial on it; the time waited for it is divided among them."""
        started = time.perf_counter()
        batch = next(batches)
        waited = (time.perf_counter() - started) / len(trials)
        for trial in trials:
            with self._failing(trial):
                if trial.take(batch, waited):
                    self._progress.advance()

    def _validate(self, trials: Sequence[Trial]) -> None:
        for trial in trials:
            with self._failing(trial):
                trial.refuse_infinite()
        trials = [trial for trial in trials if trial in self._trials]
        for trial, score in self._scores(trials):
            with self._failing(trial):
                watched = None
                if isinstance(self._task, Watching):
                    with trial.evaluation():
                        watched = self._task.watch(trial.head)
                self._progress.say(trial.label + trial.record(score, watched))

    def _scores(self, trials: Sequence[Trial]) -> list[tuple[Trial, float | None]]:
        """The validation score of each trial; where validating all together fails, each is validated alone."""
        if not trials or trials[0].config.select == "last":
            return [(trial, None) for trial in trials]
        try:
            with contextlib.ExitStack() as stack:
                for trial in trials:
                    stack.enter_context(trial.evaluation())
                scores = self._task.validate([trial.head for trial in trials])
            return [(trial, scores[i] if scores else None) for i, trial in enumerate(trials)]
        except Exception as error:
            if len(trials) > 1:
                return [pair for trial in trials for pair in self._scores([trial])]
            if not self._drop(trials[0], error):
                raise
            self._trials.remove(trials[0])
            return []

    @contextlib.contextmanager
    def _failing(self, trial: Trial) -> Iterator[None]:
        """An error inside is one of this trial alone."""
        try:
            yield
        except Exception as error:
            if not self._drop(trial, error):
                raise
            self._trials.remove(trial)
