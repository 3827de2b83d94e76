"""Rows divided into streams: against a loop over their tokens."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vfc.extract.language.rows import Split, picked, scattered

ROWS = st.lists(st.sampled_from([7, 7, 1, 2]), min_size=1, max_size=20)


@settings(deadline=None)
@given(ROWS)
def test_streams_are_what_a_loop_finds(ids: list[int]) -> None:
    split = Split.of(torch.tensor(ids), 7)
    row = torch.arange(3 * len(ids)).view(len(ids), 3)
    assert picked(row, split.visual).tolist() == [row[i].tolist() for i, token in enumerate(ids) if token == 7]
    assert picked(row, split.text).tolist() == [row[i].tolist() for i, token in enumerate(ids) if token != 7]
    assert split.tokens == ids.count(7)
    assert sorted([*split.visual, *split.text])[0][0] == 0


@settings(deadline=None)
@given(ROWS)
def test_what_is_scattered_is_picked(ids: list[int]) -> None:
    split = Split.of(torch.tensor(ids), 7)
    row, values = torch.zeros(len(ids), 2), torch.rand(ids.count(7), 2) + 1
    scattered(row, split.visual, values)
    assert torch.equal(picked(row, split.visual), values)
    assert not picked(row, split.text).any()


def test_one_run_is_not_copied() -> None:
    row = torch.zeros(9, 4)
    view = picked(row, [(2, 7)])
    assert view.data_ptr() == row[2].data_ptr()
    assert view.is_contiguous()
