"""`vfc bench`: what heads cost on this machine."""

from __future__ import annotations

from typer.core import TyperGroup

from vfc.cli.app import Lazy, group

from .efficiency import COMMAND


def bench() -> TyperGroup:
    """`vfc bench`."""
    name = COMMAND.name.split()[-1]
    return group("bench", "Measure what heads cost.", {name: Lazy(name, COMMAND.help, None, COMMAND.build)})
