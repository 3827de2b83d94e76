"""The published few-shot class lists: which classes of a data set are for training, for choosing, for testing.

The lists are facts taken from the split files that published few-shot results rest on; each JSON file under
`classes/` names its source.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Final

from vfc.cache_schema.values.errors import unknown_name

_FOLDER: Final = Path(__file__).parent.parent / "classes"


def class_lists() -> list[str]:
    """The names of the built-in lists."""
    return sorted(path.stem for path in _FOLDER.glob("*.json"))


def class_list(name: str) -> dict[str, list[str]]:
    """`train`, `val`, `test` -> class names of a built-in list, in the order of the published list.

    Raises:
        UnknownName: no such list.
    """
    if name not in class_lists():
        raise unknown_name("class list", name, class_lists())
    data = json.loads((_FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return {split: data[split] for split in ("train", "val", "test")}


def spelling(name: str) -> str:
    """A class name without what copies of a data set differ in: case, blanks and underscores, brackets.

    `Apply Eye Makeup`, `apply_eye_makeup` and UCF101's `ApplyEyeMakeup` are one class; so are
    `Closing [something]` and `Closing something`.
    """
    return re.sub(r"[\s_\[\]]+", "", name).casefold()


def matching_lists(labels: Iterable[str]) -> list[str]:
    """The built-in lists that hold every one of `labels`; those that spell them exactly so, where there are any."""
    names = set(labels)
    loose = {spelling(label) for label in names}
    matches = [name for name in class_lists() if loose and loose <= {spelling(label) for label in _names(name)}]
    exact = [name for name in matches if names <= _names(name)]
    return exact or matches


@cache
def _names(name: str) -> frozenset[str]:
    return frozenset(label for names in class_list(name).values() for label in names)
