"""MATLAB files: a cell of `[T, D]` matrices with a cell of names beside it, or one matrix per video.

Files of version 7.3 are HDF5 behind a block of 512 bytes: cells are references, characters are uint16, and MATLAB's
`[T, D]` arrives as `[D, T]`. Files of version 5 are read by scipy. The first bytes say which; the suffix does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeAlias

import h5py
import numpy as np

from vfc.cache_schema.values.errors import BadInput, MissingExtra, unknown_name

from .sources import Array, Item, Source, reading

_HDF5: Final = b"MATLAB 7.3 MAT-file"
_VERSION_5: Final = b"MATLAB 5.0 MAT-file"

_Load: TypeAlias = "Callable[[], Array]"


@dataclass
class _Variables:
    """What a file holds, by name: cells of texts, cells of matrices, and matrices."""

    texts: dict[str, list[str]] = field(default_factory=dict)
    cells: dict[str, list[_Load]] = field(default_factory=dict)
    matrices: dict[str, _Load] = field(default_factory=dict)


def matlab(path: Path, dataset: str) -> Source:
    """The videos of a MATLAB file. `dataset` names the variable, where there are several cells of matrices.

    Raises:
        BadInput: no MATLAB file, no matrices, or several cells.
        MissingExtra: scipy is not installed, for a file of version 5.
        UnknownName: there is no variable of the name `dataset`.
    """
    with open(path, "rb") as file:
        head = file.read(128)
    if head.startswith(_HDF5):
        variables = _of_hdf5(path)
    elif head.startswith(_VERSION_5):
        variables = _of_version_5(path)
    else:
        raise BadInput(f"{path} is no MATLAB file: it begins {head[:20]!r}.", "Fetch it again.")
    if dataset and dataset not in variables.cells and dataset not in variables.matrices:
        raise unknown_name(f"variable in {path}", dataset, [*variables.cells, *variables.matrices])
    cells = [name for name in variables.cells if dataset in ("", name)]
    if len(cells) > 1:
        raise BadInput(f"{path} holds several cells of matrices: {', '.join(cells)}.", "Say which: --dataset NAME.")
    if cells:
        loads = variables.cells[cells[0]]
        names = _names(variables, cells[0], len(loads))
        pairs = list(zip(names, loads, strict=True))
    else:
        pairs = [(name, load) for name, load in variables.matrices.items() if dataset in ("", name)]
    if not pairs:
        raise BadInput(f"{path} holds no matrix of floating-point numbers.", "Save a cell of [T, D] matrices.")
    return Source("matlab", tuple(Item(name, path, partial(reading, path, load)) for name, load in pairs))


def _names(variables: _Variables, cell: str, count: int) -> Sequence[str]:
    """The names of the elements of a cell: the one cell of texts that is as long, else their places from 1."""
    fitting = [texts for texts in variables.texts.values() if len(texts) == count == len(set(texts))]
    return fitting[0] if len(fitting) == 1 else [f"{cell}_{place:0{len(str(count))}}" for place in range(1, count + 1)]


# --- version 7.3 -----------------------------------------------------------------------------------------------------


def _of_hdf5(path: Path) -> _Variables:
    file, variables = h5py.File(path, "r"), _Variables()
    for name, node in _datasets(file, ""):
        if node.dtype == h5py.ref_dtype:
            elements = [file[reference] for reference in node[()].T.ravel()]
            if elements and all(_class(each) == "char" for each in elements):
                variables.texts[name] = ["".join(map(chr, each[()].T.ravel())) for each in elements]
            elif elements and all(_is_matrix(each) for each in elements):
                variables.cells[name] = [partial(_turned, each) for each in elements]
        elif _is_matrix(node) and min(node.shape) > 1:
            variables.matrices[name] = partial(_turned, node)
    return variables


def _datasets(group: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """Every variable and field of a structure; not what MATLAB keeps for itself (`#refs#`, `#subsystem#`)."""
    for name, node in group.items():
        if name.startswith("#"):
            continue
        if isinstance(node, h5py.Group):
            yield from _datasets(node, f"{prefix}{name}/")
        else:
            yield prefix + name, node


def _class(node: Any) -> str:
    kind = node.attrs.get("MATLAB_class", b"")
    return kind.decode() if isinstance(kind, bytes) else str(kind)


def _is_matrix(node: Any) -> bool:
    """Whether it holds numbers; an empty array is a placeholder whose values are its shape."""
    is_numbers = isinstance(node, h5py.Dataset) and node.dtype.kind == "f" and node.ndim > 1
    return is_numbers and not node.attrs.get("MATLAB_empty")


def _turned(node: Any) -> Array:
    return np.asarray(node[()]).T


# --- version 5 -------------------------------------------------------------------------------------------------------


def _of_version_5(path: Path) -> _Variables:
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise MissingExtra(f"Reading {path} needs scipy.", "pip install 'vfc[matlab]'") from error
    try:
        content = loadmat(path, squeeze_me=False)
    except Exception as error:  # scipy raises many kinds of errors for a damaged file
        raise BadInput(f"{path} cannot be read: {error}.", "Fetch it again.") from None
    variables = _Variables()
    for name, values in content.items():
        if name.startswith("__") or not isinstance(values, np.ndarray):
            continue
        if values.dtype.names:  # an array of structures: every field is a cell
            for part in values.dtype.names:
                _add(variables, f"{name}/{part}", values[part])
        else:
            _add(variables, name, values)
    return variables


def _add(variables: _Variables, name: str, values: Array) -> None:
    elements = list(values.T.ravel()) if values.dtype == object else []
    if elements and all(each.dtype.kind == "U" for each in elements):
        variables.texts[name] = ["".join(each.ravel()) for each in elements]
    elif elements and all(each.dtype.kind == "f" and each.ndim > 1 for each in elements):
        variables.cells[name] = [partial(np.asarray, each) for each in elements]
    elif values.dtype.kind == "f" and values.ndim > 1 and min(values.shape) > 1:
        variables.matrices[name] = partial(np.asarray, values)
