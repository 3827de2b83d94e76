"""`vfc report`: finished runs in groups, and the differences between groups.

The runs of one group have one store, one set of videos and labels and one list of classes; only seeds, folds and splits
of that set vary. Everything else that a result names makes another group.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from vfc.cache_schema.values.errors import BadInput
from vfc.cache_schema.values.progress import Progress
from vfc.cache_schema.values.recipe import digest
from vfc.cache_schema.values.record import Json
from vfc.cache_schema.values.settings import setting
from vfc.heads import tasks
from vfc.heads.data.facts import FACTS
from vfc.heads.results.facts import facts_table
from vfc.heads.results.tables import Table, percent, read_rows
from vfc.heads.runs.paired_statistics import Difference, Group, Run, difference

_VARIED: Final = {
    "task": (
        *("shot_seed", "split_seed", "episode_seed", "fold", "annotations", "train_list", "test_list"),
        *("cache", "labels", "resident"),
    ),
    "train": ("seed", "out", "device"),
    "data": ("train_digest", "list_digest", "split", "told_digest", "labels_digest"),
}
"""What may differ within a group: seeds, folds and splits of one set of videos, paths and devices."""
_SETUP: Final = ("shots", "protocol", "way", "shot", "observe", "predict")
"""Settings of a task that two groups must share to be compared."""
_SET: Final = ("videos_digest", "classes_digest")
"""Facts of a result that two groups must share to be compared: one set of videos and labels, one list of classes."""


@dataclass(frozen=True)
class ReportConfig:
    """Which runs, and beside which of them the others are put."""

    runs: tuple[Path, ...] = setting((), "Run folders, or folders of run folders.", argument=True, metavar="RUN...")
    against: tuple[Path, ...] = setting(
        (), "Runs to compare the others with, item by item; the other seeds of their groups are included.", "Protocol"
    )


@dataclass(frozen=True)
class Report:
    """Groups by name, and for each pair of a group and one it is compared with the paired difference."""

    groups: Mapping[str, Group]
    differences: Mapping[tuple[str, str], Difference]
    more: tuple[Table, ...] = ()

    def to_json(self) -> dict[str, Json]:
        """Shares, not percentages."""
        differences: list[Json] = [
            {"runs": a, "against": b, **difference.to_json()} for (a, b), difference in self.differences.items()
        ]
        groups: dict[str, Json] = {name: group.to_json() for name, group in self.groups.items()}
        return {"groups": groups, "differences": differences}

    def tables(self) -> list[Table]:
        """A row per group; a row per difference."""
        title = "Runs: how much of a test item (task, clip, window) is right, on average"
        drawn = [Table(title, ("", "mean ± std over seeds", "seeds", "folds", "95 % over folds"), self._rows())]
        if self.differences:
            rows = tuple(
                (f"{a} - {b}", _within(d), f"{d.units} {d.over}", _items(d), _seeds(d.per_seed), _beyond(d))
                for (a, b), d in self.differences.items()
            )
            columns = ("paired item by item", "points [95 %]", "over", "over test items", "seed by seed", "beyond")
            drawn.append(Table("Differences", columns, rows))
        data = facts_table({name: group.runs[0].row for name, group in self.groups.items()}, "Data of the first run")
        return [*drawn, *self.more, *data]

    def _rows(self) -> tuple[tuple[str, ...], ...]:
        rows = []
        for name, group in self.groups.items():
            figures: Mapping[str, Any] = group.to_json()
            over = figures["interval_over_lists"]
            rows.append(
                (
                    name,
                    percent(figures["mean"], figures["std"]),
                    str(figures["seeds"]),
                    str(figures["lists"]),
                    "" if over is None else f"± {100 * over:.2f}",
                )
            )
        return tuple(rows)


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
    """Read the runs, put them into groups, compare each group with those asked for.

    Raises:
        MissingPath: a folder without a finished run.
        BadInput: no run; two runs of one group with one seed and one test; see `paired.difference`.
    """
    runs = [Run.read(folder) for folder in _folders((*config.runs, *config.against))]
    if not runs:
        raise BadInput("No run was given.", "Give the folders that `vfc train-head` named, or runs/.")
    groups = _grouped(runs)
    against = {folder.resolve() for folder in _folders(config.against)}
    references = [name for name, g in groups.items() if against & {run.folder.resolve() for run in g.runs}]
    pairs = [(a, b) for b in references for a in groups if a != b and _setup(groups[a]) == _setup(groups[b])]
    for b in references:
        if all(b != other for _, other in pairs):
            progress.say(f"Nothing is compared with {b}: no other group has the same {', '.join(_SETUP)}.")
    return Report(groups, {(a, b): difference(groups[a], groups[b]) for a, b in pairs}, tuple(_of_tasks(groups)))


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


def _folders(paths: Sequence[Path]) -> list[Path]:
    """Run folders: those given, and the finished runs in those that are none themselves; each once."""
    folders: dict[Path, Path] = {}
    for path in paths:
        inner = sorted(child.parent for child in path.glob("*/results.jsonl"))
        for folder in [path] if (path / "config.json").exists() or not inner else inner:
            folders.setdefault(folder.resolve(), folder)
    return list(folders.values())


def _grouped(runs: Sequence[Run]) -> dict[str, Group]:
    """Runs by what they have in common, named by the head and by the settings in which the groups differ."""
    parts: dict[str, list[Run]] = {}
    for run in runs:
        parts.setdefault(digest({"head": run.settings["head"], **_common(run)}), []).append(run)
    groups = [Group(tuple(sorted(part, key=lambda run: (run.tested, run.seed)))) for part in parts.values()]
    for group in groups:
        for a, b in itertools.pairwise(group.runs):
            if (a.tested, a.seed) == (b.tested, b.seed):
                raise BadInput(
                    f"{a.folder} and {b.folder} are the same training, tested on the same items.", "Give one of them."
                )
    return dict(zip(_names(groups), groups, strict=True))


def _common(run: Run) -> dict[str, Any]:
    """What the runs of a group share, by name: settings one level deep, digests of the data, facts of the result."""
    shared = {
        f"{part}.{name}": value
        for part, values in run.settings["config"].items()
        for name, value in values.items()
        if name not in _VARIED.get(part, ())
    }
    # Rows of version 0.1 do not name their set of videos; only equal annotations make it one set.
    varied = _VARIED["data"] + (("annotations_digest",) if "videos_digest" in run.row else ())
    data = {name: value for name, value in run.settings["data"].items() if name not in varied}
    facts = {name: run.row[name] for name in FACTS if name in run.row}
    if "views" in facts:
        # Which views the training videos of a fold have is no setting; the store says what views mean.
        facts["views"] = {use: views for use, views in facts["views"].items() if use != "train"}
        facts.pop("views_digest", None)
    return {**shared, **{f"data.{name}": _short(name, value) for name, value in {**data, **facts}.items()}}


def _short(name: str, value: Any) -> Any:
    return value[:12] if name.endswith("_digest") and isinstance(value, str) else value


def _setup(group: Group) -> dict[str, Any]:
    run = group.runs[0]
    task = run.settings["config"]["task"]
    return {**{name: task.get(name) for name in _SETUP}, **{name: run.row.get(name) for name in _SET}}


def _names(groups: Sequence[Group]) -> list[str]:
    """The head of each group, with what sets it apart from others of that head, or in settings from those of its task.

    Every name is another one.
    """
    names: list[str] = []
    settings = [(group.runs[0].settings["head"], _common(group.runs[0])) for group in groups]
    for head, own in settings:
        others = [(other, values) for other, values in settings if values is not own]
        differing = []
        for name, value in own.items():
            same_kind = [v for h, v in others if h == head or (name.startswith("task.") and name in v)]
            if any(values.get(name) != value for values in same_kind):
                label = name.partition(".")[2].removesuffix("_digest")
                differing.append(f"{label} {value}")
        text = f"{head} ({', '.join(differing)})" if differing else head
        names.append(text if text not in names else f"{text} [{len(names) + 1}]")
    return names
