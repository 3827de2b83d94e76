"""The projections of a derived store: fitted on records of its parent, or those that it holds already."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt

from vfc.cache_schema.annotations import load
from vfc.cache_schema.parts.zarr_format import METADATA
from vfc.cache_schema.reader import StoreReader
from vfc.cache_schema.reduction.projection import (
    Projection,
    fit_projection,
    load_projection,
    publish_projection,
    shared_space,
)
from vfc.cache_schema.reduction.reduce import Reduction, reduce_record, reduced_spec, stored_fit
from vfc.cache_schema.root import read_root
from vfc.cache_schema.values.errors import BadInput, RecordRejected, UnknownName
from vfc.cache_schema.values.progress import Progress
from vfc.cache_schema.values.record import FEATURE_DTYPES, ArraySpec, Json, Key

Specs = Mapping[str, Sequence[ArraySpec]]


@dataclass(frozen=True)
class ProjectionFit:
    """How the projections of one derived store are fitted.

    `bases`: the arrays of each basis. `fitted_on`: training videos, all videos, or "0.1", the rule of version 0.1: on
    all videos, less the mean, each array by itself. `training`: names of the training videos.
    """

    reduction: Reduction
    reads: Specs
    bases: tuple[tuple[str, ...], ...]
    fitted_on: Literal["train", "all", "0.1"]
    training: frozenset[str]

    @classmethod
    def of(cls, reader: StoreReader, target: Path, reduction: Reduction, reads: Specs) -> ProjectionFit:
        """As a store at `target` says that it was fitted, else by the rule of today.

        Raises:
            BadInput: training videos are asked for, and none is known.
        """
        names = [spec.name for specs in reads.values() for spec in specs if spec.dtype in FEATURE_DTYPES]
        fitted_on = reduction.project_fit or (stored_fit(_parameters(target)) if (target / METADATA).exists() else None)
        training = _training(reader)
        if fitted_on is None:
            fitted_on = "train" if training else "all"
        elif fitted_on == "train" and not training:
            raise BadInput(
                f"--project {reduction.project} is fitted on training videos, and no video of {reader.root} has the "
                "split train.",
                "Give annotations with splits, or --project-fit all.",
            )
        shared = frozenset[str]() if fitted_on == "0.1" else shared_space(reads)
        bases = [tuple(sorted(shared))] if shared else []
        bases += [(name,) for name in dict.fromkeys(names) if name not in shared]
        return cls(reduction, reads, tuple(bases), fitted_on, training)

    @property
    def mean(self) -> bool:
        """Whether a pca subtracts the mean."""
        return self.reduction.project_mean or self.fitted_on == "0.1"

    def recipe(self) -> dict[str, Json]:
        """Its share of the recipe; nothing under the rule of version 0.1."""
        if self.fitted_on == "0.1":
            return {}
        fields: dict[str, Json] = {}
        if self.reduction.project.startswith("pca"):
            fields = {"mean": "subtracted" if self.mean else "none", "fitted_on": self.fitted_on}
        shared: list[Json] = [list(names) for names in self.bases if len(names) > 1]
        return {**fields, "one_basis": shared} if shared else fields

    def projections(
        self, reader: StoreReader, target: Path, require_own: Callable[[], None], progress: Progress
    ) -> dict[str, Projection]:
        """The projection of every array: the published one, or fitted and published now; `require_own` comes first.

        Raises:
            BadInput: fewer rows than dimensions asked of a pca; another projection is published.
        """
        projections: dict[str, Projection] = {}
        for names in self.bases:
            projections |= self._of(names, reader, target, require_own, progress)
        return projections

    def _of(
        self,
        names: tuple[str, ...],
        reader: StoreReader,
        target: Path,
        require_own: Callable[[], None],
        progress: Progress,
    ) -> dict[str, Projection]:
        rule = self.reduction.project
        pooling = dataclasses.replace(self.reduction, project="", dtype=None)
        # Texts are fitted on only where nothing of a video shares their space.
        kind, spec = next(
            (kind, spec)
            for kind in sorted(self.reads, key=lambda kind: kind == "text")
            for spec in self.reads[kind]
            if spec.name in names
        )
        width = cast("int", reduced_spec(dataclasses.replace(spec, dtype="fp32"), pooling).shape[-1])
        published = (load_projection(target, name) for name in names)
        projection = next(filter(None, published), None)
        if projection is None:
            require_own()
            of_training = f" of {len(self.training)} training videos" if self.fitted_on == "train" else ""
            progress.say(f"Fitting {rule} of {', '.join(names)}{of_training}.")
            sample = self._sample(reader, kind, spec, pooling)
            projection = fit_projection(rule, sample, width, seed=self.reduction.seed, mean=self.mean)
        has_mean = rule.startswith("pca") and projection.about.get("mean") != "none"
        if (projection.basis.shape[0], projection.about["rule"], has_mean) != (
            width,
            rule,
            self.mean and rule.startswith("pca"),
        ):
            raise BadInput(
                f"The projection of {names[0]!r} in {target} is {projection.about['rule']} of "
                f"{projection.basis.shape[0]} dimensions{' less the mean' if has_mean else ''}; {rule} of {width} was "
                "asked.",
                "Give another --name or --out, or the --project of that store.",
            )
        return {name: publish_projection(target, name, projection) for name in names}

    def _sample(
        self, reader: StoreReader, kind: str, spec: ArraySpec, pooling: Reduction
    ) -> Iterator[npt.NDArray[Any]]:
        """The array, pooled, of the first names by SHA-256: the same for every worker that looks."""
        first: dict[str, Key] = {}
        for key in reader.keys(kind):
            if kind == "text" or self.fitted_on != "train" or key.name in self.training:
                first.setdefault(key.name, key)
        needed = [each for each in self.reads[kind] if each.name == spec.name or each.dtype not in FEATURE_DTYPES]
        by_hash = sorted(first, key=lambda name: hashlib.sha256(name.encode()).digest())
        for name in by_hash[: self.reduction.fit_records]:
            arrays = {each.name: reader.read(first[name], each.name) for each in needed}
            try:
                yield np.asarray(reduce_record(arrays, needed, pooling)[spec.name])
            except RecordRejected:
                continue  # it will be rejected when its turn comes, too


def _parameters(target: Path) -> Mapping[str, Any]:
    """What a store says that it was derived with; nothing where it is no derived store."""
    parameters = read_root(target).fields.get("parameters")
    return parameters if isinstance(parameters, dict) else {}


def _training(reader: StoreReader) -> frozenset[str]:
    """The training videos that have a record."""
    try:
        rows = load(reader.root).rows
    except UnknownName:
        return frozenset()
    return frozenset(row.name for row in rows if row.split == "train") & {key.name for key in reader.keys(None)}
