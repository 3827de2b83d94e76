"""`vfc store inspect|verify|compare`: contents of a store, its checksums, differences of two. Writes nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vfc.cache_schema.values.progress import Progress
from vfc.cache_schema.values.settings import setting
from vfc.cli.command import Command, Outcome, human_bytes, table

if TYPE_CHECKING:
    from vfc.cache_schema.upkeep import DamagedPart
    from vfc.cache_schema.values.record import ArraySpec, Key

_SHOWN = 20


@dataclass(frozen=True)
class StoreConfig:
    """The store."""

    store: Path = setting(MISSING, "The store", argument=True)


def count(number: int, noun: str) -> str:
    """`1 record`, `1,200 records`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def names(keys: Sequence[Key]) -> str:
    """The first keys, one per line, and the number of the others."""
    lines = [f"    {key.kind} {key.name}" + (f" view {key.view}" if key.view else "") for key in keys[:_SHOWN]]
    return "\n".join([*lines, *([f"    and {len(keys) - _SHOWN:,} more"] if len(keys) > _SHOWN else [])])


def shape(spec: ArraySpec) -> str:
    """`[8, 1024]`, with L for an axis that varies."""
    return f"[{', '.join('L' if size is None else str(size) for size in spec.shape)}]"


def _inspect(config: StoreConfig, progress: Progress) -> Outcome:
    from vfc.cache_schema.upkeep import inspect

    report = inspect(config.store, progress)
    lines = [
        f"{report.path}: {count(report.records, 'record')}, {human_bytes(report.bytes)}",
        f"store digest   {report.digest}",
        f"recipe digest  {report.recipe_digest}",
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
        for kind in report.kinds
        for spec in kind.arrays
    ]
    lines += ["", table(("kind", "records", "parts", "on disk", "array", "shape", "dtype", "layout"), arrays)]
    if report.annotations:
        sets = [
            (
                one.name,
                one.rows,
                one.labels,
                " ".join(f"{s} {n}" for s, n in sorted(one.splits.items())),
                one.digest[:12],
            )
            for one in report.annotations
        ]
        lines += ["", table(("annotations", "rows", "classes", "splits", "digest"), sets)]
    lines += ["", "recipe", json.dumps(report.recipe, indent=2, ensure_ascii=False)]
    lines += [f"{axis}s: {', '.join(ids)}" for axis, ids in sorted(report.axes.items())]
    aside = {
        "derived stores": report.derived,
        "projections": report.projections,
        "tails": report.tails,
        "quarantined parts": report.quarantined,
    }
    lines += [f"{what}: {', '.join(names)}" for what, names in aside.items() if names]
    if report.duplicates or report.deleted:
        lines.append(
            f"{report.duplicates:,} duplicates and {report.deleted:,} deleted records: vfc store compact drops them"
        )
    if report.identical:
        lines.append(f"{count(len(report.identical), 'group')} of identical files:")
        lines += [
            "    " + " = ".join(f"{name} ({split})" if split else name for name, split in group)
            for group in report.identical[:_SHOWN]
        ]
    if report.failures:
        lines.append(f"{count(len(report.failures), 'failure')}:")
        lines += [f"    {row['name']}: {row['reason']}" for row in report.failures[:_SHOWN]]
    return Outcome(report.to_json(), "\n".join(lines))


def damage(parts: Sequence[DamagedPart]) -> list[str]:
    """The faults of each part, and the records that are lost with it."""
    lines = []
    for part in parts:
        lines += [f"  {part.part}: {fault.file or 'part'}: {fault.problem}" for fault in part.faults]
        lines.append(f"    lost: {count(len(part.keys), 'named record')}, {part.unnamed:,} unnamed")
        lines += [names(part.keys)] if part.keys else []
    return lines


def _verify(config: StoreConfig, progress: Progress) -> Outcome:
    from vfc.cache_schema.upkeep import verify

    report = verify(config.store, progress)
    read = f"{count(report.parts, 'part')}, {count(report.records, 'record')}, {human_bytes(report.bytes)}"
    if report.ok:
        return Outcome(report.to_json(), f"{report.path}: {read}; every byte is what was committed.")
    lines = [f"{report.path}: damaged. {read}.", *damage(report.damaged), *(f"  {fault}" for fault in report.other)]
    lines.append(f"Next: vfc store repair {report.path} --yes")
    return Outcome(report.to_json(), "\n".join(lines), 4)


@dataclass(frozen=True)
class CompareConfig:
    """The two stores."""

    here: Path = setting(MISSING, "First store", argument=True)
    there: Path = setting(MISSING, "Second store", argument=True)


def _compare(config: CompareConfig, progress: Progress) -> Outcome:
    from vfc.cache_schema.upkeep import compare

    comparison = compare(config.here, config.there, progress)
    lines = ["The recipes are the same." if comparison.same_recipe else "The recipes differ:"]
    lines += [f"  {name}: {json.dumps(a)} here, {json.dumps(b)} there" for name, a, b in comparison.recipe_difference]
    if comparison.arrays:
        rows = [
            (
                *(f"{one.kind} {one.array}", one.records, one.equal, one.unlike),
                *(f"{value:.3g}" for value in (one.max_abs, one.rel_l2, one.cosine_min, one.cosine_mean)),
            )
            for one in comparison.arrays
        ]
        columns = ("array", "in both", "equal", "unlike", "max abs", "rel L2", "least cosine", "mean cosine")
        lines.append(table(columns, rows))
    for where, keys in (("here", comparison.only_here), ("there", comparison.only_there)):
        lines += [f"Only {where}: {count(len(keys), 'record')}", names(keys)] if keys else []
    for where, arrays in (("here", comparison.arrays_only_here), ("there", comparison.arrays_only_there)):
        lines += [f"Arrays only {where}: {', '.join(arrays)}"] if arrays else []
    if comparison.metadata_differs:
        lines.append(f"{count(comparison.metadata_differs, 'record')} with other metadata")
    lines.append("Both hold the same records." if comparison.identical else "They do not hold the same records.")
    return Outcome(comparison.to_json(), "\n".join(lines), 0 if comparison.identical else 4)


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
