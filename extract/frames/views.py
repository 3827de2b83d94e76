"""Views: other looks at a clip, each kept as records of its own: three crops, clips in time, augmented copies.

View 0 is the clean one. The number of any other says what it is, for the life of a store: 1, 2, 3 are the three crops,
100 n + i is the i-th of n clips, 10000 + i the i-th augmented copy. Views by published rules lie from 1,000,000
(VidPrism) or 2,000,000 (MSTA) on: + 1000 n + 10 i + c is crop c of the i-th of n clips in a test (c is 0 where there is
one crop), + 100,000 + i the i-th augmented copy. What a number means lies in `axes/view-<n>.json`.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from vfc.cache_schema.values.errors import BadInput, unknown_name
from vfc.cache_schema.values.record import Json
from vfc.extract.decode import Clip

from .augmentations import SHORT, SIDE, TRAINING, Pipeline, msta, vidprism

KINDS: Final = ("centre", "three-crops", "clips:n", "augment:n", "test:nx1", "test:nx3")
CLIPS_FROM: Final = 100
AUGMENTED_FROM: Final = 10_000
PUBLISHED_FROM: Final[Mapping[str, int]] = {"plain": 1_000_000, "vidprism": 1_000_000, "msta": 2_000_000}
COPIES_FROM: Final = 100_000
LEAST_AREA: Final = 0.5
"""Share of the picture that a random crop keeps at least; it has the picture's own shape."""
JITTER: Final = 0.2
"""Brightness, contrast and saturation are multiplied by 1 - JITTER to 1 + JITTER."""

_LUMA: Final = (0.299, 0.587, 0.114)

Change = Callable[[Clip, str], Clip]


@dataclass(frozen=True)
class View:
    """One look at a video.

    `number`: in the key of its records. `clips`: into how many clips the video is divided, so that so many times the
    frames are decoded. `rule`, `seed`: of its frames, where they are not those of the run. `meaning`: what its number
    is bound to. `change`: from the decoded clip and the video's name to the clip that the model sees.
    """

    number: int = 0
    clips: int = 1
    rule: str = ""
    seed: int | None = None
    meaning: Mapping[str, Json] = field(default_factory=dict)
    change: Change = field(default=lambda clip, name: clip, compare=False)

    @property
    def whole(self) -> bool:
        """Whether the picture is left as it is."""
        return not {"crop", "copy"} & self.meaning.keys()


def views(
    asked: Sequence[str], *, seed: int = 0, flip: bool = True, counted: bool = True, pipeline: Pipeline = "plain"
) -> tuple[View, ...]:
    """The clean view, and those asked for, by number.

    Args:
        asked: `three-crops`, `clips:n`, `augment:n`, `test:nxm`; `centre` is the clean one, which is always there.
        seed: Of augmented copies, and of the frames of MSTA's clips.
        flip: Whether these may be mirrored.
        counted: Whether the frame rule takes a number of frames, which all but crops and plain copies need.
        pipeline: Whose rules `augment` and `test` follow; `plain` tests are VidPrism's, which draw nothing.

    Raises:
        UnknownName: no such view.
        BadInput: a number that cannot be, or clips in time under a rule without a number of frames.
    """
    found = {0: View()}
    for text in asked:
        kind, _, number = text.partition(":")
        if kind not in [known.partition(":")[0] for known in KINDS]:
            raise unknown_name("view", text, KINDS)
        if kind == "test":
            made = _tests(text, number, counted, pipeline, seed)
        elif kind in ("clips", "augment"):
            count = _count(text, number, 2 if kind == "clips" else 1)
            if kind == "clips":
                made = _clips(count, text, counted)
            else:
                made = (
                    _augmented(count, seed, flip)
                    if pipeline == "plain"
                    else _copies(count, text, counted, pipeline, seed, flip)
                )
        elif number:
            raise BadInput(f"--views {text!r}: {kind} takes no number.", f"Give --views {kind}.")
        else:
            made = _crops() if kind == "three-crops" else iter(())
        found.update((view.number, view) for view in made)
    return tuple(found[number] for number in sorted(found))


def _count(text: str, number: str, least: int) -> int:
    if not (number.isascii() and number.isdigit() and least <= int(number) <= CLIPS_FROM - 1):
        raise BadInput(
            f"--views {text!r} needs a number from {least} to {CLIPS_FROM - 1}.", "Give it behind a colon: augment:4."
        )
    return int(number)


def _crops() -> Iterator[View]:
    for i in range(3):
        meaning: dict[str, Json] = {"crop": i + 1, "of": 3, "rule": "squares along the longer side, first to last"}
        yield View(i + 1, meaning=meaning, change=partial(_third, i=i))


def _clips(count: int, text: str, counted: bool) -> Iterator[View]:
    _require_counted(text, counted)
    for i in range(count):
        meaning: dict[str, Json] = {"clip": i + 1, "of": count, "rule": "equal parts of count x frames by the rule"}
        yield View(CLIPS_FROM * count + i + 1, count, meaning=meaning, change=partial(_part, i=i, count=count))


def _require_counted(text: str, counted: bool) -> None:
    if not counted:
        raise BadInput(
            f"--views {text} needs a frame rule that takes a number of frames.",
            "Give --frames tsn-centre or linspace, or leave these views out.",
        )


def _tests(text: str, size: str, counted: bool, pipeline: Pipeline, seed: int) -> Iterator[View]:
    """`n x m`: n clips in time, m crops of each: left, right, middle (top, bottom, middle), or the middle alone."""
    clips, _, crops = size.partition("x")
    if crops not in ("1", "3"):
        raise BadInput(
            f"--views {text!r}: {size!r} is no number of clips by 1 or 3 crops.", "Give test:1x1 or test:4x3."
        )
    count = _count(text, clips, 1)
    _require_counted(text, counted)
    whose = "msta" if pipeline == "msta" else "vidprism"
    for i in range(count):
        for crop, place in ((0, 1),) if crops == "1" else ((1, 0), (2, 2), (3, 1)):
            number = PUBLISHED_FROM[whose] + 1000 * count + 10 * (i + 1) + crop
            # The crops of a clip are of the same frames.
            rule, drawn = f"shifted:{i + 1}/{count}", None
            if whose == "msta":
                rule, drawn = ("tsn-centre", None) if count == 1 else ("tsn-random", seed + number - crop)
            # One centred crop is taken of a slightly larger picture there; three crops never are.
            share = SIDE / SHORT if whose == "msta" and crops == "1" else 1.0
            meaning: dict[str, Json] = {
                "pipeline": whose,
                "clip": i + 1,
                "of": count,
                "frames": rule,
                "short_share": share,
            }
            meaning |= {"crop": ("middle", "first", "last", "middle")[crop], "crops": int(crops)}
            meaning |= {} if drawn is None else {"seed": drawn}
            yield View(number, 1, rule, drawn, meaning, partial(_square, place=place, share=share))


def _copies(count: int, text: str, counted: bool, pipeline: Pipeline, seed: int, flip: bool) -> Iterator[View]:
    """Augmented copies by a published pipeline, frames drawn anew for each."""
    _require_counted(text, counted)
    change = vidprism if pipeline == "vidprism" else msta
    for i in range(1, count + 1):
        number = PUBLISHED_FROM[pipeline] + COPIES_FROM + i
        meaning: dict[str, Json] = {"pipeline": pipeline, "copy": i, "seed": seed, **TRAINING[pipeline]}
        meaning |= {} if flip else {"flip": 0.0}
        made = partial(change, number=number, seed=seed, flip=flip)
        yield View(number, 1, "tsn-random", seed + number, meaning, made)


def _square(clip: Clip, name: str, *, place: int, share: float) -> Clip:
    """A square of a share of the shorter side, first (0), middle (1) or last (2) along the longer one."""
    height, width = clip.frames.shape[1:3]
    edge = max(1, round(min(height, width) * share))
    top, left = (
        ((side - edge) * place // 2 if side == max(height, width) else (side - edge) // 2) for side in (height, width)
    )
    return _cropped(clip, top, left, edge, edge)


def _augmented(count: int, seed: int, flip: bool) -> Iterator[View]:
    for i in range(1, count + 1):
        number = AUGMENTED_FROM + i
        meaning: dict[str, Json] = {"copy": i, "seed": seed, "flip": flip, "area": [LEAST_AREA, 1.0], "jitter": JITTER}
        yield View(number, meaning=meaning, change=partial(augmented, number=number, seed=seed, flip=flip))


def _third(clip: Clip, name: str, *, i: int) -> Clip:
    return third(clip, i)


def _part(clip: Clip, name: str, *, i: int, count: int) -> Clip:
    return part(clip, i, count)


def third(clip: Clip, i: int) -> Clip:
    """The first (0), middle (1) or last (2) square along the longer side: left to right, or top to bottom."""
    height, width = clip.frames.shape[1:3]
    edge = min(height, width)
    return _cropped(clip, (height - edge) * i // 2, (width - edge) * i // 2, edge, edge)


def part(clip: Clip, i: int, count: int) -> Clip:
    """The i-th of `count` equal runs of the frames; `repeated` is then what of it was repeated."""
    length = len(clip.indices) // count
    run = slice(i * length, (i + 1) * length)
    padding = int(str(clip.notes.get("repeated", 0)))
    repeated = max(0, min(length, (i + 1) * length - (len(clip.indices) - padding)))
    notes: dict[str, Json] = {**clip.notes, "repeated": repeated}
    return replace(clip, frames=clip.frames[run], seconds=clip.seconds[run], indices=clip.indices[run], notes=notes)


def augmented(clip: Clip, name: str, number: int, *, seed: int, flip: bool) -> Clip:
    """A random crop, mirrored or not, its colours changed a little: one draw per (seed, name, number) for all frames.

    Without `flip` everything else is drawn as with it. The notes say what was done.
    """
    draw = np.random.default_rng([seed, zlib.crc32(name.encode("utf-8", "surrogateescape")), number])
    height, width = clip.frames.shape[1:3]
    side = float(np.sqrt(draw.uniform(LEAST_AREA, 1)))
    rows, columns = max(1, round(height * side)), max(1, round(width * side))
    top, left = int(draw.integers(height - rows + 1)), int(draw.integers(width - columns + 1))
    mirrored = bool(draw.random() < 0.5) and flip
    factors = draw.uniform(1 - JITTER, 1 + JITTER, 3).astype(np.float32)
    cropped = _cropped(clip, top, left, rows, columns)
    frames = cropped.frames[:, :, ::-1] if mirrored else cropped.frames
    notes: dict[str, Json] = {**cropped.notes, "flipped": mirrored, "jitter": [float(f) for f in factors]}
    return replace(cropped, frames=jittered(frames, *factors), notes=notes)


def jittered(
    frames: npt.NDArray[np.uint8], brightness: float, contrast: float, saturation: float
) -> npt.NDArray[np.uint8]:
    """Colours `[T, H, W, 3]` times brightness, then away from the clip's mean luma, then from each pixel's luma."""
    changed = np.empty(frames.shape, np.uint8)
    mean = np.float32(_luma(frames.mean(axis=(0, 1, 2))) * brightness)
    for t, frame in enumerate(frames):
        values = (frame.astype(np.float32) * np.float32(brightness) - mean) * np.float32(contrast) + mean
        grey = _luma(values)[..., None].astype(np.float32)
        values = (values - grey) * np.float32(saturation) + grey
        changed[t] = np.clip(np.rint(values), 0, 255)
    return changed


def _luma(values: npt.NDArray[Any]) -> Any:
    red, green, blue = (values[..., c] * _LUMA[c] for c in range(3))
    return red + green + blue


def _cropped(clip: Clip, top: int, left: int, rows: int, columns: int) -> Clip:
    frames = np.ascontiguousarray(clip.frames[:, top : top + rows, left : left + columns])
    box: list[Json] = [top, left, rows, columns]
    return replace(clip, frames=frames, notes={**clip.notes, "box": box})
