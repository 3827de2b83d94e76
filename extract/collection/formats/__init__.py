"""The lists of the data sets, one format a file: how each is recognised by its content, and what its rows mean.

A new format is one file here with a `FORMAT`, and one test of a sample. `recognise` asks every format in the order of
their names; no two may fit one file.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable
from functools import cache

from vfc.extract.collection.document import Document
from vfc.extract.collection.listing import Listing

from .format import Format

__all__ = ["Format", "formats", "recognise"]


@cache
def formats() -> tuple[Format, ...]:
    """Every format, in the order of the names of their files."""
    names: Iterable[str] = sorted(module.name for module in pkgutil.iter_modules(__path__))
    modules = [importlib.import_module(f"{__name__}.{name}") for name in names if name != "format"]
    return tuple(module.FORMAT for module in modules)


def recognise(document: Document) -> Listing | None:
    """The rows of a list in one of the formats; None where no format fits.

    Raises:
        BadInput: a list of a known format with a row that cannot be used, or one that is not read, with what to do.
    """
    for each in formats():
        listing = each.read(document)
        if listing is not None:
            return listing
    return None
