"""To other formats and from them: HDF5, folders of npy files, safetensors; published archives of features."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from vfc.cache_schema.values.errors import RecipeMismatch, unknown_name
from vfc.cache_schema.values.progress import Progress

from .options import ImportOptions

if TYPE_CHECKING:
    from .exports import ExportReport
    from .hdf5 import export_hdf5
    from .import_report import ImportReport

Format = Literal["hdf5", "npy", "safetensors", "detection"]

_ELSEWHERE = {"ExportReport": "exports", "ImportReport": "import_report", "export_hdf5": "hdf5"}

__all__ = ["ExportReport", "Format", "ImportOptions", "ImportReport", "export", "export_hdf5", "import_features"]


def __getattr__(name: str) -> Any:
    """Load h5py and the rest only when they are needed: the options alone make the command line's help."""
    if name not in _ELSEWHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_ELSEWHERE[name]}", __name__), name)


def export(
    root: Path, out: Path, to: Format, progress: Progress, *, arrays: Sequence[str] = (), verify: bool = True
) -> ExportReport:
    """Export a store, or the named arrays of it, to a file (hdf5) or folder (the others).

    Run again it goes on: what is there and as it should be is left, what is new or damaged is written.

    Raises:
        UnknownName: no such format or array.
        BadInput: something else is at `out` already.
        Damaged: bytes of a record are not what was committed; or, with `verify`, not what was written.
        Refused, ReadOnlyTarget: the target is full or takes no writes.
    """
    from .files import export_files
    from .hdf5 import export_hdf5

    if to == "hdf5":
        return export_hdf5(root, out, progress, arrays=arrays, verify=verify)
    if to not in get_args(Format):
        raise unknown_name("export format", to, get_args(Format))
    return export_files(root, out, progress, to, arrays=arrays, verify=verify)


def import_features(place: Path, out: Path, options: ImportOptions, progress: Progress) -> ImportReport:
    """Bring features that others made, or an export, into a store, which is made where there is none.

    Run again, it adds what the store lacks; a run that was killed has lost what was not committed, no more.

    Raises:
        MissingPath: nothing is at `place`.
        BadInput: nothing of it can be imported as asked.
        RecipeMismatch, AxisMismatch: the store holds features made, or classes numbered, in another way.
        Damaged: what was written is not what is on disk.
        Refused, ReadOnlyTarget: the target is full or takes no writes.
    """
    from .export_reader import is_export
    from .imports import import_foreign, source_at
    from .labels import read_labels
    from .reimports import import_export
    from .replacing import import_anew, with_replace

    if options.labels is not None:
        read_labels(options.labels)  # refused before anything is read or written
    if options.form in ("auto", "export") and place.exists() and is_export(place):
        return import_export(place, out, options, progress)
    source = source_at(place, options)
    if options.replace:
        return import_anew(out, lambda new: import_foreign(source, place, new, options, progress))
    try:
        return import_foreign(source, place, out, options, progress)
    except RecipeMismatch as error:
        raise with_replace(error, out) from None
