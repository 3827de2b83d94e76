"""A toy: tiny encoded clips and a family of backbones that costs nothing, to try the run around them.

Run as a script it is `vfc extract` with that family (or another model that the settings name): the first argument
holds the settings as JSON. Greys of clips steer it: `pixels-raise` and `forward-raise` raise where they say, `overflow`
gives values beyond fp16.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch

from vfc.cache_schema.values.errors import VfcError
from vfc.cache_schema.values.record import ArraySpec, Json
from vfc.extract import backbone as contract
from vfc.extract.backbone import BackboneOptions, Prepared
from vfc.extract.config import ExtractConfig
from vfc.extract.pipeline.run import extract

WIDTH = 64
MARKS = {250: "pixels-raise", 200: "forward-raise", 150: "overflow"}


def write_clip(
    path: Path, seed: int, *, frames: int = 10, grey: int | None = None, size: tuple[int, int] = (32, 24)
) -> Path:
    """A clip (of width x height `size`) of noise that repeats itself to the bit, or of one grey."""
    path.parent.mkdir(parents=True, exist_ok=True)
    generator, shape = np.random.default_rng(seed), (size[1], size[0], 3)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        (stream.width, stream.height), stream.pix_fmt = size, "yuv420p"
        for _ in range(frames):
            image = generator.integers(0, 120, shape) if grey is None else np.full(shape, grey)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image.astype(np.uint8), format="rgb24")))
        container.mux(stream.encode())
    return path


def write_clips(folder: Path, count: int, classes: Sequence[str] = ("hug", "kick")) -> Path:
    """`count` clips in class folders."""
    for i in range(count):
        write_clip(folder / classes[i % len(classes)] / f"{i:03}.mp4", i)
    return folder


class ToyBackbone:
    """Random projections of the mean pixel of every frame; a grey clip means what MARKS says."""

    loads = 0
    shared_space: tuple[frozenset[str], ...] = ()

    def __init__(self, options: BackboneOptions) -> None:
        self.options, self.weights = options, torch.empty(0)
        self.storage = options.storage or "fp16"

    def specs(self) -> Mapping[str, tuple[ArraySpec, ...]]:
        found = {"video": (ArraySpec("frames", self.storage, (self.options.num_frames, WIDTH), "frame-major"),)}
        if self.options.texts:
            found["text"] = (ArraySpec("embedding", self.storage, (WIDTH,)),)
        return found

    def taps(self) -> Mapping[str, Mapping[str, ArraySpec]]:
        return {}

    def recipe(self) -> dict[str, Json]:
        return {"backbone": "toy", "storage": self.storage, "checkpoint": self.options.checkpoint}

    def load(self) -> None:
        type(self).loads += 1
        self.weights = torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(0))

    def pixels(self, clip: Any) -> Prepared:
        pixels = torch.from_numpy(clip.frames).float().mean((1, 2))
        if _mark(pixels) == "pixels-raise":
            raise ValueError("pixels of this clip raise")
        return Prepared({"pixels": pixels}, {"toy": True})

    def tokens(self, text: str) -> Prepared:
        return Prepared({"pixels": torch.tensor([[len(text), text.count("a"), 1.0]])}, {})

    def encode_videos(self, batch: Sequence[Mapping[str, torch.Tensor]]) -> list[dict[str, torch.Tensor]]:
        time.sleep(float(os.environ.get("TOY_SECONDS", "0")))
        return [{"frames": self._encode(item["pixels"])} for item in batch]

    def encode_texts(self, batch: Sequence[Mapping[str, torch.Tensor]]) -> list[dict[str, torch.Tensor]]:
        return [{"embedding": self._encode(item["pixels"])[0]} for item in batch]

    def _encode(self, pixels: torch.Tensor) -> torch.Tensor:
        if _mark(pixels) == "forward-raise":
            raise ValueError("forward of this clip raises")
        found = torch.tanh(pixels @ self.weights / 100) * (1e5 if _mark(pixels) == "overflow" else 1)
        return found.to({"fp16": torch.float16, "bf16": torch.bfloat16}.get(self.storage, torch.float32))


def _mark(pixels: torch.Tensor) -> str:
    return next((mark for grey, mark in MARKS.items() if abs(float(pixels.mean()) - grey) < 10), "")


class ToyFamily:
    """What `backbone.find_family` gives for the toy."""

    DEFAULT_CHECKPOINT: str | None = None

    def __init__(self, make: type[ToyBackbone] = ToyBackbone) -> None:
        self.make = make

    def build(self, options: BackboneOptions) -> ToyBackbone:
        return self.make(options)


@contextlib.contextmanager
def toy_family(make: type[ToyBackbone] = ToyBackbone) -> Iterator[None]:
    """While entered, every model is the toy."""
    before = contract.find_family
    contract.find_family = lambda name: ToyFamily(make)
    try:
        yield
    finally:
        contract.find_family = before


def config_from(settings: Mapping[str, Any]) -> ExtractConfig:
    """Settings given as plain JSON."""
    paths = {"videos", "out", "root"}
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}
    return ExtractConfig(**{name: Path(value) if name in paths else value for name, value in given.items()})


class Printed:
    """Progress as lines that a test waits for."""

    def begin(self, label: str, total: int | None, unit: str = "records") -> None:
        print(f"begin {label} {total}", flush=True)

    def advance(self, amount: int = 1, note: str = "") -> None:
        print("advance", flush=True)

    def say(self, line: str) -> None:
        print(f"say {line}", flush=True)


def main(settings: str) -> int:
    """Run with these settings; prints the summary, answers with its exit code."""
    try:
        config = config_from(json.loads(settings))
        with toy_family() if config.model == "toy" else contextlib.nullcontext():
            summary = extract(config, Printed())
    except VfcError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(json.dumps(summary.to_json()))
    return summary.exit_code


def forked(settings: str, slow: float, out: Path, err: Path) -> None:
    """`main` in a process that a fork server made: what it prints goes to two files."""
    for stream, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), stream)
    os.environ["TOY_SECONDS"] = str(slow)
    sys.exit(main(settings))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
