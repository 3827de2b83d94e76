"""The records of a list of videos, in the views that are in use, and the order of their frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from zlib import crc32

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vfc.cache_schema.values.devices import on_device
from vfc.cache_schema.values.errors import BadInput
from vfc.cache_schema.values.layout import PATCH_MAJOR, Layout
from vfc.heads.data.dataset import InUse, VideoDataset
from vfc.heads.data.features import Features
from vfc.heads.data.placement import Resident
from vfc.heads.data.store_view import StoreView

AT_TEST = 1 << 40
"""Pass number used as the shuffle seed at test time."""


class ClipDataset(VideoDataset):
    """All records of `names` whose view is `in_use`, in the arrays of `store`.

    Raises:
        MissingRecord: a video without a record in any of these views.
        BadInput: values that are no numbers, by name.
    """

    def __init__(
        self, store: StoreView, names: Sequence[str], in_use: InUse, *, device: torch.device, resident: Resident
    ) -> None:
        super().__init__(store.reader, names, in_use)
        for role, serving in store.serving.items():
            self.sources[role] = Features(store.reader, self.keys, serving, device=device, resident=resident)

    def index(self, rows: npt.NDArray[np.int64]) -> dict[str, Tensor]:
        """The same records of every role, for `prefetch.stream`."""
        return dict.fromkeys(self.sources, torch.from_numpy(rows))

    def orders(self, rows: npt.NDArray[np.int64], seed: int, turn: int) -> dict[int, Tensor]:
        """By number of frames, an order of them for each record: drawn from (seed, name, view, turn)."""
        drawn: dict[int, list[npt.NDArray[np.int64]]] = {t: [] for t in self.lengths()}
        for row in rows:
            key = self.keys[row]
            for frames, orders in drawn.items():
                generator = np.random.default_rng([seed, crc32(key.name.encode()), key.view, turn])
                orders.append(generator.permutation(frames))
        return {frames: torch.from_numpy(np.stack(orders)) for frames, orders in drawn.items()}

    def lengths(self) -> set[int]:
        """The numbers of frames of the roles.

        Raises:
            BadInput: an array whose rows are no frames, which therefore have no order.
        """
        for role, features in self.sources.items():
            if Layout.parse(features.spec.layout).order == PATCH_MAJOR or features.shape[0] == 1:
                raise BadInput(
                    f"{features.spec.name} ({role}) has no axis of frames, so --shuffle-frames has nothing to shuffle.",
                    "Leave the flag out, or choose an array of frames with --array or --layer.",
                )
        return {features.shape[0] for features in self.sources.values()}


def shuffled(clips: Mapping[str, Tensor], orders: Mapping[int, Tensor]) -> dict[str, Tensor]:
    """Clips `[B, T, ...]` with the frames of each in the order given for its length (`orders[T] [B, T]`)."""
    reordered = {}
    for role, values in clips.items():
        order = on_device(orders[values.shape[1]], values.device)
        reordered[role] = values[torch.arange(len(values), device=values.device)[:, None], order]
    return reordered
