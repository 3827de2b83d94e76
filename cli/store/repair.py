"""`vfc store repair|compact`: they remove something from a store, so they need --yes."""

from __future__ import annotations

import math
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any

from vfc.cache_schema.values.errors import BadInput
from vfc.cache_schema.values.progress import Progress
from vfc.cache_schema.values.settings import setting
from vfc.cli.command import Command, Outcome, human_bytes

from .inspect import count, damage, names

_YES = "Confirm; without it nothing is changed"


@dataclass(frozen=True)
class CompactConfig:
    """The store, and the size of its new parts."""

    store: Path = setting(MISSING, "The store", argument=True)
    part_mb: float = setting(128.0, "Size of a part in megabytes")
    yes: bool = setting(False, _YES, one_way=True)

    def __post_init__(self) -> None:
        if not 0 < self.part_mb < math.inf:
            raise BadInput(f"--part-mb is {self.part_mb:g}.", "--part-mb takes more than 0, such as 128.")


@dataclass(frozen=True)
class RepairConfig:
    """The store, and what is done with damaged parts."""

    store: Path = setting(MISSING, "The store", argument=True)
    drop: bool = setting(False, "Delete damaged parts instead of moving them to quarantine/", one_way=True)
    yes: bool = setting(False, _YES, one_way=True)


def _require(yes: bool, what: str, store: Path, first: str) -> None:
    if not yes:
        raise BadInput(f"This {what} {store}, so it needs --yes.", f"Look first: vfc store {first} {store}")


def _compact(config: CompactConfig, progress: Progress) -> Outcome:
    from vfc.cache_schema.upkeep import compact

    _require(config.yes, "rewrites parts and drops duplicate and deleted records of", config.store, "inspect")
    done = compact(config.store, progress, part_bytes=int(config.part_mb * 1e6))
    text = (
        f"{done.path}: {count(done.records, 'record')} in {count(done.parts_after, 'part')} "
        f"(before: {done.parts_before}), {human_bytes(done.bytes_after)} (before: {human_bytes(done.bytes_before)}); "
        f"{count(done.dropped, 'record')} dropped (duplicate or deleted). The digest is the same."
    )
    return Outcome(done.to_json(), text)


def _repair(config: RepairConfig, progress: Progress) -> Outcome:
    from vfc.cache_schema.upkeep import repair

    _require(config.yes, "takes damaged parts out of", config.store, "verify")
    done = repair(config.store, progress, drop=config.drop)
    if not done.damaged and not done.other:
        return Outcome(done.to_json(), f"{done.path}: nothing is damaged.")
    lines = [f"{done.path}: {count(len(done.damaged), 'damaged part')}", *damage(done.damaged)]
    lines.append(f"{count(done.saved, 'record')} saved from them.")
    if done.quarantine:
        lines.append(f"Damaged files were moved to {done.quarantine}.")
    if done.redo:
        lines += [
            f"To make again with the same vfc extract command: {count(len(done.redo), 'record')}",
            names(done.redo),
        ]
    lines += [f"Cannot be named: {what}" for what in done.unnamed]
    lines += [f"Not repaired: {fault}" for fault in done.other]
    return Outcome(done.to_json(), "\n".join(lines), 4 if done.other else 3 if done.redo or done.unnamed else 0)


COMMANDS: tuple[Command[Any], ...] = (
    Command(
        "store repair",
        "Remove damaged parts, save their intact records, list the lost ones.",
        RepairConfig,
        _repair,
        "vfc store repair ./store --yes",
        "The exit code is 3 if records are lost: the same vfc extract command makes them again.",
    ),
    Command(
        "store compact",
        "Merge small parts; drop duplicate and deleted records.",
        CompactConfig,
        _compact,
        "vfc store compact ./store --yes",
        "Other processes may read and write meanwhile; the digest stays the same.",
    ),
)
