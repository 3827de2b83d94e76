"""Verbs that make a store from a store; the source stays as it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vfc.cache_schema.reduction.reduce import Reduction
from vfc.cache_schema.values.progress import Progress
from vfc.cli.command import Command, Outcome, table

from .inspect import count, shape

if TYPE_CHECKING:
    from vfc.cache_schema.upkeep import Derivation

_ARRAYS = {"help": "Arrays to change; default: all features", "flag": "array", "panel": "Input", "metavar": "ARRAY,..."}
_OUT = {"help": "Store to create or to add to", "panel": "Output"}


@dataclass(frozen=True)
class MergeConfig:
    """Which stores, into which."""

    stores: tuple[Path, ...] = field(
        metadata={"help": "Stores with the same recipe", "argument": True, "metavar": "STORE..."}
    )
    out: Path = field(metadata=_OUT)


@dataclass(frozen=True)
class ConvertConfig:
    """Which store, into which dtype."""

    store: Path = field(metadata={"help": "The store", "argument": True})
    out: Path = field(metadata=_OUT)
    dtype: Literal["fp32", "fp16", "bf16", "int8"] = field(
        metadata={"help": "Storage dtype of features", "panel": "Output"}
    )
    arrays: tuple[str, ...] = field(default=(), metadata=_ARRAYS)


@dataclass(frozen=True)
class MaterializeConfig:
    """Which store, made smaller how."""

    store: Path = field(metadata={"help": "The store", "argument": True})
    shrink: Reduction = field(default_factory=Reduction)
    arrays: tuple[str, ...] = field(default=(), metadata=_ARRAYS)
    name: str = field(
        default="", metadata={"help": "Write the new store to derived/<name>/ of this one", "panel": "Output"}
    )
    out: Path | None = field(default=None, metadata={"help": "Write the new store here instead", "panel": "Output"})


def _merge(config: MergeConfig, progress: Progress) -> Outcome:
    from vfc.cache_schema.upkeep import merge

    done = merge(config.stores, config.out, progress)
    rows = [
        (str(path), taken, there) for path, taken, there in zip(config.stores, done.taken, done.present, strict=True)
    ]
    lines = [table(("from", "taken", "there already"), rows), f"{done.path}: {count(done.records, 'record')}"]
    lines += (
        [f"Annotations that disagree, of which the first counts: {', '.join(done.conflicts)}"] if done.conflicts else []
    )
    return Outcome(done.to_json(), "\n".join(lines))


def _derived(done: Derivation) -> Outcome:
    lines = [
        f"{done.path} from {done.parent}: {count(done.added, 'record')} added, {done.replaced} replaced, "
        f"{done.present} there already"
    ]
    rows = [(kind, spec.name, shape(spec), spec.dtype) for kind, specs in done.kinds.items() for spec in specs]
    lines.append(table(("kind", "array", "shape", "dtype"), rows))
    lines += [f"{array}: the projection keeps {100 * share:.1f} %" for array, share in done.explained.items()]
    lines += [f"{name}: {reason}" for name, reason in done.rejected]
    lines += [f"{count(done.orphans, 'record')} whose source is gone"] if done.orphans else []
    return Outcome(done.to_json(), "\n".join(lines), 3 if done.rejected else 0)


def _convert(config: ConvertConfig, progress: Progress) -> Outcome:
    from vfc.cache_schema.upkeep import convert

    return _derived(convert(config.store, config.out, config.dtype, progress, arrays=config.arrays))


def _materialize(config: MaterializeConfig, progress: Progress) -> Outcome:
    from vfc.cache_schema.upkeep import materialize

    found = materialize(config.store, config.shrink, progress, name=config.name, out=config.out, arrays=config.arrays)
    return _derived(found)


COMMANDS: tuple[Command[Any], ...] = (
    Command(
        "store merge",
        "Merge stores with the same recipe into one.",
        MergeConfig,
        _merge,
        "vfc store merge ./store-a ./store-b --out ./store",
    ),
    Command(
        "store convert",
        "Make a store with features in another dtype.",
        ConvertConfig,
        _convert,
        "vfc store convert ./store --dtype int8 --out ./store-int8",
    ),
    Command(
        "store materialize",
        "Make a store of pooled or projected arrays.",
        MaterializeConfig,
        _materialize,
        "vfc store materialize ./store --pool 4x4 --name pooled",
    ),
)
