"""The values that a sweep tries, as they are typed: `--grid lr=1e-3,3e-4` and `--seeds 3`."""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vfc.cache_schema.values.errors import BadInput, VfcError, combined, unknown_name
from vfc.cli.options import Flag, path_errors


def seeds_of(seeds: tuple[int, ...], first: int) -> list[int]:
    """The seeds that `--seeds` names: none is `first` alone, one number is how many from `first` on.

    Raises:
        BadInput: a seed below 0 or named twice, or no seed at all.
    """
    if len(seeds) < 2:
        count = seeds[0] if seeds else 1
        if count < 1:
            raise BadInput(f"--seeds {count} trains nothing.", "Give a number of seeds, as in --seeds 3.")
        return [*range(first, first + count)]
    if min(seeds) < 0 or len({*seeds}) < len(seeds):
        raise BadInput(
            f"--seeds {','.join(map(str, seeds))} has a seed twice, or one below 0.",
            "Write --seeds 3, or --seeds 0,1,2.",
        )
    return [*seeds]


Layers = Callable[[Sequence[str]], Sequence[str]]


@dataclass(frozen=True)
class Range:
    """Numbers of which random values are drawn: whole ones evenly, others on a log scale where `low` is above 0."""

    low: float
    high: float
    whole: bool

    def draw(self, generator: random.Random) -> str:
        """A value, as it would be typed."""
        if self.whole:
            return str(generator.randint(int(self.low), int(self.high)))
        if self.low > 0:
            return f"{math.exp(generator.uniform(math.log(self.low), math.log(self.high))):.3g}"
        return f"{generator.uniform(self.low, self.high):.3g}"


Values = list[Any] | Range


def grid_of(texts: tuple[str, ...], listed: list[Flag], layers: Layers) -> Iterator[tuple[Flag, Values]]:
    """Each swept flag with the texts of its values (of a switch: true and false), or with its range.

    `layers` gives the stored layers that a range of layers stands for.

    Raises:
        VfcError: all that is wrong with the grid.
    """
    by_name = {name: flag for flag in listed for name in (flag.name, *flag.earlier_names)}
    errors, names = list[VfcError](), set[str]()
    for text in texts:
        name, equals, values = text.partition("=")
        key = name.strip().lstrip("-").replace("-", "_")
        try:
            if not equals or not values.strip():
                raise BadInput(f"--grid {text} names no values.", "Write for example --grid lr=1e-3,3e-4.")
            if key not in by_name or by_name[key].name in ("out", "device", "seed"):
                raise _not_swept(key, by_name)
            flag = by_name[key]
            if flag.name in names:
                raise BadInput(f"--grid {key} is given twice.", "Give all values of a flag at once.")
            names.add(flag.name)
            drawn = _range_of(flag, values)
            if drawn is not None:
                yield flag, drawn
                continue
            pieces = [piece.strip() for piece in values.split(";" if ";" in values else ",") if piece.strip()]
            if flag.name == "layer" and any(re.search(r"\d[-:]\d|^all$", piece) for piece in pieces):
                pieces = [*layers(pieces)]
            if len({*pieces}) < len(pieces):
                raise BadInput(f"--grid {text} has a value twice.", "Give each value once.")
            typed = [_as_typed(flag, piece) for piece in pieces]
            yield flag, typed
        except VfcError as error:
            errors.append(error)
    if errors:
        raise combined(errors)


def combinations(values: Sequence[Values], search: str, trials: int, seed: int) -> list[tuple[Any, ...]]:
    """The combinations of values that are tried: all of them, or `trials` different ones drawn with `seed`.

    Raises:
        BadInput: a range without random search; fewer combinations than trials.
    """
    if search == "grid":
        ranges = [each for each in values if isinstance(each, Range)]
        if ranges:
            raise BadInput(
                f"--grid with the range {ranges[0].low:g}..{ranges[0].high:g} has no end of values.",
                "Add --search random --trials 20, or list the values.",
            )
        return [*itertools.product(*(each for each in values if not isinstance(each, Range)))]
    generator = random.Random(seed)
    drawn: dict[tuple[Any, ...], None] = {}
    for _ in range(100 * trials):
        if len(drawn) == trials:
            break
        one = (each.draw(generator) if isinstance(each, Range) else generator.choice(each) for each in values)
        drawn[tuple(one)] = None
    if len(drawn) < trials:
        raise BadInput(
            f"--trials {trials} is more than the {len(drawn)} combinations of the grid.",
            "Give fewer trials, more values, or leave out --search random.",
        )
    return [*drawn]


def _range_of(flag: Flag, text: str) -> Range | None:
    """`1e-4..1e-2` of a number; None for a list of values.

    Raises:
        BadInput: the ends are no numbers of the flag, or not in order.
    """
    if flag.scalar not in (int, float) or flag.many or ".." not in text:
        return None
    low, _, high = text.partition("..")
    ends = flag.typed(low.strip()), flag.typed(high.strip())
    if not ends[0] < ends[1]:
        raise BadInput(f"--grid {flag.name}={text} is no range.", "Give the lower end first, as in lr=1e-5..1e-2.")
    return Range(*ends, flag.scalar is int)


def _not_swept(name: str, by_name: Mapping[str, Flag]) -> VfcError:
    remedies = {
        "seed": "Give --seeds 3, or --seeds 0,1,2.",
        "out": "Give --out the folder of the sweep.",
        "device": "Give --device, which holds for all trials.",
    }
    if name in remedies:
        return BadInput(f"--grid {name} cannot be swept.", remedies[name])
    return unknown_name("flag of this head to sweep:", name, by_name)


def _as_typed(flag: Flag, text: str) -> Any:
    """A value of the grid as it would be typed after its flag, checked.

    Raises:
        VfcError: it is not allowed.
    """
    if flag.scalar is bool:
        words = {"true": True, "on": True, "yes": True, "false": False, "off": False, "no": False}
        if text.lower() not in words:
            raise BadInput(f"--grid {flag.name}={text}: it is on or off.", f"Write --grid {flag.name}=on,off.")
        return words[text.lower()]
    value = flag.typed([text] if flag.many else text)
    for error in path_errors(flag, value):
        raise error
    return text


def changed(config: Any, changes: Mapping[tuple[str, ...], Any], path: tuple[str, ...] = ()) -> Any:
    """A settings dataclass with other values at some paths; each dataclass checks its values."""
    replaced = {}
    for field in dataclasses.fields(config):
        below = (*path, field.name)
        if below in changes:
            replaced[field.name] = changes[below]
        elif any(place[: len(below)] == below for place in changes):
            replaced[field.name] = changed(getattr(config, field.name), changes, below)
    return dataclasses.replace(config, **replaced)
