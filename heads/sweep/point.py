"""One trial of a sweep before it is trained: what sets it apart, and all its settings."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vfc.cache_schema.values.progress import Progress, Silent
from vfc.cache_schema.values.recipe import digest
from vfc.cache_schema.values.record import Json
from vfc.heads.contract.train_config import TrainConfig
from vfc.heads.lookup import find
from vfc.heads.runs.run_folder import plain
from vfc.heads.training.prepared_run import settled


@dataclass(frozen=True)
class Point:
    """A trial: the values of the swept settings as typed, and the settings as `lookup.configs` gives them."""

    values: Mapping[str, str]
    task: Any
    head: Any
    train: TrainConfig

    @property
    def folder_name(self) -> str:
        """`lr=0.01_dim=64_seed=0`; characters that a file name should not have are replaced, and a digest is added."""
        pairs = {**self.values, "seed": str(self.train.seed)}
        plain_name = "_".join(f"{name}={value}" for name, value in pairs.items())
        safe = re.sub(r"[^A-Za-z0-9.,=_+-]+", "-", plain_name)[:120]
        return safe if safe == plain_name else f"{safe}-{digest(dict[str, Json](pairs))[:6]}"

    def within(self, sweep: Path) -> Point:
        """The same trial in a folder of the sweep."""
        return replace(self, train=replace(self.train, out=sweep / self.folder_name))


def by_stream(name: str, points: Sequence[Point], progress: Progress) -> list[list[Point]]:
    """Trials in groups that can share their batches, with their training settings complete.

    A group agrees in the settings of the task, in batch, seed, precision and device, in whether there is a validation,
    and in what the head's settings make it read. Notes on the settings are said for the first trial alone.
    """
    method = find(name)
    groups: dict[str, list[Point]] = {}
    for number, point in enumerate(points):
        train = settled(name, point.head, point.train, progress if not number else Silent())
        shared = (train.batch, train.seed, train.precision, train.device, train.select)
        key = repr((plain(point.task), shared, method.Head.reads_of(point.head)))
        groups.setdefault(key, []).append(replace(point, train=train))
    return [*groups.values()]
