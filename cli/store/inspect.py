"""Look at stores: what one holds, whether it is whole, how two differ. Writes nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vfc.cache_schema.values.progress import Progress
from vfc.cli.command import Command, Outcome, human_bytes, table

if TYPE_CHECKING:
    from vfc.cache_schema.upkeep import DamagedPart
    from vfc.cache_schema.values.record import ArraySpec, Key

_SHOWN = 20


@dataclass(frozen=True)
class StoreConfig:
    """Which store."""

    store: Path = field(metadata={"help": "The store", "argument": True})


def count(number: int, noun: str) -> str:
    """`1 record`, `1,200 records`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def names(keys: Sequence[Key]) -> str:
    """Keys, one a line, the first few."""
    said = [f"    {key.kind} {key.name}" + (f" view {key.view}" if key.view else "") for key in keys[:_SHOWN]]
    return "\n".join([*said, *([f"    and {len(keys) - _SHOWN:,} more"] if len(keys) > _SHOWN else [])])


def shape(spec: ArraySpec) -> str:
    """`[8, 1024]`, with L for an axis that varies."""
    return f"[{', '.join('L' if size is None else str(size) for size in spec.shape)}]"


def _inspect(config: StoreConfig, progress: Progress) -> Outcome:
    from vfc.cache_schema.upkeep import inspect

    found = inspect(config.store, progress)
    lines = [
        f"{found.path}: {count(found.records, 'record')}, {human_bytes(found.bytes)}",
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
            shape(spec),
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
    aside = {
        "derived stores": found.derived,
        "projections": found.projections,
        "tails": found.tails,
        "quarantined parts": found.quarantined,
    }
    lines += [f"{what}: {', '.join(names)}" for what, names in aside.items() if names]
    if found.duplicates or found.deleted:
        lines.append(
            f"{found.duplicates:,} duplicates and {found.deleted:,} deleted records: vfc store compact drops them"
        )
    if found.failures:
        lines.append(f"{count(len(found.failures), 'failure')}:")
        lines += [f"    {row['name']}: {row['reason']}" for row in found.failures[:_SHOWN]]
    return Outcome(found.to_json(), "\n".join(lines))


def damage(parts: Sequence[DamagedPart]) -> list[str]:
    """What is wrong with each part, and which records it costs."""
    lines = []
    for part in parts:
        lines += [f"  {part.part}: {fault.file or 'part'}: {fault.problem}" for fault in part.faults]
        lines.append(f"    costs {count(len(part.keys), 'named record')}, {part.unnamed:,} unnamed")
        lines += [names(part.keys)] if part.keys else []
    return lines


def _verify(config: StoreConfig, progress: Progress) -> Outcome:
    from vfc.cache_schema.upkeep import verify

    found = verify(config.store, progress)
    read = f"{count(found.parts, 'part')}, {count(found.records, 'record')}, {human_bytes(found.bytes)}"
    if found.ok:
        return Outcome(found.to_json(), f"{found.path}: {read}; every byte is what was committed.")
    lines = [f"{found.path}: damaged. {read}.", *damage(found.damaged), *(f"  {fault}" for fault in found.other)]
    lines.append(f"Next: vfc store repair {found.path} --yes")
    return Outcome(found.to_json(), "\n".join(lines), 4)


@dataclass(frozen=True)
class CompareConfig:
    """Which two stores."""

    here: Path = field(metadata={"help": "First store", "argument": True})
    there: Path = field(metadata={"help": "Second store", "argument": True})


def _compare(config: CompareConfig, progress: Progress) -> Outcome:
    from vfc.cache_schema.upkeep import compare

    found = compare(config.here, config.there, progress)
    lines = ["The recipes are the same." if found.same_recipe else "The recipes differ:"]
    lines += [f"  {name}: {json.dumps(a)} here, {json.dumps(b)} there" for name, a, b in found.recipe_difference]
    if found.arrays:
        rows = [
            (
                *(f"{one.kind} {one.array}", one.records, one.equal, one.unlike),
                *(f"{value:.3g}" for value in (one.max_abs, one.rel_l2, one.cosine_min, one.cosine_mean)),
            )
            for one in found.arrays
        ]
        columns = ("array", "in both", "equal", "unlike", "max abs", "rel L2", "least cosine", "mean cosine")
        lines.append(table(columns, rows))
    for where, keys in (("here", found.only_here), ("there", found.only_there)):
        lines += [f"Only {where}: {count(len(keys), 'record')}", names(keys)] if keys else []
    for where, arrays in (("here", found.arrays_only_here), ("there", found.arrays_only_there)):
        lines += [f"Arrays only {where}: {', '.join(arrays)}"] if arrays else []
    if found.metadata_differs:
        lines.append(f"{count(found.metadata_differs, 'record')} with other metadata")
    lines.append("Both hold the same records." if found.identical else "They do not hold the same records.")
    return Outcome(found.to_json(), "\n".join(lines), 0 if found.identical else 4)


COMMANDS: tuple[Command[Any], ...] = (
    Command(
        "store inspect",
        "Show what a store contains and how it was made.",
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
        "The exit code is 4 if something is damaged.",
    ),
    Command(
        "store compare",
        "Compare the recipes, keys and values of two stores.",
        CompareConfig,
        _compare,
        "vfc store compare ./store ./another",
        "The exit code is 4 if they do not hold the same records with the same values.",
    ),
)
