"""Small real videos for tests, encoded on the spot, and the slow way to read them: everything, in order."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt

os.environ.setdefault("SVT_LOG", "1")


def pictures(count: int, width: int, height: int, seed: int = 0) -> Iterator[npt.NDArray[np.uint8]]:
    """Frames [H, W, 3] of a camera moving over a pattern, with noise in one place; no two are equal."""
    rng = np.random.default_rng(seed)
    scene = np.kron(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8), np.ones((8, 8, 1), dtype=np.uint8))
    for i in range(count):
        x, y = int(150 + 140 * np.sin(i / 9)), int(120 + 110 * np.cos(i / 13))
        frame = np.ascontiguousarray(scene[y : y + height, x : x + width])
        frame[8:20, 8:20] = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
        yield frame


def encode(
    path: Path,
    codec: str = "libx264",
    *,
    count: int = 60,
    rate: int | Fraction = 25,
    size: tuple[int, int] = (96, 64),
    pixels: str = "yuv420p",
    times: list[int] | None = None,
    container: dict[str, str] | None = None,
    seed: int = 0,
    **options: str,
) -> Path:
    """Encode `count` pictures to `path`; `times` are frame times in milliseconds, for a varying rate."""
    with av.open(str(path), "w", options=container or {}) as out:
        stream: Any = out.add_stream(codec, rate=rate, options={k.replace("_", "-"): v for k, v in options.items()})
        stream.width, stream.height = size
        stream.pix_fmt = pixels
        for i, picture in enumerate(pictures(count, *size, seed=seed)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[i], Fraction(1, 1000)
                stream.codec_context.time_base = Fraction(1, 1000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path


def every_frame(path: Path, stream: int | None = None) -> tuple[list[npt.NDArray[np.uint8]], list[float]]:
    """RGB and seconds of every frame, by decoding and converting all of them in sequence."""
    with _sequence(path, stream) as frames:
        both = [(frame.to_ndarray(format="rgb24"), frame.time) for frame in frames]
    return [image for image, _ in both], [time for _, time in both]


def some_frames(path: Path, wanted: list[int], stream: int | None = None) -> list[npt.NDArray[np.uint8]]:
    """RGB of the frames with these numbers, by decoding all and converting these."""
    with _sequence(path, stream) as frames:
        found = {i: frame.to_ndarray(format="rgb24") for i, frame in enumerate(frames) if i in set(wanted)}
    return [found[i] for i in wanted]


@contextmanager
def _sequence(path: Path, stream: int | None) -> Iterator[Iterator[Any]]:
    with av.open(str(path), metadata_errors="ignore") as container:
        video: Any = container.streams.best("video") if stream is None else container.streams[stream]
        video.codec_context.thread_count = 1
        yield container.decode(video)
