"""The page and the pictures of `vfc report`: all runs in one plot, confusions, classes, settings, segments."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from vfc.cache_schema.parts.atomic_files import replace_file
from vfc.heads.results import figures
from vfc.heads.results.figures import save_figure, svg_of
from vfc.heads.results.page import page_header, write_page
from vfc.heads.results.tables import Confusion, Table, percent, read_rows
from vfc.heads.runs.paired_statistics import Group, Run

from .compare_runs import Report, validation_of
from .groups import common, knobs, label_of

_GROUPS: Final = 6
"""Groups of which the page has a confusion matrix and a table of confused pairs."""
_PAIRS: Final = 8
_CLIPS: Final = 4
Named = tuple[str, Any]


def write_report_page(path: Path, report: Report, arguments: Sequence[str]) -> None:
    """One self-contained file: first what is wrong with the results, then where they come from, tables, pictures."""
    tables = [*report.tables(), *_per_class(report.groups), *_confused(report.groups)]
    pictures = [svg_of(figure) for _, figure in _figures(report)]
    pictures += [svg for _, svg in _segments(report.groups)]
    write_page(path, _title(report), tables, pictures, _header(report, arguments), report.notices())


def write_figures(folder: Path, report: Report) -> list[Path]:
    """Every picture as PNG and SVG; segments as SVG alone."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [path for name, figure in _figures(report) for path in save_figure(figure, folder, name)]
    for name, svg in _segments(report.groups):
        replace_file(folder / f"{name}.svg", svg.encode())
        paths.append(folder / f"{name}.svg")
    return paths


def _title(report: Report) -> str:
    heads = dict.fromkeys(str(group.runs[0].settings["head"]) for group in report.groups.values())
    heads |= dict.fromkeys(sweep.head for sweep in report.sweeps)
    return f"Comparison of {', '.join(heads)}"


def _header(report: Report, arguments: Sequence[str]) -> dict[str, str]:
    runs = [run for group in report.groups.values() for run in group.runs]
    stores = dict.fromkeys(str(run.settings["config"]["task"].get("cache", "")) for run in runs)
    what = f"{len(runs)} runs in {len(report.groups)} groups, {len(report.left_out)} left out"
    command = f"vfc report {shlex.join(arguments)}"
    return page_header(what, command, [run.row for run in runs], store=", ".join(filter(None, stores)))


def _figures(report: Report) -> Iterator[Named]:
    """Name and figure of every picture that these runs have."""
    curves = {n: [read_rows(run.folder / "curve.jsonl") for run in g.runs] for n, g in report.groups.items()}
    drawn = figures.curves_figure(curves)
    if drawn is not None:
        yield "curves", drawn
    rows: list[tuple[str, float, float | None, bool]] = []
    for name, group in report.groups.items():
        seeds = group.per_seed()
        rows.append((name, float(seeds.mean()), float(seeds.std(ddof=1)) if len(seeds) > 1 else None, True))
    rows += [(row.name, row.accuracy, None, False) for row in report.untrained]
    if rows:
        yield "scores", figures.scores_figure(rows)
    for sweep in report.sweeps:
        validated = any(one.validation is not None for one in sweep.settings)
        for knob, of_knob in sweep.points().items() if validated else ():
            yield f"sweep-{_file_name(f'{sweep.folder.name}-{knob}')}", figures.knob_figure(knob, of_knob)
    groups = [*report.groups.values()]
    for knob in knobs(groups):
        points = [(_value(g, knob), validation_of(g), float(g.per_seed().mean())) for g in groups]
        points = [point for point in points if point[0] is not None]
        if len({str(value) for value, *_ in points}) > 1:
            yield f"setting-{_file_name(knob)}", figures.knob_figure(knob, points)
    for name, group in [*report.groups.items()][:_GROUPS]:
        confusion = _confusion(group)
        if confusion is not None:
            figure = figures.confusion_figure(confusion)
            figure.suptitle(name, fontsize=8)
            yield f"confusion-{_file_name(name)}", figure


def _value(group: Group, knob: str) -> Any:
    """The value of a setting by its label or full name; None where the head has no such setting."""
    for name, value in common(group.runs[0]).items():
        if knob in (name, label_of(name)):
            return value
    return None


def _file_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-")


def _confusion(group: Group) -> Confusion | None:
    """The counts of all runs of a group with one list of classes."""
    rows = [run.row for run in group.runs if run.row.get("confusion")]
    rows = [row for row in rows if [*row["per_class"]] == [*rows[0]["per_class"]]]
    if not rows:
        return None
    counts = np.sum([np.array(row["confusion"]) for row in rows], axis=0)
    return Confusion(tuple(rows[0]["per_class"])[: len(counts)], tuple(tuple(map(int, row)) for row in counts))


def _per_class(groups: Mapping[str, Group]) -> list[Table]:
    """Classes down, groups across."""
    shares: dict[str, dict[str, float]] = {}
    for name, group in groups.items():
        of_class: dict[str, list[float]] = {}
        for run in group.runs:
            for label, share in (run.row.get("per_class") or {}).items():
                if share is not None:
                    of_class.setdefault(label, []).append(share)
        for label, values in of_class.items():
            shares.setdefault(label, {})[name] = float(np.mean(values))
    rows = tuple((label, *(percent(of[n]) if n in of else "" for n in groups)) for label, of in shares.items())
    return [Table("Per class, test, mean over runs", ("class", *groups), rows)] if rows else []


def _confused(groups: Mapping[str, Group]) -> list[Table]:
    """The most confused pairs of classes, with the clips that were taken for the other class most often."""
    rows: list[tuple[str, ...]] = []
    for name, group in [*groups.items()][:_GROUPS]:
        clips: dict[tuple[str, str], Counter[str]] = {}
        for run in group.runs:
            for clip, label, guess in _guesses(run):
                if guess != label:
                    clips.setdefault((label, guess), Counter())[clip] += 1
        pairs = sorted(clips.items(), key=lambda pair: (-pair[1].total(), pair[0]))[:_PAIRS]
        for (label, guess), of_pair in pairs:
            listed = ", ".join(f"{clip} ({count})" for clip, count in of_pair.most_common(_CLIPS))
            rows.append((name, label, guess, str(of_pair.total()), listed))
    columns = ("run", "class", "taken for", "times", "clips (times)")
    return [Table("Most confused pairs of classes", columns, tuple(rows))] if rows else []


def _guesses(run: Run) -> Iterator[tuple[str, str, str]]:
    """Clip, its class, the predicted class: of videos, and of the queries of few-shot tasks."""
    for row in read_rows(run.folder / "predictions.jsonl"):
        if "clips" in row and "labels" in row and "predicted" in row:
            yield from zip(row["clips"], row["labels"], row["predicted"], strict=True)
        elif "label" in row and isinstance(row.get("predicted"), str):
            yield row["item"], row["label"], row["predicted"]


def _segments(groups: Mapping[str, Group]) -> list[tuple[str, str]]:
    """Segments of a few test videos: the truth, below it what each group's first run predicts, as SVG."""
    strips: dict[tuple[float, str], dict[str, Any]] = {}
    names: list[str] = []
    for group_name, group in groups.items():
        row = group.runs[0].row
        if not row.get("pictures") or (names and row["class_names"] != names):
            continue
        names = row["class_names"]
        for picture in row["pictures"]:
            strip = strips.setdefault((picture["observed"], picture["video"]), {"truth": picture})
            strip[group_name] = picture
    drawn = []
    for (ratio, video), strip in sorted(strips.items()):
        rows = [
            (key, picture["truth" if key == "truth" else "predicted"], picture["start"])
            for key, picture in strip.items()
        ]
        svg = figures.segments_picture(f"{video}, {ratio:g} observed", rows, names)
        drawn.append((f"segments-{_file_name(f'{video}-{ratio:g}')}", svg))
    return drawn
