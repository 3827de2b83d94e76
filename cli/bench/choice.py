"""The heads that `vfc bench` measures, each with the settings of `vfc train-head`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vfc.cache_schema.values.errors import BadInput, MissingPath, unknown_name
from vfc.cli.head_settings import head_settings
from vfc.cli.options import build, flags

if TYPE_CHECKING:
    from .efficiency import EfficiencyConfig


@dataclass(frozen=True)
class Choice:
    """A head on a store (None: that of its run), with the weights of a run (None: new ones)."""

    head: str
    store: Path | None
    run: Path | None = None

    @property
    def title(self) -> str:
        """The head, and what it is measured on."""
        return f"{self.head} ({self.run or self.store})"

    def settings(self, config: EfficiencyConfig) -> tuple[Any, Any, Any]:
        """The settings of task, head and training.

        A task has one query per class, as in the papers' tables; clips are read from disk (`--set resident=auto`: kept
        in memory where they fit); batch and device are those of the benchmark.

        Raises:
            VfcError: a value of `--set` that is not allowed.
        """
        settings = head_settings(self.head)
        names = {flag.name: flag for flag in flags(settings)}
        typed: dict[str, Any] = {"batch": str(config.batch), "device": config.device, "train_queries": "1"}
        typed |= {"tasks": "1", "val_tasks": "1", "resident": "off"}
        if self.store is not None:
            typed["cache"] = str(self.store)
        typed |= dict(_given(config))
        accepted = {name: value for name, value in typed.items() if name in names}
        for name, value in accepted.items():
            if names[name].scalar is bool:
                accepted[name] = _as_bool(name, value)
            elif names[name].many:
                accepted[name] = [value]
        file = None if self.run is None else self.run / "config.json"
        built = build(settings, {names[name].parameter: value for name, value in accepted.items()}, file)
        return built.task, built.head, built.train


def chosen_heads(config: EfficiencyConfig) -> list[Choice]:
    """Every head on every store, then the runs on their own stores, or on `--cache` where it is given alone with them.

    Raises:
        UnknownName: no such head, or a setting that none of the chosen heads has.
        MissingPath: a folder that holds no run.
    """
    from vfc.heads.efficiency.papers import with_published_costs
    from vfc.heads.methods import find

    for name in config.head:
        find(name)
    choices = []
    if config.cache and (config.head or not config.checkpoint):
        heads = config.head or tuple(with_published_costs())
        choices = [Choice(head, store) for head in heads for store in config.cache]
    of_runs = () if config.head or not config.cache else config.cache
    for run in config.checkpoint:
        choices += [Choice(_head_of(run), store, run) for store in of_runs or (None,)]
    _refuse_unknown_settings(config, [choice.head for choice in choices] or list(config.head))
    return choices


def _head_of(run: Path) -> str:
    if not (run / "config.json").is_file() or not (run / "head.safetensors").is_file():
        raise MissingPath(f"The folder {run} holds no run with weights.", "Give folders that `vfc train-head` named.")
    return str(json.loads((run / "config.json").read_text("utf-8"))["head"])


def _given(config: EfficiencyConfig) -> Iterator[tuple[str, str]]:
    """Name and value of each `--set`."""
    for text in config.set:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise BadInput(f"--set {text} is no NAME=VALUE.", "Write for example --set dim=64.")
        yield name.lstrip("-").replace("-", "_"), value


def _refuse_unknown_settings(config: EfficiencyConfig, heads: list[str]) -> None:
    given = dict(_given(config))
    if not given:
        return
    accepted = {flag.name for head in dict.fromkeys(heads) for flag in flags(head_settings(head))}
    for name in given:
        if name not in accepted:
            raise unknown_name(f"setting of {', '.join(dict.fromkeys(heads)) or 'no head'}:", name, sorted(accepted))


def _as_bool(name: str, value: str) -> bool:
    words = {"true": True, "on": True, "yes": True, "1": True, "false": False, "off": False, "no": False, "0": False}
    if value.lower() not in words:
        raise BadInput(f"--set {name}={value}: {name} is on or off.", f"Write --set {name}=on or --set {name}=off.")
    return words[value.lower()]
