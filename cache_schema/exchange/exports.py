"""What every export shares: the chosen arrays, their description, a target that is free or already an export."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vfc.cache_schema.reader import StoreReader
from vfc.cache_schema.root import read_axes
from vfc.cache_schema.values.errors import BadInput, unknown_name
from vfc.cache_schema.values.record import ArraySpec, Json
from vfc.cache_schema.values.report import Report

FORMS: Final[Mapping[str, str]] = {
    "detection": "vfc detection export 1",
    "hdf5": "vfc hdf5 export 1",
    "npy": "vfc npy export 1",
    "safetensors": "vfc safetensors export 1",
}


@dataclass(frozen=True)
class ExportReport(Report):
    """What was exported: records, arrays, files and bytes there (HDF5: of the file that points at the store).

    `present` records were there already, `mended` ones were there but not as they should be; `checked` were read back.
    """

    path: str
    format: str
    records: int
    arrays: tuple[str, ...]
    files: int
    bytes: int
    present: int = 0
    mended: int = 0
    checked: int = 0


def chosen(reader: StoreReader, arrays: Sequence[str]) -> dict[str, tuple[ArraySpec, ...]]:
    """Per kind the chosen arrays, all if none is named; kinds without any are left out.

    Raises:
        UnknownName: no kind has such an array.
    """
    stored = {spec.name for specs in reader.kinds.values() for spec in specs}
    for array in arrays:
        if array not in stored:
            raise unknown_name("array in this store", array, stored)
    selected = set(arrays) or stored
    specs_of = {kind: tuple(s for s in specs if s.name in selected) for kind, specs in reader.kinds.items()}
    return {kind: specs for kind, specs in specs_of.items() if specs}


def names(kinds: Mapping[str, Sequence[ArraySpec]]) -> tuple[str, ...]:
    """The names of the arrays of all kinds, each once, sorted."""
    return tuple(sorted({spec.name for specs in kinds.values() for spec in specs}))


def shapes(specs: Iterable[ArraySpec]) -> str:
    """Arrays with their shapes, in words; L where it differs from record to record."""
    return ", ".join(f"{s.name} [{', '.join('L' if size is None else str(size) for size in s.shape)}]" for s in specs)


def identity(reader: StoreReader, form: str, kinds: Mapping[str, Sequence[ArraySpec]]) -> dict[str, Json]:
    """What an export must share with another run to be the same export: format, recipe, arrays."""
    return {
        "format": FORMS[form],
        "recipe_digest": reader.recipe.digest,
        "kinds": {kind: [spec.to_json() for spec in specs] for kind, specs in kinds.items()},
    }


def described(reader: StoreReader, form: str, kinds: Mapping[str, Sequence[ArraySpec]]) -> dict[str, Json]:
    """What must travel with the numbers: recipe, arrays, axes, digest of the store."""
    return {
        **identity(reader, form, kinds),
        "store_digest": reader.digest,
        "recipe": dict(reader.recipe.fields),
        "axes": dict(read_axes(reader.root)),
    }


def require_same(begun: Mapping[str, Json], identity: Mapping[str, Json], out: Path) -> None:
    """Refuse to go on with the export of another store, or of other arrays. Raises BadInput: it is one."""
    differing = [name for name, value in identity.items() if begun.get(name) != value]
    if differing:
        raise BadInput(
            f"{out} is an export that differs in {', '.join(differing)} from the one that is asked for.",
            "Give --out a new path, or the same store, --format and --array as before.",
        )


def require_free(out: Path) -> None:
    """Refuse a target that is there and not an empty folder. Raises BadInput: something is there."""
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise BadInput(f"There is something at {out} already.", "Give --out a new path; an export replaces nothing.")
