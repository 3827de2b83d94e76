"""`vfc report`: finished runs in groups, and the differences between groups.

The runs of one group have one store, one set of videos and labels and one list of classes; only seeds, folds and splits
of that set vary. Everything else that a result names makes another group.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vfc.cache_schema.values.errors import BadInput
from vfc.cache_schema.values.progress import Progress
from vfc.cache_schema.values.record import Json
from vfc.cache_schema.values.settings import setting
from vfc.heads import tasks
from vfc.heads.results.facts import facts_table
from vfc.heads.results.table_formats import Format
from vfc.heads.results.tables import Table, percent, read_rows
from vfc.heads.runs.paired_statistics import Difference, Group, difference
from vfc.heads.sweep.records import SweepResult, read_sweep

from .groups import SETUP, LeftOut, group_id, grouped, knobs, read_runs, run_folders, setup, sweep_folders


@dataclass(frozen=True)
class ReportConfig:
    """Which runs, beside which of them the others are put, and what is written."""

    runs: tuple[Path, ...] = setting((), "Run folders, or folders of run folders.", argument=True, metavar="RUN...")
    against: tuple[Path, ...] = setting(
        (), "Runs to compare the others with, item by item; the other seeds of their groups are included.", "Protocol"
    )
    table: Format | None = setting(
        None, "Print the tables in this format.", "Output", choices=("csv", "latex", "markdown", "html")
    )
    out: Path | None = setting(None, "HTML page to write, in one file.", "Output")
    figures: Path | None = setting(None, "Folder for the pictures as PNG and SVG, in print size.", "Output")


@dataclass(frozen=True)
class Untrained:
    """A training-free row of the runs' own records: its score on the test items of some groups."""

    name: str
    accuracy: float
    lists: int
    groups: tuple[str, ...]


@dataclass(frozen=True)
class Report:
    """Groups by name, and for each pair of a group and one it is compared with the paired difference."""

    groups: Mapping[str, Group]
    differences: Mapping[tuple[str, str], Difference]
    more: tuple[Table, ...] = ()
    untrained: tuple[Untrained, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    sweeps: tuple[SweepResult, ...] = ()

    @property
    def ids(self) -> dict[str, str]:
        """Name of a group -> its id, which does not depend on the other runs."""
        return {name: group_id(group.runs[0]) for name, group in self.groups.items()}

    def to_json(self) -> dict[str, Json]:
        """Shares, not percentages. Keys are ids of groups."""
        ids = self.ids
        differences: list[Json] = [
            {"runs": ids[a], "against": ids[b], **each.to_json()} for (a, b), each in self.differences.items()
        ]
        columns = knobs([*self.groups.values()])
        groups: dict[str, Json] = {
            ids[name]: {
                "name": name,
                "head": str(group.runs[0].settings["head"]),
                "settings": {knob: values[i] for knob, values in columns.items()},
                "validation": validation_of(group),
                **group.to_json(),
            }
            for i, (name, group) in enumerate(self.groups.items())
        }
        untrained: list[Json] = [
            {"name": row.name, "mean": row.accuracy, "lists": row.lists, "groups": [ids[g] for g in row.groups]}
            for row in self.untrained
        ]
        left_out: list[Json] = [{"name": one.name, "reason": one.reason} for one in self.left_out]
        sweeps: list[Json] = [sweep.to_json() for sweep in self.sweeps]
        return {
            "groups": groups,
            "differences": differences,
            "untrained": untrained,
            "left_out": left_out,
            "sweeps": sweeps,
        }

    def notices(self) -> list[str]:
        """A line for each untrained row that is the best one and beats trained groups."""
        beaten: dict[tuple[str, float], list[str]] = {}
        for name, group in self.groups.items():
            rows = [row for row in self.untrained if name in row.groups]
            best = max(rows, key=lambda row: row.accuracy, default=None)
            mean = float(group.per_seed().mean())
            if best is not None and best.accuracy > mean:
                beaten.setdefault((best.name, best.accuracy), []).append(f"{name} {percent(mean)}")
        return [
            f"Untrained features ({name} {percent(share)}) are better than the trained {'; '.join(groups)}."
            for (name, share), groups in beaten.items()
        ]

    def tables(self) -> list[Table]:
        """The sweeps; a row per group and per untrained row; a row per difference; what is left out."""
        drawn = [table for sweep in self.sweeps for table in sweep.tables()]
        drawn += [self._groups()] if self.groups else []
        if self.differences:
            rows = tuple(
                (f"{a} - {b}", _within(d), f"{d.units} {d.over}", _items(d), _seeds(d.per_seed), _beyond(d))
                for (a, b), d in self.differences.items()
            )
            columns = ("paired item by item", "points [95 %]", "over", "over test items", "seed by seed", "beyond")
            drawn.append(Table("Differences", columns, rows))
        if self.left_out:
            reasons = tuple((one.name, one.reason) for one in self.left_out)
            drawn.append(Table("Left out", ("", "reason"), reasons))
        data = facts_table({name: group.runs[0].row for name, group in self.groups.items()}, "Data of the first run")
        return [*drawn, *self.more, *data]

    def _groups(self) -> Table:
        """One column per setting that differs; validation and test are named as such."""
        title = "Runs: how much of a test item (task, clip, window) is right, on average"
        columns = knobs([*self.groups.values()])
        results = ("validation", "test, mean ± std over seeds", "seeds", "folds", "95 % over folds")
        rows = [
            (str(group.runs[0].settings["head"]), *(values[i] for values in columns.values()), *_cells(group))
            for i, group in enumerate(self.groups.values())
        ]
        shared = [
            (row.name, *self._shared(columns, row.groups), "", percent(row.accuracy), "untrained", str(row.lists), "")
            for row in self.untrained
        ]
        return Table(title, ("", *columns, *results), (*rows, *shared))

    def _shared(self, columns: Mapping[str, Sequence[str]], groups: Sequence[str]) -> list[str]:
        """The values of the columns that say on which items an untrained row was tested, where its groups agree."""
        places = [i for i, name in enumerate(self.groups) if name in groups]
        values = [{column[i] for i in places} if name in SETUP else set() for name, column in columns.items()]
        return [value.pop() if len(value) == 1 else "" for value in values]


def validation_of(group: Group) -> float | None:
    """The mean validation score of the runs that have one."""
    scores = [run.row["validation"] for run in group.runs if run.row.get("validation") is not None]
    return float(np.mean(scores)) if scores else None


def _cells(group: Group) -> tuple[str, ...]:
    figures: Mapping[str, Any] = group.to_json()
    over, validation, seeds = figures["interval_over_lists"], validation_of(group), figures["seeds"]
    return (
        "none" if validation is None else percent(validation),
        percent(figures["mean"], figures["std"]),
        "1 seed" if seeds == 1 else f"{seeds} seeds",
        str(figures["lists"]),
        "" if over is None else f"± {100 * over:.2f}",
    )


def _within(difference: Difference) -> str:
    return f"{100 * difference.mean:+.2f} [{100 * difference.low:+.2f}, {100 * difference.high:+.2f}]"


def _items(difference: Difference) -> str:
    """The interval over items: of few-shot runs, over tasks of these clips."""
    low, high = difference.over_items
    name = "tasks of these clips" if difference.over == "test classes" else "items"
    return f"[{100 * low:+.2f}, {100 * high:+.2f}] over {difference.items} {name}"


def _seeds(per_seed: Sequence[float]) -> str:
    return " ".join(f"{100 * value:+.2f}" for value in per_seed)


def _beyond(difference: Difference) -> str:
    """One seed is never every seed."""
    return "1 seed" if len(difference.per_seed) == 1 else "yes" if difference.beyond else "no"


def report(config: ReportConfig, progress: Progress) -> Report:
    """Read the runs, put them into groups, compare each group with those asked for, write page and pictures.

    What cannot be read or compared is left out, with the reason.

    Raises:
        MissingPath: no finished run.
        BadInput: no folder.
    """
    folders = (*config.runs, *config.against)
    if not folders:
        raise BadInput("No run was given.", "Give the folders that `vfc train-head` named, or runs/.")
    sweeps = tuple(read_sweep(folder) for folder in sweep_folders(folders))
    none_tested = sweeps and not any((folder / "results.jsonl").exists() for folder in run_folders(folders))
    runs, unread = ([], []) if none_tested else read_runs(folders)
    groups, twice = grouped(runs)
    against = {folder.resolve() for folder in run_folders(config.against)}
    references = [name for name, g in groups.items() if against & {run.folder.resolve() for run in g.runs}]
    pairs = [(a, b) for b in references for a in groups if a != b and setup(groups[a]) == setup(groups[b])]
    for b in references:
        if all(b != other for _, other in pairs):
            progress.say(f"Nothing is compared with {b}: no other group has the same {', '.join(SETUP)}.")
    differences, unpaired = {}, []
    for a, b in pairs:
        try:
            differences[a, b] = difference(groups[a], groups[b])
        except BadInput as error:
            unpaired.append(LeftOut(f"{a} - {b}", error.problem))
    left_out = (*unread, *twice, *unpaired)
    for one in left_out:
        progress.say(f"Left out: {one.name}. {one.reason}")
    result = Report(groups, differences, tuple(_of_tasks(groups)), tuple(_untrained(groups)), left_out, sweeps)
    if config.out is not None or config.figures is not None:
        from .report_page import write_figures, write_report_page

        if config.out is not None:
            against_flag = ["--against", ",".join(map(str, config.against))] if config.against else []
            write_report_page(config.out, result, [*map(str, config.runs), *against_flag])
        if config.figures is not None:
            write_figures(config.figures, result)
    return result


def _of_tasks(groups: Mapping[str, Group]) -> Iterator[Table]:
    """What the tasks themselves make of several runs, each under the name of its group."""
    rows: dict[str, list[Mapping[str, Any]]] = {}
    for name, group in groups.items():
        for run in group.runs:
            (row, *_) = read_rows(run.folder / "results.jsonl")
            rows.setdefault(str(row.get("task")), []).append({**row, "head": name})
    for task, results in rows.items():
        kind = tasks.find(task) if task in tasks.names() else None
        if kind is not None and hasattr(kind, "over_runs"):
            yield from kind.over_runs(results)


def _untrained(groups: Mapping[str, Group]) -> list[Untrained]:
    """Training-free rows as the runs recorded them, averaged over test lists; one row per set of groups."""
    scores: dict[tuple[str, tuple[str, ...]], dict[str, float]] = {}
    names: dict[tuple[str, ...], list[str]] = {}
    for name, group in groups.items():
        names.setdefault(tuple(sorted({run.tested for run in group.runs})), []).append(name)
    for lists, of_lists in names.items():
        for run in (run for name in of_lists for run in groups[name].runs):
            for row in run.row.get("baselines") or ():
                if "accuracy" in row:
                    scores.setdefault((row["name"], lists), {})[run.tested] = row["accuracy"]
    return [
        Untrained(name, float(np.mean([*by_list.values()])), len(by_list), tuple(names[lists]))
        for (name, lists), by_list in scores.items()
    ]
