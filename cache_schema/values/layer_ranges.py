"""Lists of layers as a user writes them: `8`, `norm`, `0-32`, `0:32:4`, `all`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from .errors import BadInput

_RANGE: Final = re.compile(r"(\d+)(?:-(\d+)|:(\d+)(?::(\d+))?)")
HELP: Final = "ranges with both ends: 0-32, 0:32:4 (every fourth); all"


def expand_layers(requested: Sequence[str], available: Sequence[str], *, within: bool = False) -> tuple[str, ...]:
    """The layers of a list with ranges, each once, in the order written; both ends of a range belong to it.

    Args:
        requested: Layers and ranges.
        available: All layers, which `all` stands for.
        within: A range stands for those of its layers that are available; otherwise for all of them.

    Raises:
        BadInput: a range without a layer.
    """
    layers: dict[str, None] = {}
    for part in requested:
        match = _RANGE.fullmatch(part)
        if match is None:
            layers |= dict.fromkeys(available if part == "all" else [part])
            continue
        first, last, step = int(match[1]), int(match[2] or match[3]), int(match[4] or 1)
        names = [str(number) for number in range(first, last + 1, step)] if step else []
        names = [name for name in names if not within or name in available]
        if not names:
            raise BadInput(
                f"The range {part} holds no layer of {', '.join(available)}.",
                "Give the lower end first and a step of 1 or more, as in 0-32 or 0:32:4.",
            )
        layers |= dict.fromkeys(names)
    return tuple(layers)
