"""How the axes of an archive are meant, and at which rate its labels are: settled over many files, not by the first."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from statistics import median
from typing import Final, Literal

from vfc.cache_schema.values.errors import BadInput, RecordRejected

from .options import ImportOptions
from .sources import Array, Item, Source, reading

FEW_STEPS: Final = 16
"""By how many steps features and labels may differ and still be of one rate: both are cut to the shorter."""

_SAMPLE: Final = 64
_CROPS: Final = (5, 10)
_EXACT: Final = 2
_DRIFT: Final = 4


@dataclass(frozen=True)
class Settled:
    """`time`: the axis of time. `ratio`: steps of features per label. `width`: D of most files, 0 where unknown.

    `notes`: what was settled and was not asked for, as lines for the user.
    """

    time: Literal["first", "last"]
    ratio: Fraction = Fraction(1)
    width: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Shape:
    """The shape of an item's features as its file holds them, and how many labels it has."""

    name: str
    shape: tuple[int, ...]
    labels: int | None


def settle(source: Source, options: ImportOptions) -> tuple[Source, Settled]:
    """The source with every crop an item of its own, and how its files are read.

    The axis of time is the one whose length varies, the other is the same in all files. All items with labels are
    looked at, of others 64 spread over the source.

    Raises:
        BadInput: features and labels of different rates, without `--resample-labels`; crops that are none.
    """
    shapes = list(_shapes(source))
    if _are_crops(shapes, options):
        crops = next(each.shape[1] for each in shapes if len(each.shape) == 3)
        note = f"The {crops} arrays of each file ({list(shapes[0].shape)}) are crops: views 0 to {crops - 1} of it."
        items = tuple(_crop(item, crop) for item in source.items for crop in range(crops))
        source = dataclasses.replace(source, items=items)
        shapes = [dataclasses.replace(each, shape=each.shape[::2]) for each in shapes if len(each.shape) == 3]
        notes = [note]
    else:
        notes = []
    time = _time(shapes, source, options)
    if time != _default(source) and options.time == "auto":
        notes.append(f"Time is the {time} axis: the other one has the same length in most of {len(shapes)} files.")
    widths = Counter(each.shape[0 if time == "last" else -1] for each in shapes if len(each.shape) == 2)
    if not source.streams:
        _require_most(shapes, time, options)
    notes += _of_one_shape(shapes, options)
    ratio = _ratio([each for each in shapes if each.labels], time)
    if ratio != 1 and not options.resample_labels:
        raise _other_rate(next(each for each in shapes if each.labels), time, ratio)
    if ratio != 1:
        notes.append(f"Every step has the label of its time: {_words(ratio)}.")
    return source, Settled(time, ratio, widths.most_common(1)[0][0] if widths else 0, tuple(notes))


def _shapes(source: Source) -> Iterator[_Shape]:
    labelled = any(item.labels for item in source.items)
    stride = 1 if labelled else max(1, -(-len(source.items) // _SAMPLE))
    for item in source.items[::stride]:
        try:
            values = reading(item.path, item.features)
            labels = len(item.labels()) if item.labels else None
        except RecordRejected:
            continue  # listed when the item is imported
        if values.ndim and values.size:
            yield _Shape(item.name, values.shape, labels)


# --- crops -----------------------------------------------------------------------------------------------------------


def _are_crops(shapes: Sequence[_Shape], options: ImportOptions) -> bool:
    """Whether files `[T, crops, D]` hold crops: asked for, or T varies and there are five or ten in all of them."""
    three = [each.shape for each in shapes if len(each.shape) == 3]
    if options.layout == "crops":
        if len(three) < len(shapes) or len({shape[1] for shape in three}) != 1:
            raise BadInput(
                f"--layout crops does not fit features of shape {list(shapes[0].shape) if shapes else []}.",
                "crops is [T, crops, D], with as many crops in every file.",
            )
        return True
    same = len({shape[1] for shape in three}) == 1 and three[0][1] in _CROPS
    return options.layout == "auto" and same and len(three) == len(shapes) and len({shape[0] for shape in three}) > 1


def _crop(item: Item, crop: int) -> Item:
    return dataclasses.replace(item, view=crop, features=partial(_one_crop, item, crop))


def _one_crop(item: Item, crop: int) -> Array:
    values = item.features()
    if values.ndim != 3 or crop >= values.shape[1]:
        raise RecordRejected(f"{item.path} has the shape {list(values.shape)}, the others are crops.", "Take it out.")
    return values[:, crop]


# --- the axis of time ------------------------------------------------------------------------------------------------


def _default(source: Source) -> Literal["first", "last"]:
    return "last" if source.format == "ms-tcn" else "first"


def _time(shapes: Sequence[_Shape], source: Source, options: ImportOptions) -> Literal["first", "last"]:
    if options.time != "auto":
        return options.time
    matrices = [each for each in shapes if len(each.shape) == 2]
    if not matrices or options.layout == "frame-major":
        return _default(source)
    by_axis = [Counter(each.shape[axis] for each in matrices).most_common(1)[0][1] for axis in (0, 1)]
    if by_axis[0] != by_axis[1]:
        return "last" if by_axis[0] > by_axis[1] else "first"
    # One file, or all of one shape: the axis that is as long as the labels, where there are labels.
    apart = [sum(abs(each.shape[axis] - each.labels) for each in matrices if each.labels) for axis in (0, 1)]
    if apart[0] != apart[1]:
        return "first" if apart[0] < apart[1] else "last"
    return _default(source)


def _require_most(shapes: Sequence[_Shape], time: str, options: ImportOptions) -> None:
    """Refuse axes that fit less than half of the files, before a store is begun with the first of them.

    Raises:
        BadInput: widths that differ, or lengths that differ where one is needed; with what would fit.
    """
    shown = ", ".join(str(list(each.shape)) for each in shapes[:3])
    matrices = [each.shape for each in shapes if len(each.shape) == 2]
    axis = 0 if time == "first" else 1
    widths, lengths = (Counter(shape[each] for shape in matrices) for each in (1 - axis, axis))
    all_of_tokens = bool(shapes) and all(len(each.shape) == 3 for each in shapes)
    fixed = options.layout == "frame-major" or all_of_tokens
    if fixed:
        most = Counter(each.shape for each in shapes).most_common(1)[0][1] if shapes else 0
        if len(shapes) > 1 and 2 * most <= len(shapes):
            raise BadInput(
                f"The files have different shapes ({shown}); frame-major features have one.",
                "--layout steps takes [T, D] of any T, --layout crops [T, crops, D].",
            )
    elif len(matrices) > 1:
        most = widths.most_common(1)[0][1]
        turned_over = len(lengths) == 1 and 2 * most <= len(matrices)
        if turned_over or 2 * most < len(matrices):
            other = "last" if time == "first" else "first"
            raise BadInput(
                f"With time as the {time} axis the files have different widths: {shown}.",
                f"Give --time {other}." if turned_over else "Give one folder per kind of features.",
            )


def _of_one_shape(shapes: Sequence[_Shape], options: ImportOptions) -> list[str]:
    """A note where all files have one shape, so that nothing tells their axes apart."""
    if options.layout != "auto" or len({each.name for each in shapes}) < 2 or len({each.shape for each in shapes}) > 1:
        return []
    shape = list(shapes[0].shape)
    reading_of = {1: "vector [D]", 2: "steps [T, D]", 3: "frame-major [T, N, D]"}.get(len(shape), "")
    others = {1: "", 2: "; --layout frame-major for T frames of every video", 3: "; --layout crops for [T, crops, D]"}
    return [f"All files looked at have the shape {shape}, read as {reading_of}{others.get(len(shape), '')}."]


# --- rates -----------------------------------------------------------------------------------------------------------


def _ratio(shapes: Sequence[_Shape], time: str) -> Fraction:
    """Steps of features per label, where it is the same in nine of ten videos; 1 where they are of one rate."""
    pairs = [(each.shape[-1 if time == "last" else 0], each.labels or 1) for each in shapes]
    if not pairs:
        return Fraction(1)
    estimate = median(steps / labels for steps, labels in pairs)
    ratios = [Fraction(estimate).limit_denominator(most) for most in (1, 2, 12, 60, 10_000)]
    ratio = next((each for each in ratios if each and _fits(pairs, each)), None)
    if ratio is None or ratio == 1:
        return Fraction(1)
    most = max(labels for _, labels in pairs) * abs(float(ratio) - 1)
    least = min(labels for _, labels in pairs) * abs(float(ratio) - 1)
    # Lost frames at the ends differ by as much in a short video as in a long one; another rate differs with the length.
    return ratio if most > FEW_STEPS or most - least > _DRIFT else Fraction(1)


def _fits(pairs: Sequence[tuple[int, int]], ratio: Fraction) -> bool:
    exact = sum(abs(steps - labels * ratio) <= max(float(_EXACT), float(ratio)) for steps, labels in pairs)
    return exact >= 0.9 * len(pairs)


def require_near(name: str, features: int, labels: int, ratio: Fraction = Fraction(1)) -> None:
    """Refuse a video whose features and labels differ by more than a few steps lost at the end.

    Raises:
        RecordRejected: they are too far apart to be of one frame rate.
    """
    if abs(features - labels * ratio) > FEW_STEPS * max(1.0, float(ratio)):
        raise RecordRejected(
            f"{name!r} has {features} steps of features and {labels} of labels: too far apart to be of one frame rate.",
            "Give features of the frame rate of the labels, [D, T]; or --time first where they are [T, D].",
        )


def _words(ratio: Fraction) -> str:
    return f"{ratio.numerator} step{'s' if ratio.numerator > 1 else ''} of features to {ratio.denominator} of labels"


def _other_rate(first: _Shape, time: str, ratio: Fraction) -> BadInput:
    steps = first.shape[-1 if time == "last" else 0]
    return BadInput(
        f"Features and labels are of different rates: {_words(ratio)} in all videos ({first.name}: {steps} and "
        f"{first.labels}).",
        "--resample-labels gives every step the label of its time; or give features of the rate of the labels.",
    )
