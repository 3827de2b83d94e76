"""What the verbs of a store give back: frozen values that are also one JSON document."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import cast

from .record import Json


@dataclass(frozen=True)
class Report:
    """What one verb did or counted."""

    def to_json(self) -> dict[str, Json]:
        """As one JSON document."""
        return cast("dict[str, Json]", asdict(self))
