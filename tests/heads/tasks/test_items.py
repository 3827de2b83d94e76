"""predictions.jsonl of few-shot and classification runs: items, true and predicted classes and scores, by name."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from suites.motion_store import MakeStore

from vfc.cache_schema.annotations import Annotations, load, write_annotations
from vfc.cache_schema.values.progress import Silent
from vfc.heads.contract.train_config import TrainConfig
from vfc.heads.methods import linear_probe, prototype
from vfc.heads.results.tables import read_rows
from vfc.heads.tasks import classification, fewshot
from vfc.heads.tasks.fewshot import items as few_shot_items
from vfc.heads.training.fit import train

QUICK = TrainConfig(steps=2, batch=4, validate_every=2, device="cpu", select="last")


def test_every_query_of_a_task_is_named_with_its_class_the_predicted_one_and_scores(
    make_store: MakeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(noise=0.3)
    task = fewshot.Config(store, way=4, queries=2, train_queries=2, val_tasks=5, tasks=30)
    train("prototype", task, prototype.Config(), replace(QUICK, out=tmp_path / "a"), Silent())
    row = read_rows(tmp_path / "a" / "results.jsonl")[0]
    label_of = {each.name: each.label for each in load(store).rows}
    rows = read_rows(tmp_path / "a" / "predictions.jsonl")
    counts: Counter[tuple[str, str]] = Counter()
    for item in rows:
        assert [label_of[clip] for clip in item["clips"]] == item["labels"]
        assert item["correct"] == np.mean([a == b for a, b in zip(item["labels"], item["predicted"], strict=True)])
        counts.update(zip(item["labels"], item["predicted"], strict=True))
        for predicted, scores in zip(item["predicted"], item["scores"], strict=True):
            assert next(iter(scores)) == predicted
            assert len(scores) == 3
            assert [*scores.values()] == sorted(scores.values(), reverse=True)
            assert 1 / 4 <= scores[predicted] <= 1
            assert sum(scores.values()) <= 1.0002
    names = [*row["per_class"]]
    assert [[counts[a, b] for b in names] for a in names] == row["confusion"]
    monkeypatch.setattr(few_shot_items, "MOST_SCORED", 30 * 8 - 1)
    train("prototype", task, prototype.Config(), replace(QUICK, out=tmp_path / "b"), Silent())
    for item, other in zip(rows, read_rows(tmp_path / "b" / "predictions.jsonl"), strict=True):
        assert other == {name: value for name, value in item.items() if name != "scores"}


@pytest.mark.parametrize("view_sum", ["logits", "probabilities"])
def test_scores_of_a_classifier_are_probabilities(
    make_store: MakeStore, tmp_path: Path, view_sum: Literal["logits", "probabilities"]
) -> None:
    store = make_store(classes=6)
    rows = tuple(replace(row, split="test" if "0" in row.name[-6:-4] else "train") for row in load(store).rows)
    write_annotations(store, "default", Annotations(rows))
    config = classification.Config(store, view_sum=view_sum)
    train("linear-probe", config, linear_probe.Config(), replace(QUICK, out=tmp_path), Silent())
    results = read_rows(tmp_path / "predictions.jsonl")
    classes = read_rows(tmp_path / "results.jsonl")[0]["class_names"]
    for item in results:
        assert next(iter(item["scores"])) == item["predicted"]
        assert len(item["scores"]) == 5 < len(classes)
        assert sum(item["scores"].values()) < 1
        assert min(item["scores"].values()) >= 0
        assert item["scores"][item["predicted"]] >= 1 / len(classes)
