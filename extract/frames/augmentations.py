"""Augmented copies as in the published code of VidPrism and of MSTA: crops, mirroring, colours.

All draws of a copy are a function of (seed, name of the video, number of the view) alone. Frames go through Pillow as
uint8; the model's own processor comes afterwards and receives squares of SIDE pixels.
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
"""The augmentations of each pipeline, as the axis of a store records them."""


def view_generator(seed: int, name: str, number: int) -> np.random.Generator:
    """The random generator of one view of one video."""
    return np.random.default_rng([seed, zlib.crc32(name.encode("utf-8", "surrogateescape")), number])


def vidprism(clip: Clip, name: str, *, number: int, seed: int, flip: bool) -> Clip:
    """Short side 256 (bicubic), a random resized crop, mirrored with .5, grey with .2: one draw for all frames."""
    draw = view_generator(seed, name, number)
    width, height = shorter_side(clip, SHORT)
    box = random_box(width, height, draw)
    mirrored, grey = bool(draw.random() < FLIPPED) and flip, bool(draw.random() < GREY)

    def change(image: Image.Image, t: int) -> Image.Image:
        resized = image.resize((width, height), Image.Resampling.BICUBIC)
        return _flipped_and_grey(_cut(resized, box), mirrored, grey)

    return _each(clip, change, {"box": _box_note(box), "of": [width, height], "flipped": mirrored, "grey": grey})


def msta(clip: Clip, name: str, *, number: int, seed: int, flip: bool) -> Clip:
    """Short side 256, a multi-scale crop, mirrored with .5, colours changed with .8 (frame by frame), grey with .2."""
    draw = view_generator(seed, name, number)
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

    def change(image: Image.Image, t: int) -> Image.Image:
        cut = _cut(image.resize((width, height), Image.Resampling.BILINEAR), box)
        flipped = cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else cut
        coloured = recoloured(flipped, factors[t], orders[t].tolist()) if jittered else flipped
        return _flipped_and_grey(coloured, False, grey)

    notes: dict[str, Json] = {"box": _box_note(box), "of": [width, height], "flipped": mirrored, "grey": grey}
    return _each(clip, change, {**notes, "jitter": factors.round(6).tolist() if jittered else False})


def shorter_side(clip: Clip, side: int) -> tuple[int, int]:
    """Width and height of the frames after resizing the shorter side to `side`; the longer is rounded down."""
    height, width = clip.frames.shape[1:3]
    return (side, side * height // width) if width <= height else (side * width // height, side)


def random_box(width: int, height: int, draw: np.random.Generator) -> Box:
    """A box of random area and aspect ratio: ten tries, else the largest centred box of an allowed ratio."""
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
    """A box at a corner or at the centre; its sides are the shorter side times two equal or neighbouring scales."""
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
    """Brightness, contrast and saturation times a factor, hue shifted by a share of its circle, in the given order."""
    changes: tuple[Callable[[Image.Image], Image.Image], ...] = (
        lambda one: ImageEnhance.Brightness(one).enhance(float(factors[0])),
        lambda one: ImageEnhance.Contrast(one).enhance(float(factors[1])),
        lambda one: ImageEnhance.Color(one).enhance(float(factors[2])),
        lambda one: _shifted_hue(one, float(factors[3])),
    )
    for which in order:
        image = changes[which](image)
    return image


def _shifted_hue(image: Image.Image, share: float) -> Image.Image:
    hue, saturation, value = image.convert("HSV").split()
    shifted = np.asarray(hue, np.int64) + round(share * 255)
    return Image.merge("HSV", (Image.fromarray((shifted % 256).astype(np.uint8)), saturation, value)).convert("RGB")


def _cut(image: Image.Image, box: Box) -> Image.Image:
    left, top, width, height = box
    part = image.crop((left, top, left + width, top + height))
    return part.resize((SIDE, SIDE), Image.Resampling.BILINEAR)


def _flipped_and_grey(image: Image.Image, mirrored: bool, grey: bool) -> Image.Image:
    image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else image
    return image.convert("L").convert("RGB") if grey else image


def _each(clip: Clip, change: Callable[[Image.Image, int], Image.Image], notes: Mapping[str, Json]) -> Clip:
    frames = np.stack([np.asarray(change(Image.fromarray(frame), t)) for t, frame in enumerate(clip.frames)])
    return replace(clip, frames=frames, notes={**clip.notes, **notes})


def _box_note(box: Box) -> list[Json]:
    """A box as metadata: top, left, rows, columns."""
    left, top, width, height = box
    return [top, left, height, width]
