"""Training of any head on any task: train, choose the weights by validation, test once.

Every random draw comes from (seed, update); see `trial` for checkpoints and exact resume.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from vfc.cache_schema.parts.atomic_files import replace_file
from vfc.cache_schema.values.devices import chosen_device
from vfc.cache_schema.values.errors import first_line
from vfc.cache_schema.values.progress import Progress
from vfc.cache_schema.values.record import Json
from vfc.heads.contract.head import TaskFile
from vfc.heads.contract.train_config import TrainConfig
from vfc.heads.lookup import configs, find, task_of
from vfc.heads.results.facts import facts_table
from vfc.heads.results.page import page_header, write_html
from vfc.heads.results.tables import Table, lines_of, percent, read_rows
from vfc.heads.runs.lock import locked
from vfc.heads.runs.run_folder import ITEMS, claim, plain, refuse_other, write_items

from .loop import Lockstep
from .prepared_run import PreparedRun, notes_of, prepare_run, prepare_task, settled
from .process import numeric_variables, own_draws, refuse_ranks
from .trial import Trial


@dataclass(frozen=True)
class TrainResult:
    """A finished run: its folder, and the row of results.jsonl."""

    folder: Path
    row: dict[str, Json]
    task: TaskFile

    def to_json(self) -> dict[str, Json]:
        """The row, and the path of the run folder."""
        return {**self.row, "folder": str(self.folder)}

    def tables(self) -> list[Table]:
        """The task's tables, the data behind them, then how the training went."""
        return [*self.task.tables(self.row), *facts_table({"": self.row}), _training_table(self.row)]


def train(name: str, task: Any, head: Any, config: TrainConfig, progress: Progress) -> TrainResult:
    """Train the head `name` with the settings `task`, `head` (both as `lookup.configs` gives them) and `config`.

    A run folder that exists is continued; if it is finished, its result is returned: the test split is measured once.

    Raises:
        UnknownName: no such head, or a store without an array it needs.
        RecipeMismatch: the run folder holds a run with other settings or data, with the difference.
        BadInput: see the task; a loss that is not finite; a process that is one of several; a run folder in use.
    """
    refuse_ranks()
    device = chosen_device(config.device)
    config = settled(name, head, config, progress)
    prepared = prepare_task(name, task, head, config, device, progress)
    run = prepare_run(name, task, head, config, prepared)
    result = finished(run)
    if result is not None:
        progress.say(f"The run {run.folder} is finished; its result is shown. Another --seed or --out is another run.")
        return result
    updates = run.in_updates(progress)
    with own_draws(device):
        module = run.build_head(progress)
        with locked(run.folder):  # after all that may refuse the settings: a corrected command can use the folder
            result = finished(run)
            if result is not None:
                return result
            claim(run.folder, run.settings)
            trial = Trial(run.folder, module, updates, device)
            Lockstep([trial], prepared, progress).run()
            return measure(run, trial, progress)


def measure(run: PreparedRun, trial: Trial, progress: Progress) -> TrainResult:
    """Test the chosen weights of a trained run; write its result and page."""
    training = trial.choose()
    with trial.evaluation():
        measured = run.task.test(trial.head, progress)
    write_items(run.folder, cast("list[Json]", measured.pop(ITEMS, [])))
    row: dict[str, Json] = {
        "head": run.name,
        "head_settings": plain(run.head_settings),
        "seed": run.config.seed,
        **run.identity,
        **training,
        **measured,
        **trial.watched(),
        "circumstances": trial.circumstances() | numeric_variables(),
        "notes": [*notes_of(trial.head)],
    }
    result = TrainResult(run.folder, row, task_of(find(run.name)))
    _write_result(result, f"{run.name} on {getattr(run.task_settings, 'cache', '')}", progress)
    return result


def finished(run: PreparedRun) -> TrainResult | None:
    """The result of a run that is finished.

    Raises:
        RecipeMismatch: the folder holds another run, with the difference.
    """
    refuse_other(run.folder, run.settings)
    rows = read_rows(run.folder / "results.jsonl")
    return TrainResult(run.folder, rows[0], task_of(find(run.name))) if rows else None


def _write_result(result: TrainResult, title: str, progress: Progress) -> None:
    """results.jsonl, which marks the run as finished; then report.html, which may fail; the checkpoint is removed."""
    folder, kind, row = result.folder, result.task, result.row
    replace_file(folder / "results.jsonl", lines_of([row]).encode())
    try:
        pictures: list[str] = kind.pictures(row) if hasattr(kind, "pictures") else []
        curve = read_rows(folder / "curve.jsonl")
        confusion = kind.confusion(row)
        write_html(
            folder / "report.html", title, result.tables(), curve, confusion, pictures, _header(result), _notices(row)
        )
    except Exception as error:  # whatever a drawing library raises: the result is written and must be shown
        reason = f"{type(error).__name__}: {first_line(error)}"
        progress.say(f"{folder / 'report.html'} could not be drawn ({reason}); the result is kept.")
    (folder / "checkpoint.safetensors").unlink(missing_ok=True)


def _header(result: TrainResult) -> dict[str, str]:
    """What the run is, when it was made, how it is made again, from which store."""
    row, folder = result.row, result.folder
    what = f"{row['head']}, {row.get('task', 'trained')}, seed {row['seed']}"
    command = f"vfc train-head {row['head']} --config {shlex.quote(str(folder / 'config.json'))}"
    return page_header(what, command, [row])


def _notices(row: Mapping[str, Any]) -> list[str]:
    """A line where an untrained row beats the trained head."""
    own, key = row.get("accuracy", row.get("mean_moc")), "accuracy" if "accuracy" in row else "moc"
    scores = {other["name"]: float(np.mean(other[key])) for other in row.get("baselines") or () if key in other}
    best = max(scores, key=lambda name: scores[name], default=None)
    if best is None or own is None or scores[best] <= own:
        return []
    return [f"An untrained row is better than the trained head: {best} {percent(scores[best])}, head {percent(own)}."]


def _training_table(row: Mapping[str, Any]) -> Table:
    circumstances, settings = row["circumstances"], row.get("head_settings", {})
    defaults = plain(configs(row["head"])["head"])
    changed = [f"{key}={value}" for key, value in settings.items() if key == "preset" or value != defaults.get(key)]
    validation = "none: the last update counts" if row["validation"] is None else percent(row["validation"])
    rows = (
        ("head settings", ", ".join(changed) or "defaults"),
        ("trained parameters", f"{row['parameters']:,}"),
        ("updates", str(row["updates"])),
        ("chosen update", str(row["chosen_update"])),
        ("validation", validation),
        ("seconds", f"{circumstances['seconds']:.1f} on {circumstances['device']}"),
        ("waiting for data", percent(circumstances["waiting_share"])),
    )
    return Table("Training", ("", ""), rows)
