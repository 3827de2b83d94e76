"""Archives of features: folders of npy, npz, safetensors and pt files, or one of those alone."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from vfc.cache_schema.parts.zarr_format import unpack_typed
from vfc.cache_schema.values.dtypes import decode
from vfc.cache_schema.values.errors import BadInput, MissingExtra, RecordRejected, unknown_name

from .sources import Array, Item, Source, readable, reading
from .video_features import video_features

FILES: Final = (".npy", ".npz", ".safetensors", ".pt", ".pth")
PICKLES: Final = (".pkl", ".pickle")
MATLAB: Final = (".mat",)

_CROP: Final = re.compile(r"(?P<name>.+)__(?P<crop>\d)")


def files(folder: Path, dataset: str) -> Source:
    """One file per video, called by its path below the folder without the suffix; the files of video_features.

    `dataset` names the array of files that hold several.

    Raises:
        BadInput: no such file.
    """
    visible = [path for path in sorted(folder.rglob("*")) if not _hidden(path.relative_to(folder))]
    paths = [path for path in visible if path.suffix in FILES]
    pickles = [path for path in visible if path.suffix in PICKLES]
    if pickles and not paths:
        raise refuse_pickle(pickles[0])
    lost = [(path.relative_to(folder).with_suffix("").as_posix(), path, _no_pickle(path)) for path in pickles]
    if not paths:
        suffixes = ", ".join(sorted({path.suffix or "no suffix" for path in visible if path.is_file()})[:8])
        raise BadInput(
            f"{folder} holds no {', '.join(FILES)} file and is no MS-TCN folder (features/, groundTruth/); "
            f"its files are: {suffixes or 'none'}.",
            "Give the folder with one feature file per video, the HDF5 or MATLAB file itself, or an export of vfc.",
        )
    by_video = video_features(folder, paths, dataset)
    if by_video is not None:
        return replace(by_video, lost=[*by_video.lost, *lost])
    items = tuple(
        Item(path.relative_to(folder).with_suffix("").as_posix(), path, partial(_only, path, dataset)) for path in paths
    )
    return Source("files", _crops_as_views(items), lost=lost)


def _crops_as_views(items: Sequence[Item]) -> tuple[Item, ...]:
    """Files `<video>__0.npy`, `<video>__1.npy` ... as views of one video, where all are called so and have as many."""
    matches = [_CROP.fullmatch(item.name) for item in items]
    crops: dict[str, list[int]] = {}
    for match in matches:
        if match is None:
            return tuple(items)
        crops.setdefault(match["name"], []).append(int(match["crop"]))
    counts = {tuple(sorted(each)) for each in crops.values()}
    if len(counts) != 1 or len(count := next(iter(counts))) < 2 or count != tuple(range(len(count))):
        return tuple(items)
    named = zip(items, matches, strict=True)
    return tuple(replace(item, name=match["name"], view=int(match["crop"])) for item, match in named if match)


def refuse_pickle(path: Path) -> BadInput:
    """The error for a file that runs code when it is loaded."""
    return BadInput(
        f"{path} is a pickle, which can run code when it is loaded; it is not loaded here.",
        "If you trust its origin, convert it once where it can do no harm: "
        "python -c \"import pickle, numpy; numpy.savez('features.npz', **pickle.load(open('FILE.pkl', 'rb')))\"",
    )


def _no_pickle(path: Path) -> str:
    """Why a file of objects is not loaded, and how its arrays can be had."""
    how = "numpy.load(FILE, allow_pickle=True).item()" if path.suffix == ".npy" else "pickle.load(open(FILE, 'rb'))"
    return (
        f"{path} holds pickled Python objects, which can run code when they are loaded; they are not loaded here. "
        f"If you trust their origin, convert them once: numpy.savez('features.npz', **{how})."
    )


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _only(path: Path, dataset: str) -> Array:
    """The one array of a file, or the one that is named."""
    arrays = arrays_in(path)
    if dataset and list(arrays) != [""]:
        if dataset not in arrays:
            problem = unknown_name(f"array in {path}", dataset, arrays)
            raise RecordRejected(problem.problem, problem.remedy)
        return arrays[dataset]()
    if len(arrays) != 1:
        raise RecordRejected(
            f"{path} holds {len(arrays)} arrays: {', '.join(sorted(arrays)[:8])}.", "Say which: --dataset NAME."
        )
    return next(iter(arrays.values()))()


def archive(path: Path) -> Source:
    """One file with an array per video, called by the names in it.

    Raises:
        BadInput: it cannot be read, or holds none.
    """
    try:
        arrays = arrays_in(path)
    except RecordRejected as error:
        raise BadInput(error.problem, error.remedy) from None
    if not arrays:
        raise BadInput(f"{path} holds no arrays.", "Give an archive with one array per video.")
    items = [Item(name or path.stem, path, load) for name, load in arrays.items()]
    return Source(path.suffix.lstrip("."), tuple(items))


def arrays_in(path: Path) -> dict[str, Callable[[], Array]]:
    """What a file holds: by name (empty in npy, and in a pt that is one tensor) how to read it.

    Raises:
        RecordRejected: it cannot be read.
    """
    with readable(path):
        loaders = _loaders(path)
    return {name: partial(reading, path, load) for name, load in loaders.items()}


def _loaders(path: Path) -> dict[str, Callable[[], Array]]:
    if path.suffix == ".npy":
        return {"": partial(_npy, path)}
    if path.suffix == ".npz":
        if not zipfile.is_zipfile(path):
            raise ValueError("it was cut short, or is no npz file")
        zipped = np.load(path, allow_pickle=False)
        return {name: partial(zipped.__getitem__, name) for name in zipped.files}
    if path.suffix == ".safetensors":
        return {name: partial(_float_of, dtype, values) for name, (dtype, values) in tensors_in(path).items()}
    return read_torch(path)


def _npy(path: Path) -> Array:
    with open(path, "rb") as file:
        version = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        if header(file)[2].hasobject:
            raise RecordRejected(_no_pickle(path), "Import the npz afterwards.")
    return np.asanyarray(np.load(path, mmap_mode="r", allow_pickle=False))


def tensors_in(path: Path) -> dict[str, tuple[str, Array]]:
    """The tensors of a safetensors file, mapped; see `unpack_typed`. Raises ValueError."""
    return unpack_typed(np.memmap(path, np.uint8, "r") if path.stat().st_size else b"")


def _float_of(dtype: str, values: Array) -> Array:
    return decode(np.asarray(values), "bf16") if dtype == "BF16" else values


def read_torch(path: Path) -> dict[str, Callable[[], Array]]:
    """The tensors of a pt file, weights only: one, called "", or those of a dict. The one place that needs torch.

    Raises:
        MissingExtra: torch is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise MissingExtra(f"Reading {path} needs torch.", "pip install torch") from error

    def plain(tensor: Any) -> Array:
        tensor = tensor.detach().contiguous()
        if tensor.dtype == torch.bfloat16:
            return decode(tensor.view(torch.int16).numpy().view(np.uint16), "bf16")
        return np.asarray(tensor.numpy())

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other protocols of pickle
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise RecordRejected(
            f"{path} cannot be read: it holds other things than tensors, which can run code when they are "
            "loaded, or is no file of torch. If you trust its origin, load it once and save the tensor alone: "
            "torch.save(tensor, FILE).",
            "Import that file afterwards.",
        ) from None
    tensors = content if isinstance(content, dict) else {"": content}
    loaders: dict[str, Callable[[], Array]] = {}
    for name, one in tensors.items():
        if isinstance(one, torch.Tensor):
            loaders[str(name)] = partial(plain, one)
    if not loaders:
        raise ValueError(f"it holds no tensor but a {type(content).__name__}")
    return loaders
