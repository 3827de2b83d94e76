"""Training-free classifiers on the very tasks a head is tested on."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from vfc.cache_schema.values.devices import on_device
from vfc.cache_schema.values.progress import Progress
from vfc.heads.similarity.matching import METRICS, REPRESENTATIONS, comparable

from .dataset import EpisodeDataset, EpisodeIndex
from .episodes import Score, score, tasks_at_once
from .raw_tokens import RawSettings, RawTokens, mean_frames

SEQUENCE_METRICS = ("bi-mhm", "otam", "mpmm")


def baselines(test: EpisodeDataset, index: EpisodeIndex, train: EpisodeDataset, progress: Progress) -> dict[str, Score]:
    """By name: mean-cosine on each representation and the sequence metrics, minus the mean over the train clips.

    Where there is text, also Avg, Dec-Avg and MPMM on the raw tokens of both streams, as the FSAR-LLaVA paper has them
    (nothing subtracted).
    """
    visual = test.visual.gather(index.rows["visual"]).values
    frames = visual - mean_frames(train).to(visual.device)
    tasks = index.clip_tasks
    scores = {}
    for name, rows, metric in _on_frames(frames):

        def classify(support: Tensor, query: Tensor, rows: Tensor = rows, metric: str = metric) -> Tensor:
            return METRICS[metric](rows[on_device(query, rows.device)], rows[on_device(support, rows.device)])

        scores[name] = score(tasks, classify, tasks_at_once(tasks, rows[0].numel()), progress)
    if test.texts is not None:
        raw = RawTokens(test, index)
        for metric in ("avg", "dec-avg", "mpmm"):
            chunk = tasks_at_once(index.tasks, raw.numbers_per_entry)
            name = f"{metric}, raw visual and textual tokens"
            scores[name] = score(index.tasks, raw.classifier(metric, RawSettings()), chunk, progress)
    return scores


def count(frames: int, *, text: bool) -> int:
    """How many baselines there will be."""
    return len(REPRESENTATIONS) - (frames < 2) + len(SEQUENCE_METRICS) + 3 * text


def _on_frames(frames: Tensor) -> Iterator[tuple[str, Tensor, str]]:
    for representation in REPRESENTATIONS:
        if representation != "difference" or frames.shape[1] > 1:
            name = f"mean-cosine, {representation}, centred"
            yield name, comparable(frames, "mean-cosine", representation), "mean-cosine"
    for metric in SEQUENCE_METRICS:
        yield f"{metric}, centred", frames, metric
