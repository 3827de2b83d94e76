"""Training-free few-shot evaluation: a metric on stored features over a frozen list of tasks; writing such lists."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal, cast

import torch
from torch import Tensor

from vfc.cache_schema.annotations import Annotations
from vfc.cache_schema.protocol import Episode, EpisodeList, EpisodeSpec
from vfc.cache_schema.reader import StoreReader, open_store
from vfc.cache_schema.values.devices import chosen_device, on_device
from vfc.cache_schema.values.errors import BadInput
from vfc.cache_schema.values.progress import Progress
from vfc.cache_schema.values.record import Json
from vfc.cache_schema.values.settings import DEVICE_HELP, setting
from vfc.heads.contract.ranges import AT_LEAST_ONE, POSITIVE, check_range
from vfc.heads.data.dataset import in_view
from vfc.heads.data.facts import FACTS, set_facts, view_facts
from vfc.heads.data.serving import ServingSettings
from vfc.heads.data.store_view import DividedRows, StoreView, Wants, resolve
from vfc.heads.results.facts import centre_text, facts_table
from vfc.heads.results.tables import Table, percent
from vfc.heads.similarity.matching import METRICS, REPRESENTATIONS, comparable
from vfc.heads.tasks.fewshot.dataset import EpisodeDataset
from vfc.heads.tasks.fewshot.episodes import (
    ArraySettings,
    EpisodeSettings,
    Score,
    in_use,
    score,
    tasks_at_once,
)
from vfc.heads.tasks.fewshot.raw_tokens import STREAM_METRICS, RawSettings, RawTokens, mean_frames, mean_text

_SPLITS: Final = ("test", "val", "train", "all")


@dataclass(frozen=True)
class MeasureSettings(ServingSettings, RawSettings, EpisodeSettings):
    """Which tasks are measured, and what is subtracted first."""

    centre: Literal["none", "train", "all"] = setting(
        "none",
        "Subtract the mean feature of the clips in the train split, or of all clips in use (transductive: the mean of "
        "the test clips too).",
        "Protocol",
        choices=("none", "train", "all"),
    )
    split: Literal["test", "val", "train", "all"] = setting(
        "test", "Classes the tasks come from.", "Protocol", choices=_SPLITS
    )
    tasks: int = setting(10_000, "Number of tasks.", "Protocol")
    seed: int = setting(0, "Seed of the tasks, and of a seeded split.", "Protocol")
    episodes: Path | None = setting(
        None, "Fixed list of tasks (vfc episodes); its split, sizes and seed replace the flags.", "Protocol"
    )
    otam_lambda: float = setting(0.1, "otam: lambda of the soft minimum; CLIP-FSAR uses 0.5.", "Protocol")
    view: int = setting(0, "View to test on; 0 is the clean one.", "Input")
    device: str = setting("auto", DEVICE_HELP + ".", "Performance", added=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        EpisodeSettings.__post_init__(self)
        check_range(self, AT_LEAST_ONE, "tasks")
        check_range(self, POSITIVE, "otam_lambda")


@dataclass(frozen=True)
class EvalConfig(ArraySettings, MeasureSettings):
    """`vfc eval`: what is compared, how, on which tasks."""

    metric: str = setting("mean-cosine", "Metric between two clips.", "Protocol", choices=("avg", "dec-avg", *METRICS))
    representation: str | None = setting(
        None,
        "Clip representation; default: mean for mean-cosine, ordered for the other metrics.",
        "Protocol",
        choices=tuple(REPRESENTATIONS),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.representation is not None and self.metric in STREAM_METRICS and self.metric not in METRICS:
            raise BadInput(
                f"The metric {self.metric!r} takes the mean of whole streams; --representation changes nothing there.",
                "Leave --representation out, or take --metric mean-cosine.",
            )

    @property
    def raw(self) -> bool:
        """Whether the metric compares raw tokens of both streams, not a representation of the frames."""
        return self.metric in STREAM_METRICS and self.representation is None


@dataclass(frozen=True)
class EpisodesConfig(EpisodeSettings):
    """`vfc episodes`: which tasks are drawn, and where the list is written."""

    view: int = setting(0, "View the clips must have.", "Input")
    split: Literal["test", "val", "train", "all"] = setting(
        "test", "Classes the tasks come from.", "Protocol", choices=_SPLITS
    )
    tasks: int = setting(10_000, "Number of tasks.", "Protocol")
    seed: int = setting(0, "Seed of the tasks, and of a seeded split.", "Protocol")
    out: Path = setting(Path("episodes.jsonl"), "File to write.", "Output")

    def __post_init__(self) -> None:
        super().__post_init__()
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
        facts = self.provenance
        compared = facts.get("representation", "raw tokens")
        title = f"{facts['way']}-way {facts['shot']}-shot, {facts['metric']}, {compared}"
        rows = [("accuracy", percent(self.score.accuracy, self.score.interval))]
        rows += [
            (name.replace("_", " "), centre_text(str(value)) if name == "centre" else str(value))
            for name, value in facts.items()
            if name not in FACTS and not isinstance(value, dict) and (name == "list_digest" or "digest" not in name)
        ]
        per_class = cast("dict[str, float | None]", self.score.to_json()["per_class"])
        return [
            Table(title, ("", ""), tuple(rows)),
            *facts_table({"": facts}),
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
        annotations = annotated(reader, config, spec, progress).annotations
    drawn = EpisodeList.draw(annotations, spec, config.tasks)
    drawn.write(config.out)
    return EpisodesResult(config.out, drawn)


def evaluate(config: EvalConfig, progress: Progress) -> EvalResult:
    """Score a metric on a store without training anything.

    The representation is built first, then its mean is subtracted (`centre`), then the metric joins the shots.

    Raises:
        UnknownName: a metric, representation, array, split or class list that does not exist.
        BadInput: no such device; too few classes or clips; a list of other annotations; several arrays to choose from.
    """
    chosen_device(config.device)
    with open_store(config.cache) as reader:
        spec = task_spec(config)
        store = resolve(
            reader,
            Wants(text=config.raw),
            lambda: annotated(reader, config, spec, progress, centre=config.centre),
            array=config.array,
            layer=config.layer,
            prompt=config.prompt,
            settings=config,
        )
        listed = episode_list(config, spec, store.annotations)
        result, details = measure(config, store, listed, progress)
        provenance: dict[str, Json] = {
            "metric": config.metric,
            **details,
            "centre": config.centre,
            "view": config.view,
            **cast("dict[str, Json]", dataclasses.asdict(listed.spec)),
            "tasks": len(listed.episodes),
            "clips": len(store.annotations),
            "list_digest": listed.digest,
            **store.identity,
            **eval_facts(config, store),
        }
    return EvalResult(result, provenance)


def measure(
    config: EvalConfig, store: StoreView, listed: EpisodeList, progress: Progress
) -> tuple[Score, dict[str, Json]]:
    """One metric on one list of tasks: the score, and what was compared."""
    progress.begin("Evaluate", len(listed.episodes), "tasks")
    return (_on_raw_tokens if config.raw else _on_frames)(config, store, listed, progress)


def _on_raw_tokens(
    config: EvalConfig, store: StoreView, listed: EpisodeList, progress: Progress
) -> tuple[Score, dict[str, Json]]:
    """A metric on the tokens of both streams."""
    if store.text is None:
        progress.say("There is no text stream here: visual tokens alone are compared.")
    clips = _dataset(config, store, store.annotations, listed.episodes)
    index = clips.index(listed.episodes)
    means: list[Tensor | None] = [None, None]
    if config.centre != "none":
        centre = _dataset(config, store, store.annotations.of_split(config.centre))
        means = [mean_frames(centre), mean_text(centre, clips.texts.shape[0] if clips.texts else 0)]
    tokens = RawTokens(clips, index, *means)
    classify = tokens.classifier(config.metric, config)
    result = score(index.tasks, classify, tasks_at_once(index.tasks, tokens.numbers_per_entry), progress)
    return result, {
        "array": store.visual.name,
        "distance": config.distance or ("euclidean" if config.metric == "mpmm" else "cosine"),
        **({"u": config.u} if config.metric == "mpmm" else {}),
        **({"text": store.text.spec.name, "prompt": store.text.prompt} if store.text else {}),
    }


def _on_frames(
    config: EvalConfig, store: StoreView, listed: EpisodeList, progress: Progress
) -> tuple[Score, dict[str, Json]]:
    """A metric on a representation of the frames."""
    clips = _dataset(config, replace(store, text=None), store.annotations)
    index = clips.index(listed.episodes)
    frames = clips.visual.gather(torch.arange(len(clips))).values
    represented = comparable(frames, config.metric, config.representation)
    rows = _centred(represented, store.annotations, config.centre)[index.rows["visual"].to(frames.device)]
    metric, options = METRICS[config.metric], _options(config)

    def classify(support: Tensor, query: Tensor) -> Tensor:
        return metric(rows[on_device(query, rows.device)], rows[on_device(support, rows.device)], **options)

    result = score(index.tasks, classify, tasks_at_once(index.tasks, rows[0].numel()), progress)
    representation = config.representation or ("mean" if config.metric == "mean-cosine" else "ordered")
    details: dict[str, Json] = {"array": store.visual.name, "representation": representation}
    return result, {**details, **cast("dict[str, Json]", options)}


def _dataset(
    config: MeasureSettings, store: StoreView, rows: Annotations, episodes: Sequence[Episode] = ()
) -> EpisodeDataset:
    names = [row.name for row in rows.rows]
    device = chosen_device(config.device)
    return EpisodeDataset(store, names, in_view(config.view), device=device, resident="ram", episodes=episodes)


def _options(config: EvalConfig) -> dict[str, float | str]:
    if config.metric == "otam":
        return {"smoothing": config.otam_lambda}
    return {"u": config.u, "distance": config.distance or "euclidean"} if config.metric == "mpmm" else {}


def eval_facts(config: MeasureSettings, store: StoreView) -> dict[str, Json]:
    """See `data.facts`; the centring is `centre`."""
    return {**set_facts(store), **view_facts(store.reader, test=[config.view])}


def task_spec(config: MeasureSettings) -> EpisodeSpec:
    """Which tasks are measured: as the list given says, else the settings."""
    if config.episodes is not None:
        return EpisodeList.read(config.episodes).spec
    return EpisodeSpec(config.split, config.way, config.shot, config.queries, config.seed)


def episode_list(config: MeasureSettings, spec: EpisodeSpec, annotations: Annotations) -> EpisodeList:
    """The list given, else the one that `spec` draws."""
    if config.episodes is not None:
        return EpisodeList.read(config.episodes, annotations)
    return EpisodeList.draw(annotations, spec, config.tasks)


def annotated(
    reader: StoreReader,
    config: MeasureSettings | EpisodesConfig,
    spec: EpisodeSpec,
    progress: Progress,
    *,
    centre: str = "none",
) -> DividedRows:
    """The clips in use; the classes are split where the tasks, or the mean to subtract, are of one split."""
    splits = None if spec.split == "all" and centre != "train" else tuple({spec.split} - {"all"})
    settings = replace(config, way=spec.way)
    return in_use(reader, settings, splits, seed=spec.seed, view=config.view, progress=progress)


def _centred(rows: Tensor, annotations: Annotations, centre: str) -> Tensor:
    """`[n, T, R]` minus its mean over clips, per time position."""
    if centre == "none":
        return rows
    names = {row.name for row in annotations.of_split(centre).rows}
    chosen = torch.tensor([row.name in names for row in annotations.rows], device=rows.device)
    return rows - rows[chosen].mean(dim=0)
