"""Which numbers a setting may have: one that makes no sense is refused before it gives a wrong result or a crash."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from vfc.cache_schema.values.errors import BadInput


@dataclass(frozen=True)
class Bound:
    """What is allowed, in words and as a test."""

    told: str
    holds: Callable[[float], bool]


COUNT: Final = Bound("1 or more", lambda value: value >= 1)
NUMBER: Final = Bound("0 or more", lambda value: value >= 0)
POSITIVE: Final = Bound("more than 0", lambda value: value > 0)
SHARE: Final = Bound("from 0 to 1", lambda value: 0 <= value <= 1)
PART: Final = Bound("0 or more, and less than 1", lambda value: 0 <= value < 1)


def within(settings: Any, bound: Bound, *names: str) -> None:
    """Check the fields `names` of a settings dataclass; None is left alone, of a tuple every value must do.

    Raises:
        BadInput: the flag and its value, and what is allowed.
    """
    for name in names:
        given = getattr(settings, name)
        for value in given if isinstance(given, tuple) else (given,):
            if value is not None and not (math.isfinite(value) and bound.holds(value)):
                flag = settings.__dataclass_fields__[name].metadata.get("flag", name).replace("_", "-")
                raise BadInput(f"--{flag} {value:g} cannot be used.", f"Give a number: {bound.told}.")
