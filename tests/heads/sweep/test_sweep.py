"""A sweep: each trial equals its own `vfc train-head`, validation chooses, kills and failures cost nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from suites.killed import Killed, KilledAt
from suites.motion_store import MakeStore, Told
from suites.sequence_store import write_made_up

from vfc.cache_schema.annotations import load, write_annotations
from vfc.cache_schema.values.errors import BadInput, RecipeMismatch
from vfc.cache_schema.values.progress import Silent
from vfc.heads.data.features import Features
from vfc.heads.evaluation.compare_runs import ReportConfig, report
from vfc.heads.lookup import configs
from vfc.heads.results.tables import read_rows
from vfc.heads.sweep.point import Point, by_stream
from vfc.heads.sweep.records import read_sweep
from vfc.heads.sweep.sweep import sweep
from vfc.heads.training.fit import train

QUICK: dict[str, Any] = {"steps": 12, "epochs": 0, "least_steps": 0, "warmup_epochs": 0, "batch": 2}
QUICK |= {"validate_every": 4, "device": "cpu"}
FEWSHOT: dict[str, Any] = {"way": 3, "train_queries": 2, "val_tasks": 20, "tasks": 30}
CLASSES: dict[str, Any] = {"val_fraction": 0.2}
SEQUENCES: dict[str, Any] = {"told": "truth", "stride": 16, "train_ratios": (0.2, 0.5), "offsets": 1}
SMALL: dict[str, dict[str, Any]] = {
    "prototype": {"width": 8, "dropout": 0.1},
    "fsar": {"dim": 16, "down_hidden": 12, "ffn_dim": 20, "attention_heads": 2},
    "linear-probe": {},
    "futr": {"width": 8},
}
HEADS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("prototype", FEWSHOT, {"width": ("4", "8")}),
    ("fsar", FEWSHOT, {"ffn_dim": ("12", "20")}),
    ("linear-probe", CLASSES, {"norm": ("on", "off")}),
    ("futr", SEQUENCES, {}),
]


def points_of(
    head: str,
    store: Path,
    task: dict[str, Any],
    own: dict[str, Sequence[str]] | None = None,
    lr: Sequence[str] = ("0.01", "0.001"),
    seeds: Sequence[int] = (0,),
    **quick: Any,
) -> list[Point]:
    """Every combination of rate, one setting of the head, and seed."""
    settings = configs(head)
    points = []
    ((name, values),) = (own or {"": ("",)}).items()
    for seed in seeds:
        for rate in lr:
            for value in values:
                typed = {name: value == "on" if name == "norm" else int(value)} if name else {}
                points.append(
                    Point(
                        {"lr": rate, **({name: value} if name else {})},
                        replace(settings["task"], cache=store, **task),
                        replace(settings["head"], **{**SMALL[head], **typed}),
                        replace(settings["train"], **{**QUICK, **quick, "lr": float(rate), "seed": seed}),
                    )
                )
    return points


def trained_alone(head: str, point: Point, out: Path) -> Path:
    train(head, point.task, point.head, replace(point.train, out=out), Silent())
    return out


def strip(folder: Path) -> dict[str, Any]:
    (row,) = read_rows(folder / "results.jsonl")
    return {name: value for name, value in row.items() if name != "circumstances"}


def same_training(one: Path, other: Path) -> bool:
    weights = [load_file(folder / "head.safetensors") for folder in (one, other)]
    assert weights[0].keys() == weights[1].keys()
    equal = all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    return equal and read_rows(one / "curve.jsonl") == read_rows(other / "curve.jsonl")


@pytest.fixture
def classified(make_store: MakeStore) -> Path:
    """A store whose every class is in training and test."""
    store = make_store(classes=4, clips=8, noise=0.3)
    rows = load(store, "default").rows
    split = [replace(row, split="test" if int(row.name[8]) % 4 == 3 else "train") for row in rows]
    write_annotations(store, "default", replace(load(store, "default"), rows=tuple(split)))
    return store


@pytest.mark.parametrize(("head", "task", "own"), HEADS, ids=[head for head, *_ in HEADS])
def test_every_trial_is_that_of_train_head(
    head: str, task: dict[str, Any], own: dict[str, Any], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    if task is SEQUENCES:
        store = write_made_up(tmp_path / "long", videos=8, tests=2)
    elif task is CLASSES:
        store = request.getfixturevalue("classified")
    else:
        store = request.getfixturevalue("make_store")(noise=0.3, tokens=3 if head == "fsar" else 0)
    points = points_of(head, store, task, own or None)
    result = sweep(head, points, tmp_path / "sweep", "all", Silent())
    assert {trial.state for trial in result.trials} == {"tested"}
    assert len(by_stream(head, points, Silent())) == 1
    for number, point in enumerate(points):
        alone = trained_alone(head, point, tmp_path / f"alone{number}")
        together = tmp_path / "sweep" / point.folder_name
        assert same_training(alone, together)
        assert strip(alone) == strip(together)


def test_the_winner_alone_is_tested_with_all_its_seeds(make_store: MakeStore, tmp_path: Path) -> None:
    points = points_of("prototype", make_store(noise=0.3), FEWSHOT, {"width": ("4", "8")}, seeds=(0, 1))
    result = sweep("prototype", points, tmp_path / "s", "winner", Silent())
    by_hand: dict[str, list[float]] = {}
    for point in points:
        curve = read_rows(tmp_path / "s" / point.folder_name / "curve.jsonl")
        best = max(row["validation"] for row in curve if "validation" in row)
        by_hand.setdefault(str(point.values), []).append(best)
    best_setting = max(by_hand, key=lambda values: sum(by_hand[values]))
    tested = [trial for trial in result.trials if (tmp_path / "s" / trial.folder / "results.jsonl").exists()]
    assert [trial.seed for trial in tested] == [0, 1]
    assert {str(trial.values) for trial in tested} == {best_setting}
    assert result.winner is not None
    assert str(result.winner.values) == best_setting
    row = result.to_json()["settings"][0]
    assert row["chosen"]
    assert row["validation"] == pytest.approx(sum(by_hand[best_setting]) / 2)
    accuracies = [strip(tmp_path / "s" / trial.folder)["accuracy"] for trial in tested]
    assert row["test"]["mean"] == pytest.approx(sum(accuracies) / 2)
    assert row["test"]["over"] == "4 test classes"
    # The others can be tested later; what is trained stays as it is.
    sweep("prototype", points, tmp_path / "s", "all", Silent())
    assert all((tmp_path / "s" / trial.folder / "results.jsonl").exists() for trial in result.trials)
    number, point = next((i, p) for i, p in enumerate(points) if str(p.values) != best_setting)
    assert same_training(trained_alone("prototype", point, tmp_path / f"a{number}"), tmp_path / "s" / point.folder_name)


@pytest.mark.parametrize("resident", ["off", "auto"])
def test_a_batch_is_read_once_for_all_trials(
    make_store: MakeStore, tmp_path: Path, resident: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(noise=0.3)
    task = {**FEWSHOT, "resident": resident}
    points = points_of("prototype", store, task, {"width": ("4", "6", "8")})

    def read(chosen: list[Point], out: str) -> int:
        before = Features.bytes_read
        monkeypatch.setenv("VFC_CACHE", str(tmp_path / f"cache-{out}"))  # each scores its baselines
        result = sweep("prototype", chosen, tmp_path / out, "winner", Silent())
        assert result.bytes_read == Features.bytes_read - before
        return result.bytes_read or 0

    assert read(points, "six") == read(points[:1], "one") > 0


def test_a_kill_loses_no_update_and_changes_no_number(make_store: MakeStore, tmp_path: Path) -> None:
    points = points_of("prototype", make_store(noise=0.3), FEWSHOT, {"width": ("4", "8")}, seeds=(0, 1))
    expected = sweep("prototype", points, tmp_path / "whole", "winner", Silent())
    for update in (3, 17, 30, 20, 20):  # of 96, counted anew in every call; checkpoints are 4 updates apart
        with pytest.raises(Killed):
            sweep("prototype", points, tmp_path / "cut", "winner", KilledAt(update))
    result = sweep("prototype", points, tmp_path / "cut", "winner", Silent())
    for one, other in zip(expected.trials, result.trials, strict=True):
        assert replace(one, seconds=0.0) == replace(other, seconds=0.0)
        assert same_training(tmp_path / "whole" / one.folder, tmp_path / "cut" / other.folder)
    rows = [[line[:-2] for line in each.tables()[0].rows] for each in (expected, result)]
    assert rows[0] == rows[1]


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_a_process_that_is_killed_for_real_is_taken_up_again(make_store: MakeStore, tmp_path: Path) -> None:
    store = make_store(noise=0.3)
    line = f"sweep prototype --cache {store} --grid lr=0.01,0.001 --grid width=4,8 --way 3 --steps 160 --batch 2 "
    line += f"--validate-every 20 --val-tasks 20 --tasks 30 --device cpu --progress none --out {tmp_path}/s"
    command = [sys.executable, "-c", "from vfc.cli.app import main; main()", *line.split()]
    curve = tmp_path / "s" / "lr=0.01_width=4_seed=0" / "curve.jsonl"
    for lines in (1, 60):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and len(read_rows(curve)) < lines:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert {trial.state for trial in read_sweep(tmp_path / "s").trials} == {"waiting"}
    subprocess.run(command, check=True, capture_output=True)
    result = read_sweep(tmp_path / "s")
    assert sorted(trial.state for trial in result.trials) == ["tested", "trained", "trained", "trained"]
    assert {trial.updates for trial in result.trials} == {160}


def test_a_trial_that_fails_is_told_with_its_reason_and_the_others_go_on(
    make_store: MakeStore, tmp_path: Path, told: Told
) -> None:
    points = points_of("prototype", make_store(noise=0.3), FEWSHOT, lr=("0.01", "1e30"))
    result = sweep("prototype", points, tmp_path / "s", "winner", told)
    good, bad = result.trials
    assert (good.state, bad.state) == ("tested", "failed")
    assert "is not finite" in bad.reason
    assert any(bad.folder in line and "not finite" in line for line in told.lines)
    assert result.tables()[1].rows == ((bad.folder, bad.reason),)
    assert result.settings[-1].validation_text() == "failed"
    alone = trained_alone("prototype", points[0], tmp_path / "alone")
    assert same_training(alone, tmp_path / "s" / good.folder)


def test_out_of_memory_is_the_failure_of_one_trial(
    make_store: MakeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vfc.heads.methods import prototype

    loss = prototype.Head.loss

    def greedy(self: Any, batch: Any) -> Any:
        if (
            self.layer.weight.shape[0] == 8
            if hasattr(self, "layer")
            else sum(p.numel() for p in self.parameters()) > 80
        ):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return loss(self, batch)

    monkeypatch.setattr(prototype.Head, "loss", greedy)
    points = points_of("prototype", make_store(noise=0.3), FEWSHOT, {"width": ("4", "8")}, lr=("0.01",))
    result = sweep("prototype", points, tmp_path / "s", "winner", Silent())
    assert [trial.state for trial in result.trials] == ["tested", "failed"]
    assert result.trials[1].reason.startswith("Out of memory")


def test_settings_that_the_head_refuses_fail_alone_and_all_together_are_an_error(
    make_store: MakeStore, tmp_path: Path
) -> None:
    store = make_store(noise=0.3, tokens=3)
    points = points_of("fsar", store, FEWSHOT, {"attention_heads": ("2", "3")}, lr=("0.01",))  # 16 is not 3 x ...
    result = sweep("fsar", points, tmp_path / "s", "winner", Silent())
    assert [trial.state for trial in result.trials] == ["tested", "failed"]
    assert "3" in result.trials[1].reason
    bad = points_of("fsar", store, FEWSHOT, {"attention_heads": ("3", "5")}, lr=("0.01",))
    with pytest.raises(BadInput, match="3"):
        sweep("fsar", bad, tmp_path / "none", "winner", Silent())


def test_without_a_validation_there_is_nothing_to_choose_by(make_store: MakeStore, tmp_path: Path) -> None:
    store = make_store(noise=0.3)
    rows = [replace(row, split="train" if row.split == "val" else row.split) for row in load(store, "default").rows]
    write_annotations(store, "default", replace(load(store, "default"), rows=tuple(rows)))
    points = points_of("prototype", store, FEWSHOT)
    with pytest.raises(BadInput, match="nothing is held out") as refused:
        sweep("prototype", points, tmp_path / "s", "winner", Silent())
    assert "--val-fraction" in refused.value.remedy
    assert not [*(tmp_path / "s").glob("*/curve.jsonl")]
    with pytest.raises(BadInput, match="--select last"):
        sweep("prototype", points_of("prototype", store, FEWSHOT, select="last"), tmp_path / "s", "winner", Silent())
    assert {trial.state for trial in sweep("prototype", points, tmp_path / "s", "all", Silent()).trials} == {"tested"}
    # One setting alone needs no choice.
    seeds = points_of("prototype", store, FEWSHOT, lr=("0.01",), seeds=(0, 1))
    assert {t.state for t in sweep("prototype", seeds, tmp_path / "seeds", "winner", Silent()).trials} == {"tested"}


def test_another_run_in_the_folder_of_a_trial_is_refused_before_any_training(
    make_store: MakeStore, tmp_path: Path
) -> None:
    points = points_of("prototype", make_store(noise=0.3), FEWSHOT)
    last = points[-1]
    trained_alone("prototype", replace(last, train=replace(last.train, steps=3)), tmp_path / "s" / last.folder_name)
    with pytest.raises(RecipeMismatch, match="steps"):
        sweep("prototype", points, tmp_path / "s", "winner", Silent())
    assert not (tmp_path / "s" / points[0].folder_name / "curve.jsonl").exists()


def test_the_report_shows_a_sweep_at_any_time(make_store: MakeStore, tmp_path: Path) -> None:
    points = points_of("prototype", make_store(noise=0.3), FEWSHOT, {"width": ("4", "8")})
    with pytest.raises(Killed):
        sweep("prototype", points, tmp_path / "s", "winner", KilledAt(20))
    waiting = report(ReportConfig((tmp_path / "s",), out=tmp_path / "early.html"), Silent())
    assert waiting.sweeps[0].winner is None
    assert "0 of 4 trials" in waiting.tables()[0].title
    assert "waiting" in (tmp_path / "early.html").read_text()
    done = sweep("prototype", points, tmp_path / "s", "winner", Silent())
    result = report(ReportConfig((tmp_path,), out=tmp_path / "page.html", figures=tmp_path / "figures"), Silent())
    assert result.sweeps[0].trials == done.trials
    assert result.tables()[0].rows == done.tables()[0].rows
    assert result.left_out == ()
    assert len(result.groups) == 1
    assert {path.name for path in (tmp_path / "figures").glob("sweep-*.svg")} == {"sweep-s-lr.svg", "sweep-s-width.svg"}


@pytest.mark.parametrize("kills", [(), (5, 30)])
def test_the_worse_half_ends_at_each_rung(make_store: MakeStore, tmp_path: Path, kills: Sequence[int]) -> None:
    """The decisions are those that the curves of full trainings give by hand; who survives is trained as without."""
    grid: dict[str, Any] = {"own": {"width": ("4", "8")}, "lr": ("0.03", "0.01", "0.003"), "seeds": (0, 1)}
    points = points_of("prototype", make_store(noise=0.3), FEWSHOT, **grid, steps=16, validate_every=2)
    sweep("prototype", points, tmp_path / "whole", "all", Silent())
    curves = {p.folder_name: read_rows(tmp_path / "whole" / p.folder_name / "curve.jsonl") for p in points}
    left = [point.folder_name for point in points if point.train.seed == 0]
    ends: dict[str, int] = {}
    for rung in (4, 8):
        best = {n: max(r["validation"] for r in curves[n] if "validation" in r and r["step"] <= rung) for n in left}
        ranked = sorted(left, key=lambda name: -best[name])
        ends |= dict.fromkeys(ranked[-(-len(left) // 2) :], rung)
        left = [name for name in left if name not in ends]
    assert sorted(ends.values()) == [4, 4, 4, 8]
    for update in kills:
        with pytest.raises(Killed):
            sweep("prototype", points, tmp_path / "s", "winner", KilledAt(update), prune=True)
    result = sweep("prototype", points, tmp_path / "s", "winner", Silent(), prune=True)
    first = {trial.folder: trial for trial in result.trials if trial.seed == 0}
    assert {name: trial.updates for name, trial in first.items() if trial.state == "pruned"} == ends
    others = {trial.folder: trial for trial in result.trials if trial.seed == 1}
    for name, trial in others.items():
        assert (trial.state == "pruned") == (first[name.replace("seed=1", "seed=0")].state == "pruned")
        assert trial.updates == (0 if trial.state == "pruned" else 16)
    for trial in result.trials:
        if trial.state != "pruned":
            assert same_training(tmp_path / "s" / trial.folder, tmp_path / "whole" / trial.folder)
    assert result.winner is not None
    assert all(trial.state == "tested" for trial in result.winner.trials)
    lengths = {trial.folder: len(read_rows(tmp_path / "s" / trial.folder / "curve.jsonl")) for trial in result.trials}
    again = sweep("prototype", points, tmp_path / "s", "winner", Silent(), prune=True)
    after = {trial.folder: len(read_rows(tmp_path / "s" / trial.folder / "curve.jsonl")) for trial in result.trials}
    assert after == lengths  # nothing is trained
    assert [trial.state for trial in again.trials] == [trial.state for trial in result.trials]
    assert result.tables()[1].title == "Pruned"


def test_names_of_folders_are_plain_and_apart() -> None:
    settings = configs("prototype")
    names = [
        Point({"cache": path}, settings["task"], settings["head"], settings["train"]).folder_name
        for path in ("./a/b", ".-a-b", "./a b", "x" * 300, "x" * 301)
    ]
    assert len({*names}) == 5
    assert all(len(name.encode()) < 150 and "/" not in name and " " not in name for name in names)
