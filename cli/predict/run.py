"""`vfc predict`: name new videos with a trained head."""

from __future__ import annotations

import dataclasses
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from typer.core import TyperCommand

from vfc.cache_schema.values.errors import BadInput
from vfc.cache_schema.values.progress import Progress
from vfc.cache_schema.values.settings import DEVICE_HELP, setting
from vfc.cli.command import Command, Outcome, tables_text

from .features import Clips, extracted_clips, stored_clips, stored_support
from .pictures import pictures_of

SUFFIXES: Final = (".csv", ".jsonl", ".html")
"""Files that predictions are written to."""

if TYPE_CHECKING:
    from vfc.heads.evaluation.predict import Prediction, Run, Timelines


@dataclass(frozen=True)
class PredictConfig:
    """Which head, which videos to name, and for a few-shot head which labelled clips.

    Raises:
        BadInput: a value out of range; no videos to name; a result file of another kind.
    """

    head: Path = setting(MISSING, "Run folder of a trained head", "Input", metavar="RUN")
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
    support_cache: Path | None = setting(
        None,
        "Few-shot heads: store with features of labelled clips, made as the training store; nothing is extracted",
        "Input",
        metavar="STORE",
    )
    annotations: str = setting("default", "Labels in --support-cache: a name in the store, or a .jsonl file", "Input")
    support_split: str | None = setting(
        None, "Take the labelled clips of --support-cache from this split alone: train, val or test", "Input"
    )
    shot: int | None = setting(
        None, "Labelled clips per class of --support-cache; default: all, which must be equally many", "Input"
    )
    cache: Path | None = setting(
        None,
        "The store the head was trained on, where it is not at the path of the training: its projection, "
        "its prompt texts and its class texts are used",
        "Input",
        metavar="STORE",
    )
    flow: Path | None = setting(None, "Folder of flow files of these clips, for a head trained on flow files", "Input")
    checkpoint: str | None = setting(
        None, "Weights of the model; default: where they were at the extraction of the training store", "Model"
    )
    top: int = setting(5, "Classifiers: how many classes to show per video", "Output")
    observe: tuple[float, ...] = setting(
        (),
        "Anticipation: shares of each video that are observed; 1: all of it, and what follows its end; default: those "
        "of the run's test",
        "Input",
    )
    frame_classifier: Path | None = setting(
        None,
        "Anticipation by a head that reads observed labels (actionllm): run of frame-classifier that gives them",
        "Input",
        metavar="RUN",
    )
    out: tuple[Path, ...] = setting(
        (),
        "Files for the predictions: .csv, .jsonl or .html (a page with search)",
        "Output",
        metavar="FILE,...",
        renamed_from=("save",),
    )
    features: Path = setting(
        Path("predict"), "Folder where the features of the videos are kept; the next call reads them there", "Output"
    )
    device: str | None = setting(None, DEVICE_HELP, "Performance")

    def __post_init__(self) -> None:
        if self.top < 1:
            raise BadInput(f"--top is {self.top}.", "--top takes 1 or more.")
        outside = [ratio for ratio in self.observe if not 0 < ratio <= 1]
        if outside:
            raise BadInput(f"--observe is {outside[0]:g}.", "--observe takes more than 0, and 1 at most.")
        self._take_folder()
        self._check_support()
        if bool(self.query) == (self.query_cache is not None):
            raise BadInput(
                f"{'Neither' if not self.query else 'Both'} --query and --query-cache say which videos to name.",
                "Give --query FOLDER or VIDEO, or --query-cache STORE.",
            )

    def _check_support(self) -> None:
        if self.support is not None and self.support_cache is not None:
            raise BadInput("Both --support and --support-cache say what to name by.", "Leave one of them out.")
        if self.shot is not None and self.shot < 1:
            raise BadInput(f"--shot is {self.shot}.", "--shot takes 1 or more.")
        chosen = {"--annotations": self.annotations != "default", "--support-split": self.support_split is not None}
        for flag, changed in {**chosen, "--shot": self.shot is not None}.items():
            if changed and self.support_cache is None:
                raise BadInput(
                    f"{flag} is given, but no store of labelled clips.", f"Leave {flag} out, or give --support-cache."
                )

    def _take_folder(self) -> None:
        """Sort --out into files by their suffix; a folder, as before --features had its name, is that."""
        folders = [path for path in self.out if path.suffix.lower() not in SUFFIXES]
        wrong = [path for path in folders if path.suffix and not path.is_dir()]
        if wrong:
            raise BadInput(
                f"--out {wrong[0]} has no suffix that says how it is written.",
                f"Files are: {', '.join(SUFFIXES)}. A folder for the features of the videos is --features FOLDER.",
            )
        for folder in folders:
            object.__setattr__(self, "out", tuple(path for path in self.out if path != folder))
            object.__setattr__(self, "features", folder)


def run(config: PredictConfig, progress: Progress) -> Outcome:
    """Extract the clips by the recipe of the head, compare recipes, score.

    Raises:
        MissingPath: no such run; no training store, if its projection, prompt or class texts are needed.
        BadInput: no such device; no labelled clip that a few-shot head needs; a clip that could not be read; a head
            whose text depends on a list of tasks.
        RecipeMismatch: the features were made in another way, with the difference.
    """
    from vfc.cache_schema.values.devices import chosen_device
    from vfc.extract.prompting.prompts import TEMPLATES
    from vfc.heads.evaluation.predict import Run, write

    chosen_device(config.device)
    head = Run.read(config.head)
    _require_settings(head, config)
    extracts = bool(config.query) or config.support is not None
    training_store = head.training_store(config.cache, own_prompts=TEMPLATES, extract=extracts)
    query = _queries(head, config, training_store, progress)
    name = _few_shot if head.few_shot else _segments if head.of_sequences else _classes
    result = name(head, config, query, training_store, progress)
    for note in result.notes:
        progress.say(note)
    title = f"{len(result.queries)} videos, {'segments' if head.of_sequences else 'named'} by {head.head}"
    for path in config.out:
        pictures = pictures_of(query.scenes, len(result.queries), progress) if path.suffix.lower() == ".html" else None
        write(result, path, title, pictures)
        progress.say(f"Predictions: {path}")
    return Outcome(result.to_json(), tables_text(result.tables()))


def _require_settings(head: Run, config: PredictConfig) -> None:
    if head.few_shot and config.support is None and config.support_cache is None:
        raise BadInput(
            f"The head {head.head!r} names clips by labelled ones, and --support is not given.",
            "Give a folder with one subfolder of labelled clips per class: --support FOLDER, or --support-cache STORE.",
        )
    if not head.few_shot and (config.support is not None or config.support_cache is not None):
        raise BadInput(
            f"The head {head.head!r} names videos among the classes of its training; it reads no labelled clips.",
            "Leave --support and --support-cache out, or give the run of a few-shot head: fsar, trx, prototype.",
        )
    if (config.observe or config.frame_classifier) and not head.of_sequences:
        raise BadInput(
            f"The head {head.head!r} names videos; --observe and --frame-classifier are for heads that predict "
            "segments.",
            "Leave them out, or give the run of futr or actionllm.",
        )


def _few_shot(
    head: Run, config: PredictConfig, query: Clips, training_store: Path | None, progress: Progress
) -> Prediction:
    from vfc.heads.evaluation.predict import predict

    if config.support_cache is not None:
        support = stored_support(config.support_cache, config.annotations, config.support_split, config.shot)
        query = query.without(support)
        progress.say(f"Named by {len(support.names)} labelled clips of {support.store}.")
    else:
        support = extracted_clips(head, config, "support", training_store, progress)
    for clips in (support, query):
        _refuse_failed(clips, "support" if clips is support else "query")
    prediction = predict(head, support.store, query.store, support.annotations, query.annotations, config.device)
    return dataclasses.replace(prediction, queries=tuple(query.names.values()))


def _classes(
    head: Run, config: PredictConfig, query: Clips, training_store: Path | None, progress: Progress
) -> Prediction:
    from vfc.heads.evaluation.predict import predict_classes

    if not query.names:
        _refuse_failed(query, "query")
    prediction = predict_classes(
        head, query.store, query.names, training_store, progress, device=config.device, top=config.top
    )
    return dataclasses.replace(prediction, notes=(*prediction.notes, *_unread(query)))


def _segments(
    head: Run, config: PredictConfig, query: Clips, training_store: Path | None, progress: Progress
) -> Timelines:
    from vfc.heads.evaluation.predict import Run, SequenceSettings, predict_sequences

    if not query.names:
        _refuse_failed(query, "query")
    classifier = None if config.frame_classifier is None else Run.read(config.frame_classifier)
    settings = SequenceSettings(config.device, config.observe, classifier)
    result = predict_sequences(head, query.store, query.names, progress, settings)
    return dataclasses.replace(result, notes=(*result.notes, *_unread(query)))


def _unread(query: Clips) -> list[str]:
    return [f"Not named, because it could not be read: {name}." for name in query.failed]


def _refuse_failed(clips: Clips, name: str) -> None:
    if clips.failed:
        raise BadInput(
            f"{len(clips.failed)} of the {name} clips could not be read: {', '.join(clips.failed)}.",
            f"The reasons are listed under {clips.store / 'failures'}.",
        )


def _queries(head: Run, config: PredictConfig, training_store: Path | None, progress: Progress) -> Clips:
    """The clips to name."""
    if config.query_cache is not None:
        return stored_clips(config.query_cache)
    return extracted_clips(head, config, "query", training_store, progress)


def predict() -> TyperCommand:
    """`vfc predict`."""
    return Command(
        "predict",
        "Name new videos with a trained head, or predict their segments.",
        PredictConfig,
        run,
        "vfc predict --head runs/linear-probe-1234 --query ./new_videos --out predictions.csv",
        "A few-shot head also needs labelled clips: --support ./examples. A head of the anticipation task predicts the "
        "segments that follow what is observed.",
    ).build()
