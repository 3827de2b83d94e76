"""A few frames of a video as small JPEG files."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Final

from PIL import Image

from vfc.extract.decode.read import read_clip

_SIZE: Final = (192, 112)
_QUALITY: Final = 60


def thumbnails(
    path: Path, count: int, *, start_seconds: float | None = None, end_seconds: float | None = None
) -> tuple[bytes, ...]:
    """The middle frames of `count` equal parts of a video, or of its segment; each at most 192 x 112 pixels.

    Raises:
        MissingPath, BadInput: see `read_clip`.
    """
    clip = read_clip(path, "tsn-centre", count, start_seconds=start_seconds, end_seconds=end_seconds, threads=1)
    files = []
    for frame in clip.frames:
        image, out = Image.fromarray(frame), io.BytesIO()
        image.thumbnail(_SIZE)
        image.save(out, "JPEG", quality=_QUALITY, optimize=True)
        files.append(out.getvalue())
    return tuple(files)
