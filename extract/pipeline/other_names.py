"""The same videos under other names: a collection read from a folder above or below that of the store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from vfc.cache_schema.annotations import source
from vfc.cache_schema.reader import StoreReader
from vfc.cache_schema.values.errors import BadInput
from vfc.cache_schema.values.record import Key
from vfc.extract.collection import Collection


def refuse_other_names(reader: StoreReader, collection: Collection, root: Path, out: Path) -> None:
    """Refuse a collection whose videos are in the store already, with a folder more or less before their names.

    Two names are of one video where one is the other behind one or more folders, the files have one size, and the
    collection does not hold both (copies that are meant). One such video was moved; two or more, and at least half of
    all new names, behind the same folders, are the same collection from another root: it would double the store.

    Args:
        reader: The store.
        collection: What is asked for.
        root: The folder that names of the collection start from.
        out: The folder of the store, for the message.

    Raises:
        BadInput: most new names are those of videos in the store, with other folders before them.
    """
    stored = _stored_files(reader)
    names = {source(video.name): video.path for video in collection.videos}
    new = {name: path for name, path in names.items() if name not in stored}
    pairs_of: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for name, old in _same_ends(new, stored, names):
        file = reader.metadata(stored[old]).get("file")
        size = file.get("size") if isinstance(file, dict) else None
        if size is not None and new[name].is_file() and new[name].stat().st_size == size:
            longer = len(name) > len(old)
            folders = (name.removesuffix(old), "") if longer else ("", old.removesuffix(name))
            pairs_of.setdefault(folders, []).append((name, old))
    (added, removed), pairs = max(pairs_of.items(), key=lambda item: len(item[1]), default=(("", ""), []))
    if len(pairs) < 2 or 2 * len(pairs) < len(new):
        return
    name, old = min(pairs)
    if added:
        where: Path | None = root / added.rstrip("/")
    else:
        above = removed.rstrip("/").split("/")
        ends_so = root.absolute().parts[-len(above) :] == tuple(above)
        where = root.absolute().parents[len(above) - 1] if ends_so else None
    flag = f"--root {where}" if where else "--root with the folder that the names of the store start from"
    raise BadInput(
        f"{len(pairs)} of {len(new)} new videos are in {out} under other names: {name!r} is {old!r} there (the same "
        "end of the path, files of one size).",
        f"Give {flag}, so that they keep their names; or another --out.",
    )


def _stored_files(reader: StoreReader) -> dict[str, Key]:
    """The file names of the records of a store, and a record of each."""
    kinds = [kind for kind in ("video", "prompted") if kind in reader.kinds]
    return {source(key.name): key for kind in kinds for key in reader.keys(kind)}


def _same_ends(new: Iterable[str], stored: Mapping[str, Key], names: Mapping[str, Path]) -> Iterable[tuple[str, str]]:
    """(new name, name in the store) where one is the other behind folders, and the collection lacks the second."""
    by_last: dict[str, list[str]] = {}
    for old in stored:
        if old not in names:
            by_last.setdefault(PurePosixPath(old).name, []).append(old)
    for name in new:
        for old in by_last.get(PurePosixPath(name).name, ()):
            if name.endswith(f"/{old}") or old.endswith(f"/{name}"):
                yield name, old
