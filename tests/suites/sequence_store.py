"""Stores of sequences whose features are drawn around one mean per class: made-up labels, or real ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vfc.cache_schema.annotations import Annotation, Annotations, write_annotations
from vfc.cache_schema.values.recipe import Recipe
from vfc.cache_schema.values.record import ArraySpec, Dtype, Key, Record
from vfc.cache_schema.writer import StoreWriter

from .mstcn import class_ids, class_means, drawn, real_labels

Ids = npt.NDArray[np.int64]


def made_up(videos: int, classes: int = 4, *, seed: int = 0, frames: tuple[int, int] = (160, 320)) -> dict[str, Ids]:
    """Videos in which the classes come in the order of a ring, each for a while: what follows can be learned."""
    generator, found = np.random.default_rng(seed), {}
    for i in range(videos):
        parts: list[Ids] = []
        action = int(generator.integers(classes))
        whole = int(generator.integers(*frames))
        while sum(map(len, parts)) < whole:
            parts.append(np.full(int(generator.integers(20, 60)), action))
            action = (action + 1) % classes
        found[f"v{i:02}"] = np.concatenate(parts)[:whole].astype(np.int64)
    return found


def write_sequences(
    root: Path,
    labels: Mapping[str, Ids],
    names: Sequence[str],
    splits: Mapping[str, Mapping[str, Sequence[str]]],
    *,
    width: int = 8,
    sigma: float = 0.3,
    seed: int = 0,
    stride: int = 1,
    dtype: Dtype = "fp16",
) -> Path:
    """A store of `features` (one row per `stride` frames) and `labels` (every frame).

    `splits`: name of the annotations -> part (train, test) -> videos.
    """
    means = class_means(len(names), width, seed)
    recipe = {"features": "drawn around class means", "sigma": sigma, "seed": seed, "width": width, "stride": stride}
    with StoreWriter(root, Recipe(recipe)) as writer:
        spec = ArraySpec("features", dtype, (None, width), "steps")
        writer.declare("video", [spec, ArraySpec("labels", "int64", (None,), "steps")])
        writer.bind("labels", "classes", {"names": list(names)})
        for name, ids in labels.items():
            features = drawn(name, ids[::stride], means, sigma=sigma, seed=seed)
            metadata = {"stride": stride} if stride > 1 else {}
            writer.add(Record(Key("video", name), {"features": features, "labels": ids}, metadata))
    for split, parts in splits.items():
        rows = [Annotation(name, split=part) for part, videos in parts.items() for name in videos]
        write_annotations(root, split, Annotations(tuple(rows)))
    return root


def write_made_up(root: Path, *, videos: int = 14, tests: int = 4, **settings: object) -> Path:
    """A small store with two splits of made-up sequences; the classes are called c0 to c3."""
    labels = made_up(videos)
    every = list(labels)
    splits = {
        "split1": {"train": every[tests:], "test": every[:tests]},
        "split2": {"train": every[:-tests], "test": every[-tests:]},
    }
    return write_sequences(root, labels, [f"c{i}" for i in range(4)], splits, **settings)  # type: ignore[arg-type]


def official_splits(folder: Path) -> dict[str, dict[str, list[str]]]:
    """`split<n>` -> part -> videos, from the bundles of a real data set; videos that are not here are named too."""
    found: dict[str, dict[str, list[str]]] = {}
    for path in sorted((folder / "splits").glob("*.bundle")):
        part, split, _ = path.name.split(".")
        found.setdefault(split, {})[part] = [Path(line).stem for line in path.read_text().split()]
    return found


def write_real(root: Path, folder: Path, **settings: object) -> Path:
    """A store of the real label sequences of a data set (`shared/data/labels/50salads`), features drawn."""
    numbers = class_ids(folder)
    labels = {name: np.array([numbers[each] for each in spoken]) for name, spoken in real_labels(folder).items()}
    names = sorted(numbers, key=numbers.__getitem__)
    return write_sequences(root, labels, names, official_splits(folder), **settings)  # type: ignore[arg-type]
