"""The records of a list of videos, in the views that are in use, and the order of their frames."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from zlib import crc32

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vfc.cache_schema.reader import StoreReader
from vfc.cache_schema.values.errors import BadInput, MissingRecord
from vfc.cache_schema.values.layout import PATCH_MAJOR, Layout
from vfc.cache_schema.values.record import ArraySpec, Key
from vfc.heads.data.features import Features, Resident, Served, sizes
from vfc.heads.data.prefetch import Source

_RANGES = re.compile(r"\d+(-\d+)?(,\d+(-\d+)?)*")
AT_TEST = 1 << 40
"""Stands for the number of the pass where frames are shuffled for a test."""


class Shelf:
    """All records of `names` whose view is `in_use`, video by video.

    Raises:
        MissingRecord: a video without a record in any of these views.
        BadInput: values that are no numbers, by name.
    """

    def __init__(
        self,
        reader: StoreReader,
        names: Sequence[str],
        arrays: Mapping[str, ArraySpec],
        in_use: Callable[[int], bool],
        *,
        device: torch.device,
        pool_tokens: bool,
        resident: Resident,
    ) -> None:
        found = records(reader, names, in_use)
        self.keys = [key for name in names for key in found[name]]
        self.views = np.array([len(found[name]) for name in names], dtype=np.int64)
        self.first = self.views.cumsum() - self.views
        self.features = {
            role: Features(reader, self.keys, spec, device=device, pool_tokens=pool_tokens, resident=resident)
            for role, spec in arrays.items()
        }
        self.sources: dict[str, Source] = {role: Served(features) for role, features in self.features.items()}

    @property
    def placement(self) -> str:
        """Where the values rest, in words."""
        return ", ".join(f"{role} {source.placement}" for role, source in self.sources.items())

    def plan(self, rows: npt.NDArray[np.int64]) -> dict[str, Tensor]:
        """The same records of every role, for `ahead.stream`."""
        return {role: torch.from_numpy(rows) for role in self.sources}

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
        for role, features in self.features.items():
            if Layout.parse(features.spec.layout).order == PATCH_MAJOR or sizes(features.spec)[0] == 1:
                raise BadInput(
                    f"{features.spec.name} ({role}) has no axis of frames, so --shuffle-frames has nothing to shuffle.",
                    "Leave the flag out, or choose an array of frames with --array or --layer.",
                )
        return {sizes(features.spec)[0] for features in self.features.values()}


def records(reader: StoreReader, names: Sequence[str], in_use: Callable[[int], bool]) -> dict[str, list[Key]]:
    """Video -> its records whose view is in use.

    Raises:
        MissingRecord: a video without any.
    """
    found: dict[str, list[Key]] = {name: [] for name in names}
    for key in reader.keys("video"):
        if key.name in found and in_use(key.view):
            found[key.name].append(key)
    lost = [name for name, keys in found.items() if not keys]
    if lost:
        raise MissingRecord(
            f"{len(lost)} of {len(found)} videos have no record in the views asked for, {lost[0]!r} first.",
            "See the views of a store with `vfc store inspect`; choose with --train-views and --test-views.",
        )
    return found


def shuffled(clips: Mapping[str, Tensor], orders: Mapping[int, Tensor]) -> dict[str, Tensor]:
    """Clips `[B, T, ...]` with the frames of each in the order given for its length (`orders[T] [B, T]`)."""
    found = {}
    for role, values in clips.items():
        order = orders[values.shape[1]].to(values.device)
        found[role] = values[torch.arange(len(values), device=values.device)[:, None], order]
    return found


def training_views(reader: StoreReader, asked: str) -> Callable[[int], bool]:
    """Which views are drawn in training: `auto` leaves out crops and clips that are made for tests."""
    if asked == "auto":
        made = {
            view for view, meaning in _meanings(reader).items() if meaning & {"crop", "clip"} and "copy" not in meaning
        }
        return lambda view: view not in made
    return (lambda view: True) if asked == "all" else numbers(asked, "--train-views")


def test_views(reader: StoreReader, asked: str) -> Callable[[int], bool]:
    """Which views are tested: `all` leaves out augmented copies; `4x3` are 3 crops each of 4 clips in time.

    Raises:
        BadInput: no such clips and crops, or of two published pipelines.
    """
    if asked == "all":
        made = {view for view, meaning in _meanings(reader).items() if "copy" in meaning}
        return lambda view: view not in made
    if re.fullmatch(r"\d+x\d+", asked):
        clips, crops = map(int, asked.split("x"))
        found: dict[object, set[int]] = {}
        for view, about in _axis(reader).items():
            if "copy" not in about and (about.get("of"), about.get("crops")) == (clips, crops):
                found.setdefault(about.get("pipeline"), set()).add(view)
        if len(found) != 1:
            held = f"those of {' and '.join(map(str, found))}" if found else "none"
            raise BadInput(
                f"--test-views {asked}: of such views the store {reader.root} has {held}.",
                f"Extract them with --views test:{asked}, or give the numbers of the views.",
            )
        (chosen,) = found.values()
        return lambda view: view in chosen
    return numbers(asked, "--test-views")


def numbers(text: str, flag: str) -> Callable[[int], bool]:
    """Numbers and ranges of numbers, as in `0,401-404`.

    Raises:
        BadInput: anything else.
    """
    if not _RANGES.fullmatch(text):
        raise BadInput(f"{flag} {text!r} names no views.", f"Write numbers and ranges: {flag} 0,401-404; or all.")
    pairs = [piece.partition("-") for piece in text.split(",")]
    ranges = [range(int(first), int(last or first) + 1) for first, _, last in pairs]
    return lambda view: any(view in numbers for numbers in ranges)


def _meanings(reader: StoreReader) -> dict[int, set[str]]:
    """View -> the words that its meaning is told in."""
    return {view: set(about) for view, about in _axis(reader).items()}


def _axis(reader: StoreReader) -> dict[int, dict[str, object]]:
    return {int(view): dict(about) for view, about in reader.axes("view").items() if isinstance(about, dict)}
