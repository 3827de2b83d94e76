"""Views: three crops, clips in time and augmented copies of a video, each stored as records of its own.

View 0 is the clean one. The number of a view says what it is, and never changes its meaning in a store: 1, 2, 3 are
the three crops, 100 n + i is the i-th of n clips, 10000 + i the i-th augmented copy. Views by published rules begin at
1,000,000 (VidPrism) and 2,000,000 (MSTA): + 1000 n + 10 i + c is crop c of the i-th of n clips in a test (c is 0 where
there is one crop), + 100,000 + i the i-th augmented copy. The meaning is stored in `axes/view-<n>.json`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from vfc.cache_schema.values.errors import BadInput, unknown_name
from vfc.cache_schema.values.record import Json
from vfc.extract.decode import Clip

from .augmentations import SHORT, SIDE, TRAINING, Pipeline, msta, vidprism, view_generator

KINDS: Final = ("centre", "three-crops", "clips:n", "augment:n", "test:nx1", "test:nx3")
CLIPS_FROM: Final = 100
AUGMENTED_FROM: Final = 10_000
PUBLISHED_FROM: Final[Mapping[str, int]] = {"plain": 1_000_000, "vidprism": 1_000_000, "msta": 2_000_000}
COPIES_FROM: Final = 100_000
CLIPS_RULE: Final = "equal runs of count x frames by the rule; of a shorter video, overlapping runs of all its frames"
"""How `clips:n` divides a video, as axes record it. Version 0.1 repeated the last frame of shorter videos instead."""
LEAST_AREA: Final = 0.5
"""Smallest share of the picture that a random crop keeps; the crop has the picture's aspect ratio."""
JITTER: Final = 0.2
"""Brightness, contrast and saturation are multiplied by 1 - JITTER to 1 + JITTER."""

_LUMA: Final = (0.299, 0.587, 0.114)

Change = Callable[[Clip, str], Clip]


@dataclass(frozen=True)
class View:
    """One view of a video.

    `number`: in the key of its records. `clips`: into how many clips the video is divided, so that so many times the
    frames are decoded. `rule`, `seed`: of its frames, where they are not those of the run. `meaning`: what the number
    is bound to in a store. `change`: from the decoded clip and the video's name to the clip that the model sees.
    """

    number: int = 0
    clips: int = 1
    rule: str = ""
    seed: int | None = None
    meaning: Mapping[str, Json] = field(default_factory=dict)
    change: Change = field(default=lambda clip, name: clip, compare=False)

    @property
    def whole(self) -> bool:
        """Whether the picture is neither cropped nor augmented."""
        return not {"crop", "copy"} & self.meaning.keys()


@dataclass(frozen=True)
class _Request:
    """One text of `--views` with the settings of the run that its views depend on."""

    text: str
    seed: int
    flip: bool
    counted: bool
    pipeline: Pipeline

    @property
    def kind(self) -> str:
        return self.text.partition(":")[0]

    @property
    def number(self) -> str:
        return self.text.partition(":")[2]

    def count(self, number: str, least: int) -> int:
        """`number` as an integer; raises BadInput where it is out of range, or the frame rule takes no number."""
        if not (number.isascii() and number.isdigit() and least <= int(number) <= CLIPS_FROM - 1):
            raise BadInput(
                f"--views {self.text!r} needs a number from {least} to {CLIPS_FROM - 1}.",
                "Give it behind a colon: augment:4.",
            )
        if not self.counted and not (self.kind == "augment" and self.pipeline == "plain"):
            raise BadInput(
                f"--views {self.text} needs a frame rule that takes a number of frames.",
                "Give --frames tsn-centre or linspace, or leave these views out.",
            )
        return int(number)


def views(
    specs: Sequence[str], *, seed: int = 0, flip: bool = True, counted: bool = True, pipeline: Pipeline = "plain"
) -> tuple[View, ...]:
    """The clean view and those of `specs`, sorted by number.

    Args:
        specs: `three-crops`, `clips:n`, `augment:n`, `test:nxm`; `centre` is the clean one, which is always included.
        seed: Of augmented copies, and of the frames of MSTA's clips.
        flip: Whether augmented copies may be mirrored.
        counted: Whether the frame rule takes a number of frames, which all but crops and plain copies need.
        pipeline: Whose rules `augment` and `test` follow; `plain` tests are VidPrism's, which draw nothing.

    Raises:
        UnknownName: no such view.
        BadInput: a number out of range, or clips in time under a rule without a number of frames.
    """
    by_number = {0: View()}
    for text in specs:
        request = _Request(text, seed, flip, counted, pipeline)
        if request.kind not in _BUILDERS:
            raise unknown_name("view", text, KINDS)
        by_number.update((view.number, view) for view in _BUILDERS[request.kind](request))
    return tuple(by_number[number] for number in sorted(by_number))


def _crops(request: _Request) -> Iterator[View]:
    if request.number:
        raise BadInput(f"--views {request.text!r}: {request.kind} takes no number.", f"Give --views {request.kind}.")
    for i in range(3 if request.kind == "three-crops" else 0):
        meaning: dict[str, Json] = {"crop": i + 1, "of": 3, "rule": "squares along the longer side, first to last"}
        yield View(i + 1, meaning=meaning, change=partial(square, position=i))


def _clips(request: _Request) -> Iterator[View]:
    count = request.count(request.number, 2)
    for i in range(count):
        meaning: dict[str, Json] = {"clip": i + 1, "of": count, "rule": CLIPS_RULE}
        number = CLIPS_FROM * count + i + 1
        yield View(number, count, meaning=meaning, change=partial(part, i=i, count=count))


def _tests(request: _Request) -> Iterator[View]:
    """`n x m`: n clips in time, m crops of each: left, right, middle (top, bottom, middle), or the middle alone."""
    clips, _, crops = request.number.partition("x")
    if crops not in ("1", "3"):
        raise BadInput(
            f"--views {request.text!r}: {request.number!r} is no number of clips by 1 or 3 crops.",
            "Give test:1x1 or test:4x3.",
        )
    count = request.count(clips, 1)
    msta_rules = request.pipeline == "msta"
    pipeline = "msta" if msta_rules else "vidprism"
    # MSTA takes a single centred crop from a slightly larger picture; three crops it never does.
    share = SIDE / SHORT if msta_rules and crops == "1" else 1.0
    for i in range(count):
        for crop, position in ((0, 1),) if crops == "1" else ((1, 0), (2, 2), (3, 1)):
            clip_number = PUBLISHED_FROM[pipeline] + 1000 * count + 10 * (i + 1)
            rule, seed = f"shifted:{i + 1}/{count}", None
            if msta_rules:  # all crops of a clip have the same frames
                rule, seed = ("tsn-centre", None) if count == 1 else ("tsn-random", request.seed + clip_number)
            meaning: dict[str, Json] = {
                "pipeline": pipeline,
                "clip": i + 1,
                "of": count,
                "frames": rule,
                "short_share": share,
                "crop": ("middle", "first", "last", "middle")[crop],
                "crops": int(crops),
            }
            meaning |= {} if seed is None else {"seed": seed}
            yield View(clip_number + crop, 1, rule, seed, meaning, partial(square, position=position, share=share))


def _augmented(request: _Request) -> Iterator[View]:
    """Augmented copies: by the plain rules of the run's frames, or by a published pipeline with frames drawn anew."""
    pipeline, seed, flip = request.pipeline, request.seed, request.flip
    for copy in range(1, request.count(request.number, 1) + 1):
        meaning: dict[str, Json] = {"copy": copy, "seed": seed}
        if pipeline == "plain":
            number = AUGMENTED_FROM + copy
            meaning |= {"flip": flip, "area": [LEAST_AREA, 1.0], "jitter": JITTER}
            yield View(number, meaning=meaning, change=partial(augmented, number=number, seed=seed, flip=flip))
            continue
        number = PUBLISHED_FROM[pipeline] + COPIES_FROM + copy
        meaning = {"pipeline": pipeline, **meaning, **TRAINING[pipeline], **({} if flip else {"flip": 0.0})}
        change = partial(vidprism if pipeline == "vidprism" else msta, number=number, seed=seed, flip=flip)
        yield View(number, 1, "tsn-random", seed + number, meaning, change)


_BUILDERS: Final[Mapping[str, Callable[[_Request], Iterator[View]]]] = {
    "centre": _crops,
    "three-crops": _crops,
    "clips": _clips,
    "augment": _augmented,
    "test": _tests,
}


def square(clip: Clip, name: str = "", *, position: int, share: float = 1.0) -> Clip:
    """A square of a share of the shorter side: first (0), middle (1) or last (2) along the longer side."""
    sides = clip.frames.shape[1:3]
    edge = max(1, round(min(sides) * share))
    top, left = ((side - edge) * (position if side == max(sides) else 1) // 2 for side in sides)
    return _cropped(clip, top, left, edge, edge)


def part(clip: Clip, name: str = "", *, i: int, count: int) -> Clip:
    """The i-th of `count` runs of the frames `[count * T, H, W, 3]`, itself `[T, H, W, 3]`.

    The runs lie end to end. A video with fewer frames, of which the decoder gives all and repeats the last one, is
    divided into overlapping runs at even offsets; only a video of fewer than T frames repeats its last frame. Notes:
    `repeated` counts the repeated frames of this run, `overlap` how many of its frames the run before it has too (the
    run after it, for the first one). A run whose overlap is T adds nothing to its neighbour.
    """
    length = len(clip.indices) // count
    frames = len(clip.indices) - int(str(clip.notes.get("repeated", 0)))
    starts = [i * max(0, frames - length) // (count - 1) for i in range(count)]
    run = slice(starts[i], starts[i] + length)
    step = starts[max(i, 1)] - starts[max(i, 1) - 1]
    notes: dict[str, Json] = {
        **clip.notes,
        "repeated": max(0, length - frames),
        "overlap": max(0, length - step),
    }
    return replace(clip, frames=clip.frames[run], seconds=clip.seconds[run], indices=clip.indices[run], notes=notes)


def augmented(clip: Clip, name: str, number: int, *, seed: int, flip: bool) -> Clip:
    """A random crop, a random mirroring and random colours: one draw per (seed, name, number) for all frames.

    Without `flip` the other draws are the same. The notes say what was drawn.
    """
    draw = view_generator(seed, name, number)
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
