"""One task per file: how batches are drawn, what is measured, how it is reported. Nothing here imports torch."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

from vfc.cache_schema.errors import unknown_name


def find(name: str) -> ModuleType:
    """Import the task called `name`; UnknownName with a suggestion where there is none."""
    known = sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__))
    if name not in known:
        raise unknown_name("task", name, known)
    return importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
