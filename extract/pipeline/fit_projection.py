"""The projections of `--project`: those that the store holds, or fitted on a few videos before the first record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch

from vfc.cache_schema.reader import open_store
from vfc.cache_schema.reduction.projection import Fitting, Projection, load_projection, publish_projection
from vfc.cache_schema.values.errors import BadInput, Damaged, RecordRejected
from vfc.cache_schema.values.progress import Progress
from vfc.extract.config import ExtractConfig

from .forward import forward, of_videos
from .prefetch import prefetch
from .reduction import Reducer
from .stage_timer import StageTimer
from .worklist import WorkList
from .writer_thread import FailedRecord, FinishedRecord


def with_projections(
    config: ExtractConfig, work: WorkList, progress: Progress, take_from: Path | None = None
) -> Reducer:
    """The reducer of a run with its projections; the model is loaded, the store is there.

    Fits what is not published yet on the clean views of the first videos by hash, of all ranks, and publishes it; the
    one published first holds for all. Videos that cannot be read are left out.

    Args:
        config: Settings of the run.
        work: All that is to do.
        progress: Where to report.
        take_from: A store whose projections are published here instead.

    Raises:
        BadInput: fewer rows than dimensions asked of a pca; the store has another projection than `take_from`.
        Damaged: a published projection is not what was published, or one that records went through is missing.
    """
    reducer, rule = work.reducer, work.reducer.reduction.project
    if not rule:
        return reducer
    widths, bases = reducer.features(), reducer.bases()
    # Before the projections are looked up: they are published before the first record is written.
    with open_store(config.out) as reader:
        stored = {spec.name for kind in reader.kinds if reader.keys(kind) for spec in reducer.specs.get(kind, ())}
    if take_from is not None:
        for name in widths:
            _take(take_from, config.out, name)
    projections = {name: projection for name in widths if (projection := load_projection(config.out, name))}
    missing = [name for name in widths if name not in projections]
    # A random one can be made again.
    for name in sorted(stored.intersection(missing)) if rule.startswith("pca") else ():
        raise Damaged(
            f"{config.out} holds records that went through a projection of {name!r}, and its file "
            f"projection/{name}.safetensors is missing.",
            "Copy projection/ from the store that they came from, or give another --out: a new fit would not fit them.",
        )
    unfitted = [first for first, names in bases.items() if not projections.keys() & names]
    fitted = {name: fit.finished() for name, fit in _fitted(config, work, unfitted, progress).items()}
    for first, names in bases.items():
        basis = next((projections[name] for name in names if name in projections), None) or fitted[first]
        for name in names:
            if name not in projections:
                projections[name] = publish_projection(config.out, name, basis)
            _require(projections[name], rule, widths[name], name, config.out)
        explained = 100 * float(str(basis.about["explained"]))
        mean = " less the mean" if basis.mean.any() else ""
        progress.say(f"{', '.join(names)}: {rule} of {widths[first]}{mean} keeps {explained:.4g} % of the energy.")
    return replace(reducer, projections=projections)


def _take(source: Path, out: Path, name: str) -> None:
    projection = load_projection(source, name)
    if projection is not None and publish_projection(out, name, projection).digest != projection.digest:
        raise BadInput(
            f"The projection of {name!r} in {out} is not the one in {source}.",
            "Remove the store, or give another --out.",
        )


def _fitted(config: ExtractConfig, work: WorkList, names: Sequence[str], progress: Progress) -> Mapping[str, Fitting]:
    reducer, reduction = work.reducer, work.reducer.reduction
    widths = reducer.features()
    mean = reducer.mean or reducer.fitted_on == "0.1"
    fittings = {name: Fitting(reduction.project, widths[name], seed=reduction.seed, mean=mean) for name in names}
    if not names:
        return fittings
    encode = of_videos(work.backbone)
    if not work.sample:
        raise BadInput(
            f"--project {reduction.project} is fitted on training videos, and no video has the split train.",
            "Give a list with splits, or --project-fit all.",
        )
    which = "training videos" if reducer.fitted_on == "train" else "videos"
    progress.say(f"Fitting {reduction.project} of {', '.join(names)} on {len(work.sample)} {which}.")
    progress.begin("fit", len(work.sample), "videos")
    with prefetch(config, work.backbone, work.sample, StageTimer()) as items:
        for item in items:
            progress.advance()
            if isinstance(item, FailedRecord):
                continue
            with torch.inference_mode():
                records = forward(encode, [item])
            for record in records:
                # What cannot be pooled will be rejected when its turn comes, too.
                with suppress(RecordRejected):
                    if isinstance(record, FinishedRecord):
                        arrays = reducer.pooled(record.record)
                        for name in fittings.keys() & arrays.keys():
                            fittings[name].add(arrays[name])
    return fittings


def _require(projection: Projection, rule: str, width: int, name: str, out: Path) -> None:
    if projection.basis.shape[0] != width or projection.about["rule"] != rule:
        raise BadInput(
            f"The projection of {name!r} in {out} is {projection.about['rule']} of {projection.basis.shape[0]} "
            f"dimensions; {rule} of {width} was asked.",
            "Give another --out, or the --project of that store.",
        )
