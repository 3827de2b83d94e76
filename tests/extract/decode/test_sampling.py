"""Frame rules against slow formulas in exact fractions, and against numbers worked by hand."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfc.cache_schema.values.errors import BadInput, UnknownName
from vfc.extract.decode.sampling import fixed_count, frame_indices, rule_names

COUNTED = ("tsn-centre", "tsn-random", "linspace", "linspace-round", "hf-arange")


def test_indices_worked_by_hand() -> None:
    assert frame_indices("tsn-centre", 8, 100, 25).tolist() == [6, 18, 31, 43, 56, 68, 81, 93]
    assert frame_indices("tsn-centre", 3, 3, 25).tolist() == [0, 1, 2]
    assert frame_indices("linspace", 8, 100, 25).tolist() == [0, 14, 28, 42, 56, 70, 84, 99]
    assert frame_indices("stride:30", 8, 100, 25).tolist() == [0, 30, 60, 90]
    assert frame_indices("all", 8, 3, 25).tolist() == [0, 1, 2]
    assert frame_indices("fps:5", 8, 26, 25).tolist() == [0, 5, 10, 15, 20, 25]


def test_published_library_defaults() -> None:
    """The first and last numbers that the fact sheet gives for 8 of 300 frames."""
    hf = frame_indices("hf-arange", 8, 300, 30)
    assert hf[:3].tolist() == [0, 37, 75]
    assert hf[-1] == 262
    qwen3 = frame_indices("linspace-round", 8, 300, 30)
    assert qwen3[:2].tolist() == [0, 43]
    assert qwen3[-1] == 299


@given(n=st.integers(1, 64), total=st.integers(1, 5000))
def test_tsn_centre_is_the_middle_of_each_segment(n: int, total: int) -> None:
    got = frame_indices("tsn-centre", n, total, 30).tolist()
    if total >= n:
        assert got == [int((i + Fraction(1, 2)) * total / n) for i in range(n)]
    else:
        assert got == [*range(total), *[total - 1] * (n - total)]


@given(n=st.integers(1, 64), total=st.integers(64, 5000))
def test_linspace_is_numpy_truncated(n: int, total: int) -> None:
    assert frame_indices("linspace", n, total, 30).tolist() == [int(x) for x in np.linspace(0, total - 1, n)]


@given(rule=st.sampled_from(COUNTED), n=st.integers(1, 40), total=st.integers(1, 3000), seed=st.integers(0, 99))
def test_counted_rules_give_n_rising_frames_within_the_video(rule: str, n: int, total: int, seed: int) -> None:
    got = frame_indices(rule, n, total, 30, seed=seed, name="a/b.mp4")
    assert got.dtype == np.int64
    assert len(got) == n
    assert (np.diff(got) >= (1 if total >= n else 0)).all()
    assert got[0] >= 0
    assert got[-1] < total
    assert fixed_count(rule)


@given(n=st.integers(1, 20), total=st.integers(20, 500), seed=st.integers(0, 1000), name=st.text(max_size=8))
def test_tsn_random_draws_one_per_segment_and_again_the_same(n: int, total: int, seed: int, name: str) -> None:
    got = frame_indices("tsn-random", n, total, 30, seed=seed, name=name).tolist()
    for i, index in enumerate(got):
        assert i * total // n <= index < (i + 1) * total // n
    assert got == frame_indices("tsn-random", n, total, 30, seed=seed, name=name).tolist()


def test_tsn_random_depends_on_seed_and_name_and_reaches_every_frame() -> None:
    drawn = np.array([frame_indices("tsn-random", 4, 12, 30, seed=s, name="x") for s in range(200)])
    assert [sorted(set(column)) for column in drawn.T.tolist()] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]
    first = frame_indices("tsn-random", 16, 4000, 30, seed=0, name="x").tolist()
    assert first != frame_indices("tsn-random", 16, 4000, 30, seed=1, name="x").tolist()
    assert first != frame_indices("tsn-random", 16, 4000, 30, seed=0, name="y").tolist()


@given(total=st.integers(1, 400), fps=st.sampled_from([10, 24, 25, 30, 60]), rate=st.sampled_from([1, 2, 5, 10]))
def test_fps_takes_the_frame_on_display_in_exact_time(total: int, fps: int, rate: int) -> None:
    shown = [Fraction(i, fps) for i in range(total)]
    wanted = [Fraction(k, rate) for k in range(total) if Fraction(k, rate) <= shown[-1]]
    expected = [max(i for i, t in enumerate(shown) if t <= w) for w in wanted]
    assert frame_indices(f"fps:{rate}", 0, total, float(fps)).tolist() == expected
    # The same with time stamps rounded to a millisecond, as Matroska keeps them.
    rounded = np.array([round(float(t), 3) for t in shown]) + 7.0
    assert frame_indices(f"fps:{rate}", 0, total, float(fps), seconds=rounded).tolist() == expected


def test_fps_follows_time_stamps_of_a_varying_rate() -> None:
    seconds = np.array([0.0, 0.1, 0.2, 1.5, 2.0, 2.1])
    assert frame_indices("fps:1", 0, 6, 3.0, seconds=seconds).tolist() == [0, 2, 4]


@pytest.mark.parametrize("rule", ["stride:2", "fps:2", "fps:0.5", "all"])
def test_rules_with_a_fixed_count(rule: str) -> None:
    assert not fixed_count(rule)


def test_bad_rules_are_refused_with_an_example() -> None:
    with pytest.raises(UnknownName, match=r"(?s)no frame rule 'tsn-center'.*Did you mean 'tsn-centre'.*fps:x"):
        frame_indices("tsn-center", 8, 100, 30)
    for rule in ("stride", "stride:0", "stride:x", "stride:1.5", "stride:-2"):
        with pytest.raises(BadInput, match="needs a whole number from 1 up"):
            frame_indices(rule, 8, 100, 30)
    for rule in ("fps", "fps:0", "fps:nan", "fps:-1", "fps:two"):
        with pytest.raises(BadInput, match="needs a rate above 0"):
            frame_indices(rule, 8, 100, 30)
    with pytest.raises(UnknownName, match="no frame rule 'all:3'"):
        frame_indices("all:3", 8, 100, 30)
    with pytest.raises(BadInput, match="0 frames were asked for"):
        frame_indices("linspace", 0, 100, 30)
    with pytest.raises(BadInput, match="no frame to choose from"):
        frame_indices("linspace", 8, 0, 30)


def test_names_lists_every_rule() -> None:
    assert {"tsn-centre", "tsn-random", "linspace", "stride:n", "fps:x", "all"} <= set(rule_names())
