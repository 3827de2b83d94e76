"""One line per setting of extraction: default, panel and help text of the flag that is made from it."""

from __future__ import annotations

from dataclasses import field
from typing import Any


def setting(default: object, panel: str, text: str, **more: object) -> Any:
    """A field of a settings dataclass; `more` is metadata as `cli.options` reads it (`choices`, `metavar` ...)."""
    return field(default=default, metadata={"help": text, "panel": panel, **more})
