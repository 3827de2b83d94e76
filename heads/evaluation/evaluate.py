"""Training-free few-shot evaluation: a metric on stored features over a frozen list of tasks; writing such lists."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, cast

import torch
from torch import Tensor

from vfc.cache_schema.annotations import Annotations
from vfc.cache_schema.protocol import Episode, EpisodeList, EpisodeSpec
from vfc.cache_schema.reader import StoreReader, open_store
from vfc.cache_schema.values.errors import BadInput
from vfc.cache_schema.values.progress import Progress
from vfc.cache_schema.values.record import Json
from vfc.heads.contract.ranges import AT_LEAST_ONE, POSITIVE, check_range
from vfc.heads.data.features import choose_array
from vfc.heads.data.text_features import find_text
from vfc.heads.results.tables import Table, percent
from vfc.heads.similarity.matching import METRICS, REPRESENTATIONS, comparable
from vfc.heads.tasks.fewshot.clips import Clips
from vfc.heads.tasks.fewshot.episodes import (
    ArraySettings,
    EpisodeSettings,
    Score,
    in_use,
    positions,
    score,
    tasks_at_once,
)
from vfc.heads.tasks.fewshot.raw_tokens import STREAM_METRICS, RawSettings, RawTokens, mean_frames, mean_text

_SPLITS: Final = ("test", "val", "train", "all")


@dataclass(frozen=True)
class MeasureSettings(RawSettings, EpisodeSettings):
    """On which tasks, and what is subtracted beforehand."""

    centre: Literal["none", "train", "all"] = field(
        default="none",
        metadata={
            "help": "Subtract the mean over the clips in use: of the train split, or of all.",
            "panel": "Protocol",
            "choices": ("none", "train", "all"),
        },
    )
    split: Literal["test", "val", "train", "all"] = field(
        default="test", metadata={"help": "Classes the tasks come from.", "panel": "Protocol", "choices": _SPLITS}
    )
    tasks: int = field(default=10_000, metadata={"help": "Number of tasks.", "panel": "Protocol"})
    seed: int = field(default=0, metadata={"help": "Seed of the tasks, and of a seeded split.", "panel": "Protocol"})
    episodes: Path | None = field(
        default=None,
        metadata={"help": "A frozen list (vfc episodes); its split, sizes and seed hold.", "panel": "Protocol"},
    )
    otam_lambda: float = field(
        default=0.1, metadata={"help": "Smoothing of otam's minimum; CLIP-FSAR takes 0.5.", "panel": "Protocol"}
    )
    view: int = field(default=0, metadata={"help": "View to test on; 0 is the clean one.", "panel": "Input"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, AT_LEAST_ONE, "tasks")
        check_range(self, POSITIVE, "otam_lambda")


@dataclass(frozen=True)
class EvalConfig(ArraySettings, MeasureSettings):
    """`vfc eval`: what is compared, how, on which tasks."""

    metric: str = field(
        default="mean-cosine",
        metadata={
            "help": "How two clips are compared.",
            "panel": "Protocol",
            "choices": ("avg", "dec-avg", *METRICS),
        },
    )
    representation: str | None = field(
        default=None,
        metadata={
            "help": "What is compared; default: mean for mean-cosine, ordered for the others.",
            "panel": "Protocol",
            "choices": tuple(REPRESENTATIONS),
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.representation is not None and self.metric in STREAM_METRICS and self.metric not in METRICS:
            raise BadInput(
                f"The metric {self.metric!r} takes the mean of whole streams; --representation changes nothing there.",
                "Leave --representation out, or take --metric mean-cosine.",
            )


@dataclass(frozen=True)
class EpisodesConfig(EpisodeSettings):
    """`vfc episodes`: which tasks are drawn, and where the list is written."""

    view: int = field(default=0, metadata={"help": "View the clips must have.", "panel": "Input"})
    split: Literal["test", "val", "train", "all"] = field(
        default="test", metadata={"help": "Classes the tasks come from.", "panel": "Protocol", "choices": _SPLITS}
    )
    tasks: int = field(default=10_000, metadata={"help": "Number of tasks.", "panel": "Protocol"})
    seed: int = field(default=0, metadata={"help": "Seed of the tasks, and of a seeded split.", "panel": "Protocol"})
    out: Path = field(default=Path("episodes.jsonl"), metadata={"help": "The list to write.", "panel": "Output"})

    def __post_init__(self) -> None:
        check_range(self, AT_LEAST_ONE, "tasks")


@dataclass(frozen=True)
class EpisodesResult:
    """A list that was written."""

    path: Path
    episodes: EpisodeList

    def to_json(self) -> dict[str, Json]:
        """Where the list is and what it names."""
        return {
            "path": str(self.path),
            "list_digest": self.episodes.digest,
            "annotations_digest": self.episodes.annotations_digest,
            "tasks": len(self.episodes.episodes),
            **cast("dict[str, Json]", dataclasses.asdict(self.episodes.spec)),
        }

    def tables(self) -> list[Table]:
        """One table of names and values."""
        rows = tuple((name.replace("_", " "), str(value)) for name, value in self.to_json().items())
        return [Table("Episode list", ("", ""), rows)]


@dataclass(frozen=True)
class EvalResult:
    """A score and everything it rests on."""

    score: Score
    provenance: dict[str, Json]

    def to_json(self) -> dict[str, Json]:
        """Accuracy, interval, per-class accuracy, confusion, and every digest; equal in every run."""
        return {**self.provenance, **self.score.to_json()}

    def tables(self) -> list[Table]:
        """The figure, its provenance, and one row per class."""
        given = self.provenance
        compared = given.get("representation", "raw tokens")
        what = f"{given['way']}-way {given['shot']}-shot, {given['metric']}, {compared}"
        rows = [("accuracy", percent(self.score.accuracy, self.score.interval))]
        rows += [(name.replace("_", " "), str(value)) for name, value in given.items()]
        per_class = cast("dict[str, float | None]", self.score.to_json()["per_class"])
        return [
            Table(what, ("", ""), tuple(rows)),
            Table(
                "Per class",
                ("class", "accuracy"),
                tuple((label, "not asked" if value is None else percent(value)) for label, value in per_class.items()),
            ),
        ]


def episodes(config: EpisodesConfig, progress: Progress) -> EpisodesResult:
    """Draw a frozen list of tasks from the classes of a split and write it.

    Raises:
        BadInput: too few classes or clips (with the largest possible number); see `in_use`.
    """
    spec = EpisodeSpec(config.split, config.way, config.shot, config.queries, config.seed)
    with open_store(config.cache) as reader:
        annotations = _annotations(reader, config, spec, config.view, divide=config.split != "all", progress=progress)
    drawn = EpisodeList.draw(annotations, spec, config.tasks)
    drawn.write(config.out)
    return EpisodesResult(config.out, drawn)


def evaluate(config: EvalConfig, progress: Progress) -> EvalResult:
    """Score a metric on a store without training anything.

    The representation is built first, then its mean is subtracted (`centre`), then the metric joins the shots.

    Raises:
        UnknownName: a metric, representation, array, split or class list that does not exist.
        BadInput: too few classes or clips; a list drawn for other annotations; several arrays to choose from.
    """
    with open_store(config.cache) as reader:
        annotations, listed = frozen_list(config, reader, progress)
        found, told = measure(config, reader, annotations, listed, progress)
        provenance: dict[str, Json] = {
            "metric": config.metric,
            **told,
            "centre": config.centre,
            "view": config.view,
            **cast("dict[str, Json]", dataclasses.asdict(listed.spec)),
            "tasks": len(listed.episodes),
            "clips": len(annotations),
            "list_digest": listed.digest,
            "annotations_digest": annotations.digest,
            "store_digest": reader.digest,
            "recipe_digest": reader.recipe.digest,
        }
    return EvalResult(found, provenance)


def measure(
    config: EvalConfig, reader: StoreReader, annotations: Annotations, listed: EpisodeList, progress: Progress
) -> tuple[Score, dict[str, Json]]:
    """One metric on one list of tasks: the score, and what was compared."""
    array = choose_array(reader, array=config.array, layer=config.layer)
    raw = config.metric in STREAM_METRICS and config.representation is None
    wording = find_text(reader, array, config.prompt) if raw else None
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def clips_of(rows: Annotations, episodes: Sequence[Episode] = ()) -> Clips:
        return Clips(
            reader,
            list(positions(rows)),
            array,
            wording,
            device=device,
            view=config.view,
            resident="ram",
            episodes=episodes,
        )

    clips = clips_of(annotations, listed.episodes)
    plan = clips.plan(listed.episodes)
    progress.begin("Evaluate", len(plan.tasks), "tasks")
    told: dict[str, Json] = {"array": array.name}
    if raw:
        if wording is None:
            progress.say("There is no text stream here: visual tokens alone are compared.")
        means: list[Tensor | None] = [None, None]
        if config.centre != "none":
            centre = clips_of(annotations.of_split(config.centre))
            means = [mean_frames(centre), mean_text(centre, clips.texts.longest if clips.texts else 0)]
        tokens = RawTokens(clips, plan, *means)
        classify = tokens.classifier(config.metric, config)
        told |= {"distance": config.distance or ("euclidean" if config.metric == "mpmm" else "cosine")}
        told |= {"u": config.u} if config.metric == "mpmm" else {}
        told |= {"text": wording.spec.name, "prompt": wording.prompt} if wording else {}
        return score(plan.tasks, classify, tasks_at_once(plan.tasks, tokens.numbers_per_entry), progress), told
    whole = clips.visual.gather(torch.arange(len(clips)))
    rows = _centred(comparable(whole, config.metric, config.representation), annotations, config.centre)
    rows = rows[plan.rows["visual"].to(device)]
    metric, options = METRICS[config.metric], _options(config)

    def by_frames(support: Tensor, query: Tensor) -> Tensor:
        return metric(rows[query.to(device)], rows[support.to(device)], **options)

    told |= {"representation": config.representation or ("mean" if config.metric == "mean-cosine" else "ordered")}
    found = score(plan.tasks, by_frames, tasks_at_once(plan.tasks, rows[0].numel()), progress)
    return found, {**told, **cast("dict[str, Json]", options)}


def _options(config: EvalConfig) -> dict[str, float | str]:
    if config.metric == "otam":
        return {"smoothing": config.otam_lambda}
    return {"u": config.u, "distance": config.distance or "euclidean"} if config.metric == "mpmm" else {}


def frozen_list(config: MeasureSettings, reader: StoreReader, progress: Progress) -> tuple[Annotations, EpisodeList]:
    """The clips in use, and the list of tasks: the one given, else the one that the settings draw."""
    if config.episodes is None:
        spec = EpisodeSpec(config.split, config.way, config.shot, config.queries, config.seed)
    else:
        spec = EpisodeList.read(config.episodes).spec
    divide = spec.split != "all" or config.centre == "train"
    annotations = _annotations(reader, config, spec, config.view, divide=divide, progress=progress)
    if config.episodes is not None:
        return annotations, EpisodeList.read(config.episodes, annotations)
    return annotations, EpisodeList.draw(annotations, spec, config.tasks)


def _annotations(
    reader: StoreReader, config: EpisodeSettings, spec: EpisodeSpec, view: int, *, divide: bool, progress: Progress
) -> Annotations:
    splits = () if spec.split == "all" else (spec.split,)
    settings = dataclasses.replace(config, way=spec.way)
    return in_use(reader, settings, splits if divide else None, seed=spec.seed, view=view, progress=progress)


def _centred(rows: Tensor, annotations: Annotations, centre: str) -> Tensor:
    """`[n, T, R]` less its mean over clips, per time position."""
    if centre == "none":
        return rows
    names = {row.name for row in annotations.of_split(centre).rows}
    chosen = torch.tensor([row.name in names for row in annotations.rows], device=rows.device)
    return rows - rows[chosen].mean(dim=0)
