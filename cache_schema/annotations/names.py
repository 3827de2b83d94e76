"""Names of splits and classes: the usual spellings of a split, and class names that are nearly equal."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping
from typing import Final

from vfc.cache_schema.values.errors import BadInput

SPLITS: Final = ("train", "val", "test")

_SPELLINGS: Final[Mapping[str, tuple[str, ...]]] = {
    "train": ("training",),
    "val": ("valid", "validation", "dev", "development", "validate"),
    "test": ("testing", "eval", "evaluation"),
}
_SPLIT_OF: Final = {word: split for split, words in _SPELLINGS.items() for word in (split, *words)}


def split_name(word: str) -> str:
    """`train`, `val` or `test` for any of their usual spellings, whatever the case; another word as it is."""
    return _SPLIT_OF.get(word.strip().lower(), word)


def require_split(word: str) -> str:
    """The same for what a user gives: empty for an empty word.

    Raises:
        BadInput: another word.
    """
    split = split_name(word.strip())
    if split and split not in SPLITS:
        allowed = "; ".join(f"{split} ({', '.join(words)})" for split, words in _SPELLINGS.items())
        raise BadInput(f"There is no split {word!r}.", f"A split is one of: {allowed}; or empty.")
    return split


def near_equal_labels(labels: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs of class names that differ only in case, blanks, underscores or hyphens: `Grow` and `grow`."""
    by_spelling: dict[str, list[str]] = {}
    for label in sorted(set(labels) - {""}):
        by_spelling.setdefault(re.sub(r"[\s_-]+", "", label).casefold(), []).append(label)
    return [pair for names in by_spelling.values() for pair in itertools.combinations(names, 2)]


def near_equal_warning(labels: Iterable[str]) -> str:
    """One line that names the nearly equal class names pair by pair; empty where there are none."""
    pairs = [f"{one!r} and {other!r}" for one, other in near_equal_labels(labels)]
    return f"Class names that are nearly equal count as different classes: {'; '.join(pairs)}." if pairs else ""
