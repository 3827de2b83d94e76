"""`vfc bench efficiency`: parameters, FLOPs, time and memory of heads, offline and with the model in the loop."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vfc.cache_schema.values.errors import BadInput, VfcError
from vfc.cache_schema.values.progress import Progress, Silent
from vfc.cache_schema.values.settings import DEVICE_HELP, setting
from vfc.cli.command import Command, Outcome, tables_text

from .choice import Choice, chosen_heads
from .in_the_loop import Loop

if TYPE_CHECKING:
    from vfc.heads.efficiency.cost import Model, PaperCost


@dataclass(frozen=True)
class EfficiencyConfig:
    """Which heads, on which stores, and how often each is measured.

    Raises:
        BadInput: a number that is too small.
    """

    head: tuple[str, ...] = setting(
        (), "Heads to measure on each --cache; default, and with --papers: those with a table in their paper.", "Input"
    )
    cache: tuple[Path, ...] = setting((), "Stores to read.", "Input", metavar="STORE,...")
    checkpoint: tuple[Path, ...] = setting(
        (), "Run folders of train-head: their settings, weights and stores.", "Input", metavar="RUN,..."
    )
    set: tuple[str, ...] = setting(
        (), "A flag of train-head, for the heads that have it: dim=64, llm=FOLDER, shot=5.", "Input",
        commas=False, metavar="NAME=VALUE",
    )  # fmt: skip
    papers: bool = setting(True, "Also show the papers' tables, with the same heads at true size (no weights).")
    online: bool = setting(True, "Also measure with the model in the loop, where the videos and weights are there.")
    videos: Path | None = setting(
        None, "The videos of the store for the model in the loop; default: where it was extracted.", "Input"
    )
    weights: str | None = setting(None, "Weights of the model; default: where they were at the extraction.", "Input")
    batch: int = setting(1, "Tasks, clips or windows per batch; times are per task, clip or window.", "Performance")
    rounds: int = setting(10, "How often everything is measured, after two rounds that do not count.", "Performance")
    device: str = setting("auto", DEVICE_HELP, "Performance")
    table: Literal["csv", "latex", "markdown", "html"] | None = setting(
        None, "Print the tables in this format.", "Output"
    )
    out: Path | None = setting(None, "HTML page to write, in one file.", "Output")

    def __post_init__(self) -> None:
        for name in ("batch", "rounds"):
            if getattr(self, name) < 1:
                raise BadInput(f"--{name} is {getattr(self, name)}.", f"--{name} takes 1 or more.")


def efficiency(config: EfficiencyConfig, progress: Progress) -> Outcome:
    """Measure every head on every store; what cannot be measured is left out, with the reason.

    Raises:
        UnknownName: no such head; a setting that none of the heads has.
        BadInput: nothing could be measured or compared.
    """
    from vfc.heads.efficiency.machine import machine
    from vfc.heads.efficiency.measure import measure, ready
    from vfc.heads.efficiency.report import Efficiency
    from vfc.heads.results.table_formats import formatted

    choices = chosen_heads(config)
    rows, left_out = [], []
    for choice in choices:
        try:
            prepared = ready(choice.head, *choice.settings(config), Silent(), choice.run)
        except VfcError as error:
            left_out.append((choice.title, error.problem))
            progress.say(f"Left out: {choice.title}. {error.problem}")
            continue
        with Loop(config, prepared, progress) as loop:
            rows.append(measure(prepared, config.rounds, progress, loop.model, loop.reason))
    papers = tuple(_papers(config, choices, progress)) if config.papers else ()
    if not rows and not papers:
        reason = left_out[0][1] if left_out else "No head has a table in its paper, and no store is given."
        raise BadInput(reason, "Give --cache STORE with heads that can read it, or --checkpoint RUN.")
    result = Efficiency(tuple(rows), papers, tuple(left_out), machine(config.device))
    text = tables_text(result.tables()) if config.table is None else formatted(result.tables(), config.table)
    if config.out is not None:
        result.write_page(config.out, _command(config))
        text += f"\n\nPage: {config.out}" if config.table is None else ""
    return Outcome(result.to_json(), text)


def _papers(config: EfficiencyConfig, choices: list[Choice], progress: Progress) -> Iterator[PaperCost]:
    from vfc.heads.efficiency.papers import paper_cost, published, with_published_costs

    heads = dict.fromkeys(config.head or [choice.head for choice in choices] or with_published_costs())
    listed = [row for head in heads for row in published(head)]
    progress.begin("Papers", len(listed), "rows")
    for row in listed:
        yield paper_cost(row, _model)
        progress.advance()


def _model(name: str) -> Model:
    """The model of that name at true size, counted over one clip."""
    from vfc.extract.cost.true_size import true_size
    from vfc.heads.efficiency.cost import Model
    from vfc.heads.efficiency.flops import count_flops, without_memory

    with without_memory():
        model = true_size(name)
        return Model(name, model.parameters, count_flops(model.forward))


def _command(config: EfficiencyConfig) -> str:
    words = ["vfc", "bench", "efficiency"]
    for name in ("head", "cache", "checkpoint"):
        values = getattr(config, name)
        words += [f"--{name}", ",".join(map(str, values))] if values else []
    for given in config.set:
        words += ["--set", given]
    return shlex.join([*words, "--batch", str(config.batch), "--rounds", str(config.rounds)])


COMMAND = Command(
    "bench efficiency",
    "Parameters, FLOPs, time and memory of heads, offline and online, beside the papers.",
    EfficiencyConfig,
    efficiency,
    "vfc bench efficiency --head fsar,vidprism --cache ./store --out efficiency.html",
    "Offline reads from the store; online has the model in the loop: decode, forward, head. Without --cache and "
    "--checkpoint only the papers' tables are shown, with the same heads at true size, which need no weights.",
)
