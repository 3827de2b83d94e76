"""Windows of a video of any length, each of which gives one vector.

Of a clip network each window is a clip. An image network sees every frame once; a window is the mean of its frames.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, Protocol

import numpy as np
import torch
from torch import Tensor

from vfc.cache_schema.values.errors import BadInput
from vfc.cache_schema.values.layout import STEPS
from vfc.cache_schema.values.record import ArraySpec, Dtype, Json
from vfc.extract.backbone import Backbone, BackboneOptions, Chunking, Frames, Prepared
from vfc.extract.frames.pixels import PixelRule
from vfc.extract.frames.windows import SECONDS, Windows, over_windows, require_frames

from .frame_encoder import joined
from .taps import transferred

CHUNK: Final = 64
"""Frames of a video that are prepared at once."""

DEFAULT_WINDOW: Final = 8
"""Frames of a window of an image network, where only --stride or --border is given."""


class PixelBackbone(Backbone, Protocol):
    """A backbone whose `pixels` are one tensor of that name, made by its `rule`."""

    rule: PixelRule


class WindowEncoder:
    """One vector per window, `frames` `[L, D]`, and the time of its middle frame; see `backbone.StreamingBackbone`."""

    def __init__(
        self, clips: PixelBackbone, windows: Windows, options: BackboneOptions, *, array: str, width: int, meaning: str
    ) -> None:
        """Windows for a clip network.

        Args:
            clips: Encodes one window as a clip.
            windows: The windows.
            options: Those of the command; `storage` is that of `frames`, `num_frames` is checked.
            array: The array of a clip that gives the vector: `[D]`, or `[n, D]`, of which the mean is taken.
            width: D.
            meaning: What the vector is, in a few words.

        Raises:
            BadInput: layers are asked for, or windows of more frames than a video has.
        """
        if options.layers:
            raise BadInput(
                f"Layers {', '.join(options.layers)} were asked for, but windows keep one vector each.",
                "Leave --layer out, or leave out --window, --stride and --border.",
            )
        require_frames(windows, options.num_frames)
        self.clips, self.windows = clips, windows
        self.meanings = {"frames": meaning}
        self._array, self._width = array, width
        self._storage: Dtype = options.storage or "fp16"

    def specs(self) -> Mapping[str, tuple[ArraySpec, ...]]:
        """See `Backbone.specs`: `frames` `[L, D]`, `seconds` float64 `[L]`; texts as the clip network has them."""
        frames = ArraySpec("frames", self._storage, (None, self._width), STEPS)
        return {**self.clips.specs(), "video": (frames, ArraySpec(SECONDS, "float64", (None,), STEPS))}

    def taps(self) -> Mapping[str, Mapping[str, ArraySpec]]:
        """See `Backbone.taps`: no layer of a video can be chosen."""
        return {stream: layers for stream, layers in self.clips.taps().items() if stream != "visual"}

    def recipe(self) -> dict[str, Json]:
        """See `Backbone.recipe`."""
        windows: dict[str, Json] = {**self.windows.recipe(), "row": self.meanings["frames"]}
        return {**self.clips.recipe(), "windows": windows, "storage": self._storage}

    def load(self) -> None:
        """See `Backbone.load`."""
        self.clips.load()

    def rows_of(self, frames: int) -> Mapping[str, int]:
        """See `CountingBackbone`."""
        return {spec.name: self.windows.count(frames) for spec in self.specs()["video"]}

    @property
    def chunking(self) -> Chunking:
        """See `StreamingBackbone`."""
        return Chunking(CHUNK)

    def pixels(self, clip: Frames) -> Prepared:
        """See `Backbone.pixels`: those of the clip network, and `seconds` `[T]`."""
        prepared = self.clips.pixels(clip)
        seconds = torch.from_numpy(np.array(clip.seconds, np.float64))
        pixels = self.windows.padded(prepared.tensors["pixels"], self.clips.rule)
        return Prepared({**prepared.tensors, "pixels": pixels, SECONDS: seconds}, prepared.metadata)

    def encode_videos(self, batch: Sequence[Mapping[str, Tensor]]) -> list[dict[str, Tensor]]:
        """See `Backbone.encode_videos`: window by window, whatever the batch."""
        return [joined(list(self.encode_stream([item]))) for item in batch]

    def encode_stream(self, chunks: Iterable[Mapping[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
        """See `StreamingBackbone`: one row per window, as soon as its last frame has arrived.

        Raises RecordRejected for a video that is shorter than a window.
        """
        return over_windows(chunks, self.windows, ("pixels",), self._vector)

    def _vector(self, window: Mapping[str, Tensor]) -> Tensor:
        (arrays,) = self.clips.encode_videos([window])
        array = arrays[self._array]
        vector = array if array.ndim == 1 else array.float().mean(dim=0)
        return transferred(vector[None], self._storage)


class FrameWindows(WindowEncoder):
    """The mean over the frames of every window, of an image network that sees each frame of the video once."""

    def __init__(self, frames: PixelBackbone, options: BackboneOptions, *, width: int, of: str) -> None:
        """Windows for an image network whose array `frames` is fp32; `of` says what that is.

        Raises BadInput as `WindowEncoder` and `Windows.of` do.
        """
        windows = Windows.of(options.window, options.stride, options.border, default=DEFAULT_WINDOW)
        super().__init__(
            frames, windows, options, array="frames", width=width, meaning=f"mean over the window's frames: {of}"
        )

    @torch.inference_mode()
    def encode_stream(self, chunks: Iterable[Mapping[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
        """See `StreamingBackbone`: frames are encoded as they arrive, and their rows are cut into windows.

        Raises RecordRejected for a video that is shorter than a window.
        """
        blanks: dict[str, Tensor] = {}
        if self.windows.border == "zero":
            assert self.clips.rule.size is not None, "image networks take frames of one size"
            blanks["rows"] = self._rows(torch.zeros(1, 3, *self.clips.rule.size))[0]
        rows = ({"rows": self._rows(chunk["pixels"]), SECONDS: chunk[SECONDS]} for chunk in chunks)
        yield from over_windows(rows, self.windows, ("rows",), self._mean, blanks)

    def _rows(self, pixels: Tensor) -> Tensor:
        return self.clips.encode_videos([{"pixels": pixels}])[0][self._array]

    def _mean(self, window: Mapping[str, Tensor]) -> Tensor:
        return transferred(window["rows"].mean(dim=0, keepdim=True), self._storage)


def require_frames_kept(options: BackboneOptions) -> None:
    """Raise BadInput where `keep` names streams of a video and leaves `frames` out, which windows are made of."""
    if "visual" in options.keep:
        raise BadInput(
            f"--keep {','.join(options.keep)} is given, but windows keep one vector each, called frames.",
            "Give --keep frames, or leave out --window, --stride and --border.",
        )
