"""The videos of a store as sequences: class ids of every frame, and features of one frame in so many."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, cast

import numpy as np
import torch
from torch import Tensor

from vfc.cache_schema.reader import StoreReader
from vfc.cache_schema.values.devices import on_device
from vfc.cache_schema.values.dtypes import stored_dtype
from vfc.cache_schema.values.errors import BadInput
from vfc.cache_schema.values.record import Key
from vfc.heads.data.dataset import VideoDataset, in_view
from vfc.heads.data.features import STORED, as_float, finite
from vfc.heads.data.placement import Placement, Resident, placed
from vfc.heads.data.store_view import StoreView

from .ground_truth import GroundTruth
from .segments import Ids

_SLACK: Final = (25, 0.01)
"""Frames, and share, by which features and labels may differ: those of the published archives do by a few."""


class SequenceDataset(VideoDataset):
    """Labels and features of the videos `names`, in this order.

    `labels[i]` are the class ids `[n]` of every label frame of video i; n is cut to what labels and features share.
    Steps are `stride` label frames apart and begin in one of `phases` places: rows of one frame in `every` are read.

    Raises:
        BadInput: labels and features of a video do not belong together; a class id outside the list; a stride or
            phases that the stored rows do not allow; values that are no numbers.
        MissingRecord: a video without a record.
    """

    def __init__(
        self,
        store: StoreView,
        names: Sequence[str],
        truth: GroundTruth,
        *,
        stride: int,
        device: torch.device,
        resident: Resident = "auto",
        phases: int = 1,
    ) -> None:
        if phases < 1 or stride % phases:
            raise BadInput(
                f"Steps of {stride} frames cannot begin in {phases} places at equal distances.",
                f"Give --phases as a divisor of {stride}.",
            )
        super().__init__(store.reader, names, in_view(0))
        self.stride, self.every = stride, stride // phases
        self._reader, self._array, self._device = store.reader, store.visual, device
        self._records = [int(record) for record in store.reader.locate(self.keys)]
        self._stored = [row_stride(store.reader, record) for record in self._records]
        self.labels = [self._checked(i, truth) for i in range(len(names))]
        counts = [-(-len(ids) // self.every) for ids in self.labels]
        self._offsets = np.cumsum([0, *counts])
        num_bytes = int(self._offsets[-1]) * self.width * STORED[self._array.dtype].itemsize
        self._placement: Placement = placed(num_bytes, device, resident)
        self._values: Tensor | None = None
        if self._placement != "off":
            on = torch.device("cpu") if self._placement == "ram" else device
            self._values = torch.empty((int(self._offsets[-1]), self.width), dtype=STORED[self._array.dtype], device=on)
            for i, count in enumerate(counts):
                self._values[self._offsets[i] : self._offsets[i + 1]] = self._read(i, np.arange(count) * self.every)
        self._scales = (
            [torch.from_numpy(np.array(store.reader.scale(record, self._array.name))) for record in self._records]
            if self._array.dtype == "int8"
            else None
        )

    @property
    def placement(self) -> str:
        """See `VideoDataset`."""
        return self._placement

    @property
    def width(self) -> int:
        """D."""
        return cast("int", self._array.shape[-1])

    def steps(self, video: int, frames: Ids) -> Tensor:
        """Features at label frames `[S]`, evenly spaced multiples of `every`: float32 `[S, D]` on the device."""
        if self._values is None:
            stored = self._read(video, frames)
        else:
            start, stop, step = _span(frames, self.every)
            stored = self._values[self._offsets[video] + start : self._offsets[video] + stop : step]
        scale = None if self._scales is None else self._scales[video][None]
        return as_float(on_device(stored, self._device)[None], scale)[0]

    def single(self, videos: Sequence[int], frames: Ids) -> Tensor:
        """Features at one label frame each of several videos, float32 `[M, D]` on the device."""
        if self._values is None or self._scales is not None:
            return torch.cat([self.steps(video, frames[i : i + 1]) for i, video in enumerate(videos)])
        rows = torch.from_numpy(self._offsets[np.asarray(videos)] + frames // self.every)
        return on_device(self._values[on_device(rows, self._values.device)], self._device).float()

    def prefetch(self, video: int, frames: Ids) -> None:
        """Ask the system to read the features at these label frames ahead of time."""
        if self._values is None:
            span = _span(frames, self._stored[video])
            self._reader.prefetch(np.array([self._records[video]]), self._array.name, *span)

    def _read(self, video: int, frames: Ids) -> Tensor:
        stored: Any = np.empty((len(frames), self.width), stored_dtype(self._array.dtype))
        self._reader.window(self._records[video], self._array.name, *_span(frames, self._stored[video]), out=stored)
        if self._array.dtype == "bf16":
            stored = stored.view(np.int16)
        values = torch.from_numpy(stored).view(STORED[self._array.dtype])
        finite(values[None], torch.tensor([video]), lambda i: f"{self._array.name} of {self.names[i]!r}")
        return values

    def _checked(self, video: int, truth: GroundTruth) -> Ids:
        name, every = self.names[video], self._stored[video]
        if self.stride % every:
            raise BadInput(
                f"{name!r} was stored with one row per {every} frames, so one in {self.stride} frames cannot be had.",
                f"Give a --stride that {every} divides: {math.ceil(self.stride / every) * every}.",
            )
        if self.every % every:
            raise BadInput(
                f"{name!r} was stored with one row per {every} frames: steps of {self.stride} frames begin in "
                f"{self.stride // every} places, not in {self.stride // self.every}.",
                f"Give --phases {self.stride // every}, or a divisor of it.",
            )
        ids, classes = truth.ids(name), len(truth.class_names)
        covered = self._reader.length(self._records[video], self._array.name) * every
        if abs(covered - len(ids)) >= every + max(_SLACK[0], _SLACK[1] * len(ids)):
            raise BadInput(
                f"{name!r} has labels for {len(ids)} frames and features for {covered} (one row per {every} frames).",
                "Labels and features must be of one video at one rate; import them again, or leave the video out.",
            )
        outside = ids[(ids < 0) | (ids >= classes)]
        if len(outside):
            raise BadInput(
                f"{name!r} holds the class id {int(outside[0])}; the class list has ids 0 to {classes - 1}.",
                "Import again with the mapping.txt that the labels were made with.",
            )
        return ids[:covered]


def _span(frames: Ids, every: int) -> tuple[int, int, int]:
    """Start, stop and step of the rows, one per `every` label frames, that lie at evenly spaced `frames`."""
    step = int(frames[1] - frames[0]) // every if len(frames) > 1 else 1
    return int(frames[0]) // every, int(frames[-1]) // every + 1, step


def stored_stride(reader: StoreReader, names: Sequence[str]) -> int:
    """The smallest stride at which all of these videos can be read: that of the stored rows."""
    records = reader.locate([Key("video", name) for name in names])
    return math.lcm(*{row_stride(reader, int(record)) for record in records})


def row_stride(reader: StoreReader, record: int) -> int:
    """Label frames per stored row: row i is of frame i times this.

    Raises:
        BadInput: windows that leave out the first and last frames of a video, so that rows and frames do not match.
    """
    windows: Any = reader.recipe.fields.get("windows") or {}
    if windows.get("border") == "drop" and windows["frames"] > 1:
        raise BadInput(
            f"The features of {reader.root} are of whole windows of {windows['frames']} frames only, so the first and "
            "last frames of a video have none.",
            "Extract with --border repeat (and --window 21, --stride 1 as published features are made).",
        )
    return int(cast("int", reader.metadata(record).get("stride") or windows.get("stride") or 1))
