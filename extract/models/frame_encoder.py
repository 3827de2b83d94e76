"""Framewise: what networks that see one picture at a time have in common, over clips and over long videos in pieces."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence

from torch import Tensor

from vfc.extract.backbone import BackboneOptions, Chunking, Frames, Prepared
from vfc.extract.frames.pixels import PixelRule

from .taps import FRAMES_PER_FORWARD, over_frames


class Framewise(ABC):
    """A backbone whose clip is the sum of its frames; see `backbone.StreamingBackbone`."""

    options: BackboneOptions
    rule: PixelRule
    _dtype: str

    @abstractmethod
    def _forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Arrays of n rows, of `pixels` `[n, 3, h, w]` on the device."""

    def pixels(self, clip: Frames) -> Prepared:
        """See `Backbone.pixels`: `pixels` float32 `[T, 3, h, w]`."""
        return Prepared({"pixels": self.rule(clip.frames)}, {})

    def encode_videos(self, batch: Sequence[Mapping[str, Tensor]]) -> list[dict[str, Tensor]]:
        """See `Backbone.encode_videos`."""
        return over_frames(batch, self._forward, device=self.options.device, dtype=self._dtype)

    @property
    def chunking(self) -> Chunking:
        """See `StreamingBackbone`: as many frames as go through together anyway."""
        return Chunking(FRAMES_PER_FORWARD)

    def encode_stream(self, chunks: Iterable[Mapping[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
        """See `StreamingBackbone`."""
        for chunk in chunks:
            yield self.encode_videos([chunk])[0]
