"""A collection of clips: encoded, in a folder per class, with a table of labels and splits."""

from __future__ import annotations

import csv
import io
import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import av

from vfc.cache_schema.parts.atomic_files import replace_file, writing
from vfc.cache_schema.values.errors import BadInput, unknown_name
from vfc.cache_schema.values.progress import Progress, Silent

from .clip import Frames, render_clip
from .motion import CLASSES, SPLIT_OF

TABLE: Final = "videos.csv"
RATE: Final = 10
_SETTINGS: Final = "rendered.json"
# One thread and a fast preset: clips are tiny, and the bytes must not depend on the machine. x264's AVX-512 code gives
# other bytes from run to run on pictures whose sides are no multiples of 64, so it is limited to SSE4.2.
_X264: Final = {"preset": "veryfast", "crf": "18", "threads": "1"} | (
    {"x264-params": "asm=MMX2,SSE2Fast,SSSE3,SSE4.2"} if platform.machine() in ("x86_64", "AMD64") else {}
)


def render_collection(
    folder: Path,
    *,
    classes: Sequence[str] = CLASSES,
    clips_per_class: int = 12,
    seed: int = 0,
    size: int = 80,
    num_frames: int = 20,
    progress: Progress | None = None,
) -> Path:
    """Render a collection: a folder per class, and a table of all clips with their splits; the table's path.

    Clips that exist are not rendered again, so an interrupted rendering continues. More clips per class only add clips.

    Args:
        folder: where to write `<class>/<number>.mp4` and `videos.csv`.
        classes: some of `CLASSES`; each belongs to a split (`SPLIT_OF`).
        clips_per_class: how many.
        seed: another seed gives other clips.
        size: height and width in pixels, even.
        num_frames: frames per clip, shown at 10 per second.
        progress: reports every clip.

    Raises:
        UnknownName: a class that does not exist.
        BadInput: an odd size, or a folder with clips of other settings.
        Refused, ReadOnlyTarget: the disk is full, or takes no writes.
    """
    for label in classes:
        if label not in SPLIT_OF:
            raise unknown_name("class of motion", label, CLASSES)
    if size < 16 or size % 2 or num_frames < 1 or clips_per_class < 1:
        raise BadInput(
            f"{clips_per_class} clips of {num_frames} frames with {size} x {size} pixels cannot be rendered.",
            "Give at least 1 clip, 1 frame and an even size of at least 16.",
        )
    _settle(folder, {"seed": seed, "size": size, "num_frames": num_frames})
    progress = progress or Silent()
    progress.begin("Rendering", len(classes) * clips_per_class, "clips")
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("path", "label", "split"))
    for label in sorted(classes):
        with writing(folder):
            (folder / label).mkdir(parents=True, exist_ok=True)
        for index in range(clips_per_class):
            name = f"{label}/{index:03d}.mp4"
            if not (folder / name).exists():
                encode(folder / name, render_clip(label, index, seed=seed, size=size, num_frames=num_frames))
            table.writerow((name, label, SPLIT_OF[label]))
            progress.advance()
    replace_file(folder / TABLE, text.getvalue().encode())
    return folder / TABLE


def _settle(folder: Path, settings: dict[str, int]) -> None:
    """Write down the settings of the clips in `folder`, or check that they are the same."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    note = folder / _SETTINGS
    if not note.exists():
        replace_file(note, json.dumps(settings).encode())
    elif (earlier := json.loads(note.read_text())) != settings:
        raise BadInput(
            f"{folder} holds clips rendered with {earlier}; asked for: {settings}.",
            "Give another folder, or remove it.",
        )


def encode(path: Path, frames: Frames, rate: int = RATE) -> None:
    """Write `frames` `[T, H, W, 3]` as H.264 in MP4, all of it or nothing; height and width must be even.

    Raises:
        BadInput: this PyAV comes without an H.264 encoder.
        Refused, ReadOnlyTarget: the disk is full, or takes no writes.
    """
    if "libx264" not in av.codecs_available:
        raise BadInput("This installation of PyAV cannot encode H.264.", "Install it from its wheels: pip install av.")
    part = path.with_name(f".{path.stem}-{os.getpid()}.mp4")
    try:
        with writing(path), av.open(str(part), "w") as container:
            video = container.add_stream("libx264", rate=rate, options=_X264)
            video.height, video.width = frames.shape[1:3]
            video.pix_fmt = "yuv420p"
            for picture in frames:
                container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(video.encode())
        with writing(path):
            os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
