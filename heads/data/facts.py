"""The facts that a result names beside its settings, so that a number never stands for something else.

`vfc report` keeps two results apart that differ in any of FACTS.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

from vfc.cache_schema.annotations import Annotations, source
from vfc.cache_schema.content import content_digests
from vfc.cache_schema.reader import StoreReader
from vfc.cache_schema.values.progress import Progress
from vfc.cache_schema.values.recipe import digest
from vfc.cache_schema.values.record import Json

from .store_view import StoreView

FACTS: Final = (
    "videos_digest",
    "classes_digest",
    "test_videos_digest",
    "split_rule",
    "groups_kept",
    "views",
    "views_digest",
    "templates",
    "templates_digest",
    "tokens",
    "centring",
)
_NAMED: Final = 5
"""Pairs of identical videos that a notice names."""


def set_facts(store: StoreView) -> dict[str, Json]:
    """The set of videos, how it was split, and which tokens and time steps a head gets.

    `videos_digest` covers the names and labels of the annotated videos in use, whatever their split and fold;
    `clips_per_class` counts them. `groups_kept`: groups of videos that a random split kept together; None for a split
    that is not random.
    """
    return {
        "videos_digest": videos_digest(store.annotations),
        "clips_per_class": clips_per_class(store.annotations),
        "split_rule": store.split_rule,
        "groups_kept": store.groups_kept,
        "tokens": {role: serving.in_words for role, serving in store.serving.items()},
    }


def videos_digest(rows: Annotations) -> str:
    """SHA-256 over the names and labels of videos."""
    return digest([[row.name, row.label] for row in rows.rows])


def clips_per_class(rows: Annotations) -> dict[str, Json]:
    """Class -> number of its videos."""
    return dict(sorted(Counter(row.label for row in rows.rows if row.label).items()))


def view_facts(reader: StoreReader, **views: Iterable[int]) -> dict[str, Json]:
    """The views that are drawn or tested, by their use, and the digest of what they mean."""
    numbers = {use: sorted({int(view) for view in of_use}) for use, of_use in views.items()}
    meanings = reader.axes("view")
    content: Json = [
        [view, meanings.get(str(view))] for view in sorted({v for of_use in numbers.values() for v in of_use})
    ]
    return {"views": {use: [*of_use] for use, of_use in numbers.items()}, "views_digest": digest(content)}


def identical_videos(
    reader: StoreReader,
    train: Sequence[str],
    test: Sequence[str],
    progress: Progress,
    *,
    tested: StoreReader | None = None,
) -> dict[str, Json]:
    """Pairs of a training and a test video whose files are byte for byte the same; they are said aloud.

    `tested`: the store of the test videos, where it is another one.
    """
    digests = content_digests(reader)
    test_digests = digests if tested is None else content_digests(tested)
    by_content: dict[str, list[str]] = {}
    for name in sorted(train):
        if name in digests:
            by_content.setdefault(digests[name], []).append(name)
    pairs = [
        (other, name)
        for name in sorted(test)
        for other in by_content.get(test_digests.get(name, ""), ())
        if tested is not None or source(other) != source(name)
    ]
    if pairs:
        listed = "; ".join(f"{a!r} (train) and {b!r} (test)" for a, b in pairs[:_NAMED])
        more = f" and {len(pairs) - _NAMED} more pairs" if len(pairs) > _NAMED else ""
        progress.say(f"Identical files are in train and in test: {listed}{more}.")
    return {"identical_in_train_and_test": [[*pair] for pair in pairs]}
