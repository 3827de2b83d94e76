"""Stores made from a store: convert (another dtype), materialize (pooled, projected, another dtype)."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy.typing as npt

from vfc.cache_schema import catalog
from vfc.cache_schema.annotations import copy_annotations
from vfc.cache_schema.parts.part import Part
from vfc.cache_schema.parts.zarr_format import METADATA
from vfc.cache_schema.reader import StoreReader, open_store
from vfc.cache_schema.reduction.projection import Projection, load_projection, publish_projection
from vfc.cache_schema.reduction.reduce import Reduction, reduce_record, reduced_spec
from vfc.cache_schema.root import read_axes, read_root, require_free
from vfc.cache_schema.values.dtypes import StoredArray, decode, stored_arrays
from vfc.cache_schema.values.errors import BadInput, Damaged, RecordRejected, unknown_name
from vfc.cache_schema.values.progress import Progress
from vfc.cache_schema.values.recipe import Recipe
from vfc.cache_schema.values.record import FEATURE_DTYPES, ArraySpec, Dtype, Json, Record
from vfc.cache_schema.values.report import Report
from vfc.cache_schema.writer import StoreWriter

from .circumstances import as_text
from .fitting import ProjectionFit
from .stored import StoredPart, StoredRecord, live_rows

_SOURCE = "parent_crc32c"
"""Metadata of a derived record: the checksums of what it was made from, so that a replaced parent shows."""


@dataclass(frozen=True)
class Derivation(Report):
    """What `convert` or `materialize` did.

    `present` records were there already; `explained` is the share that each array's projection keeps; `rejected` are
    the records that could not be made, with the reason; `orphans` counts those whose parent record no longer exists.
    """

    path: str
    parent: str
    added: int
    replaced: int
    present: int
    parts: int
    kinds: Mapping[str, tuple[ArraySpec, ...]]
    explained: Mapping[str, float]
    rejected: tuple[tuple[str, str], ...]
    orphans: int


@dataclass(frozen=True)
class _Plan:
    """What is read of every kind, what it becomes, and how."""

    reads: Mapping[str, tuple[ArraySpec, ...]]
    becomes: Mapping[str, tuple[ArraySpec, ...]]
    reduction: Reduction
    function: str
    arrays: Sequence[str]

    @classmethod
    def of(
        cls,
        reads: Mapping[str, tuple[ArraySpec, ...]],
        chosen: Set[str],
        reduction: Reduction,
        function: str,
        arrays: Sequence[str],
    ) -> _Plan:
        """The `chosen` arrays are reduced, the others kept."""
        becomes = {
            kind: tuple(reduced_spec(spec, reduction) if spec.name in chosen else spec for spec in specs)
            for kind, specs in reads.items()
        }
        return cls(reads, becomes, reduction, function, arrays)


def convert(root: Path, out: Path, dtype: Dtype, progress: Progress, *, arrays: Sequence[str] = ()) -> Derivation:
    """A new store with features in another dtype; its recipe names the parent's, the function and the dtype.

    `arrays` are those to convert, all features if none is named; the others are kept as they are. Run again, it adds
    what is new in the parent.

    Raises:
        UnknownName: no such array.
        BadInput: int8 for an array with fewer than 32 rows per record, by name.
        RecipeMismatch: `out` holds something else.
        Damaged: bytes of the parent are not what was committed.
        Refused, ReadOnlyTarget: the target is full or takes no writes.
    """
    reader = open_store(root)
    plan = _Plan.of(reader.kinds, _chosen(reader, arrays), Reduction(dtype=dtype), "convert", arrays)
    return _derive(reader, out, plan, progress)


def materialize(
    root: Path,
    reduction: Reduction,
    progress: Progress,
    *,
    name: str = "",
    out: Path | None = None,
    arrays: Sequence[str] = (),
    fitted_in: Path | None = None,
) -> Derivation:
    """A store of smaller arrays, under `derived/<name>/` of the parent or at `out`; one part per part of the parent.

    It holds the named feature arrays (all if none is named) and the side arrays of their kinds. Run again, it adds
    what is new in the parent and replaces what was replaced there; a projection stays the one that was fitted first.
    Arrays that are compared with class texts get one basis; a pca is fitted on training videos where a split is known,
    and subtracts no mean unless asked (`Reduction.project_fit`, `project_mean`).
    Annotations are those of the parent, unless they were changed in the derived store.

    With `fitted_in`, another derived store, no projection is fitted: its projections and its recipe's account of them
    are taken over, so that records of new videos go with the records there.

    Raises:
        UnknownName: no such array.
        BadInput: an array that cannot be pooled, projected or kept as asked, by name; neither or both of name and out.
        RecipeMismatch: the target was made with other parameters.
        Damaged: bytes of the parent are not what was committed.
        Refused, ReadOnlyTarget: the target is full or takes no writes.
    """
    if bool(name) == (out is not None):
        raise BadInput("materialize needs either a name or an --out.", "Give --name pooled, or --out FOLDER.")
    if out is None and not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
        raise BadInput(f"{name!r} cannot name a derived store.", "Use letters, digits, '.', '_' and '-'.")
    reader = open_store(root)
    chosen = _chosen(reader, arrays)
    reads = {
        kind: tuple(spec for spec in specs if spec.name in chosen or spec.dtype not in FEATURE_DTYPES)
        for kind, specs in reader.kinds.items()
        if any(spec.name in chosen for spec in specs)
    }
    plan = _Plan.of(reads, chosen, reduction, "materialize", arrays)
    return _derive(reader, out or root / "derived" / name, plan, progress, fitted_in)


def _chosen(reader: StoreReader, arrays: Sequence[str]) -> set[str]:
    """The chosen feature arrays."""
    features = {spec.name for specs in reader.kinds.values() for spec in specs if spec.dtype in FEATURE_DTYPES}
    for array in arrays:
        if array not in features:
            raise unknown_name("feature array in this store", array, features)
    return set(arrays) or features


def _derive(
    reader: StoreReader, target: Path, plan: _Plan, progress: Progress, fitted_in: Path | None = None
) -> Derivation:
    if target.resolve() == reader.root.resolve():
        raise BadInput(f"--out {target} is the store that is read.", "Give --out another folder.")
    fields: dict[str, Json] = {
        "parent": {"digest": reader.recipe.digest, "recipe": dict(reader.recipe.fields)},
        "function": plan.function,
        "parameters": {**plan.reduction.to_json(), "arrays": [*sorted(plan.arrays)] or "all"},
    }
    projections: dict[str, Projection] = {}
    if plan.reduction.project and fitted_in is not None:
        origin = read_root(fitted_in).fields
        fields |= {name: origin[name] for name in ("parameters", "projection")}
        _require_own(target, Recipe({name: value for name, value in fields.items() if name != "projection"}))
        projections = _copied_projections(fitted_in, target, plan)
    elif plan.reduction.project:
        fit = ProjectionFit.of(reader, target, plan.reduction, plan.reads)
        cast("dict[str, Json]", fields["parameters"]).update(fit.recipe())
        projections = fit.projections(reader, target, partial(_require_own, target, Recipe(fields)), progress)
        fields["projection"] = {name: projection.digest for name, projection in projections.items()}
    # Parts end where those of the parent end.
    writer = StoreWriter(
        target,
        Recipe(fields),
        worker=plan.function,
        part_bytes=1 << 62,
        part_seconds=float("inf"),
        circumstances={"source": as_text(reader.root.absolute())},
    )
    with writer:
        for kind, specs in plan.becomes.items():
            writer.declare(kind, specs)
        for axis, ids in read_axes(reader.root).items():
            for name, content in ids.items():
                writer.bind(axis, name, content)
        counts = _Counts()
        _fill(reader.root, writer, plan, projections, counts, progress)
    if target.parent.resolve() != (reader.root / "derived").resolve():
        for line in copy_annotations(reader.root, target):
            progress.say(line)
    derived = catalog.current(target)
    parents = catalog.current(reader.root).locate([derived.hashes[row].tobytes() for row in derived.live().tolist()])
    return Derivation(
        path=str(target),
        parent=str(reader.root),
        added=counts.added,
        replaced=counts.replaced,
        present=counts.present,
        parts=len(derived.parts),
        kinds=plan.becomes,
        explained={
            name: float(cast("float", projection.about["explained"])) for name, projection in projections.items()
        },
        rejected=tuple(counts.rejected),
        orphans=int((parents < 0).sum()),
    )


def _copied_projections(source: Path, target: Path, plan: _Plan) -> dict[str, Projection]:
    """The projections of another store, published in the target as well.

    Raises:
        Damaged: one is missing there.
    """
    projections = {}
    for name in sorted({spec.name for specs in plan.reads.values() for spec in specs if spec.dtype in FEATURE_DTYPES}):
        projection = load_projection(source, name)
        if projection is None:
            raise Damaged(f"The store {source} has no projection of {name!r}.", "Put the file back from a copy.")
        projections[name] = publish_projection(target, name, projection)
    return projections


@dataclass
class _Counts:
    added: int = 0
    replaced: int = 0
    present: int = 0
    rejected: list[tuple[str, str]] = dataclasses.field(default_factory=list)


def _fill(
    root: Path,
    writer: StoreWriter,
    plan: _Plan,
    projections: Mapping[str, Projection],
    counts: _Counts,
    progress: Progress,
) -> None:
    """Make what the target lacks, part by part of the parent."""
    parent, target = catalog.current(root), open_store(writer.root)
    progress.begin(plan.function, len(parent), "records")
    for info, rows in live_rows(parent):
        if info.kind not in plan.reads or not rows:
            continue
        specs = plan.reads[info.kind]
        stored = StoredPart(root / "parts" / info.name, stored_arrays(specs))
        todo = _todo(stored.part, rows, stored_arrays(specs), writer, target)
        stale = {stored.part.key(row) for row, _ in todo if stored.part.key(row) in writer}
        writer.delete(sorted(stale))
        counts.present += len(rows) - len(todo)
        progress.advance(len(rows) - len(todo))
        for row, made_from in todo:
            record = stored.record(row)
            try:
                arrays = reduce_record(_decoded(record, specs), specs, plan.reduction, projections)
                writer.add(Record(record.key, arrays, {**json.loads(record.metadata), _SOURCE: made_from}))
                counts.replaced += record.key in stale
                counts.added += record.key not in stale
            except RecordRejected as error:
                counts.rejected.append((record.key.name, error.problem))
            progress.advance()
        writer.commit()


def _todo(
    part: Part, rows: Sequence[int], arrays: Sequence[StoredArray], writer: StoreWriter, target: StoreReader
) -> list[tuple[int, dict[str, Json]]]:
    """The rows of a part that are not in the target, or are there as made from other bytes; with their checksums."""
    crcs = {array.name: part.crcs(array.name) for array in arrays}
    todo = []
    for row in rows:
        key = part.key(row)
        made_from: dict[str, Json] = {name: int(column[row]) for name, column in crcs.items()}
        if key not in writer or target.metadata(key).get(_SOURCE) != made_from:
            todo.append((row, made_from))
    return todo


def _decoded(record: StoredRecord, specs: Sequence[ArraySpec]) -> dict[str, npt.NDArray[Any]]:
    """Features as float32, side arrays as they are."""
    return {
        spec.name: decode(record.arrays[spec.name], spec.dtype, record.arrays.get(f"{spec.name}.scale"))
        for spec in specs
    }


def _require_own(target: Path, recipe: Recipe) -> None:
    """Refuse to publish a projection into a folder, or a store, that the derived records will not go into."""
    if not (target / METADATA).exists():
        require_free(target)
        return
    fields = {name: value for name, value in read_root(target).fields.items() if name != "projection"}
    Recipe(fields).require_equal(recipe, str(target))
