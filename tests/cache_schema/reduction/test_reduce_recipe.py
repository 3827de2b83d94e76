"""How a store with a projection goes on: by what its recipe says."""

from __future__ import annotations

import pytest

from vfc.cache_schema.reduction.reduce import stored_fit


@pytest.mark.parametrize(
    ("fields", "fit"),
    [
        ({}, None),
        ({"project": "random:2"}, "0.1"),
        ({"project": "pca:2"}, "0.1"),
        ({"project": "pca:2", "mean": "none", "fitted_on": "train"}, "train"),
        ({"project": "random:2", "one_basis": [["embedding", "frames"]]}, None),
    ],
)
def test_projections_of_version_0_1_are_known_by_what_their_recipe_lacks(
    fields: dict[str, object], fit: str | None
) -> None:
    assert stored_fit(fields) == fit
