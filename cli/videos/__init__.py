"""`vfc videos`: how a list or a folder of videos is understood, without a model and without the videos."""

from __future__ import annotations

from typer.core import TyperCommand

from . import rows


def videos() -> TyperCommand:
    """`vfc videos`."""
    return rows.COMMAND.build()
