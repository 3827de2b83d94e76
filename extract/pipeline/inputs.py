"""Everything a run reads or checks before any model is opened, so that a wrong path costs no download."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path

from vfc.cache_schema.annotations import Annotations, source
from vfc.cache_schema.protocol import EpisodeList
from vfc.cache_schema.reduction.reduce import Reduction
from vfc.cache_schema.values.errors import BadInput, ReadOnlyTarget
from vfc.cache_schema.values.progress import Progress
from vfc.extract.backbones.i3d.flow import METHODS
from vfc.extract.backbones.i3d.flow import source as flow_source
from vfc.extract.collection import Collection, collect, selected
from vfc.extract.collection.presets import find, preset_collection
from vfc.extract.collection.video import is_video
from vfc.extract.config import ExtractConfig
from vfc.extract.decode.pictures import ASSUMED_FPS
from vfc.extract.decode.sampling import fixed_count
from vfc.extract.frames.views import View, views
from vfc.extract.prompting.class_texts import ClassText, read_class_texts
from vfc.extract.prompting.prompts import prompt_templates


@dataclass(frozen=True)
class Inputs:
    """The videos with their labels, the views of each, the texts for the text tower, the reduction of arrays."""

    collection: Collection
    annotations: Annotations
    views: tuple[View, ...]
    texts: tuple[ClassText, ...]
    reduction: Reduction

    @property
    def root(self) -> Path:
        """The folder that names start from."""
        video = self.collection.videos[0]
        return video.path.absolute().parents[source(video.name).count("/")]


def read_inputs(config: ExtractConfig, progress: Progress) -> Inputs:
    """Check the options and read the files that need no model.

    Raises:
        VfcError: a path that is not there, an option that cannot be; see the functions this calls.
        ReadOnlyTarget: `config.out` cannot be made or written.
    """
    fixed = fixed_count(config.frames)
    view_list = views(config.views, seed=config.seed, flip=config.flip, counted=fixed, pipeline=config.pipeline)
    reduction = Reduction(config.pool, "", config.project, config.fit_records, config.seed)
    prompts = prompt_templates(config.prompt, config.prompt_text)
    _check_out(config.out)
    if config.flow is not None:
        _check_flow(config, config.flow, view_list)
    if config.episodes is not None and any("options" in prompt.fields for prompt in prompts):
        EpisodeList.read(config.episodes)
    collection = _collection(config)
    annotations = collection.annotations()
    texts = read_class_texts(config.texts, config.template, annotations.labels()) if config.texts is not None else ()
    _report(collection, config.fps, progress)
    return Inputs(collection, annotations, view_list, texts, reduction)


def _collection(config: ExtractConfig) -> Collection:
    if config.dataset is not None:
        preset = find(config.dataset)
        collection = preset_collection(preset, config.root, config.dataset_list, config.class_list)
        return selected(collection, config.include, config.exclude, config.classes)
    return collect(
        config.videos,
        root=config.root,
        include=config.include,
        exclude=config.exclude,
        classes=config.classes,
        label=config.label,
        class_list=config.class_list,
        split_folders=config.split_folders,
    )


def _check_out(out: Path) -> None:
    """The store, or else the nearest folder above it that exists, must take writes; a file is refused later."""
    folder = out.absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if folder.is_dir() and not os.access(folder, os.W_OK | os.X_OK):
        read_only = hasattr(os, "statvfs") and os.statvfs(folder).f_flag & os.ST_RDONLY
        raise ReadOnlyTarget(
            f"Cannot write {out}: {folder}: {os.strerror(errno.EROFS if read_only else errno.EACCES)}.",
            "Give an --out on a writable disk, or change the rights of that folder.",
        )
    if folder != out.absolute() and not folder.is_dir():
        raise BadInput(f"Cannot make the store {out}: {folder} is a file.", "Give another --out.")


def _check_flow(config: ExtractConfig, flow: str, view_list: tuple[View, ...]) -> None:
    flow_source(flow)
    if flow not in METHODS and not all(view.whole for view in view_list):
        raise BadInput(
            f"--views {','.join(config.views)} changes pictures; the flow in {flow} is of whole ones.",
            f"Leave these views out, or give --flow {' or '.join(METHODS)}, which is made of what each view shows.",
        )


def _report(collection: Collection, fps: float | None, progress: Progress) -> None:
    classes = len({video.label for video in collection.videos} - {""})
    for note in collection.notes:
        progress.say(note)
    progress.say(f"{len(collection.videos)} videos in {classes} classes.")
    if fps is None and (folders := sum(not is_video(video.path.name) for video in collection.videos)):
        progress.say(
            f"{folders} videos are folders of pictures, which say no frame rate: {ASSUMED_FPS:g} is assumed; see --fps."
        )
    if collection.skipped:
        counts = (f"{count} {suffix or 'without suffix'}" for suffix, count in sorted(collection.skipped.items()))
        progress.say(f"Passed over, as no videos: {', '.join(counts)}.")
