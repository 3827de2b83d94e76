"""One setting of a dataclass that becomes a flag of the command line."""

from __future__ import annotations

from dataclasses import field
from typing import Any


def setting(default: Any, text: str, panel: str = "Model", **more: object) -> Any:
    """A dataclass field with its help text and panel; `more` is other metadata of a flag (`flag`, `choices` ...).

    `added=True` marks a setting that a later version added to a head or task: at its default it is left out of
    config.json, so that runs of earlier versions are still the same run.
    """
    return field(default=default, metadata={"help": text, "panel": panel, **more})
