"""What a sweep has reached: one row per trial in trials.jsonl, from which its table is made at any time."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from vfc.cache_schema.parts.atomic_files import replace_file
from vfc.cache_schema.values.record import Json
from vfc.heads.results.tables import Table, lines_of, percent, read_rows
from vfc.heads.runs.intervals import over_units
from vfc.heads.runs.paired_statistics import Group, Run

SWEEP_FILE: Final = "sweep.json"
_TRIALS: Final = "trials.jsonl"

State = Literal["waiting", "trained", "tested", "pruned", "failed"]


@dataclass(frozen=True)
class TrialRecord:
    """A trial: its folder in that of the sweep, the swept settings, and what its training reached.

    `validation` is the best one, a share; `seconds` of training; `reason` why it failed.
    """

    folder: str
    values: Mapping[str, str]
    seed: int
    state: State = "waiting"
    validation: float | None = None
    chosen_update: int = 0
    updates: int = 0
    parameters: int = 0
    seconds: float = 0.0
    reason: str = ""

    def reached(self, state: State, row: Mapping[str, Any], seconds: float) -> TrialRecord:
        """The record after training; `row` has the training part of a result row."""
        names = ("validation", "chosen_update", "updates", "parameters")
        return dataclasses.replace(self, state=state, seconds=seconds, **{name: row[name] for name in names})


@dataclass(frozen=True)
class Setting:
    """The trials that differ in the seed alone."""

    values: Mapping[str, str]
    trials: tuple[TrialRecord, ...]

    @property
    def validation(self) -> float | None:
        """The mean over seeds; None where a trial has none."""
        scores = self._scores()
        return None if scores is None else float(np.mean(scores))

    @property
    def failed(self) -> list[TrialRecord]:
        """The trials that came to no end."""
        return [trial for trial in self.trials if trial.state == "failed"]

    def validation_text(self) -> str:
        """Mean and standard deviation over seeds."""
        scores = self._scores()
        if scores is None:
            states = {trial.state for trial in self.trials}
            return next((state for state in ("failed", "pruned", "waiting") if state in states), "none")
        return percent(float(np.mean(scores)), float(np.std(scores, ddof=1)) if len(scores) > 1 else None)

    def _scores(self) -> list[float] | None:
        finished = [trial for trial in self.trials if trial.state in ("trained", "tested")]
        scores = [trial.validation for trial in finished if trial.validation is not None]
        return scores if len(scores) == len(self.trials) else None


@dataclass(frozen=True)
class SweepResult:
    """A sweep as far as it is: its folder, the head, the swept settings, the trials.

    `test`: which trials are tested. `bytes_read`: of features in this call, None for a sweep that was read from disk.
    """

    folder: Path
    head: str
    knobs: tuple[str, ...]
    test: str
    trials: tuple[TrialRecord, ...]
    bytes_read: int | None = None

    @property
    def settings(self) -> list[Setting]:
        """One per combination of values, the best validation first."""
        by_values: dict[str, list[TrialRecord]] = {}
        for trial in self.trials:
            by_values.setdefault(json.dumps(trial.values), []).append(trial)
        settings = [Setting(trials[0].values, tuple(trials)) for trials in by_values.values()]
        return sorted(settings, key=lambda one: -1.0 if one.validation is None else one.validation, reverse=True)

    @property
    def winner(self) -> Setting | None:
        """The setting with the best mean validation, the first of equals; None while there is none."""
        best = self.settings[0]
        finished = all(trial.state != "waiting" for trial in self.trials)
        return best if finished and (best.validation is not None or len(self.settings) == 1) else None

    def points(self) -> dict[str, list[tuple[Any, float | None, float | None]]]:
        """Swept setting -> value, validation and test (None: not yet, or not tested) of each combination."""
        scores = []
        for one in self.settings:
            group = self._tested(one)
            scores.append((one, one.validation, None if group is None else float(group.per_seed().mean())))
        return {
            knob: [(_number(one.values[knob]), validation, test) for one, validation, test in scores]
            for knob in self.knobs
        }

    def to_json(self) -> dict[str, Json]:
        """Shares, not percentages."""
        winner = self.winner
        rows: list[Json] = []
        for setting in self.settings:
            group = self._tested(setting)
            rows.append(
                {
                    "values": dict(setting.values),
                    "validation": setting.validation,
                    "chosen": setting == winner,
                    "test": None if group is None else {**group.to_json(), **_interval(group)},
                }
            )
        return {
            "folder": str(self.folder),
            "head": self.head,
            "tested": self.test,
            "bytes_read": self.bytes_read,
            "settings": rows,
            "trials": [dataclasses.asdict(trial) for trial in self.trials],
        }

    def tables(self) -> list[Table]:
        """A row per setting; then the trials that failed."""
        rows = []
        winner = self.winner
        for setting in self.settings:
            trials = setting.trials
            group = self._tested(setting)
            rows.append(
                (
                    *(setting.values.get(knob, "") for knob in self.knobs),
                    setting.validation_text(),
                    "1 seed" if len(trials) == 1 else f"{len(trials)} seeds",
                    "" if group is None else _test_text(group),
                    ", ".join(dict.fromkeys(str(trial.chosen_update) for trial in trials)),
                    f"{trials[0].parameters:,}",
                    f"{sum(trial.seconds for trial in trials):.1f}",
                    "chosen on validation" if setting == winner and len(self.settings) > 1 else "",
                )
            )
        columns = ("validation", "seeds", "test [95 %]", "chosen update", "parameters", "seconds", "")
        finished = sum(trial.state in ("trained", "tested") for trial in self.trials)
        title = f"Sweep of {self.head}: {finished} of {len(self.trials)} trials, {self._tested_in_words()}"
        drawn = [Table(title, (*self.knobs, *columns), tuple(rows))]
        for title, state in (("Failed", "failed"), ("Pruned", "pruned")):
            rows_of_state = tuple((trial.folder, trial.reason) for trial in self.trials if trial.state == state)
            drawn += [Table(title, ("trial", "reason"), rows_of_state)] if rows_of_state else []
        return drawn

    def _tested_in_words(self) -> str:
        if len(self.settings) == 1:
            return "one setting, all seeds tested"
        if self.test == "all":
            return "all are tested: who chooses by the test column chooses on test"
        return "validation chooses, and the winner alone is tested"

    def _tested(self, setting: Setting) -> Group | None:
        """The runs of a setting of which every seed is tested."""
        if any(trial.state != "tested" for trial in setting.trials):
            return None
        return Group(tuple(Run.read(self.folder / trial.folder) for trial in setting.trials))


def write_sweep(result: SweepResult) -> None:
    """Write sweep.json and trials.jsonl."""
    about = {"head": result.head, "knobs": list(result.knobs), "test": result.test}
    replace_file(result.folder / SWEEP_FILE, json.dumps(about, indent=2, ensure_ascii=False).encode() + b"\n")
    write_trials(result.folder, result.trials)


def write_trials(folder: Path, trials: Sequence[TrialRecord]) -> None:
    """Write trials.jsonl anew."""
    replace_file(folder / _TRIALS, lines_of(dataclasses.asdict(trial) for trial in trials).encode())


def read_sweep(folder: Path) -> SweepResult:
    """The sweep in a folder that has a sweep.json."""
    about = json.loads((folder / SWEEP_FILE).read_text(encoding="utf-8"))
    trials = tuple(TrialRecord(**row) for row in read_rows(folder / _TRIALS))
    return SweepResult(folder, about["head"], tuple(about["knobs"]), about["test"], trials)


def _number(text: str) -> float | str:
    """A number where the text is one, so that values stand in their order."""
    try:
        return float(text)
    except ValueError:
        return text


def _interval(group: Group) -> dict[str, Json]:
    """The 95 % interval of the mean over seeds, over test classes, videos or files."""
    units = group.units(group.seeds[0])
    for seed in group.seeds[1:]:
        units += group.units(seed)
    sums, counts = np.array([*units.sums.values()]).T
    _, half_width = over_units(sums, counts)
    return {"interval": half_width if np.isfinite(half_width) else None, "over": f"{len(sums)} {units.name}"}


def _test_text(group: Group) -> str:
    figures, interval = group.to_json(), _interval(group)
    mean, half_width = float(str(figures["mean"])), interval["interval"]
    return f"{percent(mean, None if half_width is None else float(str(half_width)))} over {interval['over']}"
