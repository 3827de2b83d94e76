"""Recipe: equal fields, equal digests; a difference is told field by field."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfc.cache_schema import Recipe, RecipeMismatch
from vfc.cache_schema.values.recipe import canonical, digest, flatten
from vfc.cache_schema.values.record import Json

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.dictionaries(st.text(max_size=4), JSON, max_size=4)


def shuffled(value: Any) -> Any:
    """The same value with every dict in another order and lists as tuples."""
    if isinstance(value, dict):
        return {name: shuffled(value[name]) for name in reversed(value)}
    return tuple(shuffled(item) for item in value) if isinstance(value, list) else value


@given(FIELDS)
def test_order_and_tuples_do_not_matter(fields: dict[str, Any]) -> None:
    one, two = Recipe(fields), Recipe(shuffled(fields))
    assert one == two
    assert one.digest == two.digest
    assert one.difference(two) == []
    assert json.loads(canonical(dict(one.fields))) == one.fields


@given(FIELDS, FIELDS)
def test_digests_tell_recipes_apart(one: dict[str, Any], two: dict[str, Any]) -> None:
    a, b = Recipe(one), Recipe(two)
    assert (a.digest == b.digest) == (canonical(dict(a.fields)) == canonical(dict(b.fields)))


def test_the_digest_never_changes() -> None:
    # As sha256sum gives it for {"a":[1,2],"b":{"c":"ä"}} and for {}.
    known = "a4ddedfd1d0a072de76d64fa41b810f85f4cd1510f78214d5ba968e8bec14b72"
    fields: Any = {"b": {"c": "ä"}, "a": (1, 2)}
    assert Recipe(fields).digest == known
    assert digest({}) == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"


def test_a_difference_names_every_field() -> None:
    stored = Recipe({"model": "clip", "taps": {"layer": 31, "cls": True}, "frames": 8})
    wanted = Recipe({"model": "clip", "taps": {"layer": 23, "cls": True}, "dtype": "fp16"})
    assert stored.difference(wanted) == [("dtype", None, "fp16"), ("frames", 8, None), ("taps.layer", 31, 23)]
    stored.require_equal(stored, "x")
    with pytest.raises(RecipeMismatch) as caught:
        stored.require_equal(wanted, "/data/store")
    assert str(caught.value).splitlines() == [
        'The store /data/store was made with another recipe: dtype: null there, "fp16" asked; '
        "frames: 8 there, null asked; taps.layer: 31 there, 23 asked.",
        "Another recipe is another store: give another --out, or the flags of the store.",
    ]
    assert caught.value.exit_code == 5
    other = Recipe({"model": "clip", **{f"field{i:02}": i for i in range(31)}})
    with pytest.raises(RecipeMismatch, match="field07: null there, 7 asked; and 23 fields more") as caught:
        Recipe({"model": "clip"}).require_equal(other, "x")
    assert "field08" not in caught.value.problem


def test_nested_fields_are_flattened() -> None:
    assert list(flatten({"b": [1, {"c": 2}], "a": {"x": {"y": None}, "e": {}}})) == [
        ("a.e", {}),
        ("a.x.y", None),
        ("b", [1, {"c": 2}]),
    ]


def test_nan_is_no_recipe() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        Recipe({"a": float("nan")})


def test_words_of_version_0_1_for_the_same_numbers_are_no_difference() -> None:
    old = Recipe({"taps": {"frames": "mean over the tokens of the last state"}})
    new = Recipe(
        {"taps": {"frames": "mean over the tokens of the last state, without the classifier's norm (fc_norm)"}}
    )
    assert old.difference(new) == new.difference(old) == []
    normed = Recipe({"taps": {"frames": "mean over the tokens of the normed last state"}})
    assert [name for name, _, _ in old.difference(normed)] == ["taps.frames"]


def test_the_name_of_a_checkpoint_is_no_difference_where_its_content_is_the_same() -> None:
    def of(name: str, content: str | None = "ab", **more: Any) -> Recipe:
        checkpoint: dict[str, Json] = {"id": name, "revision": None, **({"digest": content} if content else {})}
        return Recipe({"checkpoint": checkpoint, **more})

    assert of("model").difference(of("moved")) == []
    names = [name for name, *_ in of("model").difference(of("moved", "cd"))]
    assert names == ["checkpoint.digest", "checkpoint.id"]
    assert [name for name, *_ in of("model", None).difference(of("moved", None))] == ["checkpoint.id"]

    def derived(parent: Recipe) -> Recipe:
        return Recipe({"parent": {"digest": parent.digest, "recipe": dict(parent.fields)}, "function": "convert"})

    assert derived(of("model")).difference(derived(of("moved"))) == []
    names = [name for name, *_ in derived(of("model")).difference(derived(of("model", layer=3)))]
    assert names == ["parent.digest", "parent.recipe.layer"]
