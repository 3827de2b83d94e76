"""The facts that results name: the set of videos, views, tokens; what is said before a number is made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from suites.motion_store import MakeStore, Told

from vfc.cache_schema.annotations import Annotations, load, write_annotations
from vfc.cache_schema.reader import open_store
from vfc.cache_schema.values.progress import Silent
from vfc.cache_schema.values.record import ArraySpec
from vfc.cache_schema.writer import StoreWriter
from vfc.heads.contract.train_config import TrainConfig
from vfc.heads.data.facts import view_facts
from vfc.heads.evaluation.evaluate import EvalConfig, evaluate
from vfc.heads.evaluation.probe import ProbeConfig, probe_layers
from vfc.heads.lookup import configs
from vfc.heads.methods import linear_probe
from vfc.heads.tasks import classification
from vfc.heads.training.fit import train

QUICK = TrainConfig(steps=2, batch=4, validate_every=2, device="cpu", select="last")


def test_eval_and_probe_name_what_they_rest_on(make_store: MakeStore, tmp_path: Path) -> None:
    extra = (ArraySpec("layer9.visual", "fp32", (4, 3, 12)),)
    store = make_store(tokens=5, extra=extra)
    row: Any = evaluate(EvalConfig(store, layer="3", way=4, tasks=5), Silent()).to_json()
    assert row["tokens"] == {"visual": "mean of patch tokens"}
    assert (row["views"], row["split_rule"], row["groups_kept"]) == ({"test": [0]}, "Splits as given", None)
    assert row["clips_per_class"] == {f"class{i:02}": 8 for i in range(15)}
    probed: Any = probe_layers(
        ProbeConfig(store, way=4, tasks=5, split="test", page=tmp_path / "p.html"), Silent()
    ).to_json()
    assert probed["videos_digest"] == row["videos_digest"]


def test_a_few_shot_result_names_what_it_rests_on(make_store: MakeStore, tmp_path: Path) -> None:
    store = make_store(views=2)
    task = replace(configs("prototype")["task"], cache=store, way=3, tasks=5)
    row: Any = train("prototype", task, configs("prototype")["head"], replace(QUICK, out=tmp_path / "r"), Silent()).row
    assert row["views"] == {"train": [0, 1], "test": [0]}
    assert (row["tokens"], row["centring"], row["split_rule"]) == ({"visual": "as stored"}, "none", "Splits as given")
    seeded = replace(task, classes="seeded", episode_seed=3, way=2)
    other: Any = train(
        "prototype", seeded, configs("prototype")["head"], replace(QUICK, out=tmp_path / "s"), Silent()
    ).row
    assert other["split_rule"] == "Classes split 60/20/20 at random"
    assert other["videos_digest"] == row["videos_digest"]


def test_the_digest_of_views_is_that_of_their_meaning(make_store: MakeStore) -> None:
    store = make_store(views=2)
    with open_store(store) as reader:
        before = view_facts(reader, test=[1, 0])
        recipe = reader.recipe
    with StoreWriter(store, recipe) as writer:
        writer.bind("view", "1", {"copy": 1, "crop": "random"})
    with open_store(store) as reader:
        after = view_facts(reader, test=[0, 1])
        assert view_facts(reader, train=[0, 1], test=[0]) != after
    assert before["views"] == after["views"] == {"test": [0, 1]}
    assert before["views_digest"] != after["views_digest"]


def test_nearly_equal_labels_are_named(make_store: MakeStore, told: Told) -> None:
    store = make_store(classes=3)
    rows = load(store).rows
    renamed = {"class00": "Grow", "class01": "grow", "class02": "shrink"}
    split = ["train"] * 5 + ["test"] * 3
    write_annotations(
        store,
        "default",
        Annotations(tuple(replace(row, label=renamed[row.label], split=split[int(row.name[-5])]) for row in rows)),
    )
    config = classification.Config(store)
    classification.prepare(config, QUICK, linear_probe.Head, None, torch.device("cpu"), told)
    assert "Class names that are nearly equal count as different classes: 'Grow' and 'grow'." in told.lines


@pytest.mark.parametrize(("views", "notice"), [("all", True), ("0-1", False), ("2x3", False)])
def test_the_clean_view_among_test_crops_is_said(make_store: MakeStore, told: Told, views: str, notice: bool) -> None:
    store = make_store(classes=3, views=2)
    rows = load(store).rows
    split = ["train"] * 5 + ["test"] * 3
    rows = tuple(replace(row, split=split[int(row.name[-5])]) for row in rows)
    write_annotations(store, "default", Annotations(rows))
    with open_store(store) as reader, StoreWriter(store, reader.recipe) as writer:
        writer.bind("view", "1", {"clip": 1, "of": 2, "crop": "first", "crops": 3, "pipeline": "msta"})
    config = classification.Config(store, test_views=views)
    task = classification.prepare(config, QUICK, linear_probe.Head, None, torch.device("cpu"), told)
    assert any("--test-views all averages 2 views: 1 clips" in line for line in told.lines) == notice
    assert task.facts["views"]["test"] == ([1] if views == "2x3" else [0, 1])  # type: ignore[index, call-overload]
