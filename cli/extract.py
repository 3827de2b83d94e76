"""`vfc extract` and `vfc plan`: extract features of videos into a store, or estimate the work."""

from __future__ import annotations

import json
from importlib.metadata import version
from typing import TYPE_CHECKING

from typer.core import TyperCommand

from vfc.cache_schema.values.progress import Progress

from .command import Command, Outcome
from .options import to_json

if TYPE_CHECKING:
    from vfc.extract.config import ExtractConfig, PlanConfig

_EXAMPLE = "--model video-llava --layer 31 --prompt unknown --videos ./videos --out ./store"


def _extract(config: ExtractConfig, progress: Progress) -> Outcome:
    from vfc.cache_schema.parts.atomic_files import replace_file
    from vfc.extract.pipeline.run import extract

    summary = extract(config, progress)
    if summary.rank == 0 and (config.out / "zarr.json").exists():
        settings = {"command": "extract", "vfc": version("vfc"), "config": to_json(config)}
        replace_file(config.out / "config.json", json.dumps(settings, indent=2, ensure_ascii=False).encode() + b"\n")
    return Outcome(summary.to_json(), "\n".join(summary.lines()), summary.exit_code)


def _plan(config: PlanConfig, progress: Progress) -> Outcome:
    from vfc.extract.pipeline.plan import plan

    estimate = plan(config, progress)
    return Outcome(estimate.to_json(), "\n".join(estimate.lines()))


def _check(config: ExtractConfig, typed: frozenset[str]) -> None:
    from vfc.extract.unused_flags import refuse_unused_flags

    refuse_unused_flags(config, typed)


def extract() -> TyperCommand:
    """`vfc extract`."""
    from vfc.extract.config import ExtractConfig

    return Command(
        "extract",
        "Run a frozen model over videos and keep its hidden states in a store.",
        ExtractConfig,
        _extract,
        f"vfc extract {_EXAMPLE}",
        "The same command continues an interrupted run. Several processes may run it at the same time.",
        _check,
    ).build()


def plan() -> TyperCommand:
    """`vfc plan`."""
    from vfc.extract.config import PlanConfig

    return Command(
        "plan",
        "Estimate what vfc extract would do with the same flags; refuse what does not fit.",
        PlanConfig,
        _plan,
        f"vfc plan {_EXAMPLE}",
        "Writes nothing. A few videos are run to estimate the time (--no-calibrate skips this).",
        _check,
    ).build()
