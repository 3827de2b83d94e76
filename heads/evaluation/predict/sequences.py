"""Segments of new videos: those that follow what is observed (anticipation), or those of the video (frame labels)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from vfc.cache_schema.annotations import Annotations
from vfc.cache_schema.reader import StoreReader, open_store
from vfc.cache_schema.values.devices import chosen_device
from vfc.cache_schema.values.errors import BadInput, MissingPath, MissingRecord, RecipeMismatch
from vfc.cache_schema.values.progress import Progress
from vfc.cache_schema.values.record import ArraySpec, Key
from vfc.heads.data.store_view import StoreView
from vfc.heads.lookup import find
from vfc.heads.tasks.anticipation import AnticipationHead
from vfc.heads.tasks.anticipation.dataset import SequenceDataset, row_stride, stored_stride
from vfc.heads.tasks.anticipation.forecast import predicted_futures
from vfc.heads.tasks.anticipation.ground_truth import GroundTruth, StoreGroundTruth
from vfc.heads.tasks.anticipation.observed_labels import observed_labels
from vfc.heads.tasks.anticipation.segments import FUTURE, Ids, Window, runs
from vfc.heads.tasks.anticipation.settings import Config
from vfc.heads.tasks.anticipation.windows import Sample, collate, cut_of
from vfc.heads.tasks.frame_labels import FrameHead, frame_labels

from .run import Run, restored
from .timelines import Segment, Timeline, Timelines


@dataclass(frozen=True)
class SequenceSettings:
    """How long sequences are read: where the head runs, what is observed, and who labels the observed steps.

    `observe`: shares of a video; none: those of the run's test; 1: all of it, and what follows its end.
    """

    device: str | None = None
    observe: tuple[float, ...] = ()
    frame_classifier: Run | None = None


class _Lengths:
    """A `GroundTruth` of videos without labels: as many frames as their features cover, all of class 0."""

    def __init__(self, reader: StoreReader, array: str, class_names: tuple[str, ...]) -> None:
        self.class_names, self._reader, self._array = class_names, reader, array

    def ids(self, name: str) -> Ids:
        (record,) = self._reader.locate([Key("video", name)])
        return np.zeros(self._reader.length(int(record), self._array) * row_stride(self._reader, int(record)), np.int64)

    def annotations(self, split: str) -> Annotations:
        return Annotations(())


def predict_sequences(
    run: Run, query: Path, videos: Mapping[str, str], progress: Progress, settings: SequenceSettings
) -> Timelines:
    """Segments of videos of the store `query`, by the trained head of an anticipation or frame-label run.

    Args:
        run: The trained head.
        query: Store of the videos.
        videos: Their names in the store, and as they are shown.
        progress: Shows how many windows are done.
        settings: See there.

    Raises:
        RecipeMismatch: features were not made as those the head was trained on.
        BadInput: observed labels that nobody gives; no video of which something can be observed.
        MissingRecord: a video that the store lacks.
    """
    place = chosen_device(settings.device)
    with open_store(query) as reader, torch.no_grad():
        run.require_recipe(reader)
        names = [*videos]
        if find(run.head).TASK == "frame-labels":
            stride = stored_stride(reader, names)
            sequences = _sequences(run, reader, names, stride, place)
            head = _head(run, sequences.store).to(place)
            progress.begin("Predict", len(names), "videos")
            timelines = []
            for i, name in enumerate(names):
                ids = frame_labels(cast("FrameHead", head), sequences.videos, i, sequences.rows(i))
                segments = _segments(ids, sequences.class_names, 0, stride, len(sequences.videos.labels[i]))
                timelines.append(sequences.timeline(i, videos[name], None, 0, segments))
                progress.advance()
            return Timelines(tuple(timelines), sequences.class_names, run.result)
        return _anticipated(run, reader, videos, place, progress, settings)


def _anticipated(
    run: Run,
    reader: StoreReader,
    videos: Mapping[str, str],
    place: torch.device,
    progress: Progress,
    settings: SequenceSettings,
) -> Timelines:
    config: Config = restored(Config, {**run.settings["task"], "told": "predicted"})
    ratios = settings.observe or tuple(config.observe)
    head_type = cast("type[AnticipationHead]", find(run.head).Head)
    stride = config.sampling(head_type.sampling(run.head_settings)).stride
    sequences = _sequences(run, reader, [*videos], stride, place)
    labels = _observed(run, reader, sequences, settings) if head_type.reads_observed_labels(run.head_settings) else None
    tests, notes = _tests(sequences, ratios, [*videos.values()], full=config.full_rate)
    if not tests:
        raise BadInput(
            f"None of the {len(videos)} videos is long enough: {notes[0]}", "Observe more of them: --observe 0.5."
        )
    head = cast("AnticipationHead", _head(run, sequences.store))
    head.name_classes(sequences.class_names)
    head.to(place)
    progress.begin("Predict", len(tests), "windows")
    futures = predicted_futures(
        head,
        tests,
        lambda samples: collate(sequences.videos, samples, labels, device=place, learning=False),
        batch=run.settings["train"]["batch"],
        rule=config.decoding,
        progress=progress,
    )
    shown, timelines = [*videos.values()], []
    for (number, sample), future in zip(tests, futures, strict=True):
        cut = sample.cut
        start = (cut.start + cut.observed) * cut.unit
        segments = _segments(future, sequences.class_names, start, cut.unit, start + len(future) * cut.unit)
        timelines.append(sequences.timeline(sample.video, shown[sample.video], ratios[number], start, segments))
    timelines.sort(key=lambda each: shown.index(each.query))
    return Timelines(tuple(timelines), sequences.class_names, run.result, (*head.notes, *notes))


@dataclass(frozen=True)
class _Sequences:
    """The sequences of one call."""

    store: StoreView
    videos: SequenceDataset
    truth: GroundTruth
    class_names: tuple[str, ...]
    fps: tuple[float | None, ...]

    def rows(self, video: int) -> int:
        """Steps of a video."""
        return -(-len(self.videos.labels[video]) // self.videos.stride)

    def timeline(
        self, video: int, shown: str, observed: float | None, start: int, segments: tuple[Segment, ...]
    ) -> Timeline:
        return Timeline(shown, len(self.videos.labels[video]), observed, start, segments, self.fps[video])


def _sequences(run: Run, reader: StoreReader, names: Sequence[str], stride: int, place: torch.device) -> _Sequences:
    array = reader.spec("video", run.data["array"])
    store = StoreView(reader, Annotations(()), {"visual": array})
    class_names = _class_names(run)
    truth: GroundTruth = _Lengths(reader, array.name, class_names)
    if any(spec.name == "labels" for spec in reader.kinds["video"]):
        stored = StoreGroundTruth(reader)
        truth = stored if stored.class_names == class_names else truth
    dataset = SequenceDataset(store, names, truth, stride=stride, device=place, resident="off")
    frames: Any = reader.recipe.fields.get("frames") or {}
    each = (reader.metadata(int(record)).get("fps") for record in reader.locate([Key("video", name) for name in names]))
    # A row stands for a frame of the video only where no frame was left out.
    fps = tuple(
        float(rate) if isinstance(rate, int | float) and rate > 0 and frames.get("rule", "all") == "all" else None
        for rate in each
    )
    return _Sequences(store, dataset, truth, class_names, fps)


def _class_names(run: Run) -> tuple[str, ...]:
    """The classes of the training, in the order of the head's ids."""
    return tuple(run.result.get("class_names") or run.result["per_class"])


def _head(run: Run, store: StoreView) -> Any:
    specs = {**store.specs, "classes": ArraySpec("classes", "int64", (len(_class_names(run)),))}
    head = find(run.head).Head(run.head_settings, specs)
    run.load(head)
    return head


def _tests(
    sequences: _Sequences, ratios: Sequence[float], shown: Sequence[str], *, full: bool
) -> tuple[list[tuple[int, Sample]], list[str]]:
    """(place of the observed share, window) of all that can be predicted, and a line for each that cannot."""
    tests, notes = [], []
    for place, ratio in enumerate(ratios):
        for video in range(len(shown)):
            try:
                tests.append((place, Sample(video, _window(sequences.videos, video, ratio, full=full))))
            except BadInput as error:
                notes.append(f"Not predicted: {shown[video]}: {error.problem}")
    return tests, notes


def _window(videos: SequenceDataset, video: int, ratio: float, *, full: bool) -> Window:
    """The window of a video; of one that is observed to its end, the frames that follow are half as many."""
    if ratio < 1:
        return cut_of(videos, video, ratio, full=full)
    unit = 1 if full else videos.stride
    count = -(-len(videos.labels[video]) // unit)
    return Window(0, count, max(1, int(FUTURE * count)), unit)


def _segments(ids: Ids, class_names: tuple[str, ...], start: int, unit: int, stop: int) -> tuple[Segment, ...]:
    """Runs of class ids as segments; one id is `unit` frames, the last ends at `stop`."""
    actions, lengths = runs(ids)
    ends = start + np.cumsum(lengths) * unit
    return tuple(
        Segment(class_names[action] if action >= 0 else "", int(end - length * unit), min(int(end), stop))
        for action, length, end in zip(actions.tolist(), lengths.tolist(), ends.tolist(), strict=True)
    )


def _observed(run: Run, reader: StoreReader, sequences: _Sequences, settings: SequenceSettings) -> list[Ids]:
    """The observed labels: by the frame classifier that is given, else those that the store has."""
    source, classifier = str(run.settings["task"]["told"]), settings.frame_classifier
    remedy = "Give the frame classifier of the training's split: --frame-classifier RUN."
    if classifier is not None:
        return _classified(classifier, reader, sequences)
    if source == "truth" and not isinstance(sequences.truth, StoreGroundTruth):
        raise BadInput(f"{run.head} reads a class for every observed step, and these videos have no labels.", remedy)
    try:
        return observed_labels(reader, source, Config(**_split(run)).split_name, sequences.videos)[0]
    except (MissingPath, MissingRecord, RecipeMismatch) as error:
        raise BadInput(
            f"{run.head} reads a class for every observed step, and these videos have none: {error.problem}", remedy
        ) from error


def _split(run: Run) -> dict[str, Any]:
    return {name: run.settings["task"][name] for name in ("fold", "annotations")}


def _classified(classifier: Run, reader: StoreReader, sequences: _Sequences) -> list[Ids]:
    if find(classifier.head).TASK != "frame-labels":
        raise BadInput(
            f"--frame-classifier {classifier.folder} is a run of {classifier.head}.",
            "Give the folder that vfc train-head frame-classifier named.",
        )
    classifier.require_recipe(reader)
    if _class_names(classifier) != sequences.class_names:
        raise BadInput(
            f"The frame classifier {classifier.folder} has other classes than the head.",
            "Give the run of frame-classifier on the store of the head's training.",
        )
    head = cast("FrameHead", _head(classifier, sequences.store))
    return [frame_labels(head, sequences.videos, i, sequences.rows(i)) for i in range(len(sequences.videos.names))]
