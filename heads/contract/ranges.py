"""The ranges that numeric settings may take; a value outside is refused before it gives a wrong result or a crash."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from vfc.cache_schema.values.errors import BadInput


@dataclass(frozen=True)
class Range:
    """Allowed values, in words and as a test."""

    words: str
    contains: Callable[[float], bool]


AT_LEAST_TWO: Final = Range("2 or more", lambda value: value >= 2)
AT_LEAST_ONE: Final = Range("1 or more", lambda value: value >= 1)
NOT_NEGATIVE: Final = Range("0 or more", lambda value: value >= 0)
POSITIVE: Final = Range("more than 0", lambda value: value > 0)
ZERO_TO_ONE: Final = Range("from 0 to 1", lambda value: 0 <= value <= 1)
BETWEEN: Final = Range("more than 0, and less than 1", lambda value: 0 < value < 1)
UP_TO_HALF: Final = Range("more than 0, 0.5 at most", lambda value: 0 < value <= 0.5)
BELOW_ONE: Final = Range("0 or more, and less than 1", lambda value: 0 <= value < 1)


def check_range(settings: Any, allowed: Range, *names: str) -> None:
    """Check the fields `names` of a settings dataclass; None always passes, of a tuple every value is checked.

    Raises:
        BadInput: every flag outside the range with its value, and the allowed range.
    """
    outside = []
    for name in names:
        setting = getattr(settings, name)
        for value in setting if isinstance(setting, tuple) else (setting,):
            if value is not None and not (math.isfinite(value) and allowed.contains(value)):
                flag = settings.__dataclass_fields__[name].metadata.get("flag", name).replace("_", "-")
                outside.append(f"--{flag} {value:g}")
    if outside:
        raise BadInput(f"{' and '.join(outside)} cannot be used.", f"Give a number: {allowed.words}.")
