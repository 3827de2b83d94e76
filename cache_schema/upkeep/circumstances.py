"""Circumstances of a store: where its records were made, as its parts say; kept beside the recipe, never compared."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from vfc.cache_schema import catalog
from vfc.cache_schema.parts.part import Part
from vfc.cache_schema.parts.zarr_format import METADATA
from vfc.cache_schema.values.errors import VfcError

_DEEPEST: Final = 8
"""Stores that were merged or derived from one another; more would be a circle."""


def as_text(path: Path) -> str:
    """A path as JSON can hold it: bytes that are no UTF-8 are escaped, and such a path is not found again."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def last_circumstance(root: Path, name: str, *, depth: int = _DEEPEST) -> str:
    """What the newest part says of `name` (`checkpoint`, `videos`: absolute paths); empty where none does.

    Of a store that was merged or derived, what the store it was made from says, if that is still there.
    """
    if not depth or not (root / METADATA).is_file():
        return ""
    for info in reversed(catalog.current(root).parts):
        try:
            content: dict[str, Any] = Part(root / "parts" / info.name).attributes["circumstances"]
        except VfcError:
            continue  # `vfc store verify` names a damaged part
        sources = content["sources"] if isinstance(content.get("sources"), list) else [content]
        for each in reversed(sources):
            value = _value(each, name, depth)
            if value:
                return value
    return ""


def _value(content: Mapping[str, Any], name: str, depth: int) -> str:
    if name in content:
        return str(content[name])
    return last_circumstance(Path(str(content["source"])), name, depth=depth - 1) if "source" in content else ""
