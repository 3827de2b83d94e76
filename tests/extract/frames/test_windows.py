"""Windows over streams in pieces of any size, against slices of the whole; borders worked by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vfc.cache_schema.values.errors import BadInput, UnknownName
from vfc.extract.frames.windows import BORDERS, SECONDS, Track, Windows, cut


def in_pieces(rows: Tensor, seconds: Tensor, sizes: list[int], *, shorter: int = 0) -> list[dict[str, Tensor]]:
    """Chunks of these sizes and what is left; `flow` ends `shorter` rows earlier."""
    sizes = [*sizes, max(0, len(rows) - sum(sizes))]
    flow = rows[: len(rows) - shorter] * 10
    chunks, start = [], 0
    for size in sizes:
        part = slice(start, start + size)
        chunks.append({"rgb": rows[part], "flow": flow[part], SECONDS: seconds[part]})
        start += size
    return chunks


def slowly(rows: Tensor, windows: Windows, total: int) -> list[Tensor]:
    """Every window by the words of its docstring, frame by frame."""
    found = []
    if windows.border == "drop":
        starts = [s for s in range(0, total, windows.stride) if s + windows.frames <= len(rows)]
    else:
        starts = [s - windows.frames // 2 for s in range(0, total, windows.stride)]
    for start in starts:
        window = []
        for number in range(start, start + windows.frames):
            inside = 0 <= number < len(rows)
            nearest = rows[min(max(number, 0), len(rows) - 1)]
            window.append(nearest if inside or windows.border == "repeat" else torch.zeros_like(nearest))
        found.append(torch.stack(window))
    return found


@given(
    total=st.integers(2, 60),
    frames=st.integers(1, 25),
    stride=st.integers(1, 30),
    border=st.sampled_from(BORDERS),
    sizes=st.lists(st.integers(1, 20), max_size=6),
    shorter=st.integers(0, 1),
)
@settings(max_examples=150, deadline=None)
def test_windows_in_pieces_are_slices_of_the_whole(
    total: int, frames: int, stride: int, border: Any, sizes: list[int], shorter: int
) -> None:
    rows, seconds = torch.arange(1.0, total + 1)[:, None], torch.arange(total, dtype=torch.float64) / 4
    windows = Windows(frames, stride, border)
    got = list(cut(in_pieces(rows, seconds, sizes, shorter=shorter), windows, ("rgb", "flow")))
    flow = slowly(rows[: total - shorter] * 10, windows, total)
    rgb = slowly(rows, windows, total)[: len(flow)]
    assert len(got) == len(rgb)
    for step, (window, when) in enumerate(got):
        assert torch.equal(window["rgb"], rgb[step])
        assert torch.equal(window["flow"], flow[step])
        middle = step * stride + (frames // 2 if border == "drop" else 0)
        assert when == float(seconds[middle])


def numbers(frames: int, stride: int, border: Any, total: int) -> list[list[int]]:
    rows = torch.arange(1, total + 1)
    got = cut(
        [{"rgb": rows, SECONDS: torch.zeros(total, dtype=torch.float64)}], Windows(frames, stride, border), ["rgb"]
    )
    return [window["rgb"].tolist() for window, _ in got]


def test_borders_by_hand() -> None:
    assert numbers(3, 2, "drop", 6) == [[1, 2, 3], [3, 4, 5]]
    assert numbers(3, 2, "repeat", 6) == [[1, 1, 2], [2, 3, 4], [4, 5, 6]]
    assert numbers(3, 2, "zero", 6) == [[0, 1, 2], [2, 3, 4], [4, 5, 6]]
    assert numbers(5, 3, "repeat", 4) == [[1, 1, 1, 2, 3], [2, 3, 4, 4, 4]]
    assert numbers(5, 3, "zero", 4) == [[0, 0, 1, 2, 3], [2, 3, 4, 0, 0]]
    assert numbers(4, 4, "drop", 3) == []
    assert numbers(4, 2, "repeat", 2) == [[1, 1, 1, 2]]


def test_the_anticipation_release_s_window_is_ten_frames_either_way() -> None:
    windows = Windows.of(21, 8, "repeat", 9)
    assert [windows.start(step) for step in (0, 1, 5)] == [-10, -2, 30]
    assert [windows.middle(step) for step in (0, 1, 5)] == [0, 8, 40]


@pytest.mark.parametrize(("frames", "stride"), [(64, 64), (21, 1), (9, 40)])
def test_no_more_is_held_than_a_window_and_a_piece(monkeypatch: pytest.MonkeyPatch, frames: int, stride: int) -> None:
    held = []
    add = Track.add

    def watched(track: Track, rows: Tensor) -> None:
        add(track, rows)
        held.append(sum(len(part) for part in track.parts))

    monkeypatch.setattr(Track, "add", watched)
    rows = torch.zeros(3000, 1)
    seconds = torch.zeros(3000, dtype=torch.float64)
    steps = list(cut(in_pieces(rows, seconds, [32] * 93), Windows(frames, stride, "repeat"), ("rgb", "flow")))
    assert len(steps) == -(-3000 // stride)
    assert max(held) <= frames + 32


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ((8, 8, None), "--window 8 is too short.\nThe network takes windows of 9 frames or more"),
        ((64, 0, None), "--stride is 0"),
    ],
)
def test_windows_that_cannot_be(asked: tuple[int, int, None], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        Windows.of(asked[0], asked[1], asked[2], 9)


def test_defaults_are_stacks_of_64_side_by_side() -> None:
    assert Windows.of(None, None, None, 9) == Windows(64, 64, "drop")
    assert Windows.of(21, None, "zero", 9) == Windows(21, 21, "zero")
    with pytest.raises(UnknownName, match=r"There is no border 'repeats'\. Did you mean 'repeat'"):
        Windows.of(21, 1, "repeats", 9)
