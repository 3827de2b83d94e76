"""Sources of features made by others: named items that load one at a time, so that no archive is in memory whole."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from vfc.cache_schema.annotations import Annotation
from vfc.cache_schema.values.errors import BadInput, RecordRejected, VfcError

Array: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True)
class Item:
    """One video of a source.

    `name` and `view` are those of its record. `path` is its file. `features` reads it as stored there: `[T, D]`, `[D]`
    or `[T, N, D]`; `labels` reads its class ids, int64 `[T]`; `streams` reads further arrays of the same steps, as
    `features` does; `seconds` reads the time of every step, float64 `[T]`. All raise RecordRejected, which fails this
    item only.
    """

    name: str
    path: Path
    features: Callable[[], Array]
    labels: Callable[[], npt.NDArray[np.int64]] | None = None
    streams: Mapping[str, Callable[[], Array]] = field(default_factory=dict)
    seconds: Callable[[], Array] | None = None
    view: int = 0


@dataclass(frozen=True)
class Source:
    """What is to be imported, in order of name.

    `classes` are the names of the class ids, in order, empty without labels. `splits`: by the name that its
    annotations will have, the rows of each published split. `lost`: videos of which some part is there and that can
    still make no record, with the reason. `streams`: names of the arrays of `Item.features` and `Item.streams`, where
    there are several. `notes`: how the source was read, as lines for the user.
    """

    format: str
    items: tuple[Item, ...]
    classes: tuple[str, ...] = ()
    splits: Mapping[str, Sequence[Annotation]] = field(default_factory=dict)
    lost: Sequence[tuple[str, Path, str]] = ()
    streams: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def is_timed(self) -> bool:
        """Whether the items say the times of their steps."""
        return any(item.seconds for item in self.items)

    def __post_init__(self) -> None:
        items = tuple(sorted(self.items, key=lambda item: (item.name, item.view)))
        for one, other in pairwise(items):
            if (one.name, one.view) == (other.name, other.view):
                raise BadInput(
                    f"Two sources would make the record {one.name!r}: {one.path} and {other.path}.",
                    "Take one of them out of the folder.",
                )
        object.__setattr__(self, "items", items)


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn any error of a library over a broken file into RecordRejected, so that only that file fails."""
    try:
        yield
    except (VfcError, MemoryError):
        raise
    except Exception as error:
        reason = str(error).split("\n", 1)[0].rstrip(".") or type(error).__name__
        raise RecordRejected(f"{path} cannot be read: {reason}.", "Fetch the file again, then import again.") from error


def reading(path: Path, load: Callable[[], Array]) -> Array:
    """What `load` gives, as an array.

    Raises:
        RecordRejected: it cannot be read.
    """
    with readable(path):
        return np.asanyarray(load())


def require_features(values: Array, where: str) -> None:
    """Refuse what cannot be features.

    Raises:
        RecordRejected: no floating-point numbers, no axis or too many, or nothing in them.
    """
    if values.dtype.kind != "f" or not 1 <= values.ndim <= 3:
        raise RecordRejected(
            f"{where} holds {values.dtype} of shape {list(values.shape)}; features are floating-point, "
            "[T, D], [D] or [T, N, D].",
            "Give --dataset where the file holds several arrays.",
        )
    if not values.size:
        raise RecordRejected(f"{where} is empty: {list(values.shape)}.", "Fetch the file again, then import again.")


def turned(values: Array, time: str, where: str) -> Array:
    """Features with time as the first axis, in a dtype that a store accepts: float16 as it is, other floats as float32.

    Raises:
        RecordRejected: they cannot be features; see `require_features`.
    """
    require_features(values, where)
    features = time_first(values, time)
    return features if values.dtype.newbyteorder("=") == np.float16 else _float32(features)


def time_first(values: Array, time: str) -> Array:
    """A view with the axis of time, `first` or `last`, in front."""
    return np.moveaxis(values, -1, 0) if time == "last" and values.ndim > 1 else values


def _float32(values: Array) -> Array:
    """A float32 copy in C order, made in blocks: a transposed file is then read once, not once per row."""
    converted = np.empty(values.shape, np.float32)
    block = max(1, (1 << 20) // max(1, values[:1].nbytes))
    with np.errstate(over="ignore"):
        for start in range(0, len(values), block):
            converted[start : start + block] = values[start : start + block]
    return converted


def content_digest(values: Array) -> str:
    """SHA-256 of dtype, shape and bytes of an array as its source holds it, in hex."""
    hasher = hashlib.sha256(f"{values.dtype.str}{values.shape}".encode())
    for rows in _blocks(values):
        hasher.update(np.ascontiguousarray(rows).data)
    return hasher.hexdigest()


def _blocks(values: Array) -> Iterator[Array]:
    step = max(1, (8 << 20) // max(1, values[:1].nbytes)) if values.ndim else 1
    for start in range(0, len(values), step):
        yield values[start : start + step]
