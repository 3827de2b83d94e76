"""The root of a store: its format, its recipe, its kinds and its axes, shared by many workers without locks.

Each of these is one small file that is created whole or not at all; a worker that comes second reads what is there
and compares.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Sequence, Set
from pathlib import Path
from typing import Any, Final

from .parts.atomic_files import create_file, sync_folder
from .parts.disk import make_folder
from .parts.zarr_format import METADATA, TABLE, group_json
from .values.dtypes import stored_arrays
from .values.errors import AxisMismatch, BadInput, Damaged, MissingPath, NotAStore, unknown_name
from .values.recipe import Recipe, canonical
from .values.record import KINDS, ArraySpec, Json

FORMAT: Final = 1
FOLDERS: Final = ("parts", "tmp", "kinds", "axes")
# What may be in a folder whose zarr.json another worker is about to write.
_BEFORE: Final = {*FOLDERS, "annotations", "failures", "projection", "tail"}

_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]*")


def create_root(root: Path, recipe: Recipe) -> None:
    """Make a store of this recipe, or find that it is one.

    Raises:
        NotAStore: The folder holds something else, or a store of a newer format.
        RecipeMismatch: It is a store of another recipe.
        Refused: The disk is full.
        ReadOnlyTarget: It takes no writes.
    """
    if not (root / METADATA).exists():
        require_free(root)
        fresh = not root.exists()
        for name in FOLDERS:
            make_folder(root / name)
        create_file(root / "parts" / METADATA, group_json({}))
        content: dict[str, Json] = {"format": FORMAT, "recipe": dict(recipe.fields), "recipe_digest": recipe.digest}
        create_file(root / METADATA, group_json({"vfc": content}))
        if fresh:
            sync_folder(root.resolve().parent)
    read_root(root).require_equal(recipe, str(root))


def require_free(root: Path) -> None:
    """Refuse a folder that is neither empty nor a store being made. Raises NotAStore: It is one."""
    if root.exists() and not root.is_dir():
        raise NotAStore(f"{root} is a file, not a store.", "Give a folder.")
    present = {path.name for path in root.iterdir() if not path.name.startswith(".")} if root.exists() else set()
    strange = present - _BEFORE
    if not strange and (root / "parts").is_dir():
        strange = {f"parts/{path.name}" for path in (root / "parts").iterdir() if path.is_dir()}
    # Another worker may have made the store, and committed to it, since the caller looked.
    if strange and not (root / METADATA).exists():
        raise NotAStore(
            f"{root} is not empty and is no store (it holds {min(strange)} and has no {METADATA}).",
            "Give a new folder, an empty one, or a store.",
        )


def read_root(root: Path) -> Recipe:
    """The recipe of a store.

    Raises:
        MissingPath: There is nothing at this path.
        NotAStore: It is something else, or a store of a newer format.
        Damaged: The recipe is not the one that was written.
    """
    if not root.exists():
        raise MissingPath(f"There is no store at {root}.", "Make one with `vfc extract --out`, or check the path.")
    try:
        described = json.loads((root / METADATA).read_bytes())["attributes"]["vfc"]
        version = described["format"]
    except (FileNotFoundError, NotADirectoryError, ValueError, LookupError, TypeError):
        raise NotAStore(
            f"{root} is not a feature store: it has no {METADATA} that vfc wrote.",
            "Give the folder that `vfc extract --out` wrote.",
        ) from None
    if version != FORMAT:
        raise NotAStore(
            f"The store {root} has format {version}; this version of vfc reads format {FORMAT}.",
            "Upgrade vfc: pip install --upgrade vfc.",
        )
    with contextlib.suppress(LookupError, TypeError, ValueError):
        recipe = Recipe(described["recipe"])
        if recipe.digest == described["recipe_digest"]:
            return recipe
    raise Damaged(
        f"The recipe in {root / METADATA} is not the one that was written.", "Restore this one file from a copy."
    )


def bind_kind(root: Path, kind: str, specs: Sequence[ArraySpec]) -> tuple[ArraySpec, ...]:
    """Bind a kind of record to its arrays, once for the life of the store; returns them sorted by name.

    Raises:
        AxisMismatch: The kind is bound to other arrays.
        UnknownName: There is no such kind.
        BadInput: No arrays, or names that cannot be.
    """
    if kind not in KINDS:
        raise unknown_name("kind of record", kind, KINDS)
    for array in stored_arrays(specs):
        if not _NAME.fullmatch(array.name) or array.name in (TABLE, METADATA):
            raise BadInput(
                f"An array cannot be called {array.name!r}.",
                f"Use letters, digits and . _ @ + -, and not {TABLE!r} or {METADATA!r}.",
            )
    ordered = sorted(specs, key=lambda spec: spec.name)
    if not ordered:
        raise BadInput(f"The kind {kind!r} was declared without arrays.", "Declare at least one ArraySpec.")
    content: Json = {"kind": kind, "arrays": [spec.to_json() for spec in ordered]}
    bound = _bind(root / "kinds" / f"{kind}.json", content)
    if bound != content:
        others = read_kinds(root)[kind]
        raise AxisMismatch(
            f"Records of kind {kind!r} in {root} have the arrays {_shown(others)}; asked: {_shown(ordered)}.",
            "Records of a kind have the same arrays: use the flags of the store, or another --out.",
        )
    return tuple(ordered)


def _shown(specs: Sequence[ArraySpec]) -> str:
    return ", ".join(
        f"{spec.name} {spec.dtype} [{', '.join('L' if n is None else str(n) for n in spec.shape)}]"
        + (f" ({spec.layout})" if spec.layout else "")
        for spec in specs
    )


def read_kinds(root: Path) -> dict[str, tuple[ArraySpec, ...]]:
    """The arrays of every kind that is declared. Raises Damaged: A file that cannot be read as what was written."""
    kinds = {}
    for path in sorted((root / "kinds").glob("*.json")):
        content = _read(path)
        try:
            kinds[path.stem] = tuple(ArraySpec.from_json(array) for array in content["arrays"])
        except (LookupError, TypeError, ValueError) as error:
            raise _damaged(path) from error
    return kinds


def declared(root: Path, used: Set[str]) -> dict[str, tuple[ArraySpec, ...]]:
    """The arrays of every kind that is declared, those among them of which the store holds records.

    Raises:
        Damaged: A file that cannot be read as what was written, or that is missing.
    """
    kinds = read_kinds(root)
    unknown = used - kinds.keys()
    if unknown:
        raise Damaged(
            f"{root} holds records of kind {min(unknown)!r}, but kinds/{min(unknown)}.json is missing.",
            "Restore this one file from a copy; every part says in its zarr.json files what arrays it has.",
        )
    return kinds


def bind_axis(root: Path, axis: str, name: str, content: Json) -> None:
    """Bind an id of an axis (a prompt, a view, a text) to what it means, once for the life of the store.

    Raises:
        AxisMismatch: The id means something else.
        BadInput: An id that cannot be a file name.
    """
    if not _NAME.fullmatch(name) or not axis.isalnum():
        raise BadInput(f"{axis}-{name} cannot be the id of an axis.", "Use letters, digits and . _ @ + - in an id.")
    asked_content: Json = {"axis": axis, "id": name, "content": content}
    bound = _bind(root / "axes" / f"{axis}-{name}.json", asked_content)
    if bound != json.loads(canonical(asked_content)):
        raise AxisMismatch(
            f"{axis} {name!r} of {root} means {canonical(read_axis(root, axis)[name]).decode()}; "
            f"asked: {canonical(content).decode()}.",
            "An id keeps its meaning for the life of a store: use a new id.",
        )


def read_axis(root: Path, axis: str) -> dict[str, Json]:
    """What every id of an axis means. Raises Damaged: A file that cannot be read as what was written."""
    contents = {}
    for path in sorted((root / "axes").glob(f"{axis}-*.json")):
        bound = _read(path)
        try:
            if path.stem != f"{bound['axis']}-{bound['id']}":
                raise _damaged(path)
            contents[bound["id"]] = bound["content"]
        except (LookupError, TypeError) as error:
            raise _damaged(path) from error
    return contents


def read_axes(root: Path) -> dict[str, dict[str, Json]]:
    """Every axis with what its ids mean; raises as `read_axis`."""
    return {axis: read_axis(root, axis) for axis in axis_names(root)}


def axis_names(root: Path) -> list[str]:
    """The axes that have ids, sorted."""
    files = (path.name for path in (root / "axes").glob("*-*.json"))
    return sorted({name.partition("-")[0] for name in files if not name.startswith(".")})


def _bind(path: Path, content: Json) -> Any:
    if not path.exists():
        create_file(path, canonical(content))
    return _read(path)


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise _damaged(path) from error


def _damaged(path: Path) -> Damaged:
    return Damaged(f"{path} is not what was written.", "Restore this one file from a copy.")
