"""The projections of `--project`: those that the store holds, or fitted on a few videos before the first record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch

from vfc.cache_schema.reader import open_store
from vfc.cache_schema.reduction.projection import Fitting, Projection, load_projection, publish_projection
from vfc.cache_schema.values.errors import BadInput, Damaged, RecordRejected
from vfc.cache_schema.values.progress import Progress
from vfc.extract.config import ExtractConfig

from .forward import forward, of_videos
from .prefetch import arriving
from .reduction import Shrinking
from .stage_timer import Clock
from .worklist import Work
from .writer_thread import Lost, Made


def with_projections(config: ExtractConfig, work: Work, progress: Progress, take_from: Path | None = None) -> Shrinking:
    """The shrinking of a run with its projections; the model is loaded, the store is there.

    Fits what is not published yet on the clean views of the first videos by hash, whoever's share they are, and
    publishes it; the one published first holds for all. Videos that cannot be read are passed over.

    Args:
        config: Settings of the run.
        work: All that is to do.
        progress: Who is told.
        take_from: A store whose projections are published here instead.

    Raises:
        BadInput: fewer rows than dimensions asked of a pca; the store has another projection than `take_from`.
        Damaged: a published projection is not what was published, or one that records went through is missing.
    """
    shrinking, rule = work.shrinking, work.shrinking.shrink.project
    if not rule:
        return shrinking
    # Looked for first: whoever writes a record has published its projections before.
    with open_store(config.out) as reader:
        held = {spec.name for kind in reader.kinds if reader.keys(kind) for spec in shrinking.made.get(kind, ())}
    if take_from is not None:
        for name in shrinking.features():
            _take(take_from, config.out, name)
    found = {name: load_projection(config.out, name) for name in shrinking.features()}
    missing = [name for name, there in found.items() if there is None]
    # A random one comes out the same.
    for name in sorted(held.intersection(missing)) if rule.startswith("pca") else ():
        raise Damaged(
            f"{config.out} holds records that went through a projection of {name!r}, and its file "
            f"projection/{name}.safetensors is missing.",
            "Copy projection/ from the store that they came from, or give another --out: a new fit would not fit them.",
        )
    if missing:
        fittings = _fitted(config, work, missing, progress)
        found |= {name: publish_projection(config.out, name, fitting.finished()) for name, fitting in fittings.items()}
    projections: dict[str, Projection] = {name: there for name, there in found.items() if there is not None}
    for name, there in projections.items():
        _require(there, rule, shrinking.features()[name], name, config.out)
        progress.say(_told(name, there))
    return replace(shrinking, projections=projections)


def _take(source: Path, out: Path, name: str) -> None:
    projection = load_projection(source, name)
    if projection is not None and publish_projection(out, name, projection).digest != projection.digest:
        raise BadInput(
            f"The projection of {name!r} in {out} is not the one in {source}.",
            "Remove that store, or give another --out.",
        )


def _fitted(config: ExtractConfig, work: Work, names: Sequence[str], progress: Progress) -> Mapping[str, Fitting]:
    shrinking, widths = work.shrinking, work.shrinking.features()
    shrink = shrinking.shrink
    fittings = {name: Fitting(shrink.project, widths[name], seed=shrink.seed) for name in names}
    encode = of_videos(work.backbone)
    progress.say(f"Fitting {shrink.project} of {', '.join(names)} on {len(work.sample)} videos.")
    progress.begin("fit", len(work.sample), "videos")
    with arriving(config, work.backbone, work.sample, Clock()) as items:
        for item in items:
            progress.advance()
            if isinstance(item, Lost):
                continue
            with torch.inference_mode():
                made = forward(encode, [item])
            for one in made:
                # What cannot be pooled will be rejected when its turn comes, too.
                with suppress(RecordRejected):
                    if isinstance(one, Made):
                        _add(fittings, shrinking.pooled(one.record))
    return fittings


def _add(fittings: Mapping[str, Fitting], arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    for name, fitting in fittings.items():
        if name in arrays:
            fitting.add(arrays[name])


def _require(there: Projection, rule: str, width: int, name: str, out: Path) -> None:
    if there.basis.shape[0] != width or there.about["rule"] != rule:
        raise BadInput(
            f"The projection of {name!r} in {out} is {there.about['rule']} of {there.basis.shape[0]} dimensions; "
            f"{rule} of {width} was asked.",
            "Give another --out, or the --project of that store.",
        )


def _told(name: str, there: Projection) -> str:
    explained = float(str(there.about["explained"]))
    return f"{name}: {there.about['rule']} of {there.basis.shape[0]} keeps {100 * explained:.4g} % of what is there."
