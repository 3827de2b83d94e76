"""A fixed projection onto fewer dimensions: fitted once, published once, applied to every record of a store.

It lies in `projection/<array>.safetensors` of the store whose records went through it, so that videos added later,
by whatever worker, go through the same one.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from vfc.cache_schema.parts.atomic_files import create_file
from vfc.cache_schema.values.errors import BadInput, Damaged
from vfc.cache_schema.values.record import ArraySpec, Json

Array: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Projection:
    """`values -> (values - mean) @ basis`, with orthonormal columns.

    `mean` is float32 `[D]` (zeros for a random projection), `basis` float32 `[D, d]`. `about` says how it was made:
    rule, sample, and `explained`, the share that is kept of the sample's variance (pca) or squared length (random).
    """

    mean: npt.NDArray[np.float32]
    basis: npt.NDArray[np.float32]
    about: Mapping[str, Json]

    @property
    def digest(self) -> str:
        """SHA-256 over the shapes and values, in hex."""
        hasher = hashlib.sha256(json.dumps(self.basis.shape).encode())
        for part in (self.mean, self.basis):
            hasher.update(np.ascontiguousarray(part, "<f4").tobytes())
        return hasher.hexdigest()

    def same_as(self, other: Projection) -> bool:
        """Whether both give the same numbers but for rounding, as two machines fit one."""
        if self.basis.shape != other.basis.shape:
            return False
        far = float(np.abs(self.mean).max())
        return np.allclose(self.basis, other.basis, rtol=0, atol=1e-4) and np.allclose(
            self.mean, other.mean, rtol=0, atol=1e-4 * far
        )

    def apply(self, values: Array) -> Array:
        """float32 `[..., D]` to float32 `[..., d]`."""
        return np.asarray((values - self.mean) @ self.basis, np.float32)


def parse_projection(text: str) -> tuple[str, int]:
    """`pca:256` -> ("pca", 256). Raises BadInput: neither `pca:<d>` nor `random:<d>`."""
    match = re.fullmatch(r"(pca|random):([1-9]\d*)", text)
    if not match:
        raise BadInput(
            f"--project {text!r} is no projection.", "Give pca:<dimensions> or random:<dimensions>, as in pca:256."
        )
    return match[1], int(match[2])


class Fitting:
    """A projection in the making: the rows of one record after the other, then the fit.

    `pca`: the leading eigenvectors of the covariance of all rows, or without `mean` of their second moments about
    zero, the sign of each such that its largest entry is positive. `random`: the Q of a seeded Gaussian matrix; the
    rows serve to measure what it keeps.
    """

    def __init__(self, text: str, width: int, *, seed: int = 0, mean: bool = True) -> None:
        """Begin `pca:<d>` or `random:<d>` of rows `[width]`; `seed` is of the random projection.

        `mean`: whether a pca subtracts the mean of the rows; without, cosines between vectors keep their meaning.

        Raises:
            BadInput: neither of the two.
        """
        self._rule, self._wanted = parse_projection(text)
        self._text, self._width, self._seed, self._mean = text, width, seed, mean
        self._rows = 0
        if self._rule == "random":
            self._basis = _random_basis(width, self._wanted, seed)
            self._kept_energy = self._energy = 0.0
        else:
            self._shift, self._total = np.zeros(width), np.zeros(width)
            self._squares = np.zeros((width, width))

    def add(self, values: Array) -> None:
        """Take in the rows of one record, float32 `[..., D]`."""
        rows = values.reshape(-1, self._width)
        if self._rule == "random":
            self._energy += float(np.square(rows, dtype=np.float64).sum())
            self._kept_energy += float(np.square(rows @ self._basis, dtype=np.float64).sum())
        else:
            rows = rows.astype(np.float64)
            if not self._rows and len(rows):
                # Moments are taken about a typical point: a few channels are far from zero and would eat the digits.
                self._shift = rows.mean(axis=0)
            rows -= self._shift
            self._total += rows.sum(axis=0)
            self._squares += rows.T @ rows
        self._rows += len(rows)

    def finished(self) -> Projection:
        """The projection. Raises BadInput: fewer rows than dimensions asked of a pca."""
        about: dict[str, Json] = {"rule": self._text, "rows": self._rows}
        if self._rule == "random":
            about |= {"seed": self._seed, "explained": self._kept_energy / self._energy if self._energy > 0 else 1.0}
            return Projection(np.zeros(self._width, np.float32), self._basis, about)
        dimensions = self._wanted
        if self._rows < dimensions:
            raise BadInput(
                f"A {self._text} cannot be fitted on {self._rows} rows.",
                "Ask for fewer dimensions, or extract more first.",
            )
        offset = self._total / self._rows
        centre = (self._shift + offset) * self._mean
        moments = self._squares / self._rows - np.outer(offset, offset)
        if not self._mean:
            about["mean"] = "none"
            moments += np.outer(self._shift + offset, self._shift + offset)
        variances, vectors = np.linalg.eigh(moments)
        basis = vectors[:, ::-1][:, :dimensions]
        basis = basis * np.where(basis[np.abs(basis).argmax(axis=0), np.arange(dimensions)] < 0, -1, 1)
        explained, total = variances[::-1][:dimensions].clip(0).sum(), variances.clip(0).sum()
        about["explained"] = float(explained / total) if total > 0 else 1.0
        return Projection(centre.astype(np.float32), basis.astype(np.float32), about)


def fit_projection(text: str, sample: Iterable[Array], width: int, *, seed: int = 0, mean: bool = True) -> Projection:
    """Fit on the rows of a sample of records `[..., D]`, one record in memory at a time; see `Fitting`."""
    fitting = Fitting(text, width, seed=seed, mean=mean)
    for values in sample:
        fitting.add(values)
    return fitting.finished()


def _random_basis(width: int, dimensions: int, seed: int) -> npt.NDArray[np.float32]:
    gaussian = np.random.default_rng(seed).standard_normal((width, dimensions))
    basis, triangle = np.linalg.qr(gaussian)
    # Without this the signs are LAPACK's choice; with it the basis is uniform over all of them.
    return (basis * np.where(np.diag(triangle) < 0, -1, 1)).astype(np.float32)


def shared_space(kinds: Mapping[str, Sequence[ArraySpec]]) -> frozenset[str]:
    """The arrays that are compared with class texts by a cosine: `frames` and `embedding` of their width, if any."""
    widths = {spec.name: spec.shape[-1] for spec in kinds.get("text", ())}
    compared = {spec.name: spec.shape[-1] for spec in kinds.get("video", ()) if spec.name in ("frames", "embedding")}
    names = {name for name, width in compared.items() if width == widths.get("embedding", -1)}
    return frozenset(names | {"embedding"}) if names else frozenset()


def projection_path(store_root: Path, array: str) -> Path:
    """Where a store keeps the projection of an array."""
    return store_root / "projection" / f"{array}.safetensors"


def load_projection(store_root: Path, array: str) -> Projection | None:
    """The published projection of an array, or None. Raises Damaged: the file is not what was published."""
    path = projection_path(store_root, array)
    if not path.is_file():
        return None
    data = path.read_bytes()
    try:
        parts = load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        about, check = (header["__metadata__"][name] for name in ("about", "sha256"))
        projection = Projection(parts["mean"], parts["basis"], json.loads(about))
    except (SafetensorError, ValueError, KeyError) as error:
        raise _damaged(path) from error
    if projection.about.get("digest") != projection.digest or hashlib.sha256(about.encode()).hexdigest() != check:
        raise _damaged(path)
    return projection


def publish_projection(store_root: Path, array: str, projection: Projection) -> Projection:
    """Publish a projection unless one is there; the one that is there afterwards, which may be another worker's.

    Raises:
        Refused, ReadOnlyTarget: see `atomic_files.writing`.
    """
    about = json.dumps({**projection.about, "digest": projection.digest}, sort_keys=True)
    metadata = {"about": about, "sha256": hashlib.sha256(about.encode()).hexdigest()}
    data = save({"mean": projection.mean, "basis": projection.basis}, metadata)
    create_file(projection_path(store_root, array), data)
    published = load_projection(store_root, array)
    assert published is not None
    return published


def same_projection(store_root: Path, one: ArraySpec, other: ArraySpec) -> bool:
    """Whether vectors of two arrays of a store, which one model put into one space, still share a space.

    They do where neither array was projected, or both by one basis: in this store, and in those it is derived from.
    """
    return one.shape[-1] == other.shape[-1] and _projections(store_root, one.name) == _projections(
        store_root, other.name
    )


def _projections(store_root: Path, array: str) -> list[str]:
    """Digests of the projections of an array, from this store up to the one with the first records."""
    store, digests = store_root.resolve(), list[str]()
    while (store / "zarr.json").is_file():
        projection = load_projection(store, array)
        digests += [projection.digest] if projection else []
        store = store.parent.parent if store.parent.name == "derived" else store / "none"
    return digests


def _damaged(path: Path) -> Damaged:
    return Damaged(
        f"The projection {path} is not what was published.",
        "Restore it from a copy: another one would not fit the records that went through it.",
    )
