"""The front door of the store: keys and arrays, recipes, a writer, a reader, and every error a user can meet.

Names are loaded when they are first used, so that importing one small module of this room loads only that.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .reader import StoreReader, open_store
    from .values.errors import (
        AxisMismatch,
        BadInput,
        Damaged,
        MissingExtra,
        MissingPath,
        MissingRecord,
        NotAStore,
        ReadOnlyTarget,
        RecipeMismatch,
        RecordRejected,
        Refused,
        UnknownName,
        VfcError,
    )
    from .values.recipe import Recipe
    from .values.record import ArraySpec, Key, Record
    from .writer import StoreWriter

__all__ = [
    "ArraySpec",
    "AxisMismatch",
    "BadInput",
    "Damaged",
    "Key",
    "MissingExtra",
    "MissingPath",
    "MissingRecord",
    "NotAStore",
    "ReadOnlyTarget",
    "Recipe",
    "RecipeMismatch",
    "Record",
    "RecordRejected",
    "Refused",
    "StoreReader",
    "StoreWriter",
    "UnknownName",
    "VfcError",
    "open_store",
]

_ELSEWHERE = {
    "ArraySpec": "values.record",
    "Key": "values.record",
    "Recipe": "values.recipe",
    "Record": "values.record",
    "StoreReader": "reader",
    "StoreWriter": "writer",
    "open_store": "reader",
}


def __getattr__(name: str) -> Any:
    """Load a name of the front door from the module that defines it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_ELSEWHERE.get(name, 'values.errors')}", __name__), name)
