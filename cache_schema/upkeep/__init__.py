"""Upkeep of a store: inspect, verify, repair, compact, merge, derive, compare. Each is a function of paths."""

from .compacting import Compaction, compact
from .comparing import ArrayDifference, Comparison, compare
from .deriving import Derivation, convert, materialize
from .health import Repair, Verification, repair, verify
from .inspecting import AnnotationSummary, Inspection, KindSummary, inspect
from .merging import Merge, merge
from .salvage import DamagedPart

__all__ = [
    "AnnotationSummary",
    "ArrayDifference",
    "Compaction",
    "Comparison",
    "DamagedPart",
    "Derivation",
    "Inspection",
    "KindSummary",
    "Merge",
    "Repair",
    "Verification",
    "compact",
    "compare",
    "convert",
    "inspect",
    "materialize",
    "merge",
    "repair",
    "verify",
]
