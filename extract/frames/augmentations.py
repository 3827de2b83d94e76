"""Augmented copies as the code of VidPrism and of MSTA makes them: crops, mirroring, colours.

All draws of a copy are one function of (seed, name of the video, number of the view), whatever else is asked for.
Frames go through Pillow, as uint8; the model's own processor comes afterwards and finds squares of SIDE pixels.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageEnhance

from vfc.cache_schema.values.record import Json
from vfc.extract.decode import Clip

Pipeline = Literal["plain", "vidprism", "msta"]

SIDE: Final = 224
SHORT: Final = 256
AREA: Final = (0.08, 1.0)
RATIO: Final = (3 / 4, 4 / 3)
SCALES: Final = (1.0, 0.875, 0.75, 0.66)
BRIGHTNESS: Final = 0.4
CONTRAST: Final = 0.4
SATURATION: Final = 0.2
HUE: Final = 0.1
FLIPPED: Final = 0.5
JITTERED: Final = 0.8
GREY: Final = 0.2

Box = tuple[int, int, int, int]
"""Left, top, width, height, in pixels."""

TRAINING: Final[Mapping[str, Mapping[str, Json]]] = {
    "vidprism": {
        "short_side": SHORT,
        "box": "random area and ratio, one for all frames",
        "area": list(AREA),
        "ratio": list(RATIO),
        "flip": FLIPPED,
        "grey": GREY,
        "side": SIDE,
        "frames": "one drawn from each segment",
    },
    "msta": {
        "short_side": SHORT,
        "box": "one of several scales, at a corner or the centre",
        "scales": list(SCALES),
        "flip": FLIPPED,
        "jitter": {
            "share": JITTERED,
            "brightness": BRIGHTNESS,
            "contrast": CONTRAST,
            "saturation": SATURATION,
            "hue": HUE,
            "drawn": "per frame",
        },
        "grey": GREY,
        "side": SIDE,
        "frames": "one drawn from each segment",
    },
}
"""What the augmented copies of each pipeline are, for the record."""


def drawing(seed: int, name: str, number: int) -> np.random.Generator:
    """The draws of one view of one video."""
    return np.random.default_rng([seed, zlib.crc32(name.encode("utf-8", "surrogateescape")), number])


def vidprism(clip: Clip, name: str, *, number: int, seed: int, flip: bool) -> Clip:
    """Short side 256 (bicubic), a random resized crop, mirrored with .5, grey with .2: one draw for all frames."""
    draw = drawing(seed, name, number)
    width, height = shorter_side(clip, SHORT)
    box = random_box(width, height, draw)
    mirrored, grey = bool(draw.random() < FLIPPED) and flip, bool(draw.random() < GREY)

    def changed(image: Image.Image, t: int) -> Image.Image:
        whole = image.resize((width, height), Image.Resampling.BICUBIC)
        return _finished(_cut(whole, box), mirrored, grey)

    return _each(clip, changed, {"box": _told(box), "of": [width, height], "flipped": mirrored, "grey": grey})


def msta(clip: Clip, name: str, *, number: int, seed: int, flip: bool) -> Clip:
    """Short side 256, a multi-scale crop, mirrored with .5, colours changed with .8 (frame by frame), grey with .2."""
    draw = drawing(seed, name, number)
    width, height = shorter_side(clip, SHORT)
    box = scaled_box(width, height, draw)
    mirrored, jittered = bool(draw.random() < FLIPPED) and flip, bool(draw.random() < JITTERED)
    grey = bool(draw.random() < GREY)
    orders = [draw.permutation(4) for _ in clip.frames]
    factors = np.stack(
        [
            *(draw.uniform(1 - most, 1 + most, len(clip.frames)) for most in (BRIGHTNESS, CONTRAST, SATURATION)),
            draw.uniform(-HUE, HUE, len(clip.frames)),
        ],
        axis=1,
    )

    def changed(image: Image.Image, t: int) -> Image.Image:
        whole = image.resize((width, height), Image.Resampling.BILINEAR)
        cut = _cut(whole, box)
        turned = cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else cut
        return _finished(recoloured(turned, factors[t], orders[t].tolist()) if jittered else turned, False, grey)

    notes: dict[str, Json] = {"box": _told(box), "of": [width, height], "flipped": mirrored, "grey": grey}
    return _each(clip, changed, {**notes, "jitter": factors.round(6).tolist() if jittered else False})


def shorter_side(clip: Clip, side: int) -> tuple[int, int]:
    """Width and height of the frames once the shorter of them is `side`; the longer is cut off to whole pixels."""
    height, width = clip.frames.shape[1:3]
    return (side, side * height // width) if width <= height else (side * width // height, side)


def random_box(width: int, height: int, draw: np.random.Generator) -> Box:
    """A box of random area and ratio: ten tries to fit one in, else the largest of an allowed ratio, centred."""
    for _ in range(10):
        area = width * height * draw.uniform(*AREA)
        ratio = float(np.exp(draw.uniform(np.log(RATIO[0]), np.log(RATIO[1]))))
        w, h = round(float(np.sqrt(area * ratio))), round(float(np.sqrt(area / ratio)))
        if 0 < w <= width and 0 < h <= height:
            return int(draw.integers(width - w + 1)), int(draw.integers(height - h + 1)), w, h
    allowed = min(max(width / height, RATIO[0]), RATIO[1])
    w, h = min(width, round(height * allowed)), min(height, round(width / allowed))
    return (width - w) // 2, (height - h) // 2, w, h


def scaled_box(width: int, height: int, draw: np.random.Generator) -> Box:
    """A box whose sides are of neighbouring scales of the shorter side, at one of the corners or at the centre."""
    sides = [int(min(width, height) * scale) for scale in SCALES]
    pairs = [(w, h) for i, h in enumerate(sides) for j, w in enumerate(sides) if abs(i - j) <= 1]
    w, h = pairs[int(draw.integers(len(pairs)))]
    right, down = (width - w) // 4, (height - h) // 4
    places = [(0, 0), (4 * right, 0), (0, 4 * down), (4 * right, 4 * down), (2 * right, 2 * down)]
    left, top = places[int(draw.integers(5))]
    return left, top, w, h


def recoloured(
    image: Image.Image, factors: Sequence[float] | npt.NDArray[np.float64], order: Sequence[int]
) -> Image.Image:
    """Brightness, contrast and saturation times a factor, hue turned by a share of the circle, in the given order."""
    changes: tuple[Callable[[Image.Image], Image.Image], ...] = (
        lambda one: ImageEnhance.Brightness(one).enhance(float(factors[0])),
        lambda one: ImageEnhance.Contrast(one).enhance(float(factors[1])),
        lambda one: ImageEnhance.Color(one).enhance(float(factors[2])),
        lambda one: _turned_hue(one, float(factors[3])),
    )
    for which in order:
        image = changes[which](image)
    return image


def _turned_hue(image: Image.Image, share: float) -> Image.Image:
    hue, saturation, value = image.convert("HSV").split()
    turned = np.asarray(hue, np.int64) + round(share * 255)
    return Image.merge("HSV", (Image.fromarray((turned % 256).astype(np.uint8)), saturation, value)).convert("RGB")


def _cut(image: Image.Image, box: Box) -> Image.Image:
    left, top, width, height = box
    part = image.crop((left, top, left + width, top + height))
    return part.resize((SIDE, SIDE), Image.Resampling.BILINEAR)


def _finished(image: Image.Image, mirrored: bool, grey: bool) -> Image.Image:
    image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else image
    return image.convert("L").convert("RGB") if grey else image


def _each(clip: Clip, change: Callable[[Image.Image, int], Image.Image], notes: Mapping[str, Json]) -> Clip:
    frames = np.stack([np.asarray(change(Image.fromarray(frame), t)) for t, frame in enumerate(clip.frames)])
    return replace(clip, frames=frames, notes={**clip.notes, **notes})


def _told(box: Box) -> list[Json]:
    """A box as other views note it: top, left, rows, columns."""
    left, top, width, height = box
    return [top, left, height, width]
