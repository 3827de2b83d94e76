"""What a store knows of sentences about classes: their frozen embeddings, averaged per class, by class name or id."""

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

    `names`: what the ids stand for; empty where they count the classes that are trained on. `count`: N of the files;
    `digest`: of their sentences, and of `names`.
    """

    values: Tensor
    names: tuple[str, ...]
    count: int
    digest: str
    notes: tuple[str, ...] = ()

    def of(self, classes: Sequence[str]) -> Tensor:
        """`[C, P, E]` of these classes, in their order."""
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
        paths: Both files; one is enough where `part` wants one.
        part: Which of them count.
        ordered: The class list of the data set, in its own order; empty where none was given.
        trained: The classes that are trained on, in that order.
        hint: The beginning of the `vfc extract` line that made the store.

    Raises:
        BadInput: too few or too many files; ids that fit neither list of classes, or no list to read them by.
        MissingRecord: a sentence that is not in the store, with the line to type.
    """
    wanted = {"both": (0, 1), "spatial": (0,), "temporal": (-1,)}[part]
    if len(paths) > 2 or len(paths) < len(wanted):
        raise BadInput(
            f"--descriptions got {len(paths)} files.", "Give two: --descriptions SPATIAL.json TEMPORAL.json."
        )
    files = [paths[place] for place in wanted]
    read = [read_descriptions(path) for path in files]
    names = [_names(path, found, ordered, trained) for path, found in zip(files, read, strict=True)]
    if len({len(found.sentences) for found in read}) > 1:
        raise BadInput(
            " and ".join(f"{path} describes {len(f.sentences)} classes" for path, f in zip(files, read, strict=True))
            + ".",
            "Give two files about the same classes.",
        )
    if len({tuple(map(spelling, told or trained)) for told in names}) > 1:
        raise BadInput(
            f"An id stands for one class in {files[0]} and for another in {files[1]}.",
            "Give two files about the same classes in the same order, as `vfc describe` writes them.",
        )
    values = torch.stack([_means(reader, path, found, hint) for path, found in zip(files, read, strict=True)], dim=1)
    sentences: list[Json] = [[[*lines] for lines in found.sentences.values()] for found in read]
    told = digest([[*names[0]], *sentences])
    return Described(values, names[0], read[0].count, told, _uneven(files, read))


def _names(path: Path, found: Descriptions, ordered: Sequence[str], trained: Sequence[str]) -> tuple[str, ...]:
    """What the ids stand for: as the file says, else by the class list; empty: places among the trained classes."""
    told, count = found.about.get("classes"), len(found.sentences)
    if isinstance(told, list):
        names = tuple(map(str, told))
        described = {spelling(name) for name in names}
        missing = [name for name in trained if spelling(name) not in described]
        if missing:
            raise BadInput(
                f"{path} describes no class {missing[0]!r} ({len(missing)} of those trained on are missing).",
                "Write one for these classes: `vfc describe` with the same class list.",
            )
        return names
    if not ordered:
        raise BadInput(
            f"{path} is keyed by class ids, and there is no list that says which class has which id.",
            "Give the class list of the data set in its own order: --class-list FILE. Sorted names would mix up some.",
        )
    if count == len(ordered):
        return tuple(ordered)
    if count == len(trained):
        return ()
    raise BadInput(
        f"{path} describes {count} classes; the class list has {len(ordered)}, of which {len(trained)} are trained on.",
        "Give the descriptions of this data set, and its class list with --class-list FILE.",
    )


def _means(reader: StoreReader, path: Path, found: Descriptions, hint: str) -> Tensor:
    """The mean over the sentences of each class `[I, E]`."""
    keys = [Key("text", line) for lines in found.sentences.values() for line in lines]
    missing = [key for key in keys if key not in reader]
    if missing:
        raise MissingRecord(
            f"The store {reader.root} has no text {missing[0].name!r} ({len(missing)} of the {len(keys)} in {path}).",
            f"Add them: {hint} --texts {path} --cut-texts",
        )
    vectors = iter([torch.from_numpy(reader.read(key, "embedding")) for key in keys])
    return torch.stack([torch.stack([next(vectors) for _ in lines]).mean(dim=0) for lines in found.sentences.values()])


def _uneven(files: Sequence[Path], read: Sequence[Descriptions]) -> tuple[str, ...]:
    return tuple(
        f"{path}: the classes {', '.join(map(str, found.uneven[:5]))} have another number of sentences than "
        f"{found.count}; the mean is over those there are."
        for path, found in zip(files, read, strict=True)
        if found.uneven
    )
