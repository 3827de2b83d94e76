"""Small stores of made-up features whose classes differ in how the frames move."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from vfc.cache_schema.annotations import Annotation, Annotations, write_annotations
from vfc.cache_schema.values.progress import Silent
from vfc.cache_schema.values.recipe import Recipe
from vfc.cache_schema.values.record import ArraySpec, Key, Record
from vfc.cache_schema.writer import StoreWriter

FRAMES, WIDTH = 4, 12
SPLIT = ["train"] * 8 + ["val"] * 3 + ["test"] * 4


MakeStore = Callable[..., Path]


class Told(Silent):
    """Remembers what was said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def motion(label: int, generator: np.random.Generator, noise: float) -> np.ndarray:
    """A clip `[T, D]`: a place of its own, and the path of its class in the quiet half of the channels.

    The other half only flickers, six times as much as the quiet one: what a linear layer can learn to leave out.
    """
    path = np.random.default_rng(label).normal(size=(FRAMES, WIDTH // 2)).cumsum(axis=0)
    clip = np.repeat(generator.normal(size=(1, WIDTH)) * 3, FRAMES, axis=0)
    clip[:, : WIDTH // 2] += path
    flicker = noise * np.repeat([1.0, 6.0], WIDTH // 2)
    return (clip + flicker * generator.normal(size=clip.shape)).astype(np.float32)


def make_store(
    root: Path,
    *,
    classes: int = 15,
    clips: int = 8,
    views: int = 1,
    dtype: str = "fp32",
    split: bool = True,
    tokens: int = 0,
    noise: float = 0.5,
    extra: tuple[ArraySpec, ...] = (),
) -> Path:
    """A store and its annotations; classes 0-7 train, 8-10 val, 11-14 test. `tokens` > 0: `[T, tokens, D]`."""
    generator = np.random.default_rng(0)
    shape = (FRAMES, tokens, WIDTH) if tokens else (FRAMES, WIDTH)
    spec = ArraySpec("layer3.visual" if tokens else "frames", dtype, shape)  # type: ignore[arg-type]
    rows = []
    with StoreWriter(root, Recipe({"made": "up"})) as writer:
        writer.declare("video", [spec, *extra])
        for label in range(classes):
            for clip in range(clips):
                video = f"class{label:02}/{clip}.mp4"
                rows.append(Annotation(video, f"class{label:02}", SPLIT[label] if split else ""))
                for view in range(views):
                    values = motion(label, generator, noise) + view
                    if tokens:
                        values = values[:, None] + generator.normal(size=(1, tokens, 1)).astype(np.float32)
                    arrays = {spec.name: values}
                    for other in extra:
                        arrays[other.name] = generator.normal(size=other.shape).astype(np.float32)
                    writer.add(Record(Key("video", video, view), arrays))
    write_annotations(root, "default", Annotations(tuple(rows)))
    return root
