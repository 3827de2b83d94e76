"""Intervals of means: Student's t over units (classes, videos, files), Wilson's interval of a share, the bootstrap.

A unit is what a new sample of the data would draw anew. Test items of one unit are not independent: 10,000 few-shot
tasks of 60 clips tell no more of other clips and classes than the 60 clips do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]

DRAWS: Final = 10_000
_AT_ONCE: Final = 1 << 22
_NORMAL: Final = 1.959963984540054
_LARGE: Final = 2_000


@dataclass(frozen=True)
class Units:
    """What the interval of a score is over: `name` in the plural, and unit -> (sum of `correct`, number of items)."""

    name: str
    sums: Mapping[str, tuple[float, float]]

    def __add__(self, other: Units) -> Units:
        """The items of both; a unit that is in both is one unit."""
        sums = dict(self.sums)
        for unit, (right, count) in other.sums.items():
            before = sums.get(unit, (0.0, 0.0))
            sums[unit] = (before[0] + right, before[1] + count)
        return Units(self.name if self.name == other.name else "items", sums)


def over_units(sums: Values, counts: Values) -> tuple[float, float]:
    """Mean over all items, and the half width of its 95 % interval over the units they belong to.

    Student's t with (number of units - 1) degrees of freedom on the sum of each unit less its expectation, the variance
    of a ratio estimator; with equally many items per unit it is the t interval of the mean of the units' means.

    Args:
        sums: Sum of the items of each unit `[U]`.
        counts: Number of items of each unit `[U]`.

    Returns:
        Mean and half width; infinite for a single unit.
    """
    total, units = counts.sum(), len(counts)
    mean = float(sums.sum() / total)
    if units < 2:
        return mean, math.inf
    rest = sums - mean * counts
    error = math.sqrt(units / (units - 1) * float(rest @ rest)) / float(total)
    return mean, student(units - 1) * error


def mean_interval(values: Values) -> float:
    """Half width of Student's 95 % interval of the mean of independent values `[n]`, n of 2 or more."""
    return student(len(values) - 1) * float(values.std(ddof=1)) / math.sqrt(len(values))


def wilson(share: float, count: float) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of `count` independent items: inside [0, 1], and not empty at 0 and 1.

    Wilson, "Probable inference, the law of succession, and statistical inference" (JASA 1927).
    """
    z = _NORMAL
    scale = 1 + z * z / count
    centre = (share + z * z / (2 * count)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, centre - half), min(1.0, centre + half)


def bootstrap(values: Values, draws: int = DRAWS, seed: int = 0) -> tuple[float, float]:
    """Bootstrap interval: 2.5 and 97.5 % quantiles of the mean of `draws` resamples of `values`."""
    generator, count = np.random.default_rng(seed), len(values)
    at_once = max(1, _AT_ONCE // count)
    means = np.concatenate(
        [
            values[generator.integers(count, size=(min(at_once, draws - start), count))].mean(axis=1)
            for start in range(0, draws, at_once)
        ]
    )
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def student(freedom: int) -> float:
    """The 97.5 % quantile of Student's t with a whole number of degrees of freedom, to 9 digits.

    The distribution function is a finite sum (Abramowitz and Stegun 26.7.3 and 26.7.4), inverted by bisection; from
    2,000 degrees of freedom on the Cornish-Fisher expansion (26.7.5) is as exact.
    """
    if freedom > _LARGE:
        z = _NORMAL
        return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    low, high = 0.0, math.pi / 2
    while high - low > 1e-15:
        middle = (low + high) / 2
        low, high = (middle, high) if _inside(middle, freedom) < 0.95 else (low, middle)
    return math.tan((low + high) / 2) * math.sqrt(freedom)


def _inside(angle: float, freedom: int) -> float:
    """P(-t < T < t) with `angle` = atan(t / sqrt(freedom))."""
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term, total = (cosine if odd else 1.0), 0.0
    for power in range(1 + odd, freedom, 2):
        total += term
        term *= cosine * cosine * power / (power + 1)
    return 2 / math.pi * (angle + sine * total) if odd else sine * total
