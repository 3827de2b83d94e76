"""Optical flow for I3D: computed between the frames of a clip by OpenCV, or read from existing files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vfc.cache_schema.annotations import source as file_of
from vfc.cache_schema.values.errors import MissingExtra, MissingPath, RecordRejected
from vfc.cache_schema.values.record import Json
from vfc.extract.frames.pixels import PixelRule, centre_crop, resized

METHODS: Final = ("dis", "tv-l1")
BOUND: Final = 20.0
"""Flow is clipped to this many pixels per frame in both directions, and divided by it."""
LEVELS: Final = 255.0
"""Images hold flow as grey levels: 0 is -BOUND, 255 is +BOUND."""
IMAGES: Final = (".jpg", ".jpeg", ".png")

Fields = npt.NDArray[Any]


class Source(Protocol):
    """A source of flow. `between`: it is computed between the frames of a clip, so there is one field less."""

    between: bool

    def __call__(self, frames: npt.NDArray[Any], name: str, indices: Sequence[int]) -> Fields:
        """Pixels per frame to the right and downwards, float32 `[n, 2, H, W]`."""

    def recipe(self) -> dict[str, Json]:
        """For the recipe of a store."""


def source(name: str) -> Source:
    """`dis`, `tv-l1`, or a folder of existing flow.

    Raises:
        MissingExtra: OpenCV, or the part of it that is needed, is not installed.
        MissingPath: `name` is neither a method nor a folder.
    """
    if name in METHODS:
        return Computed(name)
    if not Path(name).is_dir():
        raise MissingPath(
            f"--flow {name!r} is neither a method nor a folder.",
            f"Give {' or '.join(METHODS)}, or the folder that holds <video>.npy or <video>/flow_x_*, flow_y_*.",
        )
    return Read(Path(name))


def opencv(method: str) -> Any:
    """The module `cv2`, set to one thread: the number of threads changes the numbers.

    Raises MissingExtra.
    """
    try:
        import cv2
    except ImportError as error:
        raise MissingExtra(
            f"--flow {method} needs OpenCV, which is not installed.", "Install it: pip install 'vfc[flow]'."
        ) from error
    if method == "tv-l1" and not hasattr(cv2, "optflow"):
        raise MissingExtra(
            "--flow tv-l1 needs OpenCV's contributed modules, which the OpenCV installed here lacks.",
            "Install them in its place: pip uninstall opencv-python-headless; pip install "
            "opencv-contrib-python-headless. Or give --flow dis.",
        )
    cv2.setNumThreads(1)
    return cv2


@dataclass(frozen=True)
class Computed:
    """Flow from each frame to the next, on grey frames in their own resolution, by `dis` or `tv-l1` of OpenCV."""

    method: str
    between = True

    def __post_init__(self) -> None:
        opencv(self.method)

    def recipe(self) -> dict[str, Json]:
        """See `Source`; with OpenCV's version."""
        recipe: dict[str, Json] = {"source": self.method, "opencv": str(opencv(self.method).__version__)}
        return recipe | ({"preset": "medium"} if self.method == "dis" else {})

    def __call__(self, frames: npt.NDArray[Any], name: str, indices: Sequence[int]) -> Fields:
        """See `Source`: `[T - 1, 2, H, W]`."""
        cv2 = opencv(self.method)
        if self.method == "dis":
            flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        else:
            flow = cv2.optflow.DualTVL1OpticalFlow_create()
        grey = [cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY) for frame in frames]
        fields = np.empty((max(0, len(grey) - 1), 2, *frames.shape[1:3]), np.float32)
        for i, field in enumerate(fields):
            field[:] = flow.calc(grey[i], grey[i + 1], None).transpose(2, 0, 1)
        return fields


@dataclass(frozen=True)
class Read:
    """Existing flow: `<folder>/<video>.npy` or images `<folder>/<video>/flow_x_00001.jpg`, `flow_y_00001.jpg` ...

    `<video>` is the video's name in the collection, with or without its suffix; segments use that of
    their file. Entry i belongs to frame i of the file; where the last frame has none, it takes that of the frame
    before. Arrays are `[n, H, W, 2]` or `[n, 2, H, W]`: float in pixels per frame, or uint8 in grey levels.
    """

    folder: Path
    between = False

    def recipe(self) -> dict[str, Json]:
        """See `Source`; without the folder, which does not change the numbers."""
        return {"source": "files"}

    def __call__(self, frames: npt.NDArray[Any], name: str, indices: Sequence[int]) -> Fields:
        """See `Source`: `[T, 2, H, W]`.

        Raises RecordRejected where there is no flow of this video, or too little.
        """
        name = file_of(name)
        array = next((p for p in (self.folder / f"{name}.npy", self.folder / _bare(name)) if p.is_file()), None)
        if array is not None:
            return _entries(np.load(array, mmap_mode="r", allow_pickle=False), indices, array)
        return self._images(name, indices)

    def _images(self, name: str, indices: Sequence[int]) -> Fields:
        from PIL import Image

        folder = next((p for p in (self.folder / name, (self.folder / name).with_suffix("")) if p.is_dir()), None)
        if folder is None:
            raise RecordRejected(
                f"There is no flow of {name!r} in {self.folder}.", f"Put it there as {_bare(name)} or as images."
            )
        axes = [_along(folder, axis) for axis in "xy"]
        if not axes[0] or len(axes[0]) != len(axes[1]):
            raise RecordRejected(
                f"{folder} holds {len(axes[0])} images of x and {len(axes[1])} of y.", "Name them flow_x_*, flow_y_*."
            )
        chosen = _numbers(indices, len(axes[0]), folder)
        grey = [[np.asarray(Image.open(files[i]).convert("L")) for files in axes] for i in chosen]
        return _from_grey(np.array(grey))


def _bare(name: str) -> str:
    return str(Path(name).with_suffix(".npy"))


def _along(folder: Path, axis: str) -> list[Path]:
    files = [f for f in folder.iterdir() if f.suffix.lower() in IMAGES and re.match(rf"(flow_)?{axis}[_-]?\d", f.name)]
    return sorted(files, key=lambda f: int(re.findall(r"\d+", f.stem)[-1]))


def _numbers(indices: Sequence[int], count: int, where: Path) -> list[int]:
    """The entries of these frames; the last frame may lack its own."""
    if not count or max(indices) > count:
        raise RecordRejected(
            f"{where} holds flow of {count} frames; frame {max(indices)} is needed (from 0).", "Compute the flow again."
        )
    return [min(i, count - 1) for i in indices]


def _entries(stored: Fields, indices: Sequence[int], where: Path) -> Fields:
    shape = stored.shape
    if len(shape) == 4 and shape[1] != 2 and shape[3] == 2:
        stored = stored.transpose(0, 3, 1, 2)
    if stored.ndim != 4 or stored.shape[1] != 2:
        raise RecordRejected(f"{where} has the shape {shape}.", "Flow is [n, H, W, 2] or [n, 2, H, W].")
    chosen = stored[_numbers(indices, len(stored), where)]
    return _from_grey(chosen) if chosen.dtype == np.uint8 else np.ascontiguousarray(chosen, np.float32)


def _from_grey(levels: Fields) -> Fields:
    return levels.astype(np.float32) * np.float32(2 * BOUND / LEVELS) - np.float32(BOUND)


def normalised(fields: Fields, rule: PixelRule) -> Tensor:
    """Flow as the network takes it: resized and cropped like the frames, values not rescaled, clipped, in [-1, 1]."""
    x = torch.from_numpy(np.ascontiguousarray(fields))
    old = (x.shape[-2], x.shape[-1])
    new = rule.exact or (resized(*old, rule.shortest_edge, rule.longest_edge) if rule.shortest_edge else old)
    if len(x) and new != old:
        x = torch.nn.functional.interpolate(x, new, mode="bilinear", align_corners=False, antialias=True)
    for crop in rule.crops:
        x = centre_crop(x, crop)
    return (x.clamp(-BOUND, BOUND) / BOUND).contiguous()
