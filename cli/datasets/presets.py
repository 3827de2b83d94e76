"""`vfc datasets list|show|check`: presets, their splits and digests, and what is missing of one below a root."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from vfc.cache_schema.values.progress import Progress
from vfc.cache_schema.values.settings import setting
from vfc.cli.command import Command, Outcome, table

if TYPE_CHECKING:
    from vfc.extract.collection.presets import Check, Member, Preset

_SHOWN = 20
_LIST = "Official lists of the data set, or their folder, where vfc does not hold them"
_FEWEST = 6
"""Videos of a class that a few-shot task of 5 shots and 1 query needs."""


@dataclass(frozen=True)
class ListConfig:
    """`vfc datasets list` takes no settings."""


@dataclass(frozen=True)
class ShowConfig:
    """Which preset."""

    name: str = setting(MISSING, "Preset: see vfc datasets list", argument=True)
    dataset_list: tuple[Path, ...] = setting((), _LIST, "Input", metavar="FILE,...")
    class_list: Path | None = setting(None, "Names of numbered classes of such a list", "Input")


@dataclass(frozen=True)
class CheckConfig:
    """Which preset, and where its videos are."""

    name: str = setting(MISSING, "Preset: see vfc datasets list", argument=True)
    root: Path = setting(MISSING, "Folder of the videos", "Input")
    dataset_list: tuple[Path, ...] = setting((), _LIST, "Input", metavar="FILE,...")
    class_list: Path | None = setting(None, "Names of numbered classes of such a list", "Input")


def _list(config: ListConfig, progress: Progress) -> Outcome:
    from vfc.extract.collection.presets import PRESETS

    rows = [(each.name, each.task, each.title, "" if each.table else "give --dataset-list") for each in PRESETS]
    document = [
        {"name": each.name, "alias": each.alias, "task": each.task, "title": each.title, "packaged": bool(each.table)}
        for each in PRESETS
    ]
    aliases = "; ".join(f"{each.alias} is {each.name}" for each in PRESETS if each.alias)
    return Outcome({"presets": document}, f"{table(('preset', 'task', 'data set', 'list'), rows)}\n\n{aliases}")


def _show(config: ShowConfig, progress: Progress) -> Outcome:
    from vfc.extract.collection.presets import find, listed_members, members_digest

    preset = find(config.name)
    document = _about(preset)
    lines = [
        f"{preset.name}: {preset.title} ({preset.task})",
        f"list: {preset.source}",
        f"frames: {preset.frames}, {preset.num_frames or '8, or as many as the model takes'}",
    ]
    if preset.frames == "all":
        lines[-1] = "frames: all"
    if preset.views:
        lines.append(f"views: {', '.join(preset.views)} ({preset.pipeline}); --no-dataset-views leaves them out")
    if preset.table or config.dataset_list:
        members = listed_members(preset, config.dataset_list, config.class_list)
        splits = _splits(members)
        document |= {"splits": splits, "digest": members_digest(members)}
        columns = ("split", "videos", "classes", "least", "median", "most")
        rows = [[each[c] for c in ("split", "videos", "classes", "least", "median", "most")] for each in splits]
        lines += ["", table(columns, rows), "", f"digest: {document['digest']}"]
    else:
        lines.append(f"files: {', '.join(preset.files)} (they come with the data set: --dataset-list)")
    lines += ["", f"    vfc datasets check {preset.name} --root DIR", f"    {preset.line()}", f"    {preset.train}"]
    return Outcome(document, "\n".join(lines))


def _about(preset: Preset) -> dict[str, Any]:
    return {
        "name": preset.name,
        "title": preset.title,
        "task": preset.task,
        "source": preset.source,
        "frames": preset.frames,
        "num_frames": preset.num_frames,
        "views": list(preset.views),
        "pipeline": preset.pipeline,
        "files": list(preset.files),
        "extract": preset.line(),
        "train": preset.train,
    }


def _splits(members: Sequence[Member]) -> list[dict[str, Any]]:
    """Videos and classes of every split, and the fewest, the median and the most videos of a class."""
    splits = []
    for split in ("train", "val", "test"):
        counts = sorted(Counter(member.label for member in members if member.split == split).values())
        if counts:
            middle = median(counts)
            row = {"split": split, "videos": sum(counts), "classes": len(counts), "least": counts[0]}
            splits.append({**row, "median": int(middle) if middle == int(middle) else middle, "most": counts[-1]})
    return splits


def _check(config: CheckConfig, progress: Progress) -> Outcome:
    from vfc.extract.collection.presets import check, find

    preset = find(config.name)
    result = check(preset, config.root, config.dataset_list, config.class_list)
    counts = result.counts()
    document = {
        "name": preset.name,
        "root": str(config.root),
        "listed": len(result.members),
        "there": len(result.present),
        "missing": [{"split": m.split, "label": m.label, "id": m.id} for m in result.missing],
        "counts": [{"split": s, "label": label, "listed": n, "there": present} for s, label, n, present in counts],
        "digest": result.digest,
        "digest_there": result.digest_there,
    }
    return Outcome(document, "\n".join(_lines(result, counts)), 3 if result.missing else 0)


def _lines(result: Check, counts: Sequence[tuple[str, str, int, int]]) -> list[str]:
    rows = []
    for split in dict.fromkeys(row[0] for row in counts):
        own = [row for row in counts if row[0] == split]
        listed, present = sum(row[2] for row in own), sum(row[3] for row in own)
        rows.append((split, listed, present, f"{100 * (listed - present) / listed:.1f} %", len(own)))
    lines = [table(("split", "listed", "there", "missing", "classes"), rows), ""]
    if not result.missing:
        return [*lines, f"Every video is there. Digest {result.digest[:12]}."]
    short = sorted((row for row in counts if row[3] < row[2]), key=lambda row: (row[3] - row[2], row[0], row[1]))
    shown = [(row[0], row[1] or "(none)", row[2], row[3], row[2] - row[3]) for row in short[:_SHOWN]]
    lines.append(table(("split", "class", "listed", "there", "missing"), shown))
    if len(short) > _SHOWN:
        lines.append(f"and {len(short) - _SHOWN:,} more classes (--json for all, with every missing video)")
    few = [row[1] for row in short if row[3] < _FEWEST]
    if few and result.preset.task == "few-shot":
        lines += ["", f"Too few for 5 shots and a query: {', '.join(few[:5])}{' ...' if len(few) > 5 else ''}."]
    names = ", ".join(member.id for member in result.missing[:3])
    return [
        *lines,
        "",
        f"Missing: {len(result.missing):,} of {len(result.members):,} ({names} ...).",
        f"Digest {result.digest[:12]} of the whole list; {result.digest_there[:12]} of the videos that are there.",
    ]


COMMANDS: tuple[Command[Any], ...] = (
    Command("datasets list", "List the presets.", ListConfig, _list, "vfc datasets list"),
    Command(
        "datasets show",
        "Show splits, frames, views, digest and command lines of a preset.",
        ShowConfig,
        _show,
        "vfc datasets show ssv2-cmn",
    ),
    Command(
        "datasets check",
        "Print what is missing of a preset below a root, per split and class, and how the digest changes.",
        CheckConfig,
        _check,
        "vfc datasets check hmdb51-arn --root ./hmdb51",
        "Exit code 3 where a video is missing. Files are looked for by their ids, wherever they lie below the root.",
    ),
)
