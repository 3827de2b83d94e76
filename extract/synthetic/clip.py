"""One clip: a shape before a background, drawn along its track."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

from vfc.cache_schema.values.errors import unknown_name

from .motion import CLASSES, MOTIONS, SPLIT_OF, Floats, Track

Frames = npt.NDArray[np.uint8]


def render_clip(label: str, index: int, *, seed: int = 0, size: int = 80, num_frames: int = 20) -> Frames:
    """Frames `[T, H, W, 3]` of clip `index` of class `label`, a function of its arguments alone.

    Raises:
        UnknownName: no such class.
    """
    if label not in SPLIT_OF:
        raise unknown_name("class of motion", label, CLASSES)
    rng = np.random.default_rng([seed, zlib.crc32(label.encode()), index])
    still = np.ones(num_frames)
    track = Track(
        middle=np.linspace(-0.5, 0.5, num_frames),
        x=rng.uniform(0.25, 0.75) * still,
        y=rng.uniform(0.25, 0.75) * still,
        radius=np.exp(rng.uniform(np.log(0.1), np.log(0.25))) * still,
        angle=rng.uniform(0, 2 * np.pi) * still,
        strength=rng.uniform(0.25, 1.0) * still,
        drawn=rng,
    )
    background, colour, shape = _appearance(rng, size)
    return _draw(MOTIONS[SPLIT_OF[label]][label](track), background, colour, shape)


def _appearance(rng: np.random.Generator, size: int) -> tuple[Floats, Floats, Callable[[Floats, Floats], Floats]]:
    """A background `[H, W, 3]` between two colours with some grain, a colour that stands out from it, a shape."""
    ramp = np.linspace(-1, 1, size)
    direction = rng.uniform(0, 2 * np.pi)
    slope = (1 + (np.cos(direction) * ramp[None, :] + np.sin(direction) * ramp[:, None]) / np.sqrt(2)) / 2
    first = rng.uniform(0, 255, 3)
    second = np.clip(first + rng.uniform(-70, 70, 3), 0, 255)
    background = first + (second - first) * slope[:, :, None] + rng.normal(0, 4, (size, size, 1))
    colours = rng.uniform(0, 255, (16, 3))
    colour = colours[np.abs(colours - (first + second) / 2).sum(1).argmax()]
    return background, colour, _SHAPES[rng.integers(len(_SHAPES))]


def _bar(p: Floats, q: Floats) -> Floats:
    return np.asarray(np.maximum(np.abs(p) - 1, np.abs(q) - 0.4))


def _half_disc(p: Floats, q: Floats) -> Floats:
    return np.asarray(np.maximum(np.hypot(p + 0.4, q) - 1, -p - 0.4))


def _wedge(p: Floats, q: Floats) -> Floats:
    return np.asarray(np.maximum(-p - 0.7, 0.5 * p + np.abs(q) - 0.5))


def _angle_iron(p: Floats, q: Floats) -> Floats:
    foot = np.maximum(np.abs(p) - 0.9, np.abs(q - 0.6) - 0.3)
    return np.asarray(np.minimum(foot, np.maximum(np.abs(p + 0.6) - 0.3, np.abs(q) - 0.9)))


_SHAPES: Final = (_bar, _half_disc, _wedge, _angle_iron)
"""Distance to the edge of a shape of radius 1, negative inside. None looks the same when turned a quarter."""


def _draw(track: Track, background: Floats, colour: Floats, shape: Callable[[Floats, Floats], Floats]) -> Frames:
    size = background.shape[0]
    middles = (np.arange(size) + 0.5) / size
    x, y, radius, angle, strength = (
        values[:, None, None] for values in (track.x, track.y, track.radius, track.angle, track.strength)
    )
    across, down = (middles[None, None, :] - x) / radius, (middles[None, :, None] - y) / radius
    p, q = across * np.cos(angle) + down * np.sin(angle), down * np.cos(angle) - across * np.sin(angle)
    cover = strength * np.clip(0.5 - shape(p, q) * radius * size, 0, 1)
    frames = background + cover[..., None] * (colour - background)
    return np.asarray(np.clip(np.rint(frames), 0, 255), dtype=np.uint8)
