"""Videos of a store and their records in several views, in order: what the datasets of all tasks rest on."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from vfc.cache_schema.reader import StoreReader
from vfc.cache_schema.values.errors import MissingRecord
from vfc.cache_schema.values.record import Key

from .features import Features

InUse = Callable[[int], bool]
"""Whether a view is in use."""


def in_view(view: int | None) -> InUse:
    """One view is in use, or (None) all."""
    return lambda stored: view is None or stored == view


class VideoDataset:
    """The records of `names` whose view is in use, video by video: video i has `views[i]` rows from `first[i]` on.

    `keys` names the record of every row. `sources`: role -> features; a row is the same record in each of them.

    Raises:
        MissingRecord: a video without a record in any of these views.
    """

    def __init__(self, reader: StoreReader, names: Sequence[str], in_use: InUse) -> None:
        records = records_of(reader, names, in_use)
        self.names = tuple(names)
        self.keys = [key for name in names for key in records[name]]
        self.views = np.array([len(records[name]) for name in names], dtype=np.int64)
        self.first = self.views.cumsum() - self.views
        self.sources: dict[str, Features] = {}

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def placement(self) -> str:
        """Where the values are kept, in words."""
        return ", ".join(f"{role} {source.placement}" for role, source in self.sources.items())


def records_of(reader: StoreReader, names: Sequence[str], in_use: InUse) -> dict[str, list[Key]]:
    """Video -> its records whose view is in use.

    Raises:
        MissingRecord: a video without any.
    """
    records: dict[str, list[Key]] = {name: [] for name in names}
    for key in reader.keys("video"):
        if key.name in records and in_use(key.view):
            records[key.name].append(key)
    missing = [name for name, keys in records.items() if not keys]
    if missing:
        raise MissingRecord(
            f"{len(missing)} of {len(records)} videos have no record in the views asked for, {missing[0]!r} first.",
            "See the views of a store with `vfc store inspect`; choose with --train-views and --test-views.",
        )
    return records
