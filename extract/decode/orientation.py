"""Upright frames: the display matrix of a file says how its frames are to be rotated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from av.sidedata.sidedata import SideData
from av.video.frame import VideoFrame

from vfc.cache_schema.values.record import Json


@dataclass(frozen=True)
class Orientation:
    """`turns` quarter turns counter-clockwise, after a left-right mirroring where `mirrored`."""

    turns: int = 0
    mirrored: bool = False

    def apply(self, image: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """`image` `[H, W, C]` made upright (a view)."""
        return np.rot90(image[:, ::-1] if self.mirrored else image, self.turns)

    def notes(self) -> dict[str, Json]:
        """For a record's metadata: degrees counter-clockwise."""
        notes: dict[str, Json] = {"rotation": 90 * self.turns}
        return notes | {"mirrored": True} if self.mirrored else notes


def orientation(frame: VideoFrame) -> Orientation:
    """The orientation that the display matrix of `frame` describes, to the nearest quarter turn.

    The matrix (ISO/IEC 14496-12, 16.16 fixed point, row vectors, y downwards) maps a stored point `(x, y)` to
    `(a x + c y, b x + d y)`.
    """
    data = cast("SideData | None", frame.side_data.get("DISPLAYMATRIX"))
    if data is None:
        return Orientation()
    a, b, _, c, d = np.frombuffer(bytes(data), dtype=np.int32)[:5].tolist()
    mirrored = a * d - b * c < 0
    if mirrored:
        a, b = -a, -b
    # The rest is a rotation: it maps the x axis to (a, b), with y downwards.
    if abs(a) >= abs(b):
        return Orientation(0 if a >= 0 else 2, mirrored)
    return Orientation(3 if b > 0 else 1, mirrored)
