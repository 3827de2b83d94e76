"""`vfc predict`: name new videos with a trained head."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Mapping
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typer.core import TyperCommand

from vfc.cache_schema.annotations import Annotation, Annotations
from vfc.cache_schema.parts.atomic_files import replace_file
from vfc.cache_schema.reader import open_store
from vfc.cache_schema.values.errors import BadInput
from vfc.cache_schema.values.progress import Progress
from vfc.cache_schema.values.recipe import digest
from vfc.cache_schema.values.record import Json
from vfc.cache_schema.values.settings import setting

from .command import Command, Outcome
from .heads import tables_text

if TYPE_CHECKING:
    from vfc.extract.config import ExtractConfig
    from vfc.heads.evaluation.predict import Prediction, Run


@dataclass(frozen=True)
class PredictConfig:
    """Which head, which videos to name, and for a few-shot head which labelled clips."""

    head: Path = setting(MISSING, "Run folder of a trained few-shot head or classifier", "Input", metavar="RUN")
    query: tuple[Path, ...] = setting(
        (), "The videos to name: files, one folder, or one list (CSV, JSONL)", "Input", metavar="VIDEO,..."
    )
    query_cache: Path | None = setting(
        None,
        "Store with features of the videos to name, made as the training store; nothing is extracted",
        "Input",
        metavar="STORE",
    )
    support: Path | None = setting(
        None, "Few-shot heads: folder with one subfolder of labelled clips per class", "Input", metavar="FOLDER"
    )
    cache: Path | None = setting(
        None,
        "The store the head was trained on, where it is not at the path of the training: its projection, "
        "its prompt texts and its class texts are used",
        "Input",
        metavar="STORE",
    )
    flow: Path | None = setting(None, "Folder of flow files of these clips, for a head trained on flow files", "Input")
    checkpoint: str | None = setting(None, "Weights of the model, if they are not where the recipe says", "Model")
    top: int = setting(5, "Classifiers: how many classes to show per video", "Output")
    save: tuple[Path, ...] = setting(
        (), "Files for the predictions: .csv, .jsonl or .html (a page with search)", "Output", metavar="FILE,..."
    )
    out: Path = setting(Path("predict"), "Folder for the extracted features", "Output")
    device: str | None = setting(None, "cpu, cuda or cuda:1; default: a GPU if there is one", "Performance")

    def __post_init__(self) -> None:
        if self.top < 1:
            raise BadInput(f"--top is {self.top}.", "--top takes 1 or more.")
        if bool(self.query) == (self.query_cache is not None):
            raise BadInput(
                f"{'Neither' if not self.query else 'Both'} --query and --query-cache say which videos to name.",
                "Give --query FOLDER or VIDEO, or --query-cache STORE.",
            )


@dataclass(frozen=True)
class Clips:
    """A store with features, and the clips in it that are meant. `names`: their names in it -> as they are shown."""

    store: Path
    annotations: Annotations
    names: Mapping[str, str]
    failed: tuple[str, ...] = ()


def run(config: PredictConfig, progress: Progress) -> Outcome:
    """Extract the clips by the recipe of the head, compare recipes, score.

    Raises:
        MissingPath: no such run; no training store, if its projection, prompt or class texts are needed.
        BadInput: no labelled clip that a few-shot head needs; a clip that could not be read; a head whose text depends
            on a list of tasks.
        RecipeMismatch: the features were made in another way, with the difference.
    """
    from vfc.extract.prompting.prompts import TEMPLATES
    from vfc.heads.evaluation.predict import Run, require_suffixes, write

    require_suffixes(config.save)
    head = Run.read(config.head)
    _require_support(head, config)
    extracts = bool(config.query) or head.few_shot
    training_store = head.training_store(config.cache, own_prompts=TEMPLATES, extract=extracts)
    result = (_few_shot if head.few_shot else _classes)(head, config, training_store, progress)
    for note in result.notes:
        progress.say(note)
    for path in config.save:
        write(result, path, f"{len(result.queries)} videos named by {head.head}")
        progress.say(f"Predictions: {path}")
    return Outcome(result.to_json(), tables_text(result.tables()))


def _require_support(head: Run, config: PredictConfig) -> None:
    if head.few_shot and config.support is None:
        raise BadInput(
            f"The head {head.head!r} names clips by labelled ones, and --support is not given.",
            "Give a folder with one subfolder of labelled clips per class: --support FOLDER.",
        )
    if not head.few_shot and config.support is not None:
        raise BadInput(
            f"The head {head.head!r} names videos among the classes of its training; it reads no labelled clips.",
            "Leave --support out, or give the run of a few-shot head: fsar, trx, prototype.",
        )


def _few_shot(head: Run, config: PredictConfig, training_store: Path | None, progress: Progress) -> Prediction:
    from vfc.heads.evaluation.predict import predict

    assert config.support is not None
    support = _features(head, config, "support", training_store, progress)
    query = _queries(head, config, training_store, progress)
    for clips in (support, query):
        _refuse_failed(clips, "support" if clips is support else "query")
    prediction = predict(head, support.store, query.store, support.annotations, query.annotations)
    return dataclasses.replace(prediction, queries=tuple(query.names.values()))


def _classes(head: Run, config: PredictConfig, training_store: Path | None, progress: Progress) -> Prediction:
    from vfc.heads.evaluation.predict import predict_classes

    query = _queries(head, config, training_store, progress)
    if not query.names:
        _refuse_failed(query, "query")
    prediction = predict_classes(
        head, query.store, query.names, training_store, progress, device=config.device, top=config.top
    )
    failed = [f"Not named, because it could not be read: {name}." for name in query.failed]
    return dataclasses.replace(prediction, notes=(*prediction.notes, *failed))


def _refuse_failed(clips: Clips, name: str) -> None:
    if clips.failed:
        raise BadInput(
            f"{len(clips.failed)} of the {name} clips could not be read: {', '.join(clips.failed)}.",
            f"The reasons are listed under {clips.store / 'failures'}.",
        )


def _queries(head: Run, config: PredictConfig, training_store: Path | None, progress: Progress) -> Clips:
    """The clips to name."""
    if config.query_cache is None:
        return _features(head, config, "query", training_store, progress)
    with open_store(config.query_cache) as reader:
        names = dict.fromkeys(key.name for key in reader.keys("video"))
    rows = tuple(Annotation(name, "") for name in names)
    return Clips(config.query_cache, Annotations(rows), {name: name for name in names})


def _features(head: Run, config: PredictConfig, name: str, training_store: Path | None, progress: Progress) -> Clips:
    """Features of one side, and the clips of this call, whose files are compared with the store."""
    from vfc.extract.collection import collect
    from vfc.extract.pipeline.run import extract

    videos, root, shown = _videos(config, name)
    # Clips from other places, or for a head of another recipe, are another store; files that changed in their place are
    # extracted again.
    paths = [str(path.resolve()) for path in ((videos,) if root is None else config.query)]
    out = config.out / f"{name}-{digest([head.recipe.digest, *paths])[:12]}"
    progress.say(f"Features of the {name} clips: {out}")
    settings = _extraction(head, config, videos, root, out, training_store)
    summary = extract(settings, progress, projections=training_store)
    failed = {video for video, _ in (*summary.failed, *summary.failed_before)}
    annotations = collect(settings.videos, root=settings.root).annotations()
    names = {row.name: shown.get(row.name, row.name) for row in annotations.rows}
    usable = {row_name: text for row_name, text in names.items() if row_name not in failed}
    return Clips(out, annotations, usable, tuple(names.get(row_name, row_name) for row_name in sorted(failed)))


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
    config.out.mkdir(parents=True, exist_ok=True)
    replace_file(config.out / "query.csv", text.getvalue().encode())
    return config.out / "query.csv"


def _extraction(
    head: Run, config: PredictConfig, videos: Path, root: Path | None, out: Path, training_store: Path | None
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
    settings = {name: value for name, value in settings.items() if value is not None}
    if head.prompt and training_store is None:
        settings["prompt"] = (head.prompt,)
    axes = {} if training_store is None else _axes(head, training_store)
    return ExtractConfig.from_recipe(head.recipe.fields, axes=axes, **settings)


def _axes(head: Run, training_store: Path) -> dict[str, dict[str, Json]]:
    """The prompt that the head reads, and the views that were tested, as the training store says what they mean."""
    from vfc.heads.evaluation.predict import tested_views

    with open_store(training_store, verify="never") as reader:
        prompt = {"prompt": {head.prompt: reader.axes("prompt")[head.prompt]}} if head.prompt else {}
        meanings = reader.axes("view")
        views = {str(view): meanings[str(view)] for view in tested_views(head, reader) if str(view) in meanings}
    return {**prompt, **({"view": views} if views else {})}


def predict() -> TyperCommand:
    """`vfc predict`."""
    return Command(
        "predict",
        "Name new videos: with a trained classifier, or with a few-shot head and a few labelled clips.",
        PredictConfig,
        run,
        "vfc predict --head runs/linear-probe-1234 --query ./new_videos --save predictions.csv",
        "A few-shot head also needs labelled clips: --support ./examples.",
    ).build()
