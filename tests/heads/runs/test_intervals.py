"""Intervals against printed tables, hand-worked numbers and Student's interval of equal units."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vfc.heads.runs.intervals import Units, mean_interval, over_units, student, wilson


@pytest.mark.parametrize(
    ("freedom", "printed"),
    [
        *((1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (5, 2.5706), (9, 2.2622), (23, 2.0687)),
        *((30, 2.0423), (100, 1.9840), (1000, 1.9623), (10**6, 1.9600)),
    ],
)
def test_students_t_to_the_digits_of_printed_tables(freedom: int, printed: float) -> None:
    assert student(freedom) == pytest.approx(printed, abs=6e-5)


def test_the_two_forms_of_students_t_meet() -> None:
    assert student(2000) - student(2001) == pytest.approx(student(2001) - student(2002), rel=0.01)


def test_units_of_equal_size_give_the_interval_of_their_means() -> None:
    means = np.array([0.1, 0.4, -0.2, 0.3, 0.0])
    mean, half = over_units(7 * means, np.full(5, 7.0))
    assert mean == pytest.approx(0.12)
    assert half == pytest.approx(2.77645 * means.std(ddof=1) / math.sqrt(5), rel=1e-5)
    assert half == pytest.approx(mean_interval(means))


def test_items_of_one_unit_are_not_independent() -> None:
    # Ten files, each right or wrong as a whole; with ten segments each there are no more files than before.
    right = np.array([1.0, 0, 1, 1, 0, 0, 1, 0, 1, 1])
    assert over_units(10 * right, np.full(10, 10.0)) == pytest.approx(over_units(right, np.ones(10)))
    assert over_units(np.array([3.0]), np.array([4.0])) == (0.75, math.inf)


def test_wilson_at_the_ends_and_by_hand() -> None:
    # 10 of 10: (1 - w, 1) with w = z^2 / (n + z^2) = 3.8415 / 13.8415.
    assert wilson(1, 10) == pytest.approx((1 - 3.841459 / 13.841459, 1))
    assert wilson(0, 10) == pytest.approx((0, 3.841459 / 13.841459))
    # 81 of 263 (Newcombe, Statistics in Medicine 1998, method 3): 0.2553 to 0.3662.
    assert wilson(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)


def test_a_unit_of_two_lists_is_one_unit() -> None:
    joined = Units("files", {"a": (1, 2), "b": (0, 1)}) + Units("files", {"b": (1, 1), "c": (1, 1)})
    assert joined == Units("files", {"a": (1, 2), "b": (1, 2), "c": (1, 1)})
