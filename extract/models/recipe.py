"""The share of a recipe that every network gives in the same form."""

from __future__ import annotations

from collections.abc import Mapping

from vfc.cache_schema.values.record import Dtype, Json
from vfc.extract.backbone import versions

from .loading import Compute


def model_recipe(
    family: str,
    *,
    checkpoint: Mapping[str, Json],
    taps: Json,
    pixels: Mapping[str, Json],
    compute: Compute,
    attention: str | None,
    storage: Dtype,
    **others: Json,
) -> dict[str, Json]:
    """See `Backbone.recipe`. `attention`: the implementation in use; `others`: what this family alone has."""
    return {
        "backbone": family,
        "checkpoint": dict(checkpoint),
        "taps": taps,
        **others,
        "pixels": dict(pixels),
        "compute": {"dtype": compute.dtype, "attention": attention},
        "storage": storage,
        "versions": versions(),
    }
