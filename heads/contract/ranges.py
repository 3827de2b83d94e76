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


AT_LEAST_ONE: Final = Range("1 or more", lambda value: value >= 1)
NOT_NEGATIVE: Final = Range("0 or more", lambda value: value >= 0)
POSITIVE: Final = Range("more than 0", lambda value: value > 0)
ZERO_TO_ONE: Final = Range("from 0 to 1", lambda value: 0 <= value <= 1)
BELOW_ONE: Final = Range("0 or more, and less than 1", lambda value: 0 <= value < 1)


def check_range(settings: Any, allowed: Range, *names: str) -> None:
    """Check the fields `names` of a settings dataclass; None always passes, of a tuple every value is checked.

    Raises:
        BadInput: the flag and its value, and the allowed range.
    """
    for name in names:
        setting = getattr(settings, name)
        for value in setting if isinstance(setting, tuple) else (setting,):
            if value is not None and not (math.isfinite(value) and allowed.contains(value)):
                flag = settings.__dataclass_fields__[name].metadata.get("flag", name).replace("_", "-")
                raise BadInput(f"--{flag} {value:g} cannot be used.", f"Give a number: {allowed.words}.")
