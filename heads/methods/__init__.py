"""One published method per file; the file name, hyphenated, is the public name. This file does not import torch."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

from vfc.cache_schema.values.errors import unknown_name


def names() -> list[str]:
    """Public names of the methods, from the names of files and packages alone."""
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__))


def find(name: str) -> ModuleType:
    """Import the method called `name`; UnknownName with a suggestion if there is none."""
    if name not in names():
        raise unknown_name("head", name, names())
    return importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
