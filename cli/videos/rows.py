"""`vfc videos`: the rows of lists and trees as table, CSV or JSON; what was recognised, what has no file."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from vfc.cache_schema.values.progress import Progress
from vfc.cache_schema.values.settings import setting
from vfc.cli.command import Command, Outcome, table

if TYPE_CHECKING:
    from vfc.extract.collection import Collection, Video

_SHOWN: Final = 20
_COLUMNS: Final = ("name", "label", "split", "start_seconds", "end_seconds", "group")


@dataclass(frozen=True)
class VideosConfig:
    """The lists or the folder, and how they are read."""

    sources: tuple[Path, ...] = setting(
        MISSING, "Lists of videos, or one folder of lists or of videos", argument=True, metavar="FILE|FOLDER..."
    )
    root: Path | None = setting(None, "Folder that the listed paths start from; default: that of the list", "Input")
    class_list: Path | None = setting(
        None, "Names of numbered classes: one a line, 'number name', CSV or JSON", "Input"
    )
    label: str | None = setting(
        None, "Which label of a list that has several: verb, noun, action, or a column", "Input"
    )
    split_folders: bool = setting(True, "Read folders train, val, test on top of a tree as splits", "Input")
    include: tuple[str, ...] = setting((), "Only these classes", "Input", metavar="CLASS,...")
    exclude: tuple[str, ...] = setting((), "All classes but these", "Input", metavar="CLASS,...")
    classes: str | None = setting(None, "Built-in class list that splits the classes, as ssv2-cmn", "Input")
    csv: bool = setting(False, "Print the rows as CSV, which --videos reads", "Output", one_way=True)


def _videos(config: VideosConfig, progress: Progress) -> Outcome:
    from vfc.extract.collection import ListOptions, read_sources, selected

    options = ListOptions(config.label or "", config.class_list)
    collection = read_sources(
        config.sources, config.root, options, split_folders=config.split_folders, must_exist=False
    )
    collection = selected(collection, config.include, config.exclude, config.classes)
    document = {
        "rows": [row(video) for video in collection.videos],
        "recognised": [{"file": file, "format": kind} for file, kind in collection.formats],
        "unmatched": list(collection.missing),
        "counts": counts(collection),
        "notes": list(collection.notes),
        "digest": collection.annotations().digest,
    }
    if config.csv:
        for note in collection.notes:
            progress.say(note)
        return Outcome(document, as_csv(collection.videos))
    return Outcome(document, "\n".join(_lines(collection)))


def row(video: Video) -> dict[str, Any]:
    """A video as a row of JSON; times are null where the whole video is meant."""
    return {
        "name": video.name,
        "label": video.label,
        "split": video.split,
        "start_seconds": video.start_seconds,
        "end_seconds": video.end_seconds,
        **({"group": video.group} if video.group else {}),
    }


def as_csv(videos: Sequence[Video]) -> str:
    """The rows as CSV with a header, in a form that `--videos` reads."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: "" if value is None else value for key, value in row(video).items()} for video in videos)
    return text.getvalue().rstrip("\n")


def counts(collection: Collection) -> list[dict[str, Any]]:
    """Rows, and rows whose file is there, of every split and class."""
    missing = set(collection.missing)
    total = Counter((video.split, video.label) for video in collection.videos)
    there_too = Counter((video.split, video.label) for video in collection.videos if video.name not in missing)
    return [
        {"split": split, "label": label, "rows": total[split, label], "files": there_too[split, label]}
        for split, label in sorted(total)
    ]


def _lines(collection: Collection) -> list[str]:
    lines = list(collection.notes)
    by_class = counts(collection)
    splits = dict.fromkeys(each["split"] for each in by_class)
    of_split = []
    for split in splits:
        own = [each for each in by_class if each["split"] == split]
        rows, files = (sum(each[key] for each in own) for key in ("rows", "files"))
        of_split.append((split or "(none)", rows, files, len({each["label"] for each in own} - {""})))
    lines += ["", table(("split", "rows", "files there", "classes"), of_split)]
    shown = [(each["split"], each["label"] or "(none)", each["rows"], each["files"]) for each in by_class[:_SHOWN]]
    lines += ["", table(("split", "class", "rows", "files there"), shown), *_more(len(by_class), "classes")]
    named = [
        (video.name, video.label, video.split, _time(video.start_seconds), _time(video.end_seconds))
        for video in collection.videos[:_SHOWN]
    ]
    lines += ["", table(("name", "label", "split", "start", "end"), named), *_more(len(collection.videos), "rows")]
    if collection.missing:
        lines += ["", f"Without a file: {len(collection.missing)} of {len(collection.videos)} rows."]
        lines += [f"    {name}" for name in collection.missing[:5]]
    return [*lines, "", f"Digest of the rows: {collection.annotations().digest[:12]}"]


def _more(total: int, what: str) -> list[str]:
    return [f"and {total - _SHOWN:,} more {what} (--json or --csv for all)"] if total > _SHOWN else []


def _time(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:g}"


COMMAND: Final = Command(
    "videos",
    "Show how a list or a folder of videos is understood: rows, splits, classes, missing files.",
    VideosConfig,
    _videos,
    "vfc videos something-something-v2-train.json --root ./videos",
    "Needs no model, and no videos. vfc extract, plan and store annotate read lists in the same way.",
)
