"""Frame sampling: rules by name, pure functions from frame counts to frame numbers.

For `n` frames out of `total` (frames and `i` are counted from 0, all divisions are exact):

| rule | frame number `i` |
| --- | --- |
| `tsn-centre` | `floor((i + 0.5) * total / n)`: the middle of each of `n` equal segments (the default) |
| `tsn-random` | drawn from `floor(i * total / n) .. floor((i + 1) * total / n) - 1`, a function of (seed, name) |
| `linspace` | `numpy.linspace(0, total - 1, n)`, truncated toward 0 |
| `linspace-round` | `numpy.linspace(0, total - 1, n)`, rounded half to even (Qwen3-VL's own rule) |
| `hf-arange` | `floor(i * total / n)`: the start of each segment (transformers' default) |
| `shifted:a/b` | `floor(o + i * total / n)`, `o` the a-th of b offsets evenly from 0 to `total / n - 1`: clip a of b |
| `stride:k` | `i * k`, to the end of the video |
| `fps:x` | the frame on display `i / x` seconds after the first one, to the end of the video |
| `all` | `i` |

The last three take as many frames as there are; the others take exactly `n`, and a video of fewer than `n` frames
gives all of its frames, the last one repeated.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

from vfc.cache_schema.values.errors import BadInput, unknown_name

Indices = npt.NDArray[np.int64]

DEFAULT_RULE: Final = "tsn-centre"
CLOCK_SLACK: Final = 1.1e-3
"""Seconds that a frame may be shown late and still count as shown: containers round times, often to a millisecond."""


def _positive_int(text: str) -> bool:
    return text.isascii() and text.isdecimal() and int(text) >= 1


def _positive_number(text: str) -> bool:
    try:
        return math.isfinite(float(text)) and float(text) > 0
    except ValueError:
        return False


def _clip_of_clips(text: str) -> bool:
    clip, _, clips = text.partition("/")
    return _positive_int(clip) and _positive_int(clips) and int(clip) <= int(clips)


_FORMULAS: Final[dict[str, Callable[[int, int], Indices]]] = {
    "tsn-centre": lambda n, total: (2 * np.arange(n, dtype=np.int64) + 1) * total // (2 * n),
    "hf-arange": lambda n, total: np.arange(n, dtype=np.int64) * total // n,
    "linspace": lambda n, total: np.linspace(0, total - 1, n).astype(np.int64),
    "linspace-round": lambda n, total: np.linspace(0, total - 1, n).round().astype(np.int64),
}
_NUMBERED: Final[dict[str, tuple[Callable[[str], bool], str, str]]] = {
    "stride": (_positive_int, "a whole number from 1 up", "stride:4 takes every fourth frame."),
    "fps": (_positive_number, "a rate above 0", "fps:2 takes two frames per second."),
    "shifted": (_clip_of_clips, "a clip and how many there are", "shifted:2/4 takes clip 2 of 4."),
}
"""Rule with a number -> whether a number is valid, what it needs, an example."""
_OPEN: Final = ("all", "fps", "stride")
"""Rules whose number of frames follows the length of the video."""


def rule_names() -> list[str]:
    """Every rule, as it is written in messages and help: `stride:n` and `fps:x` stand for a number."""
    return sorted((*_FORMULAS, "tsn-random", "shifted:a/b", "stride:n", "fps:x", "all"))


def fixed_count(rule: str) -> bool:
    """Whether `rule` gives the number of frames asked for, for every video; raises as `check_rule` does."""
    return check_rule(rule) not in _OPEN


def check_rule(rule: str) -> str:
    """The name of `rule` without its number (`stride`, `fps`, `linspace` ...).

    Raises:
        UnknownName: there is no such rule.
        BadInput: the number behind the colon is missing or invalid.
    """
    name, _, number = rule.partition(":")
    if name in _NUMBERED:
        valid, need, example = _NUMBERED[name]
        if not valid(number):
            raise BadInput(f"The frame rule {rule!r} needs {need}.", example)
        return name
    if rule not in (*_FORMULAS, "tsn-random", "all"):
        raise unknown_name("frame rule", rule, rule_names())
    return rule


def frame_indices(
    rule: str,
    num_frames: int,
    total: int,
    fps: float,
    *,
    seed: int = 0,
    name: str = "",
    seconds: npt.NDArray[np.float64] | None = None,
) -> Indices:
    """Frame numbers `[T]`, never falling, each in `0 .. total - 1`.

    Args:
        rule: a name from the table above.
        num_frames: `n`; not used by `stride:k`, `fps:x` and `all`.
        total: number of frames to choose from.
        fps: frames per second, for `fps:x` where `seconds` is not given.
        seed: of `tsn-random`.
        name: of the video, for `tsn-random`.
        seconds: when each frame is shown `[total]`, rising; for `fps:x` of videos with a varying frame rate.

    Raises:
        UnknownName: no such rule.
        BadInput: `total` or `num_frames` below 1, or a rule without its number.
    """
    kind, number = check_rule(rule), rule.partition(":")[2]
    if total < 1:
        raise BadInput("There is no frame to choose from.", "Check that the video, or the part asked for, has a frame.")
    if kind in _OPEN:
        if kind == "fps":
            return _at_rate(float(number), total, fps, seconds)
        return np.arange(0, total, int(number or 1), dtype=np.int64)
    if num_frames < 1:
        raise BadInput(f"{num_frames} frames were asked for.", f"The rule {rule!r} needs a number from 1 up.")
    if total < num_frames:
        return np.minimum(np.arange(num_frames, dtype=np.int64), total - 1)
    if kind == "tsn-random":
        edges = np.arange(num_frames + 1, dtype=np.int64) * total // num_frames
        generator = np.random.default_rng([seed, zlib.crc32(name.encode("utf-8", "surrogateescape"))])
        return generator.integers(edges[:-1], edges[1:])
    if kind == "shifted":
        clip, clips = map(int, number.split("/"))
        return _shifted(clip, clips, num_frames, total)
    return _FORMULAS[kind](num_frames, total)


def _shifted(clip: int, clips: int, n: int, total: int) -> Indices:
    """In integers throughout: offset `(clip - 1) (total - n) / (n (clips - 1))`; only the final sum is rounded down."""
    parts = max(1, clips - 1)
    steps = np.arange(n, dtype=np.int64)
    return (steps * total * parts + (clip - 1) * (total - n)) // (n * parts)


def _at_rate(rate: float, total: int, fps: float, seconds: npt.NDArray[np.float64] | None) -> Indices:
    times = np.arange(total) / fps if seconds is None else seconds - seconds[0]
    sample_times = np.arange(math.floor((float(times[-1]) + CLOCK_SLACK) * rate) + 1) / rate
    return np.searchsorted(times, sample_times + CLOCK_SLACK, side="right").astype(np.int64) - 1
