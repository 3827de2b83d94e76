"""Names and layouts of arrays: the one place that builds and parses them (DESIGN.md, section 4).

An array is called `<tap>.<stream>` (`layer31.visual`, `norm.text`), `<stream>.<side>` for a side array of a stream
(`visual.grid`, `text.ids`), or one word (`frames`, `embedding`, `labels`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

FRAME_MAJOR: Final = "frame-major"
PATCH_MAJOR: Final = "cls first, patch-major"
RAGGED_GRID: Final = "ragged grid"
STEPS: Final = "steps"
TOKENS: Final = "tokens"
SIDES: Final = frozenset({"grid", "seconds", "ids", "positions", "eot", "scale"})

_TOKEN_ORDER: Final = re.compile(
    rf"({FRAME_MAJOR}|{PATCH_MAJOR})(, cls(?: and ([1-9]\d*) more)? first in frame)?"
    r"(?:, grid ([1-9]\d*)x([1-9]\d*))?(?:, frames ([1-9]\d*))?"
)


@dataclass(frozen=True)
class ArrayName:
    """The parts of an array's name; those that it lacks are empty."""

    tap: str
    stream: str
    side: str = ""

    @classmethod
    def parse(cls, name: str) -> ArrayName:
        """The parts of `name`; `str` gives `name` back."""
        front, _, last = name.rpartition(".")
        return cls("", front, last) if front and last in SIDES else cls(front, last)

    def __str__(self) -> str:
        return ".".join(filter(None, (self.tap, self.stream, self.side)))

    @property
    def layer(self) -> str:
        """The layer as `--layer` names it: `31`, `norm`; empty where the array is of none."""
        return self.tap.removeprefix("layer")


def array_name(layer: str, stream: str) -> str:
    """The name of the array of a layer: `layer7.visual`, `norm.text`."""
    return str(ArrayName(layer if layer == "norm" else f"layer{layer}", stream))


@dataclass(frozen=True)
class Layout:
    """How the rows of one record's array are ordered; `str` is `ArraySpec.layout`, as stored.

    `order`: FRAME_MAJOR (`[T, N, D]`, or `[T, D]` for one vector per frame), PATCH_MAJOR (`[1 + N*T, D]`: a class token
    of the clip, then all frames of each patch), RAGGED_GRID, STEPS, TOKENS, empty for one vector, or other words.
    `leading`: tokens before the patches of each frame, of which the first is the class token. `grid`: rows and columns
    of the patches of a frame; None where it is not stated. `frames`: T of PATCH_MAJOR; None where it is not stated.
    """

    order: str = ""
    leading: int = 0
    grid: tuple[int, int] | None = None
    frames: int | None = None

    @classmethod
    def parse(cls, text: str) -> Layout:
        """The layout that `text` states; `str` gives `text` back."""
        match = _TOKEN_ORDER.fullmatch(text)
        if not match:
            return cls(text)
        order, leading, more, rows, columns, frames = match.groups()
        return cls(
            order,
            1 + int(more or 0) if leading else 0,
            (int(rows), int(columns)) if rows else None,
            int(frames) if frames else None,
        )

    def __str__(self) -> str:
        words = [self.order]
        if self.leading:
            more = f" and {self.leading - 1} more" if self.leading > 1 else ""
            words.append(f"cls{more} first in frame")
        if self.grid:
            words.append(f"grid {self.grid[0]}x{self.grid[1]}")
        if self.frames:
            words.append(f"frames {self.frames}")
        return ", ".join(words)
