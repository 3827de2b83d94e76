"""Recipe: what makes a record's numbers, given its key. Two stores with one recipe hold the same features.

Circumstances (device, host, time, driver) are kept beside a part and never compared; prompts, views and texts are
axes of the key and live in `axes/`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from .errors import RecipeMismatch
from .record import Json

_CANONICAL = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
_REWORDED: Final = {
    "mean over the tokens of the last state": (
        "mean over the tokens of the last state, without the classifier's norm (fc_norm)"
    ),
}
"""Words of stores written by version 0.1 to those of now, for the same numbers."""
_PARENT: Final = "parent.digest"
_NAMED: Final = 8
"""Differing fields that a message names; recipes of unlike stores differ in dozens."""


def canonical(value: Json) -> bytes:
    """The one JSON byte string for a value: sorted keys, no blanks, UTF-8, no NaN."""
    return _CANONICAL.encode(value).encode()


def digest(value: Json) -> str:
    """SHA-256 of the canonical JSON of `value`, in hex."""
    return hashlib.sha256(canonical(value)).hexdigest()


def flatten(value: Json, prefix: str = "") -> Iterator[tuple[str, Json]]:
    """Dotted names and leaves of nested JSON objects, in order; lists count as leaves."""
    if isinstance(value, dict) and value:
        for name in sorted(value):
            yield from flatten(value[name], f"{prefix}.{name}" if prefix else name)
    else:
        yield prefix, value


@dataclass(frozen=True)
class Recipe:
    """Nested JSON fields; equal fields mean comparable numbers."""

    fields: Mapping[str, Json]

    def __post_init__(self) -> None:
        # Through JSON once, so that tuples, and dicts in another order, cannot make two recipes out of one.
        object.__setattr__(self, "fields", json.loads(canonical(dict(self.fields))))

    @property
    def digest(self) -> str:
        """SHA-256 over the canonical JSON, in hex."""
        return digest(dict(self.fields))

    def difference(self, other: Recipe) -> list[tuple[str, Json, Json]]:
        """(dotted name, here, there) of every leaf that differs; an absent leaf counts as None.

        A checkpoint with the same digest is the same weights, whatever its folder or hub id is called now.
        """
        here, there = (
            {name: _REWORDED.get(str(leaf), leaf) for name, leaf in flatten(dict(recipe.fields))}
            for recipe in (self, other)
        )
        names = sorted(here.keys() | there.keys())
        return [
            (n, here.get(n), there.get(n))
            for n in names
            if here.get(n) != there.get(n) and not _names_same_weights(n, here, there)
        ]

    def require_equal(self, recipe: Recipe, where: str) -> None:
        """Raise RecipeMismatch, naming the fields that differ, unless `recipe` equals this (the stored) recipe."""
        changed = self.difference(recipe)
        if changed:
            differences = [f"{n}: {json.dumps(a)} there, {json.dumps(b)} asked" for n, a, b in changed[:_NAMED]]
            if len(changed) > _NAMED:
                differences.append(f"and {len(changed) - _NAMED} fields more")
            listed = "; ".join(differences)
            raise RecipeMismatch(
                f"The store {where} was made with another recipe: {listed}.",
                "Another recipe is another store: give another --out, or the flags of the store.",
            )


def _names_same_weights(name: str, leaves: Mapping[str, Json], others: Mapping[str, Json]) -> bool:
    """Whether a leaf is the name of a checkpoint whose content is the same in both."""
    if name == _PARENT:
        return not Recipe(_below(leaves)).difference(Recipe(_below(others)))
    owner, _, leaf = name.rpartition(".")
    content = f"{owner}.digest"
    return (
        owner.rpartition(".")[2] == "checkpoint"
        and leaf in ("id", "revision")
        and leaves.get(content) is not None
        and leaves.get(content) == others.get(content)
    )


def _below(leaves: Mapping[str, Json]) -> dict[str, Json]:
    """The leaves of the recipe of the store that a derived one was made from."""
    return {name: leaf for name, leaf in leaves.items() if name.startswith("parent.recipe.")}
