"""Write features of your own into a store, and read them back.

    python examples/store_of_your_own.py /tmp/own-store

Takes about a second. It prints the shapes of two reads and the digest of the store. Run again, it writes nothing,
because a committed record never changes: the digest stays the same.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from vfc.cache_schema import ArraySpec, Key, Recipe, Record, StoreWriter, open_store
from vfc.cache_schema.annotations import Annotation, Annotations, write_annotations


def write(root: Path) -> None:
    """A hundred records of 8 frames with 384 numbers each, and their labels."""
    # Everything that makes the numbers belongs into the recipe: with another recipe this store is not continued.
    recipe = Recipe({"model": "my own encoder", "revision": 3, "frames": {"rule": "linspace", "count": 8}})
    generator = np.random.default_rng(0)
    with StoreWriter(root, recipe) as writer:
        writer.declare("video", [ArraySpec("frames", "fp16", (8, 384), "frame-major")])
        for i in range(100):
            key = Key("video", f"{'jump' if i % 2 else 'run'}/clip_{i:03}.mp4")
            features = generator.normal(size=(8, 384)).astype(np.float32)
            if key not in writer:
                writer.add(Record(key, {"frames": features}, {"fps": 25.0}))
    rows = tuple(Annotation(key.name, label=key.name.split("/")[0]) for key in open_store(root).keys("video"))
    write_annotations(root, "default", Annotations(rows))


def read(root: Path) -> None:
    """One record, then all records of one class in one call."""
    reader = open_store(root)
    first = reader.keys("video")[0]
    print(first.name, reader.metadata(first), reader.read(first, "frames").shape)
    runs = reader.keys("video", where=lambda key, metadata: key.name.startswith("run/"))
    batch = np.empty((len(runs), 8, 384), np.float16)
    reader.take(runs, "frames", batch)
    print("one batched read:", batch.shape)
    print("digest:", reader.digest)


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "own-store")
    write(folder)
    read(folder)
