"""`vfc datasets`: the presets of data sets, and what is missing of one on disk."""

from __future__ import annotations

from typer.core import TyperGroup

from vfc.cli.app import Lazy, group

from . import presets


def datasets() -> TyperGroup:
    """`vfc datasets`."""
    verbs = {each.name.split()[-1]: each for each in presets.COMMANDS}
    entries = {name: Lazy(name, each.help, None, each.build) for name, each in verbs.items()}
    return group("datasets", "Presets of data sets: lists, splits, and what is missing on disk.", entries)
