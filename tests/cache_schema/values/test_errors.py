"""Every error is two lines, has its exit code, and is caught as the built-in that a caller would expect."""

from __future__ import annotations

import pytest

from vfc.cache_schema.values import errors
from vfc.cache_schema.values.errors import VfcError, suggestion, unknown_name

LEAVES = [
    (errors.BadInput, ValueError, 2),
    (errors.MissingPath, FileNotFoundError, 2),
    (errors.UnknownName, LookupError, 2),
    (errors.MissingRecord, KeyError, 2),
    (errors.MissingExtra, ImportError, 2),
    (errors.RecordRejected, ValueError, 2),
    (errors.NotAStore, ValueError, 2),
    (errors.ReadOnlyTarget, PermissionError, 2),
    (errors.Damaged, ValueError, 4),
    (errors.RecipeMismatch, ValueError, 5),
    (errors.AxisMismatch, ValueError, 5),
    (errors.Refused, RuntimeError, 6),
]


@pytest.mark.parametrize(("leaf", "built_in", "code"), LEAVES)
def test_each_leaf(leaf: type[VfcError], built_in: type[Exception], code: int) -> None:
    error = leaf("What was found.", "What to do.")
    assert isinstance(error, built_in)
    assert str(error) == "What was found.\nWhat to do."
    assert (error.problem, error.remedy, error.exit_code) == ("What was found.", "What to do.", code)


def test_no_leaf_is_forgotten() -> None:
    assert {leaf for leaf, _, _ in LEAVES} == set(VfcError.__subclasses__())


def test_misspelt_names_get_the_nearest_known_one() -> None:
    error = unknown_name("metric", "otma", ["otam", "bi-mhm", "hausdorff"])
    assert str(error) == "There is no metric 'otma'. Did you mean 'otam'?\nKnown: bi-mhm, hausdorff, otam."
    assert str(unknown_name("metric", "xyz", [])) == "There is no metric 'xyz'.\nKnown: none."
    assert suggestion("qqq", ["otam"]) == ""
