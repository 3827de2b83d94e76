"""Training-free classifiers on the very tasks a head is tested on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from torch import Tensor

from vfc.cache_schema.values.progress import Progress
from vfc.heads.similarity.matching import METRICS, REPRESENTATIONS, comparable

from .clips import Clips, Plan
from .episodes import Score, Tasks, score, tasks_at_once
from .raw_tokens import RawSettings, RawTokens, mean_frames

SEQUENCE_METRICS = ("bi-mhm", "otam", "mpmm")


def baselines(test: Clips, plan: Plan, train: Clips, progress: Progress) -> dict[str, Score]:
    """By name: mean-cosine on each representation and the metrics of sequences, less the mean over the train clips.

    Where there is text, also Avg, Dec-Avg and MPMM on the raw tokens of both streams, as the FSAR-LLaVA paper has them
    (nothing subtracted).
    """
    visual = test.visual.gather(plan.rows["visual"])
    frames = visual - mean_frames(train).to(visual.device)
    tasks = plan.tasks if plan.of is None else _of_clips(plan)
    found = {}
    for name, rows, metric in _on_frames(frames):

        def classify(support: Tensor, query: Tensor, rows: Tensor = rows, metric: str = metric) -> Tensor:
            return METRICS[metric](rows[query.to(rows.device)], rows[support.to(rows.device)])

        found[name] = score(tasks, classify, tasks_at_once(tasks, rows[0].numel()), progress)
    if test.texts is not None:
        raw = RawTokens(test, plan)
        for metric in ("avg", "dec-avg", "mpmm"):
            chunk = tasks_at_once(plan.tasks, raw.numbers_per_entry)
            name = f"{metric}, raw visual and textual tokens"
            found[name] = score(plan.tasks, raw.classifier(metric, RawSettings()), chunk, progress)
    return found


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


def _of_clips(plan: Plan) -> Tasks:
    """The tasks over clips instead of (clip, prompt)."""
    assert plan.of is not None
    return replace(plan.tasks, support=plan.of[plan.tasks.support], query=plan.of[plan.tasks.query])
