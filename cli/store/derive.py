"""`vfc store merge|convert|materialize`: make a new store from others, which are not changed."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vfc.cache_schema.reduction.reduce import Reduction
from vfc.cache_schema.values.progress import Progress
from vfc.cache_schema.values.settings import setting
from vfc.cli.command import Command, Outcome, table

from .inspect import count, shape

if TYPE_CHECKING:
    from vfc.cache_schema.upkeep import Derivation

_ARRAYS = ("Arrays to change; default: all features", "Input")
_OUT = ("Store to create or to add to", "Output")


@dataclass(frozen=True)
class MergeConfig:
    """The stores to merge, and the result."""

    stores: tuple[Path, ...] = setting(MISSING, "Stores with the same recipe", argument=True, metavar="STORE...")
    out: Path = setting(MISSING, *_OUT)


@dataclass(frozen=True)
class ConvertConfig:
    """The store to convert, and the dtype."""

    store: Path = setting(MISSING, "The store", argument=True)
    out: Path = setting(MISSING, *_OUT)
    dtype: Literal["fp32", "fp16", "bf16", "int8"] = setting(MISSING, "Storage dtype of features", "Output")
    arrays: tuple[str, ...] = setting((), *_ARRAYS, flag="array", metavar="ARRAY,...")


@dataclass(frozen=True)
class MaterializeConfig:
    """The store, and how it is made smaller."""

    store: Path = setting(MISSING, "The store", argument=True)
    shrink: Reduction = field(default_factory=Reduction)
    arrays: tuple[str, ...] = setting((), *_ARRAYS, flag="array", metavar="ARRAY,...")
    name: str = setting("", "Write the new store to derived/<name>/ of this one", "Output")
    out: Path | None = setting(None, "Write the new store here instead", "Output")


def _merge(config: MergeConfig, progress: Progress) -> Outcome:
    from vfc.cache_schema.upkeep import merge

    done = merge(config.stores, config.out, progress)
    rows = [
        (str(path), added, present)
        for path, added, present in zip(config.stores, done.taken, done.present, strict=True)
    ]
    lines = [table(("from", "added", "present before"), rows), f"{done.path}: {count(done.records, 'record')}"]
    lines += (
        [f"Annotations that differ (those of the first store are used): {', '.join(done.conflicts)}"]
        if done.conflicts
        else []
    )
    return Outcome(done.to_json(), "\n".join(lines))


def _derived(done: Derivation) -> Outcome:
    lines = [
        f"{done.path} from {done.parent}: {count(done.added, 'record')} added, {done.replaced} replaced, "
        f"{done.present} present before"
    ]
    rows = [(kind, spec.name, shape(spec), spec.dtype) for kind, specs in done.kinds.items() for spec in specs]
    lines.append(table(("kind", "array", "shape", "dtype"), rows))
    lines += [f"{array}: the projection keeps {100 * share:.1f} %" for array, share in done.explained.items()]
    lines += [f"{name}: {reason}" for name, reason in done.rejected]
    lines += [f"{count(done.orphans, 'record')} without a source record"] if done.orphans else []
    return Outcome(done.to_json(), "\n".join(lines), 3 if done.rejected else 0)


def _convert(config: ConvertConfig, progress: Progress) -> Outcome:
    from vfc.cache_schema.upkeep import convert

    return _derived(convert(config.store, config.out, config.dtype, progress, arrays=config.arrays))


def _materialize(config: MaterializeConfig, progress: Progress) -> Outcome:
    from vfc.cache_schema.upkeep import materialize

    derivation = materialize(
        config.store, config.shrink, progress, name=config.name, out=config.out, arrays=config.arrays
    )
    return _derived(derivation)


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
