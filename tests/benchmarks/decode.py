"""How long 8 frames take, against decoding and converting every frame in sequence with PyAV; and that they are equal.

    python tests/benchmarks/decode.py [--rounds 7] [--folder DIR] [--table FILE]

Each figure is the median, over interleaved rounds in shuffled order, of the ratio (time of `read_clip` / time of the
sequence) within one round, so that a busy machine slows both. The sequence is
`[frame.to_ndarray(format="rgb24") for frame in container.decode(video)]`. "As they come": PyAV decodes H.264 in one
thread and converts in several, `read_clip` in a process of its own takes one per core; in a pool of workers each takes
one, as in the columns beside it. The goal is for the 60 s clip with one keyframe in 250 (25 frames per second,
640 x 360, H.264). How far the ratio can fall depends on the clip: two thirds of its frames lie between a keyframe and a
wanted frame, and the more bits they have, the more decoding outweighs the converting that is saved. So the same film is
measured with its grain kept, too. The clips are encoded first; with everything, about six minutes and 50 MB. Under
load, give it priority (`chrt -f 1`) or look at the processor time.
"""

from __future__ import annotations

import argparse
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from vfc.extract.decode import read_clip

GOAL = 0.35
RULES = ("tsn-centre", "linspace")
Frames = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Film:
    """A clip to encode: `keyframes` is the longest distance between two."""

    name: str
    seconds: int
    rate: int
    width: int
    height: int
    keyframes: int
    crf: int = 35
    goal: bool = False


FILMS = (
    Film("60 s, 640 x 360, a keyframe in 250", 60, 25, 640, 360, 250, goal=True),
    Film("the same, grain kept", 60, 25, 640, 360, 250, crf=24),
    Film("60 s, 640 x 360, a keyframe in 30", 60, 25, 640, 360, 30),
    Film("10 s, 340 x 256, a keyframe in 250", 10, 30, 340, 256, 250),
)


def pictures(film: Film) -> Iterator[Frames]:
    """Patches that move in different ways over a moving texture, all under fresh grain: dear to encode and decode."""
    rng = np.random.default_rng(7)
    height, width = film.height, film.width
    coarse = rng.integers(0, 256, (height // 2, width // 2, 3), dtype=np.uint8)
    scene = np.kron(coarse, np.ones((4, 4, 1), dtype=np.uint8))
    grain = rng.normal(0, 9, (16, height, width, 1)).astype(np.int16)
    for i in range(film.seconds * film.rate):
        x, y = int(width / 2 * (1 + np.sin(i / 60))), int(height / 2 * (1 + np.cos(i / 47)))
        frame = scene[y : y + height, x : x + width].astype(np.int16)
        for k in range(6):
            left, top = (i * (3 + k) + 100 * k) % (width - 80), (i * (2 + k) + 50 * k) % (height - 60)
            frame[top : top + 60, left : left + 80] = scene[60 * k : 60 * k + 60, 80 * k : 80 * k + 80]
        yield np.clip(frame + grain[rng.integers(16)], 0, 255).astype(np.uint8)


def encode(film: Film, path: Path) -> None:
    with av.open(str(path), "w") as container:
        video = container.add_stream(
            "libx264", rate=film.rate, options={"g": str(film.keyframes), "crf": str(film.crf)}
        )
        video.width, video.height, video.pix_fmt = film.width, film.height, "yuv420p"
        for picture in pictures(film):
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode())


def sequence(path: Path, threads: int | None, keep: frozenset[int] = frozenset()) -> dict[int, Frames]:
    """Decode and convert every frame; the ones to keep. None leaves the threads as PyAV sets them."""
    kept: dict[int, Frames] = {}
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        if threads is not None:
            video.thread_type = "NONE" if threads == 1 else "AUTO"
            video.codec_context.thread_count = threads
        for i, frame in enumerate(container.decode(video)):
            image: Any = frame.to_ndarray(format="rgb24")
            if i in keep:
                kept[i] = image
    return kept


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds of the clock and of all processors."""
    clock, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - clock, time.process_time() - processor


def equal(path: Path, rule: str) -> bool:
    clips = [read_clip(path, rule, 8, threads=threads) for threads in (0, 1)]
    frames = sequence(path, 1, frozenset(clips[0].indices.tolist()))
    wanted = np.stack([frames[i] for i in clips[0].indices.tolist()])
    return all(np.array_equal(clip.frames, wanted) for clip in clips)


def measure(film: Film, path: Path, rounds: int) -> Iterator[tuple[str, ...]]:
    """Rows of the table."""
    works: dict[tuple[str, int | None], Callable[[], object]] = {}
    for threads in (None, 0, 1):
        works["sequence", threads] = partial(sequence, path, threads)
    for rule in RULES:
        for threads in (0, 1):
            works[rule, threads] = partial(read_clip, path, rule, 8, threads=threads)
    took: dict[tuple[str, int | None], list[tuple[float, float]]] = {key: [] for key in works}
    for _ in range(rounds):
        order = list(works)
        random.shuffle(order)
        for key in order:
            took[key].append(timed(works[key]))

    def ratio(rule: str, threads: int, whole: int | None, kind: int = 0) -> float:
        pairs = zip(took[rule, threads], took["sequence", whole], strict=True)
        return statistics.median(ours[kind] / theirs[kind] for ours, theirs in pairs)

    for rule in RULES:
        usual, same = ratio(rule, 0, None), equal(path, rule)
        each = (ratio(rule, 1, 1), ratio(rule, 0, 0), ratio(rule, 1, 1, kind=1))
        best = f"{min(took[rule, 0])[0] * 1000:.0f} / {min(took['sequence', None])[0] * 1000:.0f} ms"
        verdict = ("holds" if usual <= GOAL and same else "FAILS") if film.goal else ""
        yield film.name, rule, f"{usual:.2f}", best, *(f"{r:.2f}" for r in each), "yes" if same else "NO", verdict


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--folder", type=Path, help="where to keep the clips; default: a temporary folder")
    parser.add_argument("--table", type=Path, help="write the table to this file, too")
    given = parser.parse_args()
    header = (
        "clip", "rule", "both as they come", "best times", "one thread each", "a thread per core each",
        "processor time, one thread each", "same frames", "goal: <= 0.35",
    )  # fmt: skip
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for number, film in enumerate(FILMS):
            path = folder / f"film{number}.mp4"
            if not path.exists():
                print(f"encoding: {film.name}", flush=True)
                encode(film, path)
            size = f" ({path.stat().st_size / 1e6:.0f} MB)"
            for name, *rest in measure(film, path, given.rounds):
                lines.append("| " + " | ".join((name + size, *rest)) + " |")
                print(lines[-1], flush=True)
    versions = f"PyAV {av.__version__}, Python {platform.python_version()}, {platform.machine()}"
    table = "\n".join([*lines, "", f"Median of {given.rounds} interleaved rounds; {versions}."]) + "\n"
    if given.table:
        given.table.write_text(f"# Eight frames against the whole video\n\nBy `tests/benchmarks/decode.py`.\n\n{table}")
    print("\n" + table)


if __name__ == "__main__":
    main()
