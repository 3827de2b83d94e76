"""`vfc predict`: classify clips with a trained few-shot head and a few labelled clips."""

from __future__ import annotations

import csv
import io
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typer.core import TyperCommand

from vfc.cache_schema.annotations import Annotations
from vfc.cache_schema.parts.atomic_files import replace_file
from vfc.cache_schema.reader import open_store
from vfc.cache_schema.values.errors import BadInput
from vfc.cache_schema.values.progress import Progress
from vfc.cache_schema.values.recipe import digest
from vfc.cache_schema.values.settings import setting

from .command import Command, Outcome
from .heads import tables_text

if TYPE_CHECKING:
    from vfc.extract.config import ExtractConfig
    from vfc.heads.evaluation.predict import Run


@dataclass(frozen=True)
class PredictConfig:
    """Which head, which labelled clips, which clips to classify."""

    head: Path = setting(MISSING, "Run folder of a trained few-shot head", "Input", metavar="RUN")
    support: Path = setting(MISSING, "Folder with one subfolder of labelled clips per class", "Input")
    query: tuple[Path, ...] = setting(MISSING, "The clips to classify", "Input", metavar="CLIP,...")
    cache: Path | None = setting(
        None,
        "The store the head was trained on, where it is not at the path of the training: its projection "
        "and its prompt texts are used",
        "Input",
        metavar="STORE",
    )
    flow: Path | None = setting(None, "Folder of flow files of these clips, for a head trained on flow files", "Input")
    checkpoint: str | None = setting(None, "Weights of the model, if they are not where the recipe says", "Model")
    out: Path = setting(Path("predict"), "Folder for the extracted features", "Output")
    device: str | None = setting(None, "cpu, cuda or cuda:1; default: a GPU if there is one", "Performance")


def run(config: PredictConfig, progress: Progress) -> Outcome:
    """Extract labelled and query clips by the recipe of the head, compare recipes, score.

    Raises:
        MissingPath: no such run; no training store, if its projection or prompt is needed.
        BadInput: a clip that could not be read; a head whose text depends on a list of tasks.
        RecipeMismatch: the features were made in another way, with the difference.
    """
    from vfc.extract.prompting.prompts import TEMPLATES
    from vfc.heads.evaluation.predict import Run, predict

    head = Run.read(config.head)
    training_store = head.training_store(config.cache, own_prompts=TEMPLATES)
    support, labels = _features(head, config, "support", config.support, training_store, progress)
    query, queries = _features(head, config, "query", _list(config), training_store, progress)
    result = predict(head, support, query, labels, queries)
    for note in result.notes:
        progress.say(note)
    return Outcome(result.to_json(), tables_text(result.tables()))


def _features(
    head: Run, config: PredictConfig, name: str, videos: Path, training_store: Path | None, progress: Progress
) -> tuple[Path, Annotations]:
    """The store with the features of one side, and the clips of this call, whose files are compared with it."""
    from vfc.extract.collection import collect
    from vfc.extract.pipeline.run import extract

    # Clips from other places are another store; files that changed in their place are extracted again.
    paths = [str(path.resolve()) for path in (config.query if name == "query" else (videos,))]
    out = config.out / f"{name}-{digest([*paths])[:12]}"
    progress.say(f"Features of the {name} clips: {out}")
    settings = _extraction(head, config, videos, out, training_store)
    summary = extract(settings, progress, projections=training_store)
    failed = {**dict.fromkeys(summary.failed), **dict.fromkeys(summary.failed_before)}
    if failed:
        raise BadInput(
            f"{len(failed)} of the {name} clips could not be read: {', '.join(map(str, failed))}.",
            f"The reasons are listed under {out / 'failures'}.",
        )
    return out, collect(settings.videos, root=settings.root).annotations()


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
    head: Run, config: PredictConfig, videos: Path, out: Path, training_store: Path | None
) -> ExtractConfig:
    """The settings that make features as the recipe of the head's training says, under its one prompt."""
    from vfc.extract.config import ExtractConfig

    settings: dict[str, Any] = {
        "videos": videos,
        "root": None if videos == config.support else Path(videos.resolve().anchor),
        "out": out,
        "refresh": True,
        "device": config.device,
        "checkpoint": config.checkpoint,
        "flow": config.flow and str(config.flow),
    }
    settings = {name: value for name, value in settings.items() if value is not None}
    axes = {}
    if head.prompt and training_store is None:
        settings["prompt"] = (head.prompt,)
    elif head.prompt and training_store is not None:
        with open_store(training_store, verify="never") as reader:
            axes["prompt"] = {head.prompt: reader.axes("prompt")[head.prompt]}
    return ExtractConfig.from_recipe(head.recipe.fields, axes=axes, **settings)


def predict() -> TyperCommand:
    """`vfc predict`."""
    return Command(
        "predict",
        "Classify clips with a trained few-shot head and a few labelled clips.",
        PredictConfig,
        run,
        "vfc predict --head runs/fsar-1234 --support ./examples --query clip.mp4",
    ).build()
