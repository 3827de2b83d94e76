"""Archives of features: folders of npy, npz, safetensors and pt files, one of those alone, or an HDF5 file."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np

from vfc.cache_schema.values.dtypes import decode
from vfc.cache_schema.values.errors import BadInput, MissingExtra, RecordRejected, unknown_name

from .sources import Array, Item, Source, reading

HDF5: Final = (".h5", ".hdf5", ".hdf", ".he5")
FILES: Final = (".npy", ".npz", ".safetensors", ".pt", ".pth")

_NUMPY: Final[Mapping[str, str]] = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "|i1",
    "U8": "|u1",
    "BOOL": "|b1",
}


def files(folder: Path, dataset: str) -> Source:
    """One file per video, called by its path below the folder without the suffix.

    `dataset` names the array of files that hold several.

    Raises:
        BadInput: no such file.
    """
    found = [p for p in sorted(folder.rglob("*")) if p.suffix in FILES and not _hidden(p.relative_to(folder))]
    if not found:
        raise BadInput(
            f"{folder} holds no {', '.join(FILES)} file and is no MS-TCN folder (features/, groundTruth/).",
            "Give the folder with one feature file per video, an HDF5 file, or the folder of an export.",
        )
    items = tuple(
        Item(path.relative_to(folder).with_suffix("").as_posix(), path, partial(_only, path, dataset)) for path in found
    )
    return Source("files", items)


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _only(path: Path, dataset: str) -> Array:
    """The one array of a file, or the one that is named."""
    held = arrays_in(path)
    if dataset and list(held) != [""]:
        if dataset not in held:
            problem = unknown_name(f"array in {path}", dataset, held)
            raise RecordRejected(problem.problem, problem.remedy)
        return held[dataset]()
    if len(held) != 1:
        raise RecordRejected(
            f"{path} holds {len(held)} arrays: {', '.join(sorted(held)[:8])}.", "Say which: --dataset NAME."
        )
    return next(iter(held.values()))()


def archive(path: Path) -> Source:
    """One file with an array per video, called by the names in it.

    Raises:
        BadInput: it cannot be read, or holds none.
    """
    try:
        held = arrays_in(path)
    except RecordRejected as error:
        raise BadInput(error.problem, error.remedy) from None
    if not held:
        raise BadInput(f"{path} holds no arrays.", "Give an archive with one array per video.")
    items = [Item(name or path.stem, path, load) for name, load in held.items()]
    return Source(path.suffix.lstrip("."), tuple(items))


def arrays_in(path: Path) -> dict[str, Callable[[], Array]]:
    """What a file holds: by name (empty in npy, and in a pt that is one tensor) how to read it.

    Raises:
        RecordRejected: it cannot be read.
    """
    held: dict[str, Callable[[], Array]] = {}

    def listed() -> Array:
        if path.suffix == ".npy":
            held[""] = partial(np.load, path, mmap_mode="r", allow_pickle=False)
        elif path.suffix == ".npz":
            if not zipfile.is_zipfile(path):
                raise ValueError("it was cut short, or is no npz file")
            zipped = np.load(path, allow_pickle=False)
            held.update({name: partial(zipped.__getitem__, name) for name in zipped.files})
        elif path.suffix == ".safetensors":
            held.update({n: partial(_float_of, dtype, values) for n, (dtype, values) in tensors_in(path).items()})
        else:
            held.update(read_torch(path))
        return np.empty(0)

    reading(path, listed)
    return {name: partial(reading, path, load) for name, load in held.items()}


def tensors_in(path: Path) -> dict[str, tuple[str, Array]]:
    """The tensors of a safetensors file, mapped: by name their safetensors dtype and values; bf16 as its bits.

    Raises:
        ValueError: it is none, or was cut short.
    """
    data = np.memmap(path, np.uint8, "r")
    length = int.from_bytes(data[:8].tobytes(), "little")
    if len(data) < 8 or length > len(data) - 8:
        raise ValueError("it was cut short, or is no safetensors file")
    header: dict[str, Any] = json.loads(data[8 : 8 + length].tobytes())
    found = {}
    for name, about in header.items():
        if name == "__metadata__":
            continue
        start, stop = about["data_offsets"]
        dtype = np.dtype(_NUMPY[about["dtype"]])
        if (
            stop > len(data) - 8 - length
            or stop - start != int(np.prod(about["shape"], dtype=np.int64)) * dtype.itemsize
        ):
            raise ValueError(f"tensor {name!r} is cut short")
        piece = data[8 + length + start : 8 + length + stop]
        found[name] = about["dtype"], piece.view(dtype).reshape(about["shape"])
    return found


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

    held = torch.load(path, map_location="cpu", weights_only=True)
    tensors = held if isinstance(held, dict) else {"": held}
    found: dict[str, Callable[[], Array]] = {}
    for name, one in tensors.items():
        if isinstance(one, torch.Tensor):
            found[str(name)] = partial(plain, one)
    if not found:
        raise ValueError(f"it holds no tensor but a {type(held).__name__}")
    return found


def hdf5(path: Path, dataset: str) -> Source:
    """An HDF5 archive: one data set per video, or one array with an index of names beside it.

    Data sets are called by their path; where all of them have one last name (`<video>/features`), by what stands
    before it. `dataset` chooses among several last names. An index is a data set of N strings; the array beside it has
    N rows, or is laid end to end with a data set of N lengths or N + 1 offsets.

    Raises:
        BadInput: no HDF5 file, or several arrays that could be meant.
    """
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise BadInput(f"{path} is no HDF5 file: {error}.", "Fetch it again.") from None
    held: dict[str, Any] = {}

    def visit(name: str, found: Any) -> None:
        if isinstance(found, h5py.Dataset) and found.shape is not None:
            held[name] = found

    file.visititems(visit)
    indexed = _indexed(path, held, dataset)
    if indexed is not None:
        return Source("hdf5 array", tuple(indexed))
    numeric = {name: found for name, found in held.items() if found.dtype.kind == "f" and found.ndim}
    named = _one_per_video(path, sorted(numeric), dataset)
    items = [Item(each, path, partial(reading, path, partial(_whole, numeric[at]))) for at, each in named.items()]
    return Source("hdf5", tuple(items))


def _one_per_video(path: Path, numeric: Sequence[str], dataset: str) -> dict[str, str]:
    """Data set -> name of the video, for those that are meant."""
    heads: dict[str, list[str]] = {}
    for name in numeric:
        heads.setdefault(name.rpartition("/")[2], []).append(name)
    if dataset and dataset not in heads:
        raise unknown_name(f"data set in {path}", dataset, heads)
    if not numeric:
        raise BadInput(f"{path} holds no floating-point data set.", "Give an archive with one data set per video.")
    if not dataset and len(heads) > 1 and len({len(each) for each in heads.values()}) == 1 < len(min(heads.values())):
        raise BadInput(
            f"Every video in {path} has {len(heads)} data sets: {', '.join(sorted(heads)[:8])}.",
            "Say which: --dataset NAME.",
        )
    last = dataset or (next(iter(heads)) if len(heads) == 1 and len(numeric) > 1 else "")
    if not last:
        return {name: name for name in numeric}
    return {name: name.rpartition("/")[0] or name for name in heads[last]}


def _whole(found: Any) -> Array:
    return np.asarray(found[()])


def _rows(found: Any, start: int, stop: int | None) -> Array:
    return np.asarray(found[start] if stop is None else found[start:stop])


def _indexed(path: Path, held: Mapping[str, Any], dataset: str) -> Iterator[Item] | None:
    """The items of an archive that is one array and an index of names; None if it is not."""
    texts = {n: d for n, d in held.items() if d.ndim == 1 and d.dtype.kind in "OS" and len(d)}
    arrays = {n: d for n, d in held.items() if d.dtype.kind == "f" and d.ndim}
    if dataset:
        arrays = {name: found for name, found in arrays.items() if name.rpartition("/")[2] == dataset}
    counts = {n: d[()] for n, d in held.items() if d.ndim == 1 and d.dtype.kind in "iu"}
    fitting = []
    for index, texts_found in texts.items():
        for name, found in arrays.items():
            ways = _spans(len(texts_found), len(found), counts)
            if ways:
                fitting.append((index, name, ways))
    if not fitting:
        return None
    if len(fitting) > 1:
        named = ", ".join(f"{name} by {index}" for index, name, _ in fitting)
        raise BadInput(f"{path} can be read in several ways: {named}.", "Say which array: --dataset NAME.")
    index, name, ways = fitting[0]
    if len(ways) > 1:
        raise BadInput(
            f"{path} can be read in several ways: {' or '.join(sorted(ways.values()))} may say how many rows of {name} "
            f"each of {index} has.",
            "Leave one of them out of the file.",
        )
    (spans,) = ways
    names = [each.decode() if isinstance(each, bytes) else str(each) for each in held[index][()]]
    return (
        Item(each, path, partial(reading, path, partial(_rows, held[name], start, stop)))
        for each, (start, stop) in zip(names, spans, strict=True)
    )


def _spans(names: int, rows: int, counts: Mapping[str, Array]) -> dict[tuple[tuple[int, int | None], ...], str]:
    """Which rows belong to each name: one each, or by offsets or lengths among the whole-number data sets.

    Every way that fits, and the data set that says so.
    """
    if names == rows:
        return {tuple((i, None) for i in range(names)): ""}
    ways: dict[tuple[tuple[int, int | None], ...], str] = {}
    for name, values in counts.items():
        ends = values if len(values) == names + 1 else np.concatenate([[0], np.cumsum(values, dtype=np.int64)])
        if len(ends) == names + 1 and ends[0] == 0 and ends[-1] == rows and (np.diff(ends.astype(np.int64)) >= 0).all():
            ways.setdefault(tuple((int(a), int(b)) for a, b in pairwise(ends)), name)
    return ways
