"""Encoding videos frame by frame: what image networks share, for clips and for long videos in chunks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final

import torch
from torch import Tensor

from vfc.cache_schema.values.errors import BadInput
from vfc.cache_schema.values.record import ArraySpec
from vfc.extract.backbone import Chunking, Frames, Prepared
from vfc.extract.frames.pixels import PixelRule, read_pixel_rule

from .checkpoint import Checkpoint
from .loading import Compute, end_to_end

FRAMES_PER_FORWARD: Final = 64


class FrameEncoder(ABC):
    """A backbone that sees the frames of a clip one by one; see `backbone.StreamingBackbone`."""

    rule: PixelRule
    compute: Compute

    @abstractmethod
    def specs(self) -> Mapping[str, tuple[ArraySpec, ...]]:
        """See `Backbone.specs`."""

    @abstractmethod
    def _forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Arrays of n rows, of `pixels` `[n, 3, h, w]` on the device."""

    def pixels(self, clip: Frames) -> Prepared:
        """See `Backbone.pixels`: `pixels` `[T, 3, h, w]`, float32; for a GPU as `Compute.pixels` leaves them."""
        return Prepared({"pixels": self.compute.pixels(self.rule, clip.frames)}, {})

    def encode_videos(self, batch: Sequence[Mapping[str, Tensor]]) -> list[dict[str, Tensor]]:
        """See `Backbone.encode_videos`."""
        return over_frames(batch, self._forward, self.compute, self.rule)

    def rows_of(self, frames: int) -> Mapping[str, int]:
        """See `CountingBackbone`: a row per frame."""
        return {spec.name: frames for spec in self.specs()["video"]}

    @property
    def chunking(self) -> Chunking:
        """See `StreamingBackbone`: as many frames as one forward pass takes."""
        return Chunking(FRAMES_PER_FORWARD)

    def encode_stream(self, chunks: Iterable[Mapping[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
        """See `StreamingBackbone`."""
        for chunk in chunks:
            yield self.encode_videos([chunk])[0]


def over_frames(
    batch: Sequence[Mapping[str, Tensor]],
    run: Callable[[Tensor], dict[str, Tensor]],
    compute: Compute,
    rule: PixelRule | None = None,
) -> list[dict[str, Tensor]]:
    """Run an image network over the frames of several clips, and return the rows of each clip.

    Each item holds `pixels` `[T, 3, h, w]`, T may differ; uint8 ones are normalised by `rule`. `run` takes
    `[n, 3, h, w]` on the device, n at most `FRAMES_PER_FORWARD`, and returns arrays of n rows. One clip alone is always
    cut in the same way.
    """
    frames = end_to_end([item["pixels"] for item in batch], compute.device)
    parts = [run(compute.moved(part, rule)) for part in frames.split(FRAMES_PER_FORWARD)]
    return divided(joined(parts), [len(item["pixels"]) for item in batch])


def joined(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Arrays of the same names, laid end to end."""
    return {name: torch.cat([part[name] for part in parts]) if len(parts) > 1 else parts[0][name] for name in parts[0]}


def divided(arrays: Mapping[str, Tensor], rows: Sequence[int]) -> list[dict[str, Tensor]]:
    """The inverse of `joined`: so many rows of each array for each item."""
    pieces = {name: array.split(list(rows)) for name, array in arrays.items()}
    return [{name: split[i] for name, split in pieces.items()} for i in range(len(rows))]


def square_pixel_rule(checkpoint: Checkpoint, edge: int, *, model_type: str, video: bool = False) -> PixelRule:
    """The pixel rule of a checkpoint whose network takes images of edge x edge.

    Raises BadInput where the rule makes images of another size; see `read_pixel_rule` for others.
    """
    rule = read_pixel_rule(checkpoint.folder, model_type=model_type, video=video)
    if rule.size != (edge, edge):
        raise BadInput(
            f"The processor of {checkpoint.id} makes images of {rule.size}, not {edge, edge}.",
            "Check that its processor files belong to this checkpoint.",
        )
    return rule
