"""Features of the videos of one `vfc predict` call: extracted as the head's store was made, kept for the next call."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vfc.cache_schema.annotations import Annotation, Annotations, load, source
from vfc.cache_schema.parts.atomic_files import replace_file
from vfc.cache_schema.protocol.shots import k_shot
from vfc.cache_schema.reader import open_store
from vfc.cache_schema.upkeep.circumstances import last_circumstance
from vfc.cache_schema.values.errors import BadInput, MissingPath, UnknownName
from vfc.cache_schema.values.progress import Progress
from vfc.cache_schema.values.recipe import digest
from vfc.cache_schema.values.record import Json

from .derived import derive, origin_of, projection_stores

if TYPE_CHECKING:
    from vfc.extract.config import ExtractConfig
    from vfc.heads.evaluation.predict import Run

    from .run import PredictConfig


@dataclass(frozen=True)
class Scene:
    """Where the frames of one video are: its file, and the segment of it that is meant."""

    path: Path
    start_seconds: float | None = None
    end_seconds: float | None = None


@dataclass(frozen=True)
class Clips:
    """A store with features, and the clips in it that are meant.

    `names`: their names in it -> as they are shown. `scenes`: as they are shown -> their frames, where that is known.
    """

    store: Path
    annotations: Annotations
    names: Mapping[str, str]
    failed: tuple[str, ...] = ()
    scenes: Mapping[str, Scene] = field(default_factory=dict)

    def without(self, others: Clips) -> Clips:
        """Those of them that are not among the others of the same store.

        Raises:
            BadInput: none is left.
        """
        if self.store.resolve() != others.store.resolve():
            return self
        rows = tuple(row for row in self.annotations.rows if row.name not in others.names)
        if not rows:
            raise BadInput(
                f"All {len(self.names)} clips of {self.store} are labelled ones that others are named by.",
                "Give --shot or --support-split, or another --query-cache.",
            )
        names = {row.name: self.names[row.name] for row in rows}
        return replace(self, annotations=Annotations(rows), names=names)


def stored_support(store: Path, annotations: str, split: str | None, shot: int | None) -> Clips:
    """The labelled clips of a store: of one split or of all, `shot` per class or all; with their clean view.

    The clips of a class are drawn as `k_shot` draws them, with the seed 0.

    Raises:
        BadInput: no labelled clip, or a class with fewer than `shot`.
        UnknownName: the store has no such annotations.
    """
    with open_store(store) as reader:
        names = {key.name for key in reader.keys("video") if not key.view}
    rows = load(store, annotations).rows
    usable = Annotations(tuple(row for row in rows if row.name in names and row.label and split in (None, row.split)))
    if not usable.rows:
        where = f"of the split {split!r} " if split else ""
        splits = sorted({row.split for row in rows if row.split})
        raise BadInput(
            f"The annotations {annotations!r} name no labelled clip {where}that is in {store}.",
            f"Its splits: {', '.join(splits) or 'none'}. Give --annotations or --support-split.",
        )
    if shot is not None:
        chosen = {name for drawn in k_shot(usable, shot, seed=0).values() for name in drawn}
        usable = Annotations(tuple(row for row in usable.rows if row.name in chosen))
    return Clips(store, usable, {row.name: row.name for row in usable.rows})


def stored_clips(store: Path) -> Clips:
    """All videos of a store of features; their files where the extraction read them, if they are still there."""
    with open_store(store) as reader:
        names = dict.fromkeys(key.name for key in reader.keys("video"))
    try:
        rows = {row.name: row for row in load(store, "default").rows}
    except UnknownName:
        rows = {}
    folder = last_circumstance(store, "videos")
    scenes = {}
    for name in names if folder else ():
        row = rows.get(name, Annotation(name, ""))
        scenes[name] = Scene(Path(folder) / source(name), row.start_seconds, row.end_seconds)
    annotations = Annotations(tuple(Annotation(name, "") for name in names))
    return Clips(store, annotations, {name: name for name in names}, scenes=scenes)


def extracted_clips(
    head: Run, config: PredictConfig, name: str, training_store: Path | None, progress: Progress
) -> Clips:
    """Features of one side, and the clips of this call, whose files are compared with the store."""
    from vfc.extract.collection import collect
    from vfc.extract.pipeline.run import extract

    videos, root, shown = _videos(config, name)
    # Clips from other places, or for a head of another recipe, are another store; files that changed in their place are
    # extracted again.
    paths = [str(path.resolve()) for path in ((videos,) if root is None else config.query)]
    out = config.features / f"{name}-{digest([head.recipe.digest, *paths])[:12]}"
    progress.say(f"Features of the {name} clips: {out}")
    original = origin_of(head.recipe)
    extracted = out.with_name(f"{out.name}-extracted") if original.steps else out
    settings = _extraction(head, original.fields, config, videos, root, extracted, training_store)
    first, *others = projection_stores(original, training_store)
    summary = extract(settings, progress, projections=first)
    if (extracted / "zarr.json").exists():
        derive(original, others, extracted, out, progress)
    failed = {video for video, _ in (*summary.failed, *summary.failed_before)}
    collection = collect(settings.videos, root=settings.root)
    annotations = collection.annotations()
    names = {row.name: shown.get(row.name, row.name) for row in annotations.rows}
    usable = {row_name: text for row_name, text in names.items() if row_name not in failed}
    scenes = {names[v.name]: Scene(v.path, v.start_seconds, v.end_seconds) for v in collection.videos}
    return Clips(out, annotations, usable, tuple(names.get(row_name, row_name) for row_name in sorted(failed)), scenes)


def _videos(config: PredictConfig, name: str) -> tuple[Path, Path | None, dict[str, str]]:
    """What `--videos` and `--root` of an extraction would be, and how the clips are shown, where not by their names."""
    if name == "support":
        assert config.support is not None
        return config.support, None, {}
    (first, *others) = config.query
    if not others and (first.is_dir() or first.suffix.lower() in (".csv", ".jsonl", ".txt")):
        return first, None, {}
    folders = [path for path in config.query if path.is_dir()]
    if folders:
        raise BadInput(
            f"--query names {len(config.query)} things, and {folders[0]} is a folder.",
            "Give one folder alone, or files, or a list of files (CSV with the column path).",
        )
    listed = _list(config)
    root = Path(listed.resolve().anchor)
    return listed, root, {path.resolve().relative_to(root).as_posix(): str(path) for path in config.query}


def _list(config: PredictConfig) -> Path:
    """Write the query clips as a list, because they may be in any folder."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("path", "label"))
    rows.writerows((path.resolve(), "") for path in config.query)
    config.features.mkdir(parents=True, exist_ok=True)
    replace_file(config.features / "query.csv", text.getvalue().encode())
    return config.features / "query.csv"


def _extraction(
    head: Run,
    recipe: Mapping[str, Json],
    config: PredictConfig,
    videos: Path,
    root: Path | None,
    out: Path,
    training_store: Path | None,
) -> ExtractConfig:
    """The settings that make features as the recipe of the head's training says, under its prompt and in its views."""
    from vfc.extract.config import ExtractConfig

    settings: dict[str, Any] = {
        "videos": videos,
        "root": root,
        "out": out,
        "refresh": True,
        "device": config.device,
        "checkpoint": config.checkpoint,
        "flow": config.flow and str(config.flow),
    }
    if config.checkpoint is None:
        settings["checkpoint"] = _weights(recipe, training_store)
    settings = {name: value for name, value in settings.items() if value is not None}
    if head.prompt and training_store is None:
        settings["prompt"] = (head.prompt,)
    axes = {} if training_store is None else _axes(head, training_store)
    return ExtractConfig.from_recipe(recipe, axes=axes, **settings)


def _weights(recipe: Mapping[str, Json], training_store: Path | None) -> str | None:
    """Where the weights of the training store's extraction still are; None: only the recipe's hub id is left.

    Raises:
        MissingPath: a local checkpoint that is no longer there.
    """
    about: Any = recipe.get("checkpoint")
    last = "" if training_store is None else last_circumstance(training_store, "checkpoint")
    if last and Path(last).exists():
        return last
    if not about or about.get("revision") or Path(about["id"]).exists():
        return None
    raise MissingPath(
        f"The features of the training were made with the weights {last or about['id']}, which are not there"
        + (" any more." if last else "; the store does not say in which folder they were."),
        "Give their place now: --checkpoint FOLDER.",
    )


def _axes(head: Run, training_store: Path) -> dict[str, dict[str, Json]]:
    """The prompt that the head reads, and the views that were tested, as the training store says what they mean."""
    from vfc.heads.evaluation.predict import tested_views

    with open_store(training_store, verify="never") as reader:
        prompt = {"prompt": {head.prompt: reader.axes("prompt")[head.prompt]}} if head.prompt else {}
        meanings = reader.axes("view")
        views = {str(view): meanings[str(view)] for view in tested_views(head, reader) if str(view) in meanings}
    return {**prompt, **({"view": views} if views else {})}
