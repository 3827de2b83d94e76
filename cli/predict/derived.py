"""Features for a head that was trained on a derived store: extracted as its parent was, then reduced as it was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

from vfc.cache_schema.reduction.reduce import Reduction
from vfc.cache_schema.upkeep import convert, materialize
from vfc.cache_schema.upkeep.circumstances import last_circumstance
from vfc.cache_schema.values.errors import BadInput, MissingPath
from vfc.cache_schema.values.progress import Progress
from vfc.cache_schema.values.recipe import Recipe
from vfc.cache_schema.values.record import Json


@dataclass(frozen=True)
class Step:
    """One derivation: `convert` or `materialize`, and its parameters as the recipe has them."""

    function: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True)
class Origin:
    """The recipe of the extraction that a store comes from, and the derivations since, in order."""

    fields: Mapping[str, Json]
    steps: tuple[Step, ...]


def origin_of(recipe: Recipe) -> Origin:
    """How the features of a recipe came about.

    Raises:
        BadInput: features that were not made from videos, or that a projection was fitted to afterwards.
    """
    content: Mapping[str, Any] = recipe.fields
    steps: list[Step] = []
    while "parent" in content:
        step = Step(str(content["function"]), content["parameters"])
        if "project" in step.parameters:
            raise BadInput(
                "The head was trained on a store that vfc store materialize projected; new features would get another "
                "projection.",
                "Train it on a store of vfc extract --project, or give features made with the parent: --query-cache.",
            )
        steps.insert(0, step)
        content = content["parent"]["recipe"]
    if "backbone" not in content:
        raise BadInput(
            "The head was trained on features that were imported, and not made from videos here.",
            "Import the features of the new videos in the same way, and give --query-cache STORE.",
        )
    return Origin(content, tuple(steps))


def projection_store(origin: Origin, training_store: Path | None) -> Path | None:
    """The store with the projection of the extraction: that of the training, or the one it was derived from.

    Raises:
        MissingPath: it is gone.
    """
    shrink: Any = origin.fields.get("shrink") or {}
    if not origin.steps or "project" not in shrink or training_store is None:
        return training_store
    store = training_store
    for _ in origin.steps:
        store = Path(last_circumstance(store, "source") or ".")
    if (store / "projection").is_dir():
        return store
    raise MissingPath(
        f"The projection of the features is that of the parent of {training_store}, which is not there.",
        "Put the parent store back, or give --query-cache STORE.",
    )


def derive(origin: Origin, extracted: Path, out: Path, progress: Progress) -> None:
    """Reduce the records of the store `extracted` to those of the store `out`; records that are there already stay."""
    store = extracted
    names = {field.name for field in fields(Reduction)}
    for number, step in enumerate(origin.steps):
        last = number == len(origin.steps) - 1
        target = out if last else out.with_name(f"{out.name}-step{number}")
        arrays = step.parameters["arrays"]
        chosen = () if arrays == "all" else tuple(cast("list[str]", arrays))
        values = {name: value for name, value in step.parameters.items() if name in names}
        if step.function == "convert":
            convert(store, target, values["dtype"], progress, arrays=chosen)
        else:
            materialize(store, Reduction(**values), progress, out=target, arrays=chosen)
        store = target
