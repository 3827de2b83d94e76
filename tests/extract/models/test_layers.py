"""Choosing layers and streams: what is refused, what is kept."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfc.cache_schema.values.errors import BadInput, UnknownName
from vfc.extract.models.layers import check_kept, chosen_layers, kept_streams, layer_names

KNOWN = layer_names(3)
STREAMS = {"video": ("frames", "visual"), "text": ("embedding", "text")}


def test_layers_are_numbered_from_what_enters_block_1_and_end_with_the_norm() -> None:
    assert KNOWN == ("0", "1", "2", "3", "norm")
    assert layer_names(1, norm=False) == ("0", "1")


def test_a_stream_of_two_kinds_counts_for_both() -> None:
    streams = {"video": ("embedding", "visual"), "text": ("embedding", "text")}
    assert kept_streams(("embedding",), streams) == dict.fromkeys(streams, frozenset({"embedding"}))


@pytest.mark.parametrize(
    ("layers", "kept", "message"),
    [
        (
            ("1",),
            {"frames"},
            "Layers were asked for, but visual is not kept.\nAdd visual to --keep, or leave out --layer",
        ),
        ((), {"visual"}, "Nothing would be kept of frames and visual.\nName layers with --layer"),
        (("1",), {"visual"}, None),
        ((), {"frames"}, None),
    ],
)
def test_layers_and_their_stream_are_kept_together(
    layers: tuple[str, ...], kept: set[str], message: str | None
) -> None:
    if message is None:
        check_kept(layers, frozenset(kept), STREAMS["video"], "--layer")
        return
    with pytest.raises(BadInput, match=message):
        check_kept(layers, frozenset(kept), STREAMS["video"], "--layer")


def test_layers_come_once_each_and_from_the_lowest_up() -> None:
    assert chosen_layers(("norm", "3", "0", "3"), KNOWN, "x") == ("0", "3", "norm")
    assert chosen_layers((), KNOWN, "x") == ()


@pytest.mark.parametrize("layer", ["4", "-1", "03", "+1", "Norm", "", "1.0", " 1"])
def test_other_layers_are_refused_with_the_range(layer: str) -> None:
    with pytest.raises(BadInput) as caught:
        chosen_layers((layer,), KNOWN, "the tower of tiny")
    assert caught.value.problem.startswith(f"There is no layer {layer!r} in the tower of tiny")
    assert caught.value.remedy == "Allowed: 0 to 3, or norm."
    assert ("count from the front" in caught.value.problem) == (layer == "-1")


def test_the_range_is_what_there_is() -> None:
    with pytest.raises(BadInput, match=r"Allowed: 1 to 2\.$"):
        chosen_layers(("0",), ("1", "2"), "x")


@given(st.lists(st.sampled_from(KNOWN)))
def test_chosen_layers_are_a_sorted_set(asked: list[str]) -> None:
    assert list(chosen_layers(asked, KNOWN, "x")) == sorted(set(asked))


@pytest.mark.parametrize(
    ("asked", "kept"),
    [
        ((), {"frames", "visual", "embedding", "text"}),
        (("visual",), {"visual", "embedding", "text"}),
        (("frames", "text"), {"frames", "text"}),
        (("embedding",), {"frames", "visual", "embedding"}),
    ],
)
def test_streams_are_limited_in_the_kinds_that_are_named(asked: tuple[str, ...], kept: set[str]) -> None:
    assert frozenset[str]().union(*kept_streams(asked, STREAMS).values()) == kept


def test_an_unknown_stream_is_refused() -> None:
    with pytest.raises(UnknownName, match=r"There is no stream 'visuals'. Did you mean 'visual'?"):
        kept_streams(("visuals",), STREAMS)


def test_ranges_are_layers_of_the_network() -> None:
    names = layer_names(8)
    assert chosen_layers(("0:8:4", "norm"), names, "the tower") == ("0", "4", "8", "norm")
    assert chosen_layers(("all",), names, "the tower") == names
    with pytest.raises(BadInput, match=r"There is no layer '9' in the tower"):
        chosen_layers(("7-9",), names, "the tower")
