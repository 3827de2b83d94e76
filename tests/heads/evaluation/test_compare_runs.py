"""Groups of `vfc report`: one set of videos and labels each; only seeds, folds and splits of it vary within a group."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from suites.motion_store import MakeStore, make_store

from vfc.cache_schema.annotations import Annotation, Annotations, load, write_annotations
from vfc.cache_schema.reader import open_store
from vfc.cache_schema.values.progress import Silent
from vfc.cache_schema.values.record import Key, Record
from vfc.cache_schema.writer import StoreWriter
from vfc.heads.contract.train_config import TrainConfig
from vfc.heads.evaluation.compare_runs import Report, ReportConfig, report
from vfc.heads.methods import linear_probe
from vfc.heads.tasks.classification import Config
from vfc.heads.training.fit import train

QUICK = TrainConfig(steps=2, batch=8, validate_every=2, device="cpu", select="last")


def trained(store: Path, out: Path, seed: int = 0, **settings: Any) -> Path:
    train(
        "linear-probe", Config(store, **settings), linear_probe.Config(), replace(QUICK, seed=seed, out=out), Silent()
    )
    return out


def with_folds(store: Path) -> Path:
    rows = tuple(replace(row, split="", fold=str(int(row.name[-5]) % 2)) for row in load(store).rows)
    write_annotations(store, "default", Annotations(rows))
    return store


def sizes(result: Report) -> list[tuple[int, int]]:
    """(seeds, lists) of every group."""
    rows: Any = result.to_json()["groups"]
    return sorted((row["seeds"], row["lists"]) for row in rows.values())


def test_folds_and_split_seeds_of_one_set_of_videos_are_one_group(make_store: MakeStore, tmp_path: Path) -> None:
    store, runs = with_folds(make_store(classes=4)), tmp_path / "runs"
    for fold in ("0", "1"):
        for seed in (0, 1):
            trained(store, runs / f"fold{fold}-{seed}", seed, fold=fold)
    assert sizes(report(ReportConfig((runs,)), Silent())) == [(2, 2)]
    for split_seed in (0, 1):
        trained(store, tmp_path / "seeded" / str(split_seed), split_seed=split_seed)
    assert sizes(report(ReportConfig((tmp_path / "seeded",)), Silent())) == [(1, 2)]


def test_stores_of_different_videos_are_no_folds(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for number, classes in enumerate((4, 5)):
        store = with_folds(make_store(tmp_path / f"store{number}", classes=classes))
        trained(store, runs / str(number), seed=number, fold="0")
    result = report(ReportConfig((runs,), against=(runs / "0",)), Silent())
    assert sizes(result) == [(1, 1), (1, 1)]
    assert all("videos " in name and "store " in name for name in result.groups)
    assert not result.differences  # items of different videos cannot be paired


def test_runs_before_and_after_a_corrected_label_are_two_groups(make_store: MakeStore, tmp_path: Path) -> None:
    store, runs = with_folds(make_store(classes=4)), tmp_path / "runs"
    trained(store, runs / "before", seed=0, fold="0")
    first, *rest = load(store).rows
    write_annotations(store, "default", Annotations((replace(first, label="class01"), *rest)))
    trained(store, runs / "after", seed=1, fold="0")
    result = report(ReportConfig((runs,)), Silent())
    assert sizes(result) == [(1, 1), (1, 1)]
    assert all("videos " in name for name in result.groups)


@pytest.mark.parametrize("settings", [{"test_views": "1"}, {"test_views": "0-1"}, {"train_views": "0"}])
def test_other_views_are_another_row(make_store: MakeStore, tmp_path: Path, settings: dict[str, Any]) -> None:
    store, runs = with_folds(make_store(classes=4, views=2)), tmp_path / "runs"
    trained(store, runs / "one", seed=0, fold="0")
    trained(store, runs / "two", seed=1, fold="0", **settings)
    assert sizes(report(ReportConfig((runs,)), Silent())) == [(1, 1), (1, 1)]


def test_folds_whose_training_videos_have_other_views_are_one_group(make_store: MakeStore, tmp_path: Path) -> None:
    store, runs = with_folds(make_store(classes=4)), tmp_path / "runs"
    with open_store(store) as reader:
        recipe, frames = reader.recipe, reader.read(Key("video", "class00/0.mp4"), "frames")
    with StoreWriter(store, recipe) as writer:  # one more view of one video, which is in fold 0
        writer.add(Record(Key("video", "class00/0.mp4", 1), {"frames": frames}))
    for fold in ("0", "1"):
        trained(store, runs / fold, fold=fold, test_views="0")
    views = [json.loads((runs / fold / "results.jsonl").read_text())["views"]["train"] for fold in ("0", "1")]
    assert views == [[0], [0, 1]]
    assert sizes(report(ReportConfig((runs,)), Silent())) == [(1, 2)]


def test_results_that_differ_in_a_fact_alone_have_names_of_their_own(make_store: MakeStore, tmp_path: Path) -> None:
    store, runs = with_folds(make_store(classes=4)), tmp_path / "runs"
    trained(store, runs / "one", seed=0, fold="0")
    trained(store, runs / "two", seed=1, fold="0")
    path = runs / "two" / "results.jsonl"
    row = json.loads(path.read_text())
    path.write_text(json.dumps({**row, "tokens": {"visual": "mean of all 9 tokens of a frame"}}) + "\n")
    result = report(ReportConfig((runs,)), Silent())
    assert sizes(result) == [(1, 1), (1, 1)]
    # A row of version 0.1 names no facts; it is not averaged with one that does.
    path.write_text(json.dumps({name: row[name] for name in ("task", "list_digest", "seed", "top1")}) + "\n")
    assert sizes(report(ReportConfig((runs,)), Silent())) == [(1, 1), (1, 1)]


def test_annotations_of_rows_without_a_set_of_videos_must_be_equal(tmp_path: Path) -> None:
    write_annotations(tmp_path, "default", Annotations((Annotation("a"),)))
    for number, digest in enumerate(("1" * 64, "2" * 64)):
        folder = tmp_path / "runs" / str(number)
        folder.mkdir(parents=True)
        config = {"task": {}, "head": {}, "train": {"seed": number}}
        data = {"store_digest": "s", "annotations_digest": digest}
        (folder / "config.json").write_text(json.dumps({"head": "a", "config": config, "data": data}))
        (folder / "predictions.jsonl").write_text(json.dumps({"item": "x", "correct": 1.0}) + "\n")
        (folder / "results.jsonl").write_text(json.dumps({"list_digest": "list"}) + "\n")
    assert sizes(report(ReportConfig((tmp_path / "runs",)), Silent())) == [(1, 1), (1, 1)]


def few_shot(folder: Path, way: int, lr: float, seed: int, right: int, untrained: float, validation: float) -> None:
    """A finished few-shot run of 10 tasks, as `vfc train-head` writes it, with `right` of 20 queries of class p."""
    folder.mkdir(parents=True)
    config = {"task": {"way": way, "cache": "store"}, "head": {"dim": 8}, "train": {"seed": seed, "lr": lr}}
    (folder / "config.json").write_text(json.dumps({"head": "h", "config": config, "data": {"store_digest": "5" * 64}}))
    items = [
        {"item": str(i), "correct": (min(right, 20) / 20 + 1) / 2, "clips": ["p1", "q1"], "labels": ["p", "q"]}
        | {"predicted": ["q" if i else "p", "q"]}
        for i in range(10)
    ]
    (folder / "predictions.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    row = {
        "task": "fewshot", "list_digest": f"list{way}", "store_digest": "5" * 64, "validation": validation,
        "per_class": {"p": right / 20, "q": 1.0}, "confusion": [[right, 20 - right], [0, 20]],
        "baselines": [{"name": "mean-cosine", "accuracy": untrained}], "seed": seed,
    }  # fmt: skip
    (folder / "results.jsonl").write_text(json.dumps(row) + "\n")
    curve = [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.5, "validation": validation}]
    (folder / "curve.jsonl").write_text("".join(json.dumps(point) + "\n" for point in curve))


def sweep(root: Path) -> Path:
    for way, lr in ((2, 1e-3), (2, 1e-4), (5, 1e-3)):
        for seed in (0, 1):
            few_shot(root / f"{way}-{lr}-{seed}", way, lr, seed, 10 if lr > 5e-4 else 4, 0.7, 0.8 if lr > 5e-4 else 0.5)
    return root


def test_columns_are_the_settings_that_differ_and_untrained_rows_those_of_the_runs(tmp_path: Path) -> None:
    result = report(ReportConfig((sweep(tmp_path / "runs"),)), Silent())
    table = result.tables()[0]
    assert table.columns[:5] == ("", "way", "lr", "validation", "test, mean ± std over seeds")
    rows = [row[:6] for row in table.rows]
    assert ("h", "2", "0.001", "80.00 %", "75.00 ± 0.00 %", "2 seeds") in rows
    assert ("h", "2", "0.0001", "50.00 %", "60.00 ± 0.00 %", "2 seeds") in rows
    # One untrained row per set of test tasks, with the setting that says which.
    assert [row[:6] for row in table.rows[3:]] == [
        ("mean-cosine", "2", "", "", "70.00 %", "untrained"),
        ("mean-cosine", "5", "", "", "70.00 %", "untrained"),
    ]
    (notice,) = result.notices()
    assert notice.startswith("Untrained features (mean-cosine 70.00 %) are better than the trained h (")
    assert notice.endswith("60.00 %.")
    alone = report(ReportConfig((tmp_path / "runs" / "2-0.001-0",)), Silent()).to_json()["groups"]
    every = result.to_json()["groups"]
    assert isinstance(alone, dict)
    assert isinstance(every, dict)
    assert set(alone) < set(every)  # an id does not depend on the other runs


def test_the_page_and_the_pictures_of_a_report(tmp_path: Path) -> None:
    runs, page, folder = sweep(tmp_path / "runs"), tmp_path / "report.html", tmp_path / "figures"
    report(ReportConfig((runs,), out=page, figures=folder), Silent())
    text = page.read_text()
    assert text.index("Untrained features (mean-cosine") < text.index("<dl>") < text.index("<table>")
    for part in ("<dd>vfc report ", "<dt>store digest</dt><dd>555555555555</dd>", 'name="viewport"', "dark"):
        assert part in text, part
    assert "prefers-color-scheme" in text
    assert not re.search(r'(src|href)="(?!#|data:)', text)
    assert "p1 (18)" in text  # the clip that was taken for q in 9 of 10 tasks, in both seeds
    words = {
        word
        for svg in re.findall(r"<svg.*?</svg>", text, flags=re.S)
        for word in ElementTree.fromstring(svg).itertext()
    }
    assert {"loss", "validation, %", "lr", "taken for"} <= words
    names = {path.name for path in folder.iterdir()}
    assert {"curves.png", "curves.svg", "scores.png", "setting-lr.png", "setting-way.svg"} <= names
    assert any(name.startswith("confusion-h") for name in names)
    assert (folder / "curves.png").read_bytes()[:4] == b"\x89PNG"


def test_sweeps_of_folders_are_read(tmp_path: Path) -> None:
    sweep(tmp_path / "sweep" / "trials")
    (tmp_path / "sweep" / "config.json").write_text("{}")
    assert len(report(ReportConfig((tmp_path / "sweep",)), Silent()).groups) == 3
