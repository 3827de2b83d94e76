"""Fields of settings: the default, the help text and the panel that the command line shows."""

from __future__ import annotations

from dataclasses import field
from typing import Any


def setting(default: Any, help_text: str, **metadata: Any) -> Any:
    """A dataclass field that the command line makes a flag of; `dataclasses.MISSING`: the flag must be given.

    `metadata` may hold what `vfc.cli.options` reads: `panel`, `flag`, `choices`, `metavar`, `renamed_from` and others.
    """
    return field(default=default, metadata={"help": help_text, **metadata})
