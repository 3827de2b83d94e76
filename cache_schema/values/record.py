"""Key, ArraySpec, Record: the three values that extraction hands to a store and a store hands back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal, TypeAlias, cast, get_args

import numpy as np
import numpy.typing as npt

from .errors import BadInput, unknown_name

Json: TypeAlias = "None | bool | int | float | str | list[Json] | dict[str, Json]"
Dtype = Literal["fp32", "fp16", "bf16", "int8", "float64", "int64", "int32", "uint8"]
"""Logical dtypes. The first four are ways to keep features; the rest are side arrays, kept as they are."""

FEATURE_DTYPES: Final = ("fp32", "fp16", "bf16", "int8")
KINDS: Final = ("video", "prompted", "text")

# Made once: json.dumps would make one per key.
_COMPACT: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


@dataclass(frozen=True, order=True)
class Key:
    """What a record is called within its store (DESIGN.md, section 4).

    `kind`: `video`, `prompted` (one video under one prompt) or `text`. `name`: path relative to the root of the
    collection, with forward slashes, or the filled-in text. `view`: crop, clip in time or augmented copy; 0 is the
    clean one. `prompt`: id of the template, empty for a kind without one.
    """

    kind: str
    name: str
    view: int = 0
    prompt: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise unknown_name("kind of record", self.kind, KINDS)
        if not self.name or self.view < 0:
            raise BadInput(
                f"A key needs a name and a view from 0 up; got name {self.name!r}, view {self.view}.",
                "Name videos by their path below the collection's root.",
            )

    def __str__(self) -> str:
        extras = [f"view {self.view}"] if self.view else []
        extras += [f"prompt {self.prompt}"] if self.prompt else []
        return f"{self.kind} {self.name!r}" + (f" ({', '.join(extras)})" if extras else "")

    def encode(self) -> bytes:
        """The byte string of this key, in digests and on disk."""
        return _COMPACT.encode([self.kind, self.name, self.view, self.prompt]).encode()

    @classmethod
    def decode(cls, data: bytes) -> Key:
        """The inverse of `encode`."""
        kind, name, view, prompt = json.loads(data)
        return cls(kind, name, view, prompt)

    def hash128(self) -> bytes:
        """16 bytes: the first half of SHA-256 of `encode()`; the catalog sorts by it, ranks divide by it."""
        return hashlib.sha256(self.encode()).digest()[:16]


@dataclass(frozen=True)
class ArraySpec:
    """What one named array of every record of a kind looks like.

    `shape` is the shape within one record; a leading None marks a ragged array (`[L, D]`, L varies). `layout` says
    how rows are ordered, in the words of DESIGN.md section 4 (`frame-major, cls first in frame`, `ragged grid`,
    `steps` ...). `dtype` is logical: bf16 is uint16 on disk, int8 has a float32 `<array>.scale` beside it.
    """

    name: str
    dtype: Dtype
    shape: tuple[int | None, ...]
    layout: str = ""

    def __post_init__(self) -> None:
        if self.dtype not in get_args(Dtype):
            raise unknown_name("dtype", self.dtype, get_args(Dtype))
        if any(size is None for size in self.shape[1:]) or any(size is not None and size < 1 for size in self.shape):
            raise BadInput(
                f"Array {self.name!r} has the shape {self.shape}; only its first axis may vary, and none may be empty.",
                "Give sizes of 1 or more, and None only in front.",
            )

    @property
    def ragged(self) -> bool:
        """Whether the number of rows differs from record to record."""
        return bool(self.shape) and self.shape[0] is None

    def to_json(self) -> dict[str, Json]:
        """As kept in the store's metadata."""
        return cast("dict[str, Json]", {**asdict(self), "shape": list(self.shape)})

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ArraySpec:
        """The inverse of `to_json`."""
        return cls(data["name"], data["dtype"], tuple(data["shape"]), data.get("layout", ""))


@dataclass(frozen=True)
class Record:
    """One key, its named arrays, a little metadata (JSON: frame indices, fps, size, what was repeated ...).

    Feature arrays are float32 or float16 values, or, for a bf16 spec, uint16 bit patterns already made
    on the device; side arrays have their own dtype.
    """

    key: Key
    arrays: Mapping[str, npt.NDArray[Any]]
    metadata: Mapping[str, Json] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, array in self.arrays.items():
            if not isinstance(array, np.ndarray):
                raise BadInput(
                    f"Array {name!r} of record {self.key.name!r} is a {type(array).__name__}, not a numpy array.",
                    "Move tensors to the CPU and call .numpy() first.",
                )
