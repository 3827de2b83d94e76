"""Training from a store: it learns, it resumes exactly, it measures the test once, it refuses what it must."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from suites.killed import Killed, KilledAt
from suites.motion_store import MakeStore, Told

from vfc.cache_schema.annotations import load, write_annotations
from vfc.cache_schema.protocol import EpisodeSpec, draw_episode
from vfc.cache_schema.reader import open_store
from vfc.cache_schema.values.errors import BadInput, MissingPath, RecipeMismatch, UnknownName
from vfc.cache_schema.values.progress import Silent
from vfc.cache_schema.values.record import Key
from vfc.heads.contract.train_config import TrainConfig
from vfc.heads.evaluation.evaluate import EvalConfig, evaluate
from vfc.heads.lookup import configs, names
from vfc.heads.methods import prototype
from vfc.heads.results.tables import read_rows
from vfc.heads.runs.run_folder import read_items
from vfc.heads.tasks import fewshot
from vfc.heads.training.fit import train
from vfc.heads.training.schedule import learning_rate, length_in_updates, optimizer, resolve_length

QUICK = TrainConfig(steps=30, batch=4, validate_every=10, device="cpu")


@pytest.fixture
def task(make_store: MakeStore) -> fewshot.Config:
    return fewshot.Config(make_store(noise=0.3), way=3, train_queries=2, val_tasks=50, tasks=200)


def strip(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "circumstances"}


def test_a_trained_head_beats_chance_and_every_training_free_row(task: fewshot.Config, tmp_path: Path) -> None:
    config = replace(QUICK, steps=100, batch=8, validate_every=50, lr=3e-3, out=tmp_path / "run")
    row = train("prototype", task, prototype.Config(width=16), config, Silent()).row
    assert row["accuracy"] - row["interval"] > 0.8
    for other in row["baselines"]:
        assert other["difference"] - other["difference_interval"] > 0.2, other


def test_the_run_folder(task: fewshot.Config, tmp_path: Path) -> None:
    result = train("prototype", task, prototype.Config(), replace(QUICK, out=tmp_path / "run"), Silent())
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "config.json", "curve.jsonl", "head.safetensors", "predictions.jsonl", "report.html", "results.jsonl"
    }  # fmt: skip
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["head"] == "prototype"
    assert config["config"]["task"]["way"] == 3
    assert config["config"]["train"]["steps"] == 30
    (row,) = read_rows(tmp_path / "run" / "results.jsonl")
    assert row == result.row
    curve = read_rows(tmp_path / "run" / "curve.jsonl")
    assert [line["step"] for line in curve] == list(range(1, 31))
    figures = {line["step"]: line["validation"] for line in curve if "validation" in line}
    assert list(figures) == [10, 20, 30]
    assert row["validation"] == max(figures.values()) == figures[row["chosen_update"]]
    assert row["parameters"] == 128 * 12 + 1
    assert 0 <= row["circumstances"]["waiting_share"] <= 1
    page = (tmp_path / "run" / "report.html").read_text()
    assert page.count("<svg") == 2
    assert "src=" not in page
    assert "class11" in page
    tables = result.tables()
    names = [line[0] for line in tables[0].rows]
    assert names[:4] == ["prototype", *(f"mean-cosine, {name}, centred" for name in ("mean", "ordered", "difference"))]
    assert names[-1] == "chance"
    assert tables[-1].title == "Training"


def test_the_baselines_are_those_of_vfc_eval_on_the_same_list(task: fewshot.Config, tmp_path: Path) -> None:
    row = train("prototype", task, prototype.Config(), replace(QUICK, out=tmp_path / "run"), Silent()).row
    baselines = {other["name"]: other for other in row["baselines"]}
    asked = [("mean-cosine", name, f"mean-cosine, {name}, centred") for name in ("mean", "ordered", "difference")]
    asked += [("otam", "ordered", "otam, centred"), ("bi-mhm", "ordered", "bi-mhm, centred")]
    for metric, representation, name in asked:
        config = EvalConfig(task.cache, way=3, tasks=200, centre="train", metric=metric, representation=representation)
        result = evaluate(config, Silent())
        assert result.to_json()["list_digest"] == row["list_digest"]
        assert baselines[name]["accuracy"] == pytest.approx(result.score.accuracy)
        assert baselines[name]["difference"] == pytest.approx(row["accuracy"] - result.score.accuracy)


@pytest.mark.parametrize("update", [3, 10, 15, 29, 30])
def test_killed_and_resumed_equals_uninterrupted(task: fewshot.Config, tmp_path: Path, update: int) -> None:
    full = train("prototype", task, prototype.Config(), replace(QUICK, out=tmp_path / "whole"), Silent())
    with pytest.raises(Killed):
        train("prototype", task, prototype.Config(), replace(QUICK, out=tmp_path / "cut"), KilledAt(update))
    assert not read_rows(tmp_path / "cut" / "results.jsonl")
    cut = train("prototype", task, prototype.Config(), replace(QUICK, out=tmp_path / "cut"), Silent())
    assert strip(cut.row) == strip(full.row)
    ends = [load_file(tmp_path / name / "head.safetensors") for name in ("whole", "cut")]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    assert read_rows(tmp_path / "cut" / "curve.jsonl") == read_rows(tmp_path / "whole" / "curve.jsonl")


def test_served_from_disk_gives_the_same_numbers(
    task: fewshot.Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ram = train("prototype", task, prototype.Config(), replace(QUICK, out=tmp_path / "ram"), Silent())
    monkeypatch.setattr("vfc.heads.data.placement.available_memory", lambda: 0)
    disk = train("prototype", task, prototype.Config(), replace(QUICK, out=tmp_path / "disk"), Silent())
    assert strip(disk.row) == strip(ram.row)


def test_a_finished_run_is_shown_not_measured_again(
    task: fewshot.Config, tmp_path: Path, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = train("prototype", task, prototype.Config(), replace(QUICK, out=tmp_path / "run"), Silent())
    monkeypatch.setattr(fewshot.FewShot, "test", lambda *_: pytest.fail("measured twice"))
    again = train("prototype", task, prototype.Config(), replace(QUICK, out=tmp_path / "run"), told)
    assert again.row == first.row
    assert any("is finished; its result is shown" in line for line in told.lines)


def test_another_setting_or_another_store_is_refused_with_the_difference(task: fewshot.Config, tmp_path: Path) -> None:
    train("prototype", task, prototype.Config(), replace(QUICK, out=tmp_path / "run"), Silent())
    with pytest.raises(RecipeMismatch, match=r"config.train.lr: 0.001 there, 0.01 asked"):
        train("prototype", task, prototype.Config(), replace(QUICK, out=tmp_path / "run", lr=0.01), Silent())
    rows = load(task.cache)
    write_annotations(task.cache, "default", type(rows)(rows.rows[1:]))
    with pytest.raises(RecipeMismatch, match=r"data.annotations_digest: .* there, .* asked"):
        train("prototype", task, prototype.Config(), replace(QUICK, out=tmp_path / "run"), Silent())


def test_the_default_folder_is_named_after_the_settings(
    task: fewshot.Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    short = replace(QUICK, steps=2)
    first = train("prototype", task, prototype.Config(), short, Silent()).folder
    other = train("prototype", task, prototype.Config(), replace(short, seed=1), Silent()).folder
    assert first != other
    assert first.parent == other.parent == Path("runs")
    assert first.name.startswith("prototype-")


def test_seeds_differ_but_share_the_test_tasks(task: fewshot.Config, tmp_path: Path) -> None:
    rows = [
        train("prototype", task, prototype.Config(), replace(QUICK, seed=s, out=tmp_path / str(s)), Silent()).row
        for s in (0, 1)
    ]
    assert rows[0]["list_digest"] == rows[1]["list_digest"]
    assert rows[0]["validation"] != rows[1]["validation"] or rows[0]["accuracy"] != rows[1]["accuracy"]


def test_bf16_trains(task: fewshot.Config, tmp_path: Path) -> None:
    row = train(
        "prototype", task, prototype.Config(), replace(QUICK, precision="bf16", out=tmp_path / "r"), Silent()
    ).row
    assert 0 < row["accuracy"] <= 1


def test_without_a_val_split_the_last_update_counts(task: fewshot.Config, tmp_path: Path) -> None:
    rows = load(task.cache)
    remaining = tuple(replace(row, split="train") if row.split == "val" else row for row in rows.rows)
    write_annotations(task.cache, "default", type(rows)(remaining))
    result = train("prototype", task, prototype.Config(), replace(QUICK, out=tmp_path / "run"), Silent())
    assert result.row["validation"] is None
    assert result.row["chosen_update"] == 30
    assert ("validation", "none: the last update counts") in result.tables()[-1].rows


def test_a_loss_that_is_not_finite_stops_the_run(
    task: fewshot.Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loss(self: prototype.Head, batch: fewshot.EpisodeBatch) -> dict[str, torch.Tensor]:
        return {"broken": self.log_scale * float("nan")}

    monkeypatch.setattr(prototype.Head, "loss", loss)
    with pytest.raises(BadInput, match=r"loss of update 1 is not finite.\nTry a lower --lr"):
        train("prototype", task, prototype.Config(), replace(QUICK, out=tmp_path / "run"), Silent())


def test_too_few_clips_and_too_few_classes_are_refused_before_training(task: fewshot.Config, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="has 8 videos; 7 shot"):
        train("prototype", replace(task, shot=7), prototype.Config(), replace(QUICK, out=tmp_path / "r"), Silent())
    with pytest.raises(BadInput, match="largest possible way is 3"):
        train("prototype", replace(task, way=4), prototype.Config(), replace(QUICK, out=tmp_path / "r"), Silent())
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("change", "told"),
    [({"warmup_epochs": 1.0}, "without --epochs"), ({"metric": "otam", "width": 12}, "cannot be divided among 8")],
)
def test_refused_settings_leave_the_folder_free_for_mended_ones(
    task: fewshot.Config, tmp_path: Path, change: dict[str, Any], told: str
) -> None:
    head = {name: value for name, value in change.items() if name in ("metric", "width")}
    how = replace(QUICK, out=tmp_path / "run", **{name: value for name, value in change.items() if name not in head})
    with pytest.raises(BadInput, match=told):
        train("prototype", task, prototype.Config(**head), how, Silent())
    assert not (tmp_path / "run").exists()
    assert train("prototype", task, prototype.Config(), replace(QUICK, out=tmp_path / "run"), Silent()).row


def test_a_kill_while_a_run_is_taken_up_again_loses_nothing_of_its_curve(
    task: fewshot.Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = replace(QUICK, out=tmp_path / "run")
    with pytest.raises(Killed):
        train("prototype", task, prototype.Config(), how, KilledAt(15))
    with monkeypatch.context() as patch:
        patch.setattr("vfc.heads.training.trial.append_rows", _killed)
        with pytest.raises(Killed):
            train("prototype", task, prototype.Config(), how, Silent())
    assert [row["step"] for row in read_rows(tmp_path / "run" / "curve.jsonl")] == list(range(1, 11))
    row = train("prototype", task, prototype.Config(), how, Silent()).row
    assert row["updates"] == 30
    assert len(read_rows(tmp_path / "run" / "curve.jsonl")) == 30


def test_a_result_that_a_kill_cut_short_is_written_anew(task: fewshot.Config, tmp_path: Path) -> None:
    how = replace(QUICK, steps=2, out=tmp_path / "run")
    row = train("prototype", task, prototype.Config(), how, Silent()).row
    full = (tmp_path / "run" / "results.jsonl").read_bytes()
    (tmp_path / "run" / "results.jsonl").write_bytes(full[:40])
    train("prototype", task, prototype.Config(), how, Silent())
    assert [strip(result) for result in read_rows(tmp_path / "run" / "results.jsonl")] == [strip(row)]


def test_patience_stops_a_run_and_a_kill_changes_nothing_of_it(
    task: fewshot.Config, tmp_path: Path, told: Told
) -> None:
    # lr 0 changes no weight, so no validation is better than the first: at 10; 20 and 30 make two.
    how = replace(QUICK, steps=200, lr=0.0, patience=2)
    full = train("prototype", task, prototype.Config(), replace(how, out=tmp_path / "full"), told)
    assert (full.row["updates"], full.row["chosen_update"]) == (30, 10)
    assert "No better validation in 2: stopped at update 30." in told.lines
    for update in (25, 30):
        out = tmp_path / f"cut{update}"
        with pytest.raises(Killed):
            train("prototype", task, prototype.Config(), replace(how, out=out), KilledAt(update))
        assert strip(train("prototype", task, prototype.Config(), replace(how, out=out), Silent()).row) == strip(
            full.row
        )


def test_patience_without_a_validation_is_refused(task: fewshot.Config, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"--patience 2 cannot be used with --select last"):
        replace(QUICK, patience=2, select="last")
    rows = load(task.cache)
    remaining = tuple(replace(row, split="train") if row.split == "val" else row for row in rows.rows)
    write_annotations(task.cache, "default", type(rows)(remaining))
    with pytest.raises(BadInput, match=r"--patience 2 needs a validation"):
        train("prototype", task, prototype.Config(), replace(QUICK, patience=2, out=tmp_path / "run"), Silent())


def test_a_page_that_cannot_be_drawn_costs_no_result(
    task: fewshot.Config, tmp_path: Path, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vfc.heads.training.fit.write_html", _no_font)
    how = replace(QUICK, steps=2, out=tmp_path / "run")
    row = train("prototype", task, prototype.Config(), how, told).row
    assert read_rows(tmp_path / "run" / "results.jsonl") == [row]
    assert any("could not be drawn (RuntimeError: no font); the result is kept." in line for line in told.lines)


def _no_font(*_: object) -> None:
    raise RuntimeError("no font")


def _killed(*_: object) -> None:
    raise Killed


def test_an_unknown_head_gets_a_suggestion(task: fewshot.Config) -> None:
    with pytest.raises(UnknownName, match=r"no head 'prototpye'. Did you mean 'prototype'\?"):
        train("prototpye", task, prototype.Config(), QUICK, Silent())
    assert "prototype" in names()
    defaults = configs("prototype")
    assert defaults == {"task": fewshot.Config(), "head": prototype.Config(), "train": TrainConfig()}
    assert all("help" in field.metadata for part in defaults.values() for field in part.__dataclass_fields__.values())


def test_batches_are_functions_of_seed_and_update(task: fewshot.Config, make_store: MakeStore) -> None:
    opened = fewshot.prepare(task, QUICK, prototype.Head, prototype.Config(), torch.device("cpu"), Silent())

    def batches(start: int) -> Iterator[fewshot.EpisodeBatch]:
        return opened.batches(start)

    first = [batch for batch, _ in zip(batches(0), range(4), strict=False)]
    late = next(batches(3))
    assert torch.equal(first[3].videos["visual"], late.videos["visual"])
    assert torch.equal(first[3].support, late.support)
    assert torch.equal(first[3].query, late.query)
    # The same episodes as the frozen protocol draws, clip by clip.
    annotations = load(task.cache)
    assert late.support.shape == (4, 3, 1)
    assert late.query.shape == late.target.shape == (4, 6)
    spec = EpisodeSpec("train", 3, 1, 2, QUICK.seed)
    with open_store(task.cache) as reader:
        for i in range(4):
            episode = draw_episode(annotations, spec, 3 * 4 + i)
            expected = [reader.read(Key("video", name), "frames") for shots in episode.query for name in shots]
            np.testing.assert_array_equal(late.videos["visual"][late.query[i]].numpy(), np.stack(expected))
            expected = [reader.read(Key("video", shots[0]), "frames") for shots in episode.support]
            np.testing.assert_array_equal(late.videos["visual"][late.support[i, :, 0]].numpy(), np.stack(expected))


def test_training_draws_every_view_and_tests_the_clean_one(make_store: MakeStore) -> None:
    task = fewshot.Config(make_store(views=3), way=3, train_queries=2, val_tasks=20, tasks=5)
    opened = fewshot.prepare(task, QUICK, prototype.Head, prototype.Config(), torch.device("cpu"), Silent())
    with open_store(task.cache) as reader:
        key_of = {reader.read(key, "frames").tobytes(): key for key in reader.keys("video")}
    drawn: dict[str, set[int]] = {}
    for batch, _ in zip(opened.batches(0), range(40), strict=False):
        for clip in batch.videos["visual"]:
            key = key_of[clip.numpy().tobytes()]
            drawn.setdefault(key.name, set()).add(key.view)
    assert len(drawn) == 8 * 8
    assert np.mean([len(views) for views in drawn.values()]) > 2.5

    class Seen(prototype.Head):
        views: ClassVar[set[int]] = set()

        def encode(self, videos: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            self.views.update(key_of[clip.numpy().tobytes()].view for clip in videos["visual"])
            return super().encode(videos)

    opened.validate([Seen(prototype.Config(), opened.specs)])
    assert Seen.views == {0}


@pytest.mark.parametrize(
    ("schedule", "update", "share"),
    [
        ("constant", 90, 1),
        ("constant", 0, 0.1),
        ("constant", 9, 1),
        ("cosine", 10, 1),
        ("cosine", 55, 0.5),
        ("multistep", 59, 1),
        ("multistep", 60, 0.1),
        ("multistep", 80, 0.01),
    ],
)
def test_learning_rates_by_hand(schedule: Any, update: int, share: float) -> None:
    config = TrainConfig(steps=100, warmup=10, lr=2.0, schedule=schedule)
    assert learning_rate(config, update) == pytest.approx(2.0 * share)


def test_the_rate_of_a_published_log() -> None:
    # 50 passes, 5 of them warm-up, 0.001 down to a hundredth: the log says 0.000975773 at the end of the warm-up.
    config = TrainConfig(steps=5000, warmup=500, lr=1e-3, schedule="cosine-total")
    assert learning_rate(config, 500) == pytest.approx(0.000975773, abs=1e-9)
    assert learning_rate(config, 499) == 1e-3


def test_epochs_become_updates() -> None:
    asked = TrainConfig(epochs=6, accumulate=4, warmup_epochs=1.5)
    result = length_in_updates(asked, 10, Silent())
    assert (result.steps, result.warmup) == (15, 4)
    told = Told()
    assert length_in_updates(replace(asked, least_steps=40), 10, told).steps == 40
    assert told.lines == ["6 epochs are 15 updates, raised to 40 by --least-steps."]
    assert length_in_updates(TrainConfig(steps=7), 0, Silent()).steps == 7
    with pytest.raises(BadInput, match=r"so it has no epochs.\nGive --steps, not --epochs"):
        length_in_updates(asked, 0, Silent())
    with pytest.raises(BadInput, match=r"--warmup-epochs is given without --epochs.\nGive the warm-up in updates"):
        length_in_updates(TrainConfig(warmup_epochs=1), 10, Silent())
    with pytest.raises(
        BadInput, match=r"^--validate-every 0 means once per epoch, and this task has no epochs\.\nGive a number"
    ):
        length_in_updates(TrainConfig(validate_every=0), 0, Silent())
    assert length_in_updates(TrainConfig(validate_every=0, accumulate=3), 10, Silent()).validate_every == 3


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize("by_hand", [{"steps": 20}, {"steps": 20, "epochs": 0}, {"epochs": 0}])
def test_a_length_in_updates_replaces_the_defaults_of_a_method(name: str, by_hand: dict[str, Any]) -> None:
    defaults = configs(name)["train"]
    config = resolve_length(replace(defaults, **by_hand), defaults, Silent())
    run = length_in_updates(config, 7, Silent())
    assert (run.steps, run.epochs, run.warmup) == (by_hand.get("steps", defaults.steps), 0, defaults.warmup)
    # Given back with --config, the settings mean the same.
    assert resolve_length(config, defaults, Silent()) == config
    assert resolve_length(defaults, defaults, Silent()).epochs == defaults.epochs


def test_a_warm_up_in_epochs_that_was_given_is_refused_without_epochs() -> None:
    defaults = configs("vidprism")["train"]
    config = resolve_length(replace(defaults, steps=20, warmup_epochs=2), defaults, Silent())
    with pytest.raises(BadInput, match="--warmup-epochs is given without --epochs"):
        length_in_updates(config, 7, Silent())


def test_the_optimizer_has_the_settings_asked_for() -> None:
    parameters = [torch.nn.Parameter(torch.zeros(2, 2)), torch.nn.Parameter(torch.zeros(2))]
    config = TrainConfig(betas=(0.9, 0.98), eps=1e-7, weight_decay=0.2)
    spared = optimizer(parameters, config)
    assert [group["weight_decay"] for group in spared.param_groups] == [0.2, 0.0]
    assert all(group["betas"] == (0.9, 0.98) and group["eps"] == 1e-7 for group in spared.param_groups)
    assert [g["weight_decay"] for g in optimizer(parameters, replace(config, decay_all=True)).param_groups] == [0.2] * 2
    adam = optimizer(parameters, replace(config, optimizer="adam"))
    assert (adam.param_groups[0]["betas"], adam.param_groups[0]["eps"]) == ((0.9, 0.98), 1e-7)


def test_accumulated_batches_are_one_update(task: fewshot.Config, tmp_path: Path) -> None:
    # Episodes are numbered through, so 2 batches of 4 tasks are the same 8 tasks as one batch of 8.
    runs = [
        train("prototype", task, prototype.Config(), replace(QUICK, batch=8 // n, accumulate=n, out=out), Silent())
        for n, out in ((1, tmp_path / "whole"), (2, tmp_path / "halves"))
    ]
    curves = [read_rows(run.folder / "curve.jsonl") for run in runs]
    assert [a["loss"] for a in curves[0]] == pytest.approx([b["loss"] for b in curves[1]], rel=1e-3)


def test_every_test_task_is_kept_for_paired_comparison(task: fewshot.Config, tmp_path: Path) -> None:
    result = train("prototype", task, prototype.Config(), replace(QUICK, out=tmp_path / "run"), Silent())
    items = read_items(result.folder)
    assert len(items) == 200
    assert np.mean(list(items.values())) == pytest.approx(result.row["accuracy"])
    assert "items" not in result.row
    with pytest.raises(MissingPath, match=r"no finished run with predictions.jsonl.\nGive folders that"):
        read_items(tmp_path)
