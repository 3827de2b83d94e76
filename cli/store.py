"""`vfc store <verb>`: look at a store, mend it, make others from it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typer.core import TyperGroup

from vfc.cache_schema.progress import Progress

from .app import Lazy, group
from .command import Command, Outcome, human_bytes, table

if TYPE_CHECKING:
    from vfc.cache_schema.record import ArraySpec, Key
    from vfc.cache_schema.upkeep import DamagedPart

_SHOWN = 20


@dataclass(frozen=True)
class StoreConfig:
    """Which store."""

    store: Path = field(metadata={"help": "The store", "argument": True})


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _names(keys: Sequence[Key]) -> str:
    """Keys, one a line, the first few."""
    said = [f"    {key.kind} {key.name}" + (f" view {key.view}" if key.view else "") for key in keys[:_SHOWN]]
    return "\n".join([*said, *([f"    and {len(keys) - _SHOWN:,} more"] if len(keys) > _SHOWN else [])])


def _shape(spec: ArraySpec) -> str:
    return f"[{', '.join('L' if size is None else str(size) for size in spec.shape)}]"


def _inspect(config: StoreConfig, progress: Progress) -> Outcome:
    from vfc.cache_schema.upkeep import inspect

    found = inspect(config.store, progress)
    lines = [
        f"{found.path}: {_count(found.records, 'record')}, {human_bytes(found.bytes)}",
        f"store digest   {found.digest}",
        f"recipe digest  {found.recipe_digest}",
    ]
    arrays = [
        (
            kind.kind,
            f"{kind.records:,}",
            kind.parts,
            human_bytes(kind.bytes),
            spec.name,
            _shape(spec),
            spec.dtype,
            spec.layout,
        )
        for kind in found.kinds
        for spec in kind.arrays
    ]
    lines += ["", table(("kind", "records", "parts", "on disk", "array", "shape", "dtype", "layout"), arrays)]
    if found.annotations:
        sets = [
            (
                one.name,
                one.rows,
                one.labels,
                " ".join(f"{s} {n}" for s, n in sorted(one.splits.items())),
                one.digest[:12],
            )
            for one in found.annotations
        ]
        lines += ["", table(("annotations", "rows", "classes", "splits", "digest"), sets)]
    lines += ["", "recipe", json.dumps(found.recipe, indent=2, ensure_ascii=False)]
    lines += [f"{axis}s: {', '.join(ids)}" for axis, ids in sorted(found.axes.items())]
    aside = {"derived stores": found.derived, "projections": found.projections, "quarantined parts": found.quarantined}
    lines += [f"{what}: {', '.join(names)}" for what, names in aside.items() if names]
    if found.duplicates or found.deleted:
        lines.append(
            f"{found.duplicates:,} duplicates and {found.deleted:,} deleted records: vfc store compact drops them"
        )
    if found.failures:
        lines.append(f"{_count(len(found.failures), 'failure')}:")
        lines += [f"    {row['name']}: {row['reason']}" for row in found.failures[:_SHOWN]]
    return Outcome(found.to_json(), "\n".join(lines))


def _damage(parts: Sequence[DamagedPart]) -> list[str]:
    lines = []
    for part in parts:
        lines += [f"  {part.part}: {fault.file or 'part'}: {fault.problem}" for fault in part.faults]
        lines.append(f"    costs {_count(len(part.keys), 'named record')}, {part.unnamed:,} unnamed")
        lines += [_names(part.keys)] if part.keys else []
    return lines


def _verify(config: StoreConfig, progress: Progress) -> Outcome:
    from vfc.cache_schema.upkeep import verify

    found = verify(config.store, progress)
    read = f"{_count(found.parts, 'part')}, {_count(found.records, 'record')}, {human_bytes(found.bytes)}"
    if found.ok:
        return Outcome(found.to_json(), f"{found.path}: {read}; every byte is what was committed.")
    lines = [f"{found.path}: damaged. {read}.", *_damage(found.damaged), *(f"  {fault}" for fault in found.other)]
    lines.append(f"Next: vfc store repair {found.path} --yes")
    return Outcome(found.to_json(), "\n".join(lines), 4)


COMMANDS: tuple[Command[Any], ...] = (
    Command(
        "store inspect",
        "Say what a store holds and how it was made.",
        StoreConfig,
        _inspect,
        "vfc store inspect ./store",
    ),
    Command(
        "store verify",
        "Read every byte and compare it with what was committed.",
        StoreConfig,
        _verify,
        "vfc store verify ./store",
        "Leaves with 4 where something is damaged.",
    ),
)


def store() -> TyperGroup:
    """`vfc store`."""
    entries = {each.name.split()[-1]: Lazy(each.name.split()[-1], each.help, None, each.build) for each in COMMANDS}
    return group("store", "Look at a store, mend it, make others from it.", entries)
