"""What every export shares: the arrays that are meant, the description beside them, a target that is free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

from vfc.cache_schema.errors import BadInput, unknown_name
from vfc.cache_schema.reader import StoreReader
from vfc.cache_schema.record import ArraySpec, Json, Key
from vfc.cache_schema.root import read_axis


@dataclass(frozen=True)
class Export:
    """What was exported: records, arrays, files and bytes written (HDF5: of the file that points at the store)."""

    path: str
    format: str
    records: int
    arrays: tuple[str, ...]
    files: int
    bytes: int

    def to_json(self) -> dict[str, Json]:
        """As one JSON document."""
        return cast("dict[str, Json]", asdict(self))


def chosen(reader: StoreReader, arrays: Sequence[str]) -> dict[str, tuple[ArraySpec, ...]]:
    """Per kind the arrays that are meant, all if none is named; kinds without any are left out.

    Raises:
        UnknownName: no kind has such an array.
    """
    known = {spec.name for specs in reader.kinds.values() for spec in specs}
    for array in arrays:
        if array not in known:
            raise unknown_name("array in this store", array, known)
    wanted = set(arrays) or known
    found = {kind: tuple(s for s in specs if s.name in wanted) for kind, specs in reader.kinds.items()}
    return {kind: specs for kind, specs in found.items() if specs}


def names(kinds: Mapping[str, Sequence[ArraySpec]]) -> tuple[str, ...]:
    """The names of the arrays of all kinds, each once, sorted."""
    return tuple(sorted({spec.name for specs in kinds.values() for spec in specs}))


def described(reader: StoreReader, form: str, kinds: Mapping[str, Sequence[ArraySpec]]) -> dict[str, Json]:
    """What must travel with the numbers: recipe, arrays, axes, digest of the store."""
    axes = sorted({path.stem.partition("-")[0] for path in (reader.root / "axes").glob("*.json")})
    return {
        "format": form,
        "store_digest": reader.digest,
        "recipe": dict(reader.recipe.fields),
        "kinds": {kind: [spec.to_json() for spec in specs] for kind, specs in kinds.items()},
        "axes": {axis: read_axis(reader.root, axis) for axis in axes},
    }


def key_json(key: Key) -> dict[str, Json]:
    """A key, field by field."""
    return cast("dict[str, Json]", asdict(key))


def require_free(out: Path) -> None:
    """Refuse a target that is there and not an empty folder.

    Raises:
        BadInput: something is there.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise BadInput(f"There is something at {out} already.", "Give --out a new path; an export replaces nothing.")
