"""The efficiency tables of the papers, with the same heads built here at their true size."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import cast

from vfc.heads.contract.published import PublishedCost
from vfc.heads.methods import find, names

from .cost import Model, PaperCost
from .flops import head_flops, without_memory

ModelOf = Callable[[str], Model]


def with_published_costs() -> list[str]:
    """The methods that have a file `published.py`; none of them is imported."""
    return [name for name in names() if _has_file(name)]


def published(name: str) -> tuple[PublishedCost, ...]:
    """The rows of a method's paper; none where the method has no file `published.py`."""
    if not _has_file(name):
        return ()
    module = importlib.import_module(f"{find(name).__name__}.published")
    return cast("tuple[PublishedCost, ...]", module.PUBLISHED)


def paper_cost(row: PublishedCost, model_of: ModelOf) -> PaperCost:
    """A row beside its numbers here; `model_of` counts the model of a name over one clip."""
    with without_memory():
        head, batch = row.build()
        flops = head_flops(head, batch)
        trained = sum(parameter.numel() for parameter in head.parameters() if parameter.requires_grad)
    model = model_of(row.backbone) if row.backbone else None
    return PaperCost(
        row.row,
        row.unit,
        trained,
        row.parameters,
        flops.total,
        flops.once,
        flops.without(row.without) * row.counts // 2,
        row.flops,
        model,
        None if model is None else model.flops * row.backbone_counts // 2,
        row.backbone_flops,
        row.differs,
    )


def _has_file(name: str) -> bool:
    package = f"vfc.heads.methods.{name.replace('-', '_')}"
    spec = importlib.util.find_spec(package)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    return any(importlib.machinery.PathFinder.find_spec("published", [folder]) for folder in folders)
