"""To other formats: HDF5 that points at the store's own files, a folder of npy files, safetensors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from vfc.cache_schema.errors import unknown_name
from vfc.cache_schema.progress import Progress

from .exports import Export
from .files import export_npy, export_safetensors
from .hdf5 import export_hdf5

Format = Literal["hdf5", "npy", "safetensors"]

__all__ = ["Export", "Format", "export", "export_hdf5", "export_npy", "export_safetensors"]


def export(root: Path, out: Path, to: Format, progress: Progress, *, arrays: Sequence[str] = ()) -> Export:
    """Export a store, or the named arrays of it, to a new file (hdf5) or folder (npy, safetensors).

    Raises:
        UnknownName: no such format or array.
        BadInput: something is at `out` already.
        Damaged: bytes of a record are not what was committed.
        Refused, ReadOnlyTarget: the target is full or takes no writes.
    """
    ways = {"hdf5": export_hdf5, "npy": export_npy, "safetensors": export_safetensors}
    if to not in ways:
        raise unknown_name("export format", to, ways)
    return ways[to](root, out, progress, arrays=arrays)
