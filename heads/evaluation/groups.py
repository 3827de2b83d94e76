"""Groups of runs: runs that differ only in seeds, folds and splits of one set of videos and labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from vfc.cache_schema.values.errors import MissingPath, VfcError
from vfc.cache_schema.values.recipe import digest
from vfc.heads.data.facts import FACTS
from vfc.heads.runs.paired_statistics import Group, Run
from vfc.heads.sweep.records import SWEEP_FILE

_VARIED: Final = {
    "task": (
        *("shot_seed", "split_seed", "episode_seed", "fold", "annotations", "train_list", "test_list"),
        *("cache", "labels", "resident"),
    ),
    "train": ("seed", "out", "device"),
    "data": ("train_digest", "list_digest", "split", "told_digest", "labels_digest"),
}
"""What may differ within a group: seeds, folds and splits of one set of videos, paths and devices."""
SETUP: Final = ("shots", "protocol", "way", "shot", "observe", "predict")
"""Settings of a task that two groups must share to be compared."""
_SET: Final = ("videos_digest", "classes_digest")
"""Facts of a result that two groups must share to be compared: one set of videos and labels, one list of classes."""


@dataclass(frozen=True)
class LeftOut:
    """A folder, or a pair of groups, that is not in a report, and why."""

    name: str
    reason: str


def read_runs(paths: Sequence[Path]) -> tuple[list[Run], list[LeftOut]]:
    """The finished runs in these folders and in their sub-folders, and those that cannot be read.

    Raises:
        MissingPath: no finished run at all.
    """
    runs: list[Run] = []
    others: list[LeftOut] = []
    for folder in run_folders(paths):
        try:
            run = Run.read(folder)
            _ = run.seed, run.accuracy, run.units, common(run)
        except VfcError as error:
            others.append(LeftOut(str(folder), error.problem))
        except (ValueError, KeyError, TypeError, OSError) as error:
            others.append(LeftOut(str(folder), f"Its files cannot be read as those of a run: {error!r}."))
        else:
            runs.append(run)
    if others and not runs:
        raise MissingPath(
            others[0].reason, "Give folders that `vfc train-head` named; run the line again if it was interrupted."
        )
    return runs, others


def run_folders(paths: Sequence[Path]) -> list[Path]:
    """Run folders: those given, and the runs in those that are none themselves, two levels deep; each once."""
    folders: dict[Path, Path] = {}
    for path in paths:
        inner = sorted({c.parent for level in ("*", "*/*") for c in path.glob(f"{level}/config.json")})
        # Of a sweep, validation chooses which trials are tested: nothing is wrong with the others.
        inner = [c for c in inner if not (c.parent / SWEEP_FILE).exists() or (c / "results.jsonl").exists()]
        for folder in [path] if (path / "results.jsonl").exists() or not inner else inner:
            folders.setdefault(folder.resolve(), folder)
    return list(folders.values())


def sweep_folders(paths: Sequence[Path]) -> list[Path]:
    """The sweeps among these folders and in them, one level deep."""
    files = [file for path in paths for level in ("", "*/") for file in sorted(path.glob(level + SWEEP_FILE))]
    return list({file.parent.resolve(): file.parent for file in files}.values())


def grouped(runs: Sequence[Run]) -> tuple[dict[str, Group], list[LeftOut]]:
    """Runs by what they have in common, named by the head and by the settings in which the groups differ.

    The same training twice counts once.
    """
    parts: dict[str, list[Run]] = {}
    for run in runs:
        parts.setdefault(group_id(run), []).append(run)
    others: list[LeftOut] = []
    groups = []
    for part in parts.values():
        chosen: dict[tuple[str, int], Run] = {}
        for run in part:
            first = chosen.setdefault((run.tested, run.seed), run)
            if first is not run:
                reason = f"It is the same training as {first.folder}, tested on the same items."
                others.append(LeftOut(str(run.folder), reason))
        groups.append(Group(tuple(sorted(chosen.values(), key=lambda run: (run.tested, run.seed)))))
    return dict(zip(_names(groups), groups, strict=True)), others


def group_id(run: Run) -> str:
    """An id of the group of a run, which does not depend on the other runs of a report."""
    return digest({"head": run.settings["head"], **common(run)})[:12]


def knobs(groups: Sequence[Group]) -> dict[str, list[str]]:
    """The settings in which groups differ: setting -> its value in each group, empty where a head has none."""
    own = [(group.runs[0].settings["head"], common(group.runs[0])) for group in groups]
    differing: dict[str, list[str]] = {}
    for name in dict.fromkeys(name for _, values in own for name in values):
        by_head: dict[str, set[str]] = {}
        for head, values in own:
            if name in values:
                by_head.setdefault("" if name.startswith(("task.", "data.")) else head, set()).add(str(values[name]))
        if any(len(values) > 1 for values in by_head.values()):
            differing[name] = [_cell(values.get(name, "")) for _, values in own]
    labels = [label_of(name) for name in differing]
    return {
        label if labels.count(label) == 1 else name: differing[name]
        for name, label in zip(differing, labels, strict=True)
    }


def label_of(name: str) -> str:
    """`task.shots` as `shots`, `data.recipe_digest` as `recipe`."""
    return name.partition(".")[2].removesuffix("_digest")


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value))
    return "-" if value is None else str(value)


def common(run: Run) -> dict[str, Any]:
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


def setup(group: Group) -> dict[str, Any]:
    """What two groups must share to be compared."""
    run = group.runs[0]
    task = run.settings["config"]["task"]
    return {**{name: task.get(name) for name in SETUP}, **{name: run.row.get(name) for name in _SET}}


def _names(groups: Sequence[Group]) -> list[str]:
    """The head of each group, with what sets it apart from others of that head, or in settings from those of its task.

    Every name is another one.
    """
    names: list[str] = []
    settings = [(group.runs[0].settings["head"], common(group.runs[0])) for group in groups]
    for head, own in settings:
        others = [(other, values) for other, values in settings if values is not own]
        differing = []
        for name, value in own.items():
            same_kind = [v for h, v in others if h == head or (name.startswith("task.") and name in v)]
            if any(values.get(name) != value for values in same_kind):
                differing.append(f"{label_of(name)} {value}")
        text = f"{head} ({', '.join(differing)})" if differing else head
        names.append(text if text not in names else f"{text} [{len(names) + 1}]")
    return names
