"""Key, ArraySpec, Record: their bytes, their JSON, what they refuse."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfc.cache_schema import ArraySpec, BadInput, Key, Record, UnknownName

KEYS = st.builds(
    Key,
    st.sampled_from(["video", "prompted", "text"]),
    st.text(st.characters(codec="utf-8"), min_size=1),
    st.integers(0, 2**40),
    st.text(st.characters(codec="utf-8")),
)


@given(KEYS)
def test_a_key_comes_back_from_its_bytes(key: Key) -> None:
    assert Key.decode(key.encode()) == key
    assert key.hash128() == hashlib.sha256(key.encode()).digest()[:16]


def test_the_bytes_of_a_key_never_change() -> None:
    # Stores on disk hold these bytes and hashes.
    key = Key("prompted", "bäll/a b.mp4", 3, "what@12ab")
    assert key.encode() == '["prompted","bäll/a b.mp4",3,"what@12ab"]'.encode()
    assert key.hash128().hex() == "f061cf22028d317a8fb31948f3eecfc6"
    assert Key("video", "x").encode() == b'["video","x",0,""]'


@given(KEYS, KEYS)
def test_different_keys_have_different_bytes(one: Key, two: Key) -> None:
    assert (one == two) == (one.encode() == two.encode())


@pytest.mark.parametrize(("name", "view"), [("", 0), ("x", -1)])
def test_keys_need_a_name_and_a_view(name: str, view: int) -> None:
    with pytest.raises(BadInput, match=r"A key needs a name and a view from 0 up.*\nName videos by their path"):
        Key("video", name, view)


def test_kinds_are_a_closed_set() -> None:
    with pytest.raises(UnknownName, match=r"no kind of record 'vidoe'. Did you mean 'video'\?\nKnown: prompted, text"):
        Key("vidoe", "x")


@pytest.mark.parametrize("shape", [(), (3,), (None,), (None, 4), (2, 3, 4)])
def test_specs_come_back_from_json(shape: tuple[int | None, ...]) -> None:
    spec = ArraySpec("layer31.visual", "bf16", shape, "frame-major")
    assert ArraySpec.from_json(spec.to_json()) == spec
    assert spec.ragged == (shape[:1] == (None,))


@pytest.mark.parametrize("shape", [(3, None), (0,), (None, 0), (2, -1)])
def test_shapes_that_cannot_be(shape: Any) -> None:
    with pytest.raises(BadInput, match=r"only its first axis may vary, and none may be empty.\nGive sizes"):
        ArraySpec("x", "fp32", shape)


def test_dtypes_are_a_closed_set() -> None:
    with pytest.raises(UnknownName, match=r"no dtype 'fp61'. Did you mean 'fp16'\?\nKnown: bf16, float64, fp16"):
        ArraySpec("x", "fp61", (2,))


def test_records_bring_numpy_arrays() -> None:
    Record(Key("video", "x"), {"a": np.zeros(3)})
    with pytest.raises(BadInput, match=r"Array 'a' of record 'x' is a list, not a numpy array.\nMove tensors"):
        Record(Key("video", "x"), {"a": [1, 2]})  # type: ignore[dict-item]
