"""Prompt batching: which videos share a batch, which prompts share a row, and what each token attends to."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vfc.extract.language.prompt_batching import (
    PADDING,
    ROWS_PER_BATCH,
    TOKENS_PER_BATCH,
    Suffix,
    SuffixBatch,
    length_buckets,
    suffix_batches,
)

Call = list[tuple[int, list[int]]]
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
    batches = length_buckets(lengths)
    assert sorted(i for bucket in batches for i in bucket) == list(range(len(lengths)))
    for bucket in batches:
        area = len(bucket) * max(lengths[i] for i in bucket)
        assert area - sum(lengths[i] for i in bucket) <= PADDING * area


def test_equal_lengths_share_a_bucket() -> None:
    assert length_buckets([7, 5, 7, 5]) == [[1, 3], [0, 2]]
    assert length_buckets([100, 95]) == [[1, 0]]
    assert length_buckets([]) == []


@pytest.mark.parametrize("batching", ["serial", "packed", "batched"])
@settings(deadline=None)
@given(call=CALLS)
def test_every_suffix_is_there_once_with_its_ids_and_positions(batching: str, call: Call) -> None:
    suffixes = suffixes_of(call)
    rows_of = {}
    for batch in suffix_batches(batching, suffixes, masked=True):
        for span in batch.spans:
            part = slice(span.start, span.stop)
            rows_of[span.video, span.place] = (batch.ids[span.row, part], batch.positions[span.row, part])
    assert rows_of.keys() == {(s.video, s.place) for s in suffixes}
    for s in suffixes:
        ids, positions = rows_of[s.video, s.place]
        assert torch.equal(ids, s.ids)
        assert positions.tolist() == list(range(s.start, s.start + len(s.ids)))


@pytest.mark.parametrize("batching", ["serial", "packed", "batched"])
@settings(deadline=None)
@given(call=CALLS)
def test_a_token_attends_to_its_video_and_its_own_prompt_so_far(batching: str, call: Call) -> None:
    suffixes = {(s.video, s.place): s for s in suffixes_of(call)}
    for batch in suffix_batches(batching, list(suffixes.values()), masked=True):
        assert batch.mask is not None
        rows, _, queries, keys = batch.mask.shape
        assert (queries, keys) == (batch.ids.shape[1], batch.columns + queries)
        assert bool(batch.mask.any(dim=-1).all()), "a row that sees nothing is not a number"
        for span in batch.spans:
            mask = batch.mask[span.row if rows > 1 else 0, 0]
            prefix = suffixes[span.video, span.place].columns
            for query in range(span.start, span.stop):
                expected = {*range(prefix), *(batch.columns + k for k in range(span.start, query + 1))}
                assert set(mask[query].nonzero()[:, 0].tolist()) == expected


@pytest.mark.parametrize("batching", ["serial", "packed", "batched"])
@settings(deadline=None)
@given(call=CALLS)
def test_suffixes_attend_to_rows_of_the_batch(batching: str, call: Call) -> None:
    for batch in suffix_batches(batching, suffixes_of(call), masked=True):
        videos = {span.video for span in batch.spans}
        if batching == "packed":
            assert batch.rows == slice(0, len(batch.ids))
            assert all(span.row == span.video for span in batch.spans)
        else:
            (video,) = videos
            assert batch.rows == slice(video, video + 1)
            assert batch.columns == call[video][0]


def test_serial_runs_one_prompt_at_a_time() -> None:
    batches = suffix_batches("serial", suffixes_of([(3, [2, 5]), (4, [1])]), masked=True)
    assert [batch.ids.shape for batch in batches] == [(1, 2), (1, 5), (1, 1)]


def test_attention_without_masks_gets_none() -> None:
    assert all(batch.mask is None for batch in suffix_batches("batched", suffixes_of([(3, [2, 5])]), masked=False))


def test_packed_rows_stay_within_bounds() -> None:
    lengths = [TOKENS_PER_BATCH // 3] * 7
    batches = suffix_batches("packed", suffixes_of([(3, lengths)]), masked=True)
    assert [len(batch.spans) for batch in batches] == [3, 3, 1]
    (two, *_) = suffix_batches("packed", suffixes_of([(3, [40]), (5, [30])]), masked=True)
    assert two.ids.shape == (2, 40)


def test_batches_stay_within_bounds() -> None:
    batches = suffix_batches("batched", suffixes_of([(3, [2] * (ROWS_PER_BATCH + 1)), (4, [1, 1])]), masked=True)
    assert [len(batch.ids) for batch in batches] == [ROWS_PER_BATCH, 1, 2]


def test_no_prompt_gives_no_batch() -> None:
    none: list[SuffixBatch] = []
    assert all(suffix_batches(batching, [], masked=True) == none for batching in ("serial", "packed", "batched"))
