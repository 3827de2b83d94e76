"""I3D (Inception-v1 3D) over windows of a video of any length: 1024 numbers per window from RGB, 1024 more from flow.

`frames` are the features used in action segmentation and anticipation: means of the last map over its height, width and
time, RGB first. `--window 64 --stride 64` gives the usual non-overlapping stacks; `--window 21 --stride 1 --border
repeat` one vector around every frame, like the features of 50 Salads and Breakfast (with `--flow tv-l1`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from vfc.cache_schema.values.errors import BadInput
from vfc.cache_schema.values.layout import STEPS
from vfc.cache_schema.values.record import ArraySpec, Dtype, Json
from vfc.extract.backbone import BackboneOptions, Chunking, Frames, Prepared
from vfc.extract.frames.pixels import PixelRule, pixel_rule, read_pixel_rule
from vfc.extract.frames.windows import SECONDS, Windows, over_windows, require_frames
from vfc.extract.models.frame_encoder import joined
from vfc.extract.models.layers import kept_streams
from vfc.extract.models.loading import Compute, require_device
from vfc.extract.models.recipe import model_recipe
from vfc.extract.models.taps import transferred

from .flow import normalised, source
from .network import LEAST_FRAMES, WIDTH, InceptionI3d
from .weights import Tower, digest, towers

DEFAULT_CHECKPOINT: str | None = None
WINDOWS: Final = True
STREAMS: Final = {"video": ("rgb", "flow")}
CHUNK: Final = 64
AUTHORS_PIXELS: Final[dict[str, Any]] = {
    "video_processor_type": "VideoMAEVideoProcessor",
    "size": {"shortest_edge": 256},
    "crop_size": {"height": 224, "width": 224},
}
"""The pixel rule of the network's authors: short side 256, middle 224 x 224, values from -1 to 1."""


class I3dBackbone:
    """One or two I3D towers over windows of a video; see `backbone.StreamingBackbone`."""

    meanings: Final = {"frames": "mean of Mixed_5c over space and pairs of time steps, then over time"}

    def __init__(self, options: BackboneOptions) -> None:
        self.options = options
        self.place = _checkpoint_path(options)
        self.streams = _streams(options)
        self.windows = Windows.of(options.window, options.stride, options.border, LEAST_FRAMES)
        self.towers: Mapping[str, Tower] = towers(self.place, self.streams)
        self._flow = None if options.flow is None else source(options.flow)
        require_frames(self.windows, options.num_frames, self.chunking.overlap)
        self.rule = _pixel_rule(self.place)
        self._widths = [WIDTH // tower.narrow for tower in self.towers.values()]
        self.compute = Compute(options.dtype or "fp32", options.device)
        self._storage: Dtype = options.storage or "fp16"
        self._models: dict[str, InceptionI3d] = {}

    def specs(self) -> Mapping[str, tuple[ArraySpec, ...]]:
        """See `Backbone.specs`: `frames` `[S, D]`, `seconds` float64 `[S]`, the time of the middle frame."""
        frames = ArraySpec("frames", self._storage, (None, sum(self._widths)), STEPS)
        return {"video": (frames, ArraySpec(SECONDS, "float64", (None,), STEPS))}

    def taps(self) -> Mapping[str, Mapping[str, ArraySpec]]:
        """See `Backbone.taps`: there are none."""
        return {}

    def recipe(self) -> dict[str, Json]:
        """See `Backbone.recipe`."""
        checkpoint = {"id": self.place.resolve().name, "revision": None, "digest": digest(self.towers)}
        return model_recipe(
            "i3d",
            checkpoint={**checkpoint, "architecture": "InceptionI3d"},
            taps={"visual": [], **self.meanings},
            streams=list(self.streams),
            windows=self.windows.recipe(),
            flow=None if self._flow is None else self._flow.recipe(),
            pixels=self.rule.recipe(),
            compute=self.compute,
            attention=None,
            storage=self._storage,
        )

    def load(self) -> None:
        """See `Backbone.load`."""
        require_device(self.options.device)
        for name, tower in self.towers.items():
            self._models[name] = tower.load(self.compute)

    def rows_of(self, frames: int) -> Mapping[str, int]:
        """See `CountingBackbone`; flow between frames has one frame less, and may lack the last window for it."""
        drops = self.windows.border == "drop"
        return {spec.name: self.windows.count(frames - drops * self.chunking.overlap) for spec in self.specs()["video"]}

    @property
    def chunking(self) -> Chunking:
        """See `StreamingBackbone`: flow between frames needs the last frame of the chunk before."""
        return Chunking(CHUNK, int(self._flow is not None and self._flow.between))

    def pixels(self, clip: Frames) -> Prepared:
        """See `Backbone.pixels`: `rgb` `[T, 3, h, w]`, `flow` `[T, 2, h, w]` or one less of it, `seconds` `[T]`."""
        tensors = {SECONDS: torch.from_numpy(np.array(clip.seconds, np.float64))}
        if "rgb" in self.streams:
            tensors["rgb"] = self.windows.padded(self.compute.pixels(self.rule, clip.frames), self.rule)
        if self._flow is not None:
            fields = self._flow(clip.frames, str(getattr(clip, "name", "")), clip.indices.tolist())
            tensors["flow"] = normalised(fields, self.rule)
        return Prepared(tensors, {})

    def encode_videos(self, batch: Sequence[Mapping[str, Tensor]]) -> list[dict[str, Tensor]]:
        """See `Backbone.encode_videos`: window by window, whatever the batch."""
        return [joined(list(self.encode_stream([item]))) for item in batch]

    @torch.inference_mode()
    def encode_stream(self, chunks: Iterable[Mapping[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
        """See `StreamingBackbone`: one row per window, as soon as its last frame has arrived.

        Raises RecordRejected for a video that is shorter than a window.
        """

        def without_overlap() -> Iterator[Mapping[str, Tensor]]:
            for i, chunk in enumerate(chunks):
                overlap = self.chunking.overlap if i else 0
                yield {name: rows if name == "flow" else rows[overlap:] for name, rows in chunk.items()}

        yield from over_windows(without_overlap(), self.windows, self.streams, self._vector)

    def _vector(self, window: Mapping[str, Tensor]) -> Tensor:
        # Flow comes normalised.
        rules = {"rgb": self.rule}
        inputs = {
            name: self.compute.moved(window[name], rules.get(name)).transpose(0, 1)[None] for name in self._models
        }
        vectors = [model.vectors(inputs[name]).mean(dim=1) for name, model in self._models.items()]
        return transferred(torch.cat(vectors, dim=1), self._storage)


def _checkpoint_path(options: BackboneOptions) -> Path:
    """The checkpoint that the options name. Raises BadInput for options that i3d does not have."""
    if options.checkpoint is None:
        raise BadInput(
            "i3d has no checkpoint of its own.",
            "Give --checkpoint FOLDER with rgb_imagenet.pt (and flow_imagenet.pt) of pytorch-i3d, or a file.",
        )
    if options.layers or options.texts:
        raise BadInput(
            "i3d keeps one vector per window: it has no layers to name and no texts.",
            "Leave --layer and --texts out.",
        )
    if options.attention is not None or options.max_pixels is not None:
        raise BadInput("i3d has no attention and takes one size of frames.", "Leave --attention, --max-pixels out.")
    return Path(options.checkpoint).expanduser()


def _streams(options: BackboneOptions) -> tuple[str, ...]:
    """The streams to keep; rgb alone unless flow is asked for. Raises BadInput where `keep` and `flow` contradict."""
    streams = kept_streams(options.keep, STREAMS)["video"] if options.keep or options.flow else frozenset({"rgb"})
    if "flow" in streams and options.flow is None:
        raise BadInput("--keep names flow, but there is no --flow.", "Give its source: --flow dis, or a folder.")
    if "flow" not in streams and options.flow is not None:
        raise BadInput("--flow is given, but flow is not kept.", "Add flow to --keep, or leave --flow out.")
    return tuple(name for name in STREAMS["video"] if name in streams)


def _pixel_rule(place: Path) -> PixelRule:
    """The authors' pixel rule, unless a `preprocessor_config.json` beside the weights gives another.

    Raises BadInput where the rule has no fixed size.
    """
    folder = place if place.is_dir() else place.parent
    if not (folder / "preprocessor_config.json").is_file():
        return pixel_rule(dict(AUTHORS_PIXELS), where="i3d")
    rule = read_pixel_rule(folder, model_type="videomae", video=True)
    if rule.size is None:
        raise BadInput(f"The processor beside {place} leaves each video its own shape.", "Set crop_size or size in it.")
    return rule


def build(options: BackboneOptions) -> I3dBackbone:
    """See `Family.build`. Needs weights: there is no default."""
    return I3dBackbone(options)
