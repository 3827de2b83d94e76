"""`vfc store <verb>`: inspect and repair a store, make others from it, import and export features."""

from __future__ import annotations

from typer.core import TyperGroup

from vfc.cli.app import Lazy, group

from . import annotate, derive, exchange, inspect, repair


def store() -> TyperGroup:
    """`vfc store`."""
    verbs = {
        each.name.split()[-1]: each for part in (inspect, repair, derive, annotate, exchange) for each in part.COMMANDS
    }
    entries = {name: Lazy(name, each.help, None, each.build) for name, each in verbs.items()}
    return group(
        "store", "Inspect, verify and repair stores, make new ones from them, import and export features.", entries
    )
