"""A corrected label changes every digest that stands for labels in a result, and none that stands for features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from suites.motion_store import MakeStore

from vfc.cache_schema.annotations import Annotation, Annotations, load, write_annotations
from vfc.cache_schema.values.progress import Silent
from vfc.heads.contract.train_config import TrainConfig
from vfc.heads.evaluation.evaluate import EvalConfig, evaluate
from vfc.heads.lookup import configs
from vfc.heads.tasks.classification import Config
from vfc.heads.training.fit import train

OF_FEATURES = {"store_digest", "recipe_digest", "views_digest", "classes_digest"}
"""Digests of the features, of the views in use, and of the list of class names, which a correction leaves alone."""


def digests(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name.endswith("_digest")}


def with_splits(store: Path, *, by_class: bool) -> None:
    """Explicit splits: of the classes, or of the clips of every class."""
    rows = []
    for i, (label, names) in enumerate(load(store).by_label().items()):
        for k, name in enumerate(names):
            rows.append(
                Annotation(name, label, ("train", "val", "test")[i % 3] if by_class else ("train", "test")[k % 2])
            )
    write_annotations(store, "default", Annotations(tuple(rows)))


def correct(store: Path, split: str) -> None:
    """The first video of a split gets the label of the last one."""
    rows = list(load(store).rows)
    of_split = [i for i, row in enumerate(rows) if row.split == split]
    rows[of_split[0]] = replace(rows[of_split[0]], label=rows[of_split[-1]].label)
    write_annotations(store, "default", Annotations(tuple(rows)))


def test_of_a_few_shot_result(make_store: MakeStore) -> None:
    store = make_store(classes=9, split=False)
    with_splits(store, by_class=True)
    config = EvalConfig(cache=store, tasks=20, way=3)
    before = digests(evaluate(config, Silent()).to_json())
    correct(store, "test")
    after = digests(evaluate(config, Silent()).to_json())
    assert {name for name in before if before[name] != after[name]} == before.keys() - OF_FEATURES
    assert {"annotations_digest", "list_digest", "videos_digest"} <= before.keys()


@pytest.mark.parametrize(("split", "unchanged"), [("train", "list_digest"), ("test", "train_digest")])
def test_of_a_trained_classifier(make_store: MakeStore, tmp_path: Path, split: str, unchanged: str) -> None:
    store = make_store(classes=4, split=False)
    with_splits(store, by_class=False)

    def run(name: str) -> dict[str, Any]:
        how = TrainConfig(steps=1, batch=4, device="cpu", out=tmp_path / name, select="last")
        return digests(train("linear-probe", Config(store), configs("linear-probe")["head"], how, Silent()).row)

    before = run("before")
    correct(store, split)
    after = run("after")
    assert {name for name in before if before[name] != after[name]} == before.keys() - OF_FEATURES - {unchanged}
    assert {"annotations_digest", "train_digest", "list_digest", "videos_digest"} <= before.keys()
