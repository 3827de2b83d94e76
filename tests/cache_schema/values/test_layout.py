"""Names and layouts of arrays: what is built is parsed back, and the words on disk stay as they are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfc.cache_schema.values.layout import (
    FRAME_MAJOR,
    PATCH_MAJOR,
    RAGGED_GRID,
    SIDES,
    STEPS,
    TOKENS,
    ArrayName,
    Layout,
    array_name,
)

GRIDS = st.none() | st.tuples(st.integers(1, 99), st.integers(1, 99))
LAYOUTS = st.one_of(
    st.builds(Layout, st.just(FRAME_MAJOR), st.integers(0, 9), GRIDS),
    st.builds(Layout, st.just(PATCH_MAJOR), st.just(0), GRIDS, st.none() | st.integers(1, 64)),
    st.builds(Layout, st.sampled_from(["", RAGGED_GRID, STEPS, TOKENS, "one per channel"])),
)
WORDS = st.text(st.characters(categories=["L", "N"]), min_size=1).filter(lambda word: word not in SIDES)


@given(LAYOUTS)
def test_a_layout_comes_back_from_its_words(layout: Layout) -> None:
    assert Layout.parse(str(layout)) == layout


@given(st.text())
def test_words_of_others_are_kept_as_they_are(text: str) -> None:
    assert str(Layout.parse(text)) == text


@pytest.mark.parametrize(
    ("words", "layout"),
    [
        ("", Layout()),
        ("frame-major", Layout(FRAME_MAJOR)),
        ("frame-major, grid 14x14", Layout(FRAME_MAJOR, 0, (14, 14))),
        ("frame-major, cls first in frame", Layout(FRAME_MAJOR, 1)),
        ("frame-major, cls first in frame, grid 7x9", Layout(FRAME_MAJOR, 1, (7, 9))),
        ("frame-major, cls and 4 more first in frame, grid 16x16", Layout(FRAME_MAJOR, 5, (16, 16))),
        ("cls first, patch-major", Layout(PATCH_MAJOR)),
        ("cls first, patch-major, grid 14x14, frames 8", Layout(PATCH_MAJOR, 0, (14, 14), 8)),
        ("ragged grid", Layout(RAGGED_GRID)),
        ("steps", Layout(STEPS)),
        ("tokens", Layout(TOKENS)),
        ("frame-major, upside down", Layout("frame-major, upside down")),
    ],
)
def test_the_words_on_disk(words: str, layout: Layout) -> None:
    assert (Layout.parse(words), str(layout)) == (layout, words)


@given(st.builds(ArrayName, WORDS | st.just(""), WORDS), st.sampled_from(sorted(SIDES)))
def test_a_name_comes_back_from_its_words(name: ArrayName, side: str) -> None:
    assert ArrayName.parse(str(name)) == name
    beside = ArrayName("", name.stream, side)
    assert ArrayName.parse(str(beside)) == beside


@pytest.mark.parametrize(
    ("text", "name", "layer"),
    [
        ("layer31.visual", ArrayName("layer31", "visual"), "31"),
        ("norm.text", ArrayName("norm", "text"), "norm"),
        ("frames", ArrayName("", "frames"), ""),
        ("visual.grid", ArrayName("", "visual", "grid"), ""),
        ("text.ids", ArrayName("", "text", "ids"), ""),
    ],
)
def test_the_names_on_disk(text: str, name: ArrayName, layer: str) -> None:
    assert ArrayName.parse(text) == name
    assert str(name) == text
    assert name.layer == layer
    if layer:
        assert array_name(layer, name.stream) == text
