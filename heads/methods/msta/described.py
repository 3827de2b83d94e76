"""Frozen embeddings of the class descriptions in a store, averaged per class, by class name or id."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vfc.cache_schema.annotations.lists import spelling
from vfc.cache_schema.protocol.descriptions import Descriptions, read_descriptions
from vfc.cache_schema.reader import StoreReader
from vfc.cache_schema.values.errors import BadInput, MissingRecord
from vfc.cache_schema.values.recipe import digest
from vfc.cache_schema.values.record import Json, Key

from .settings import Part


@dataclass(frozen=True)
class Described:
    """`values [I, P, E]`: for each class id the mean embedding of its sentences in each of P files.

    `names`: the class of each id; empty if ids are positions among the training classes. `count`: N, sentences per
    class. `digest`: of the sentences and `names`.
    """

    values: Tensor
    names: tuple[str, ...]
    count: int
    digest: str
    notes: tuple[str, ...] = ()

    def of(self, classes: Sequence[str]) -> Tensor:
        """Values `[C, P, E]` of these classes, in their order."""
        if not self.names:
            return self.values[: len(classes)]
        place = {spelling(name): i for i, name in enumerate(self.names)}
        return self.values[[place[spelling(name)] for name in classes]]


def read_described(
    reader: StoreReader, paths: Sequence[Path], part: Part, ordered: Sequence[str], trained: Sequence[str], hint: str
) -> Described:
    """The embeddings of all sentences in `paths`, spatial and temporal, from the `text` records of a store.

    Args:
        reader: The store.
        paths: Both files; one is enough if `part` uses one.
        part: Which of them are used.
        ordered: The class list of the data set, in its own order; empty if none was given.
        trained: The training classes, in that order.
        hint: The beginning of the `vfc extract` command that made the store.

    Raises:
        BadInput: too few or too many files; ids that match neither list of classes, or no list for ids.
        MissingRecord: a sentence is not in the store; with the command that adds it.
    """
    places = {"both": (0, 1), "spatial": (0,), "temporal": (-1,)}[part]
    if len(paths) > 2 or len(paths) < len(places):
        raise BadInput(
            f"--descriptions got {len(paths)} files.", "Give two: --descriptions SPATIAL.json TEMPORAL.json."
        )
    files = [paths[place] for place in places]
    read = [read_descriptions(path) for path in files]
    names = [_names(path, descriptions, ordered, trained) for path, descriptions in zip(files, read, strict=True)]
    if len({len(descriptions.sentences) for descriptions in read}) > 1:
        raise BadInput(
            " and ".join(f"{path} describes {len(f.sentences)} classes" for path, f in zip(files, read, strict=True))
            + ".",
            "Give two files about the same classes.",
        )
    if len({tuple(map(spelling, classes or trained)) for classes in names}) > 1:
        raise BadInput(
            f"An id means one class in {files[0]} and another in {files[1]}.",
            "Give two files about the same classes in the same order, as `vfc describe` writes them.",
        )
    values = torch.stack([_means(reader, path, texts, hint) for path, texts in zip(files, read, strict=True)], dim=1)
    sentences: list[Json] = [[[*lines] for lines in texts.sentences.values()] for texts in read]
    return Described(values, names[0], read[0].count, digest([[*names[0]], *sentences]), _uneven(files, read))


def _names(path: Path, descriptions: Descriptions, ordered: Sequence[str], trained: Sequence[str]) -> tuple[str, ...]:
    """The class of each id: from the file, else from the class list; empty: positions among training classes."""
    classes, count = descriptions.about.get("classes"), len(descriptions.sentences)
    if isinstance(classes, list):
        names = tuple(map(str, classes))
        described = {spelling(name) for name in names}
        missing = [name for name in trained if spelling(name) not in described]
        if missing:
            raise BadInput(
                f"{path} describes no class {missing[0]!r} ({len(missing)} training classes are missing).",
                "Write descriptions of these classes: `vfc describe` with the same class list.",
            )
        return names
    if not ordered:
        raise BadInput(
            f"{path} is keyed by class ids, and there is no list that says which class has which id.",
            "Give the class list of the data set in its own order: --class-list FILE. Sorted names would be wrong.",
        )
    if count == len(ordered):
        return tuple(ordered)
    if count == len(trained):
        return ()
    raise BadInput(
        f"{path} describes {count} classes; the class list has {len(ordered)}, of which {len(trained)} are trained on.",
        "Give the descriptions of this data set, and its class list with --class-list FILE.",
    )


def _means(reader: StoreReader, path: Path, descriptions: Descriptions, hint: str) -> Tensor:
    """The mean over the sentences of each class `[I, E]`."""
    keys = [Key("text", line) for lines in descriptions.sentences.values() for line in lines]
    missing = [key for key in keys if key not in reader]
    if missing:
        raise MissingRecord(
            f"The store {reader.root} has no text {missing[0].name!r} ({len(missing)} of the {len(keys)} in {path}).",
            f"Add them: {hint} --texts {path} --cut-texts",
        )
    vectors = iter([torch.from_numpy(reader.read(key, "embedding")) for key in keys])
    return torch.stack(
        [torch.stack([next(vectors) for _ in lines]).mean(dim=0) for lines in descriptions.sentences.values()]
    )


def _uneven(files: Sequence[Path], read: Sequence[Descriptions]) -> tuple[str, ...]:
    return tuple(
        f"{path}: the classes {', '.join(map(str, texts.uneven[:5]))} have another number of sentences than "
        f"{texts.count}; the mean is over their own sentences."
        for path, texts in zip(files, read, strict=True)
        if texts.uneven
    )
