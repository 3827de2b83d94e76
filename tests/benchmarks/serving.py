"""What reading a ragged grid costs beside an array of fixed shape with the same bytes.

Run it with `python tests/benchmarks/serving.py`. Both are read from disk (warm), batch by batch, as tokens `[T, N, D]`
and as frames `[T, D]`, in turn in one process.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from vfc.cache_schema import StoreWriter
from vfc.cache_schema.reader import open_store
from vfc.cache_schema.values.recipe import Recipe
from vfc.cache_schema.values.record import ArraySpec, Key, Record
from vfc.heads.data.features import Features
from vfc.heads.data.serving import serve

RECORDS, STEPS, WIDTH, BATCH, ROUNDS = 128, 8, 1024, 16, 9
ARRAY = "layer5.visual"


def write(root: Path, *, ragged: bool, places: list[tuple[int, int]]) -> None:
    """A store of `RECORDS` videos; ragged ones have a grid of their own each."""
    generator = np.random.default_rng(0)
    layout = "ragged grid" if ragged else "frame-major, grid 14x14"
    shape = (None, WIDTH) if ragged else (STEPS, 196, WIDTH)
    specs = [ArraySpec(ARRAY, "fp16", shape, layout), *([ArraySpec("visual.grid", "int64", (3,))] if ragged else [])]
    with StoreWriter(root, Recipe({})) as writer:
        writer.declare("video", specs)
        for index, (height, width) in enumerate(places):
            rows = generator.standard_normal((STEPS * height * width, WIDTH), dtype=np.float32).astype(np.float16)
            arrays = {ARRAY: rows if ragged else rows.reshape(STEPS, 196, WIDTH)}
            if ragged:
                arrays["visual.grid"] = np.array([STEPS, height, width])
            writer.add(Record(Key("video", f"{index}.mp4"), arrays))


def seconds(features: Features) -> float:
    """One pass over all records."""
    start = time.perf_counter()
    for index in torch.arange(len(features)).split(BATCH):
        features.gather(index)
    return time.perf_counter() - start


def main() -> None:
    """Print the ratios, median, minimum and maximum over the rounds."""
    torch.set_num_threads(1)
    grids = {"equal grids (14x14)": [(14, 14)] * RECORDS, "mixed grids (7x28, 14x14, 28x7)": [(7, 28), (14, 14)] * 64}
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / "fixed", ragged=False, places=[(14, 14)] * RECORDS)
        for number, places in enumerate(grids.values()):
            write(Path(folder) / f"ragged{number}", ragged=True, places=places)
        print(f"{RECORDS} records of {STEPS * 196 * WIDTH * 2 / 1e6:.1f} MB, batches of {BATCH}, one thread, warm\n")
        print("| read as | ragged store | time against the fixed shape: median (min to max) |\n| --- | --- | --- |")
        for tokens in (True, False):
            for number, name in enumerate(grids):
                ratios = []
                with (
                    open_store(Path(folder) / "fixed") as fixed,
                    open_store(Path(folder) / f"ragged{number}") as ragged,
                ):
                    served = [
                        Features(
                            reader,
                            reader.keys("video"),
                            serve(reader, reader.spec("video", ARRAY), tokens=tokens, masks=tokens),
                            device=torch.device("cpu"),
                            resident="off",
                        )
                        for reader in (fixed, ragged)
                    ]
                    for _ in range(ROUNDS):
                        first, second = seconds(served[0]), seconds(served[1])
                        ratios.append(second / first)
                low, middle, high = min(ratios), statistics.median(ratios), max(ratios)
                print(f"| {'tokens' if tokens else 'frames'} | {name} | {middle:.2f} ({low:.2f} to {high:.2f}) |")
                sys.stdout.flush()


if __name__ == "__main__":
    main()
