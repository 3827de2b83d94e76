"""Lists of layers with ranges."""

from __future__ import annotations

import pytest

from vfc.cache_schema.values.errors import BadInput
from vfc.cache_schema.values.layer_ranges import expand_layers

STORED = ("0", "4", "8", "norm")


@pytest.mark.parametrize(
    ("written", "layers"),
    [
        (("8", "0-2"), ("8", "0", "1", "2")),
        (("0:8:4",), ("0", "4", "8")),
        (("0:9:4",), ("0", "4", "8")),
        (("3:5",), ("3", "4", "5")),
        (("all",), STORED),
        (("norm", "-1"), ("norm", "-1")),
    ],
)
def test_both_ends_belong_to_a_range(written: tuple[str, ...], layers: tuple[str, ...]) -> None:
    assert expand_layers(written, STORED) == layers


def test_a_range_of_what_is_stored() -> None:
    assert expand_layers(("0-6", "8"), STORED, within=True) == ("0", "4", "8")
    for empty in ("5-7", "8-4", "0:8:0"):
        with pytest.raises(BadInput, match=f"The range {empty} holds no layer"):
            expand_layers((empty,), STORED, within=True)
