"""Features for a head that was trained on a derived store: extracted as its parent was, then reduced as it was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
        BadInput: features that were not made from videos.
    """
    content: Mapping[str, Any] = recipe.fields
    steps: list[Step] = []
    while "parent" in content:
        steps.insert(0, Step(str(content["function"]), content["parameters"]))
        content = content["parent"]["recipe"]
    if "backbone" not in content:
        raise BadInput(
            "The head was trained on features that were imported, and not made from videos here.",
            "Import the features of the new videos in the same way, and give --query-cache STORE.",
        )
    return Origin(content, tuple(steps))


def projection_stores(origin: Origin, training_store: Path | None) -> list[Path | None]:
    """The stores whose projections new features go through: that of the extraction, then that of every derivation.

    None: nothing was projected there.

    Raises:
        MissingPath: one of them is gone.
    """
    shrink: Any = origin.fields.get("shrink") or {}
    projected = ["project" in shrink, *("project" in step.parameters for step in origin.steps)]
    stores: list[Path | None] = []
    store = training_store
    for number, was_projected in reversed([*enumerate(projected)]):
        # The projection of a plain extraction is looked for by the extraction itself.
        if was_projected and origin.steps and not (store and (store / "projection").is_dir()):
            owner = store or "the store of the training"
            raise MissingPath(
                f"The projection of the features is that of {owner}, which is not there.",
                "Put the store back, or give features of the same kind: --query-cache STORE.",
            )
        stores.insert(0, store if was_projected else None)
        if store and number:
            store = Path(last_circumstance(store, "source", depth=1) or ".")
    return stores


def derive(origin: Origin, projections: Sequence[Path | None], extracted: Path, out: Path, progress: Progress) -> None:
    """Reduce the records of the store `extracted` to those of the store `out`; records that are there already stay.

    `projections`: of every step, the store whose projection it takes.
    """
    store = extracted
    names = {field.name for field in fields(Reduction)}
    for number, (step, fitted_in) in enumerate(zip(origin.steps, projections, strict=True)):
        last = number == len(origin.steps) - 1
        target = out if last else out.with_name(f"{out.name}-step{number}")
        arrays = step.parameters["arrays"]
        chosen = () if arrays == "all" else tuple(cast("list[str]", arrays))
        values = {name: value for name, value in step.parameters.items() if name in names}
        if step.function == "convert":
            convert(store, target, values["dtype"], progress, arrays=chosen)
        else:
            materialize(store, Reduction(**values), progress, out=target, arrays=chosen, fitted_in=fitted_in)
        store = target
