"""MoC against published protocol values on real label files, against slow loops, and the decoding rules by hand."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from suites.mstcn import class_ids, real_labels
from suites.sequence_store import official_splits

from vfc.heads.tasks.anticipation.decoding import Decoder
from vfc.heads.tasks.anticipation.moc import Tally
from vfc.heads.tasks.anticipation.segments import runs, window
from vfc.heads.tasks.anticipation.trivial_baselines import Predictor, constant, oracle, repeat_last, rows, tallied

Ids = npt.NDArray[np.int64]
OBSERVE, PREDICT = (0.2, 0.3), (0.1, 0.2, 0.3, 0.5)


class Real:
    """The label sequences of one data set, and its splits of which all test videos are here."""

    def __init__(self, folder: Path) -> None:
        self.ids = class_ids(folder)
        self.labels = {name: np.array([self.ids[x] for x in spoken]) for name, spoken in real_labels(folder).items()}
        splits = official_splits(folder)
        self.splits = [part for part in splits.values() if all(name in self.labels for name in part["test"])]

    def mean(self, predictor: Predictor, stride: int = 1) -> npt.NDArray[np.float64]:
        """MoC in percent, mean over the splits; labels taken one in `stride`."""
        grids = [
            tallied(predictor, self.test(part, stride), len(self.ids), OBSERVE, PREDICT).moc() for part in self.splits
        ]
        return np.asarray(100 * np.mean(grids, axis=0))

    def test(self, part: dict[str, list[str]], stride: int = 1) -> list[Ids]:
        return [self.labels[name][::stride] for name in part["test"]]


@pytest.fixture(scope="module")
def salads(shared_data: Path) -> Real:
    return Real(shared_data / "labels" / "50salads")


@pytest.fixture(scope="module")
def breakfast(shared_data: Path) -> Real:
    return Real(shared_data / "labels" / "breakfast")


def test_golden_values_of_50_salads(salads: Real) -> None:
    assert len(salads.splits) == 4  # the test videos of split 1 are not here
    wanted = [[37.47, 26.15, 19.43, 7.85], [40.93, 19.14, 11.41, 5.58]]
    np.testing.assert_allclose(salads.mean(repeat_last), wanted, atol=0.01)
    wanted = [[9.40, 8.94, 7.85, 6.09], [11.70, 9.42, 7.81, 5.73]]
    np.testing.assert_allclose(salads.mean(partial(constant, label=salads.ids["cut_tomato"])), wanted, atol=0.02)
    for rule in ("extend", "actionllm"):
        through = partial(oracle, queries=20, classes=19, rule=rule)
        np.testing.assert_allclose(salads.mean(through), 100.0, atol=0.01)


def test_golden_values_of_breakfast(breakfast: Real) -> None:
    assert len(breakfast.splits) == 3
    wanted = [[64.33, 49.62, 42.88, 33.09], [67.35, 52.62, 42.42, 34.33]]
    np.testing.assert_allclose(breakfast.mean(repeat_last), wanted, atol=0.01)
    wanted = [[1.08, 3.00, 2.86, 2.57], [3.47, 3.23, 2.97, 2.66]]
    np.testing.assert_allclose(breakfast.mean(partial(constant, label=breakfast.ids["fry_pancake"])), wanted, atol=0.02)
    through = breakfast.mean(partial(oracle, queries=8, classes=48, rule="actionllm"))
    assert 99.0 < through.min() < through.max() < 99.8  # eight queries are not enough for all


def slow_moc(videos: list[Ids], stride: int, ratio: float, share: float, classes: int) -> float:
    """Repeat-last after taking one label in `stride`, frame by frame."""
    right, wrong = [0] * classes, [0] * classes
    for labels in videos:
        kept = [int(label) for i, label in enumerate(labels) if i % stride == 0]
        n = len(kept)
        seen = int(ratio * n)
        told = kept[:seen] + [kept[seen - 1]] * int(0.5 * n)
        told = told[: int((ratio + share) * n)]
        for i in range(seen, min(len(told), n)):
            if told[i] == kept[i]:
                right[kept[i]] += 1
            else:
                wrong[kept[i]] += 1
    shares = [a / (a + b) for a, b in zip(right, wrong, strict=True) if a + b]
    return 100 * sum(shares) / len(shares)


@pytest.mark.parametrize(("name", "stride"), [("salads", 8), ("breakfast", 6), ("salads", 1)])
def test_the_subsampled_protocol_equals_a_slow_loop(name: str, stride: int, request: pytest.FixtureRequest) -> None:
    real: Real = request.getfixturevalue(name)
    part = real.splits[0]
    videos = [real.labels[name] for name in part["test"][:60]]
    found = tallied(repeat_last, [ids[::stride] for ids in videos], len(real.ids), OBSERVE, PREDICT).moc()
    wanted = [[slow_moc(videos, stride, a, p, len(real.ids)) for p in PREDICT] for a in OBSERVE]
    np.testing.assert_allclose(100 * found, wanted, atol=1e-9)


def test_moc_pools_videos_before_it_divides() -> None:
    tally = Tally(3, (0.2,), (0.5,))
    tally.add(
        0, np.array([0, 0, 1, 1, 1, 1, 2, 2, 2, 2]), np.array([1, 1, 0, 0, 0])
    )  # class 1: 2 of 4, class 2: 0 of 1
    tally.add(
        0, np.array([0, 0, 1, 2, 2, 2, 2, 2, 2, 2]), np.array([0, 2, 2, 2, 2])
    )  # class 1: 0 of 1, class 2: 4 of 4
    assert tally.frames[0, 0].tolist() == [0, 5, 5]
    assert tally.moc()[0, 0] == pytest.approx((2 / 5 + 4 / 5) / 2)
    assert tally.classes().tolist() == [[2]]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60))
def test_runs_are_the_sequence(labels: list[int]) -> None:
    ids = np.array(labels)
    actions, lengths = runs(ids)
    assert np.repeat(actions, lengths).tolist() == labels
    assert (actions[1:] != actions[:-1]).all()


@given(
    st.integers(20, 3000), st.sampled_from((0.1, 0.2, 0.3, 0.5)), st.integers(1, 48), st.booleans(), st.integers(0, 7)
)
def test_no_step_is_both_observed_and_predicted(n: int, ratio: float, stride: int, full: bool, offset: int) -> None:
    cut = window(n, ratio, stride=stride, full=full, offset=offset)
    if cut.observed < 1 or cut.future < 1:
        return
    seen, later = cut.observed_frames(stride), cut.future_frames(stride)
    assert seen[0] == offset * stride
    assert (np.diff(seen) == stride).all()
    assert (np.diff(later) == stride).all()
    assert seen[-1] < later[0]
    assert later[-1] < n
    if full and not offset:
        assert seen[-1] < int(ratio * n) == later[0]


def answer(*queries: tuple[int, float]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Logits and raw durations of queries that name one of classes 0 to 2, or 3 for none, each with a share."""
    logits = np.full((len(queries), 4), -1.0)
    for i, (action, _) in enumerate(queries):
        logits[i, action] = 1.0
    return logits, np.log([share for _, share in queries])


def test_segments_are_laid_end_to_end_until_none() -> None:
    for rule in ("extend", "actionllm", "futr"):
        found = Decoder(rule)(*answer((2, 0.3), (0, 0.6), (3, 5.0), (1, 5.0)), 10)  # 3.33 and 6.67 frames
        assert found.tolist() == [2] * 3 + [0] * 7


def test_what_rounding_leaves_over_is_the_last_segments_or_the_last_querys() -> None:
    three = answer((0, 1.0), (1, 1.0), (2, 1.0), (3, 9.0))  # 10 / 3 = 3 frames each, one is left
    assert Decoder("extend")(*three, 10).tolist() == [0] * 3 + [1] * 3 + [2] * 4
    assert Decoder("actionllm")(*three, 10).tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [-1]
    late = answer((0, 1.0), (1, 1.0), (2, 1.0), (3, 9.0), (1, 9.0))
    assert Decoder("futr")(*late, 10).tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [1]


def test_none_in_front_is_overruled_wrong_or_the_last_query() -> None:
    logits, durations = answer((3, 1.0), (1, 1.0), (2, 1.0))
    logits[0, 1] = 0.5
    assert Decoder("extend")(logits, durations, 4).tolist() == [1] * 4
    assert Decoder("actionllm")(logits, durations, 4).tolist() == [-1] * 4
    assert Decoder("futr")(logits, durations, 4).tolist() == [2] * 4


def test_released_futr_keeps_the_place_of_the_video_before() -> None:
    with_none, without = answer((0, 1.0), (3, 1.0), (1, 1.0)), answer((0, 1.0), (1, 1.0), (2, 2.0))
    decoder = Decoder("futr")
    assert decoder(*without, 8).tolist() == [0] * 2 + [1] * 2 + [2] * 4
    decoder(*with_none, 8)
    assert decoder(*without, 8).tolist() == [0] * 8
    assert Decoder("extend")(*without, 8).tolist() == [0] * 2 + [1] * 2 + [2] * 4


def test_the_rows_of_every_table() -> None:
    train = [np.array([0, 1, 1, 2]), np.array([2, 2, 2, 1])]
    named = rows(train, classes=3, queries=2, rule="extend")
    truth = np.array([0, 0, 1, 2, 0, 1])
    found = {name: predictor(truth, 2, 4).tolist() for name, predictor in named.items()}
    assert found == {
        "repeat last label": [0] * 4,
        "train majority": [2] * 4,
        "oracle transcript, 2 queries": [1, 1, 2, 2],
    }
