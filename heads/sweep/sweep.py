"""Runs a sweep: its trials in lockstep by group, the choice on validation, the test of the winner."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from vfc.cache_schema.values.devices import chosen_device
from vfc.cache_schema.values.errors import BadInput, VfcError, first_line, is_out_of_memory
from vfc.cache_schema.values.progress import Progress, Silent
from vfc.cache_schema.values.settings import setting
from vfc.heads.contract.head import Task
from vfc.heads.data.features import Features
from vfc.heads.lookup import find, task_of
from vfc.heads.results.tables import percent
from vfc.heads.runs.lock import locked
from vfc.heads.runs.run_folder import claim
from vfc.heads.training.fit import finished, measure
from vfc.heads.training.loop import Lockstep
from vfc.heads.training.prepared_run import PreparedRun, prepare_run, prepare_task
from vfc.heads.training.process import own_draws, refuse_ranks
from vfc.heads.training.trial import Trial

from .halving import Halving
from .point import Point, by_stream
from .records import SWEEP_FILE, SweepResult, TrialRecord, read_sweep, write_sweep, write_trials


@dataclass(frozen=True)
class SeedsConfig:
    """How often a setting is trained."""

    seeds: tuple[int, ...] = setting(
        (), "Trainings that differ in the seed alone: a number, from --seed on, or a list.", "Sweep"
    )


@dataclass(frozen=True)
class SweepConfig(SeedsConfig):
    """Which settings are tried, how often, and what is tested."""

    grid: tuple[str, ...] = setting(
        (),
        "A flag of this head and the values to try; give it again for more flags. Values with commas are separated by "
        "';', as in --grid 'rates=1,2;1,2,4'. layer takes ranges of stored layers: 0-32, 0:32:4, all. With --search "
        "random, numbers may be a range: lr=1e-5..1e-2 (even on a log scale), dim=32..256.",
        "Sweep",
        commas=False,
        metavar="FLAG=A,B,...",
    )
    search: Literal["grid", "random"] = setting(
        "grid", "grid: every combination; random: --trials of them.", "Sweep", choices=("grid", "random")
    )
    trials: int = setting(0, "With --search random: how many combinations are drawn, all different.", "Sweep")
    search_seed: int = setting(0, "With --search random: seed of the draws.", "Sweep")
    test: Literal["winner", "all"] = setting(
        "winner",
        "What is tested: the setting with the best validation (all its seeds), or every trial.",
        "Sweep",
        choices=("winner", "all"),
    )
    prune: bool = setting(
        False,
        "Successive halving: after a quarter and after half of the updates, the trials with the worse validation end. "
        "The first seed decides; other seeds train what it leaves.",
        "Sweep",
    )

    def __post_init__(self) -> None:
        if (self.search == "random") != (self.trials > 0) or self.search_seed < 0:
            raise BadInput(
                f"--search {self.search} and --trials {self.trials} do not go together.",
                "Give --search random --trials 20, or leave both out for every combination.",
            )


def sweep(
    name: str, points: Sequence[Point], folder: Path, test: str, progress: Progress, *, prune: bool = False
) -> SweepResult:
    """Train all `points` of the head `name` in folders of `folder`, and test those that `test` says.

    `prune`: by `Halving`, within each group of trials on the same data.

    What is finished stays; what was interrupted goes on from its checkpoint. A trial that fails is recorded with its
    reason, and the others go on.

    Raises:
        RecipeMismatch: the folder of a trial holds another run, with the difference.
        BadInput: nothing is held out to choose by; a head of which no sweep is made; see the task.
    """
    refuse_ranks()
    return _Sweep(name, points, folder, test, progress, prune).run()


@dataclass(frozen=True)
class _Group:
    """Trials on one task; `runs` lacks those whose settings the head refuses."""

    task: Task
    device: torch.device
    runs: Mapping[str, PreparedRun]


class _Sweep:
    def __init__(
        self, name: str, points: Sequence[Point], folder: Path, test: str, progress: Progress, prune: bool
    ) -> None:
        if not getattr(task_of(find(name)), "SWEEPS", True):
            raise BadInput(
                f"{name} writes labels for other heads into the store, and only one run can.",
                f"Train it once: vfc train-head {name}.",
            )
        self.name, self.folder, self.progress, self.prune = name, folder, progress, prune
        self.points = [point.within(folder) for point in points]
        knobs = tuple(dict.fromkeys(knob for point in points for knob in point.values))
        self.records = {
            point.folder_name: TrialRecord(point.folder_name, point.values, point.train.seed) for point in points
        }
        self.errors: list[Exception] = []
        # A decision is kept: without the trials that are tested by now it could not be made again.
        before = read_sweep(folder).trials if prune and (folder / SWEEP_FILE).exists() else ()
        self.pruned = {trial.folder: trial for trial in before if trial.state == "pruned"}
        self.result = SweepResult(folder, name, knobs, test, ())

    def run(self) -> SweepResult:
        """Train group by group, choose, test."""
        before = Features.bytes_read
        groups = [self._prepare(points) for points in by_stream(self.name, self.points, self.progress)]
        self._refuse_none_left()
        self._require_validation(groups)
        with locked(self.folder):  # after all that may refuse the settings
            write_sweep(self._now())
            self._train_all(groups)
            self._test_chosen(groups)
        return replace(self._now(), bytes_read=Features.bytes_read - before)

    def _train_all(self, groups: Sequence[_Group]) -> None:
        for number, group in enumerate(groups, 1):
            if len(groups) > 1:
                self.progress.say(f"Group {number} of {len(groups)}: {len(group.runs)} trials on the same data.")
            self._train(group)
            write_trials(self.folder, self._now().trials)
        self._refuse_none_left()

    def _test_chosen(self, groups: Sequence[_Group]) -> None:
        result = self._now()
        winner = result.winner
        tested = result.trials if result.test == "all" else winner.trials if winner else ()
        for trial in tested:
            if trial.state == "trained":
                self._test(next(group for group in groups if trial.folder in group.runs), trial)

    def _now(self) -> SweepResult:
        return replace(self.result, trials=tuple(self.records.values()))

    def _prepare(self, points: Sequence[Point]) -> _Group:
        """The task of a group, and its runs before their first update."""
        first = points[0]
        device = chosen_device(first.train.device)
        task = prepare_task(self.name, first.task, first.head, first.train, device, self.progress)
        runs = {}
        for point in points:
            with self._failing(point.folder_name):
                runs[point.folder_name] = prepare_run(self.name, point.task, point.head, point.train, task)
        for run in runs.values():
            finished(run)  # a folder that holds another run is refused before anything is trained
        return _Group(task, device, runs)

    def _refuse_none_left(self) -> None:
        """Raise the first error where every trial has failed."""
        if all(record.state == "failed" for record in self.records.values()):
            raise self.errors[0]

    def _require_validation(self, groups: Sequence[_Group]) -> None:
        if not self.prune and (self.result.test == "all" or len(self._now().settings) == 1):
            return
        lasts = [point.train.select == "last" for point in self.points]
        if any(lasts) or any(group.task.validate([]) is None for group in groups):
            why = "--select last makes no validation" if any(lasts) else "nothing is held out for a validation"
            raise BadInput(
                f"A sweep chooses on validation, and {why}.",
                "Give the store a val split (or --val-fraction 0.2, where the head has it), or --test all.",
            )

    def _train(self, group: _Group) -> None:
        """Train the trials of a group together; those that are finished are recognised."""
        progress = self.progress
        with contextlib.ExitStack() as stack:
            stack.enter_context(own_draws(group.device))
            trials: dict[str, Trial] = {}
            for folder, run in group.runs.items():
                stack.enter_context(locked(run.folder))
                result = finished(run)
                if result is not None:
                    row: Mapping[str, Any] = result.row
                    seconds = float(row["circumstances"]["seconds"])
                    self.records[folder] = self.records[folder].reached("tested", row, seconds)
                    continue
                pruned = self.pruned.get(folder) or self._pruned_with_others(folder)
                if pruned is not None:
                    self.records[folder] = pruned
                    continue
                with self._failing(folder):
                    trials[folder] = self._trial(folder, run, group.device, progress if not trials else Silent())
            names = {id(trial): folder for folder, trial in trials.items()}

            def drop(trial: Trial, error: Exception) -> bool:
                if not _is_of_trial(error):
                    return False
                folder = names[id(trial)]
                self._fail(folder, error)
                trials.pop(folder)
                return True

            halving = Halving([trials[folder] for folder in trials if self.prune and not self._other_seeds(folder)])
            Lockstep([*trials.values()], group.task, progress, drop, halving).run()
            for trial, (update, score) in halving.ended.items():
                reason = f"Among the worse half at update {update}: validation {percent(score)}."
                self.records[names[id(trial)]] = replace(
                    self.records[names[id(trial)]].reached("pruned", trial.summary(), trial.state.seconds),
                    reason=reason,
                )
                trials.pop(names[id(trial)])
            for folder, trial in trials.items():
                seconds = float(str(trial.circumstances()["seconds"]))
                self.records[folder] = self.records[folder].reached("trained", trial.summary(), seconds)

    def _other_seeds(self, folder: str) -> list[TrialRecord]:
        """The trials of the same setting that have been begun: the first of them has decided whether it goes on."""
        record = self.records[folder]
        others = [other for other in self.records.values() if other.values == record.values and other is not record]
        return [other for other in others if other.state != "waiting"]

    def _pruned_with_others(self, folder: str) -> TrialRecord | None:
        """The record of a trial that is not begun, since another seed of its setting was left out."""
        seeds = [other.seed for other in self._other_seeds(folder) if other.state in ("pruned", "failed")]
        if not self.prune or not seeds:
            return None
        return replace(self.records[folder], state="pruned", reason=f"Its seed {seeds[0]} was left out.")

    def _trial(self, folder: str, run: PreparedRun, device: torch.device, progress: Progress) -> Trial:
        updates = run.in_updates(progress)
        head = run.build_head(progress)
        claim(run.folder, run.settings)
        return Trial(run.folder, head, updates, device, label=f"{folder}: ")

    def _test(self, group: _Group, record: TrialRecord) -> None:
        """Measure the chosen weights of a trained trial."""
        run = group.runs[record.folder]
        self.progress.say(f"Testing {record.folder}.")
        with own_draws(group.device), locked(run.folder):
            measure(run, self._trial(record.folder, run, group.device, Silent()), self.progress)
        self.records[record.folder] = replace(record, state="tested")
        write_trials(self.folder, self._now().trials)

    @contextlib.contextmanager
    def _failing(self, folder: str) -> Any:
        """An error inside is one of this trial alone."""
        try:
            yield
        except Exception as error:
            if not _is_of_trial(error):
                raise
            self._fail(folder, error)

    def _fail(self, folder: str, error: Exception) -> None:
        reason = error.problem if isinstance(error, VfcError) else f"Out of memory: {first_line(error)}"
        self.errors.append(error)
        self.records[folder] = replace(self.records[folder], state="failed", reason=reason)
        self.progress.say(f"{folder} failed: {reason} The other trials go on.")


def _is_of_trial(error: Exception) -> bool:
    """Whether other trials may do without this error."""
    return isinstance(error, VfcError) or is_out_of_memory(error)
