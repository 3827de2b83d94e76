"""The classes of motion, as functions from one track of a shape to another."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Track:
    """A shape over time; all arrays are `[T]`.

    `middle` is the time from -0.5 to 0.5: an odd function of it changes its sign when played backwards. `x`, `y`,
    `radius` are in units of the picture's edge, `angle` in radians (clockwise, as y points down), `strength` is the
    share of its own colour against the background's.
    """

    middle: Floats
    x: Floats
    y: Floats
    radius: Floats
    angle: Floats
    strength: Floats
    drawn: np.random.Generator = field(repr=False)

    def between(self, low: float, high: float) -> float:
        """A number drawn for this clip."""
        return float(self.drawn.uniform(low, high))

    def moved(self, dx: Floats, dy: Floats) -> Track:
        """The track displaced by (dx, dy), and shifted so that its whole path lies in the picture."""
        x, y = self.x + dx, self.y + dy
        return replace(self, x=_inside(x), y=_inside(y))


def _inside(path: Floats) -> Floats:
    low, high = 0.22, 0.78
    shift = max(low - float(path.min()), 0.0) - max(float(path.max()) - high, 0.0)
    return np.asarray(path + shift)


_JITTER: Final = 0.06
"""Largest share of a period by which periodic motions start early or late, so that clips of a class differ."""

Motion = Callable[[Track], Track]


def _straight(dx: float, dy: float) -> Motion:
    def motion(track: Track) -> Track:
        slant, way = track.between(-0.2, 0.2), track.between(0.35, 0.55) / np.hypot(dx, dy)
        east, south = dx * np.cos(slant) - dy * np.sin(slant), dx * np.sin(slant) + dy * np.cos(slant)
        return track.moved(east * way * track.middle, south * way * track.middle)

    return motion


def _zigzag(way: float) -> Motion:
    def motion(track: Track) -> Track:
        wave = _triangle(_rhythm(track, 1.8, 2.4))
        return track.moved(way * track.between(0.35, 0.5) * track.middle, track.between(0.1, 0.16) * wave)

    return motion


def _bounce(dx: float, dy: float) -> Motion:
    def motion(track: Track) -> Track:
        wave = _triangle(_rhythm(track, 1.3, 1.9)) * track.between(0.18, 0.27)
        return track.moved(dx * wave, dy * wave)

    return motion


def _orbit(turns: float, from_radius: float = 1.0, to_radius: float = 1.0) -> Motion:
    def motion(track: Track) -> Track:
        phase = 2 * np.pi * (turns * track.between(0.9, 1.15) * track.middle + track.between(-_JITTER, _JITTER))
        radius = track.between(0.18, 0.26) * (from_radius + (to_radius - from_radius) * (track.middle + 0.5))
        return track.moved(radius * np.cos(phase), radius * np.sin(phase))

    return motion


def _turn(turns: float) -> Motion:
    def motion(track: Track) -> Track:
        return replace(track, angle=track.angle + 2 * np.pi * turns * track.between(0.8, 1.2) * track.middle)

    return motion


def _swing(track: Track) -> Track:
    wave = np.sin(2 * np.pi * _rhythm(track, 1.6, 2.2))
    return replace(track, angle=track.angle + track.between(0.7, 1.1) * wave)


def _resize(exponent: float) -> Motion:
    def motion(track: Track) -> Track:
        factor = track.between(2.4, 3.0) ** (exponent * track.middle)
        return replace(track, radius=track.between(0.14, 0.18) * factor)

    return motion


def _pulse(track: Track) -> Track:
    wave = np.sin(2 * np.pi * _rhythm(track, 1.6, 2.2))
    return replace(track, radius=track.between(0.14, 0.18) * track.between(1.5, 1.7) ** wave)


def _fade(way: float) -> Motion:
    def motion(track: Track) -> Track:
        low, high = track.between(0.2, 0.35), track.between(0.85, 1.0)
        return replace(track, strength=(low + high) / 2 + way * (high - low) * track.middle)

    return motion


def _blink(times: float) -> Motion:
    def motion(track: Track) -> Track:
        phase = _rhythm(track, 0.9 * times, 1.1 * times)
        low, high = track.between(0.2, 0.35), track.between(0.85, 1.0)
        return replace(track, strength=np.where(phase % 1 < 0.5, high, low))

    return motion


def _rhythm(track: Track, fewest: float, most: float) -> Floats:
    """Periods since the middle of the clip; the whole clip has `fewest` to `most` of them."""
    return track.middle * track.between(fewest, most) + track.between(-_JITTER, _JITTER)


def _triangle(phase: Floats) -> Floats:
    """A triangle wave between -1 and 1 with period 1."""
    return np.asarray(4 * np.abs((phase % 1) - 0.5) - 1)


MOTIONS: Final[Mapping[str, Mapping[str, Motion]]] = {
    "train": {
        "move-up-left": _straight(-1, -1),
        "move-down-right": _straight(1, 1),
        "move-up-right": _straight(1, -1),
        "move-down-left": _straight(-1, 1),
        "fade-in": _fade(1),
        "fade-out": _fade(-1),
        "rotate-clockwise": _turn(1),
        "rotate-counterclockwise": _turn(-1),
        "bounce-horizontal": _bounce(1, 0),
        "bounce-vertical": _bounce(0, 1),
        "blink-slow": _blink(1.5),
        "blink-fast": _blink(4),
        "zigzag-left": _zigzag(-1),
        "zigzag-right": _zigzag(1),
    },
    "val": {
        "move-up": _straight(0, -1),
        "move-down": _straight(0, 1),
        "spiral-in": _orbit(1.5, 1.2, 0.2),
        "spiral-out": _orbit(-1.5, 0.2, 1.2),
        "swing": _swing,
        "pulse": _pulse,
    },
    "test": {
        "move-left": _straight(-1, 0),
        "move-right": _straight(1, 0),
        "grow": _resize(1),
        "shrink": _resize(-1),
        "orbit-clockwise": _orbit(1),
        "orbit-counterclockwise": _orbit(-1),
    },
}
SPLIT_OF: Final[Mapping[str, str]] = {label: split for split, motions in MOTIONS.items() for label in motions}
CLASSES: Final = tuple(sorted(SPLIT_OF))
_PAIRS: Final = (
    ("move-up-left", "move-down-right"), ("move-up-right", "move-down-left"), ("move-up", "move-down"),
    ("move-left", "move-right"), ("zigzag-left", "zigzag-right"), ("spiral-in", "spiral-out"),
    ("rotate-clockwise", "rotate-counterclockwise"), ("orbit-clockwise", "orbit-counterclockwise"),
    ("fade-in", "fade-out"), ("grow", "shrink"),
)  # fmt: skip
REVERSED: Final[Mapping[str, str]] = {a: b for pair in _PAIRS for a, b in (pair, pair[::-1])}
"""Class -> the class that is the same played backwards."""
