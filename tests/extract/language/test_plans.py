"""Plans: which videos share a batch, which prompts share a row, and who may see whom."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vfc.extract.language.plans import ROWS_PER_RIDER, TOKENS_PER_RIDER, WASTE, Seats, Suffix, buckets, seated

CALLS = st.lists(st.tuples(st.integers(1, 9), st.lists(st.integers(1, 6), max_size=5)), min_size=1, max_size=4)
"""Videos: tokens of the prefix, and of each of its prompts."""


def suffixes_of(call: Sequence[tuple[int, Sequence[int]]]) -> list[Suffix]:
    return [
        Suffix(video, place, torch.arange(n) + 100 * video + 10 * place, 50 + video, prefix)
        for video, (prefix, lengths) in enumerate(call)
        for place, n in enumerate(lengths)
    ]


@settings(deadline=None)
@given(st.lists(st.integers(1, 3000), max_size=40))
def test_every_video_is_in_one_bucket_and_little_is_padding(lengths: list[int]) -> None:
    found = buckets(lengths)
    assert sorted(i for bucket in found for i in bucket) == list(range(len(lengths)))
    for bucket in found:
        area = len(bucket) * max(lengths[i] for i in bucket)
        assert area - sum(lengths[i] for i in bucket) <= WASTE * area


def test_equal_lengths_share_a_bucket() -> None:
    assert buckets([7, 5, 7, 5]) == [[1, 3], [0, 2]]
    assert buckets([100, 95]) == [[1, 0]]
    assert buckets([]) == []


@pytest.mark.parametrize("plan", ["serial", "packed", "batched"])
@settings(deadline=None)
@given(call=CALLS)
def test_every_suffix_sits_once_with_its_ids_and_positions(plan: str, call: list[tuple[int, list[int]]]) -> None:
    suffixes = suffixes_of(call)
    taken = {}
    for seats in seated(plan, suffixes, masked=True):
        for piece in seats.pieces:
            part = slice(piece.start, piece.stop)
            taken[piece.video, piece.place] = (seats.ids[piece.row, part], seats.positions[piece.row, part])
    assert taken.keys() == {(s.video, s.place) for s in suffixes}
    for s in suffixes:
        ids, positions = taken[s.video, s.place]
        assert torch.equal(ids, s.ids)
        assert positions.tolist() == list(range(s.start, s.start + len(s.ids)))


@pytest.mark.parametrize("plan", ["serial", "packed", "batched"])
@settings(deadline=None)
@given(call=CALLS)
def test_a_token_sees_its_video_and_its_own_prompt_so_far(plan: str, call: list[tuple[int, list[int]]]) -> None:
    suffixes = {(s.video, s.place): s for s in suffixes_of(call)}
    for seats in seated(plan, list(suffixes.values()), masked=True):
        assert seats.mask is not None
        rows, _, queries, keys = seats.mask.shape
        assert (queries, keys) == (seats.ids.shape[1], seats.columns + queries)
        assert bool(seats.mask.any(dim=-1).all()), "a row that sees nothing is not a number"
        for piece in seats.pieces:
            mask = seats.mask[piece.row if rows > 1 else 0, 0]
            prefix = suffixes[piece.video, piece.place].columns
            for query in range(piece.start, piece.stop):
                expected = {*range(prefix), *(seats.columns + k for k in range(piece.start, query + 1))}
                assert set(mask[query].nonzero()[:, 0].tolist()) == expected


@pytest.mark.parametrize("plan", ["serial", "packed", "batched"])
@settings(deadline=None)
@given(call=CALLS)
def test_riders_look_at_rows_of_the_batch_that_are_there(plan: str, call: list[tuple[int, list[int]]]) -> None:
    for seats in seated(plan, suffixes_of(call), masked=True):
        videos = {piece.video for piece in seats.pieces}
        if plan == "packed":
            assert seats.rows == slice(0, len(seats.ids))
            assert all(piece.row == piece.video for piece in seats.pieces)
        else:
            (video,) = videos
            assert seats.rows == slice(video, video + 1)
            assert seats.columns == call[video][0]


def test_serial_seats_one_prompt_at_a_time() -> None:
    found = seated("serial", suffixes_of([(3, [2, 5]), (4, [1])]), masked=True)
    assert [seats.ids.shape for seats in found] == [(1, 2), (1, 5), (1, 1)]


def test_kernels_that_know_their_mask_get_none() -> None:
    assert all(seats.mask is None for seats in seated("batched", suffixes_of([(3, [2, 5])]), masked=False))


def test_packed_rows_stay_within_bounds() -> None:
    lengths = [TOKENS_PER_RIDER // 3] * 7
    found = seated("packed", suffixes_of([(3, lengths)]), masked=True)
    assert [len(seats.pieces) for seats in found] == [3, 3, 1]
    (two, *_) = seated("packed", suffixes_of([(3, [40]), (5, [30])]), masked=True)
    assert two.ids.shape == (2, 40)


def test_batches_stay_within_bounds() -> None:
    found = seated("batched", suffixes_of([(3, [2] * (ROWS_PER_RIDER + 1)), (4, [1, 1])]), masked=True)
    assert [len(seats.ids) for seats in found] == [ROWS_PER_RIDER, 1, 2]


def test_no_prompt_no_rider() -> None:
    none: list[Seats] = []
    assert all(seated(plan, [], masked=True) == none for plan in ("serial", "packed", "batched"))
