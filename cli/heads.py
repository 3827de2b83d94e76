"""`vfc eval`, `probe-layers`, `episodes` and `train-head <method>`: evaluation and training on a store."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from typer.core import TyperCommand, TyperGroup

from vfc.cache_schema.values.progress import Progress

from .app import Lazy, group
from .command import Command, Outcome, tables_text
from .head_settings import about_head, head_settings
from .sweep import run_sweep

if TYPE_CHECKING:
    from vfc.heads.results.tables import Table


class _Result(Protocol):
    def to_json(self) -> dict[str, Any]: ...

    def tables(self) -> list[Table]: ...


def _outcome(result: _Result) -> Outcome:
    return Outcome(result.to_json(), tables_text(result.tables()))


def evaluate() -> TyperCommand:
    """`vfc eval`."""
    from vfc.heads.evaluation.evaluate import EvalConfig, evaluate

    return Command(
        "eval",
        "Evaluate a training-free metric on a fixed list of few-shot tasks.",
        EvalConfig,
        lambda config, progress: _outcome(evaluate(config, progress)),
        "vfc eval --cache ./store --representation difference --centre all --split all --shot 5",
    ).build()


def probe_layers() -> TyperCommand:
    """`vfc probe-layers`."""
    from vfc.heads.evaluation.probe import ProbeConfig, probe_layers

    return Command(
        "probe-layers",
        "Evaluate training-free metrics on every layer of a store, on the same tasks.",
        ProbeConfig,
        lambda config, progress: _outcome(probe_layers(config, progress)),
        "vfc probe-layers --cache ./store --metric dec-avg,mpmm --page layers.html",
    ).build()


def episodes() -> TyperCommand:
    """`vfc episodes`."""
    from vfc.heads.evaluation.evaluate import EpisodesConfig, episodes

    return Command(
        "episodes",
        "Write a fixed list of few-shot tasks, with its hash.",
        EpisodesConfig,
        lambda config, progress: _outcome(episodes(config, progress)),
        "vfc episodes --cache ./store --split test --shot 5 --out test-5shot.jsonl",
        "The same annotations, sizes and seed always give the same list; the file is for sharing it.",
    ).build()


def report() -> TyperCommand:
    """`vfc report`."""
    from vfc.heads.evaluation.compare_runs import ReportConfig, report
    from vfc.heads.results.table_formats import formatted

    def run(config: ReportConfig, progress: Progress) -> Outcome:
        result = report(config, progress)
        text = tables_text(result.tables()) if config.table is None else formatted(result.tables(), config.table)
        notices = "" if config.table is not None else "".join(f"{line}\n\n" for line in result.notices())
        return Outcome(result.to_json(), notices + text)

    return Command(
        "report",
        "Compare finished trainings: mean and standard deviation over seeds, paired differences.",
        ReportConfig,
        run,
        "vfc report runs --against runs/linear-probe-1a2b3c4d",
        "Runs that differ in the seed alone are one group, and so are the folds or splits of one protocol. A group is "
        "better than another if there are two seeds or more, the 95 % interval (over test classes, files or videos) is "
        "above 0 and every seed agrees in sign.",
    ).build()


def _train_head(name: str) -> Callable[[], TyperCommand]:
    def load() -> TyperCommand:
        from vfc.heads import lookup
        from vfc.heads.sweep.sweep import SeedsConfig, SweepConfig
        from vfc.heads.training.fit import train

        settings = head_settings(name, sweep=SeedsConfig())

        def run(config: Any, progress: Progress) -> Outcome:
            if config.sweep.seeds:
                return run_sweep(name, config, SweepConfig(config.sweep.seeds), progress)
            result = train(name, config.task, config.head, config.train, progress)
            outcome = _outcome(result)
            files = f"Weights, curve, settings and report.html: {result.folder}"
            return dataclasses.replace(outcome, text=f"{outcome.text}\n\n{files}")

        example = getattr(lookup.find(name), "EXAMPLE", f"vfc train-head {name} --cache ./store")
        return Command(f"train-head {name}", about_head(name), settings, run, example).build()

    return load


def train_head() -> TyperGroup:
    """`vfc train-head`, one command per file in `heads/methods/`."""
    from vfc.heads.methods import names

    entries = {name: Lazy(name, about_head(name), None, _train_head(name), slow=True) for name in names()}
    return group("train-head", "Train a head on a store and test it once.", entries)
