"""Annotations of derived stores: those of the parent, unless they were changed in the derived store.

A store below `derived/` has none of its own until it is given some. A store elsewhere holds a copy;
`annotations/parent.json` keeps where it came from and the digest of every set as it was copied.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from vfc.cache_schema.parts.atomic_files import replace_file
from vfc.cache_schema.values.errors import unknown_name
from vfc.cache_schema.values.recipe import canonical
from vfc.cache_schema.values.record import Json

from .rows import Annotations, annotation_files, read_annotations, write_annotations
from .tables import is_table, matched_to, read_table

_ORIGIN: Final = "parent.json"


def load(store_root: Path, name_or_file: str = "default", say: Callable[[str], None] | None = None) -> Annotations:
    """Annotations by their name in a store, or from a file: JSONL, or a CSV, whose names are those of files or records.

    A derived store that has none of its own, or an unchanged copy, uses those of its parent. Where the two differ,
    `say` is called with a line that says which count.

    Raises:
        UnknownName: the store has none of this name; those it has are listed.
        MissingPath, BadInput: see `read_annotations`.
    """
    sets = [(store, annotation_files(store)) for store in _lineage(store_root)]
    versions = [(store, read_annotations(files[name_or_file])) for store, files in sets if name_or_file in files]
    if not versions:
        file = Path(name_or_file)
        if is_table(file) and not name_or_file.endswith(".jsonl"):
            return matched_to(read_table(file), _names(store_root))
        if name_or_file.endswith(".jsonl") or file.is_file():
            return read_annotations(file, any_split=False)
        raise unknown_name("set of annotations", name_or_file, {name for _, files in sets for name in files})
    counted, *parents = versions
    for parent, rows in parents:
        store, own = counted
        if own.digest == rows.digest:
            continue
        unchanged = _origin(store).get("copied", {}).get(name_or_file) == own.digest
        if say:
            which, other = (parent, store) if unchanged else (store, parent)
            say(f"Annotations {name_or_file!r} of {which} are used; those of {other} differ.")
        if not unchanged:
            break
        counted = parent, rows
    return counted[1]


def copy_annotations(parent: Path, target: Path) -> list[str]:
    """Bring the sets of annotations of a derived store up to date with its parent, but those that were changed in it.

    Returns a line for every set that stays as it is and differs from the parent's.
    """
    copied: dict[str, Json] = dict(_origin(target).get("copied", {}))
    own_files, lines = annotation_files(target), []
    for name, path in annotation_files(parent).items():
        rows = read_annotations(path)
        own = read_annotations(own_files[name]) if name in own_files else None
        if own is not None and own.digest not in (rows.digest, copied.get(name)):
            lines.append(
                f"Annotations {name!r} of {target} were changed there and stay; those of {parent} differ. "
                f"Remove {own_files[name]} to follow them."
            )
            continue
        if own != rows:
            write_annotations(target, name, rows)
        copied[name] = rows.digest
    if copied:
        content: dict[str, Json] = {"parent": str(parent.resolve()), "copied": copied}
        replace_file(target / "annotations" / _ORIGIN, canonical(content))
    return lines


def _lineage(store_root: Path) -> Iterator[Path]:
    """A store, its parent, the parent of that ..., as far as they are there."""
    store, visited = store_root, set[Path]()
    while store.resolve() not in visited:
        yield store
        resolved = store.resolve()
        visited.add(resolved)
        below = resolved.parent.name == "derived"
        parent = resolved.parent.parent if below else Path(str(_origin(store).get("parent", resolved)))
        if (parent / "zarr.json").is_file():
            store = parent


def _names(store_root: Path) -> list[str]:
    """The names of the videos of a store, as far as its sets of annotations say them."""
    files = (file for store in _lineage(store_root) for file in annotation_files(store).values())
    return list(dict.fromkeys(row.name for file in files for row in read_annotations(file).rows))


def _origin(store_root: Path) -> dict[str, Any]:
    """What `parent.json` says; nothing where there is none that can be read."""
    try:
        return dict(json.loads((store_root / "annotations" / _ORIGIN).read_bytes()))
    except (OSError, ValueError, TypeError):
        return {}
