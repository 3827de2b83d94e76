"""`vfc sweep <method>`: many settings and seeds of one head, trained together, chosen on validation, tested once."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typer.core import TyperCommand, TyperGroup

from vfc.cache_schema.values.errors import VfcError, combined
from vfc.cache_schema.values.progress import Progress
from vfc.cli.app import Lazy, group
from vfc.cli.command import Command, Outcome, tables_text
from vfc.cli.head_settings import about_head, head_settings
from vfc.cli.options import flags

from .grid import changed, combinations, grid_of, seeds_of

if TYPE_CHECKING:
    from vfc.heads.sweep.sweep import SweepConfig


def sweep() -> TyperGroup:
    """`vfc sweep`, one command per file in `heads/methods/`."""
    from vfc.heads.methods import names

    entries = {name: Lazy(name, about_head(name), None, _sweep(name), slow=True) for name in names()}
    return group("sweep", "Train a head under many settings, choose on validation, test the winner once.", entries)


def _sweep(name: str) -> Callable[[], TyperCommand]:
    def load() -> TyperCommand:
        from vfc.heads.sweep.sweep import SweepConfig

        settings = head_settings(name, sweep=SweepConfig())
        example = f"vfc sweep {name} --cache ./store --grid lr=1e-3,3e-4 --seeds 3"
        return Command(
            f"sweep {name}",
            f"Sweep settings of {name}: {about_head(name)}",
            settings,
            lambda config, progress: run_sweep(name, config, config.sweep, progress),
            example,
            "Trials that read the same data are trained together, and each is a run folder as of vfc train-head. The "
            "same line goes on with an interrupted sweep; vfc report SWEEP shows how far it is.",
        ).build()

    return load


def run_sweep(name: str, config: Any, chosen: SweepConfig, progress: Progress) -> Outcome:
    """Train every combination of the grid with every seed; `config` has `task`, `head` and `train`.

    Raises:
        VfcError: values of the grid that are not allowed, all of them together; see `sweep.sweep`.
    """
    from vfc.cache_schema.reader import open_store
    from vfc.heads.evaluation.probe import stored_layers
    from vfc.heads.sweep.point import Point
    from vfc.heads.sweep.sweep import sweep

    def layers(written: Sequence[str]) -> Sequence[str]:
        with open_store(config.task.cache) as reader:
            return stored_layers(reader, tuple(written))

    own = [flag for flag in flags(type(config)) if flag.path[0] != "sweep"]
    swept = [*grid_of(chosen.grid, own, layers)]
    listed = [flag for flag, _ in swept]
    drawn = combinations([values for _, values in swept], chosen.search, chosen.trials, chosen.search_seed)
    seeds = seeds_of(chosen.seeds, config.train.seed)
    points, errors = [], list[VfcError]()
    for seed, values in itertools.product(seeds, drawn):
        changes = {
            flag.path: flag.typed([text] if flag.many else text) for flag, text in zip(listed, values, strict=True)
        }
        try:
            settings = changed(config, {**changes, ("train", "seed"): seed})
        except VfcError as error:
            errors.append(error)
            continue
        shown = {flag.name: str(text) for flag, text in zip(listed, values, strict=True)}
        points.append(Point(shown, settings.task, settings.head, settings.train))
    if errors:
        raise combined(errors)
    result = sweep(
        name,
        points,
        config.train.out or _default_folder(name, config, chosen.grid),
        chosen.test,
        progress,
        prune=chosen.prune,
    )
    text = f"{tables_text(result.tables())}\n\nRun folders, and the table at any time: vfc report {result.folder}"
    failed = any(trial.state == "failed" for trial in result.trials)
    return Outcome(result.to_json(), text, 3 if failed else 0)


def _default_folder(name: str, config: Any, grid: tuple[str, ...]) -> Path:
    """`runs/sweep-<head>-<digest of the settings>`; how often and what is tested does not change it."""
    from vfc.cache_schema.values.recipe import digest
    from vfc.heads.runs.run_folder import plain

    settings = {part: plain(getattr(config, part)) for part in ("task", "head", "train")}
    settings["train"].pop("device")
    return Path("runs") / f"sweep-{name}-{digest({**settings, 'grid': list(grid)})[:8]}"
