"""K-shot lists: the same few labelled videos per class for every method that is compared."""

from __future__ import annotations

from zlib import crc32

import numpy as np

from vfc.cache_schema.annotations import Annotations
from vfc.cache_schema.values.errors import BadInput


def k_shot(annotations: Annotations, shots: int, *, seed: int, allow_fewer: bool = False) -> dict[str, tuple[str, ...]]:
    """Class -> `shots` of its names: the names sorted as UTF-8, shuffled with (seed, crc32 of the label), cut.

    Lists of one seed nest: the first 2 of the 4-shot list are the 2-shot list.

    Raises:
        BadInput: no shots, a seed below 0, or fewer names than `shots` in a class, unless `allow_fewer`.
    """
    if shots < 1 or seed < 0:
        raise BadInput(f"{shots} shots were asked with the seed {seed}.", "Shots start at 1, the seed at 0.")
    lists = {}
    for label, names in annotations.by_label().items():
        if len(names) < shots and not allow_fewer:
            raise BadInput(
                f"Class {label!r} has {len(names)} videos; {shots} shots were asked.",
                f"Ask for {len(names)} shots or fewer, or give --allow-fewer to take what there is.",
            )
        np.random.default_rng([seed, crc32(label.encode())]).shuffle(names)
        lists[label] = tuple(names[:shots])
    return lists
