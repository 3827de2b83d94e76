"""Folders of video_features (v-iashin): `<video>_{rgb,flow,fps,timestamps_ms}.npy`, `<video>_clip.npy` and its like.

One video is several files. A name may itself end in such a word, so only the last one is taken off.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from vfc.cache_schema.values.errors import BadInput, RecordRejected

from .sources import Array, Item, Source, reading

_TIMES: Final = "timestamps_ms"
_SIDES: Final = ("fps", _TIMES)
_FEATURES: Final = ("rgb", "flow", "clip", "i3d", "r21d", "s3d", "vggish", "resnet", "timm", "raft", "pwc")


def split_suffix(name: str) -> tuple[str, str]:
    """A name without the last word of video_features, and that word; empty where there is none."""
    front, _, word = name.rpartition("_")
    if name.endswith(f"_{_TIMES}"):
        front, word = name.removesuffix(f"_{_TIMES}"), _TIMES
    last = front.rpartition("/")[2]
    return (front, word) if word in (*_FEATURES, *_SIDES) and last else (name, "")


def video_features(folder: Path, paths: Sequence[Path], dataset: str) -> Source | None:
    """The videos of such a folder; None where the files are called otherwise.

    Two streams, `rgb` and `flow`, are two arrays of a record; `dataset` takes one of them, or `rgb+flow` as one array.

    Raises:
        BadInput: several kinds of features of the same videos, or a `dataset` that is not among them.
    """
    named = {path: split_suffix(path.relative_to(folder).with_suffix("").as_posix()) for path in paths}
    words = {word for _, word in named.values()}
    if _TIMES not in words and "" in words:
        return None
    of_video: dict[str, dict[str, Path]] = {}
    reason = "It is none of the files of video_features."
    lost = [(name, path, reason) for path, (name, word) in named.items() if not word]
    for path, (name, word) in named.items():
        if word:
            of_video.setdefault(name, {})[word] = path
    kinds = sorted(words & set(_FEATURES), key=_FEATURES.index)
    streams = _chosen(folder, kinds, dataset)
    items = []
    for name, files in of_video.items():
        missing = [kind for kind in streams if kind not in files]
        if missing:
            lost.append((name, next(iter(files.values())), f"There is no {name}_{missing[0]} file."))
            continue
        items.append(_item(name, files, streams, joined="+" in dataset))
    two = len(streams) > 1 and "+" not in dataset
    return Source("video_features", tuple(items), lost=lost, streams=tuple(streams) if two else ())


def _chosen(folder: Path, kinds: Sequence[str], dataset: str) -> list[str]:
    chosen = dataset.split("+") if dataset else list(kinds)
    if not set(chosen) <= set(kinds) or (not dataset and len(kinds) > 1 and set(kinds) != {"rgb", "flow"}):
        allowed = [*kinds, *(["rgb+flow"] if "flow" in kinds else [])]
        asked = f", not {dataset}" if dataset else ""
        raise BadInput(
            f"{folder} holds {', '.join(kinds) or 'no'} features of video_features{asked}.",
            f"Say which: --dataset {' or --dataset '.join(allowed)}.",
        )
    return chosen


def _item(name: str, files: Mapping[str, Path], streams: Sequence[str], *, joined: bool) -> Item:
    first = files[streams[0]]
    seconds = partial(_seconds, files[_TIMES]) if _TIMES in files else None
    if joined:
        return Item(name, first, partial(_joined, [files[stream] for stream in streams]), seconds=seconds)
    others = {stream: partial(_load, files[stream]) for stream in streams[1:]}
    return Item(name, first, partial(_load, first), streams=others, seconds=seconds)


def _load(path: Path) -> Array:
    return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))


def _joined(paths: Sequence[Path]) -> Array:
    arrays = [reading(path, partial(_load, path)) for path in paths]
    if len({len(values) for values in arrays if values.ndim == 2}) != 1:
        shapes = " and ".join(str(list(values.shape)) for values in arrays)
        raise RecordRejected(f"{paths[0].name} and {paths[-1].name} have the shapes {shapes}.", "Extract it again.")
    return np.concatenate(arrays, axis=1)


def _seconds(path: Path) -> Array:
    return reading(path, partial(_load, path)).astype(np.float64) / 1000
