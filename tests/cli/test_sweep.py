"""`vfc sweep` and `train-head --seeds` on the command line: grids as typed, refusals, documents, exit codes."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from suites.motion_store import make_store

from vfc.cli import app
from vfc.cli.sweep.grid import Range
from vfc.heads.methods import names
from vfc.heads.results.tables import read_rows

QUICK = ("--way", "3", "--steps", "4", "--batch", "2", "--validate-every", "2", "--val-tasks", "10", "--tasks", "10")
PLAIN = ("--device", "cpu", "--progress", "none")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("place") / "store", noise=0.3)


def document(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, dict[str, Any]]:
    capsys.readouterr()
    code = app.run([*map(str, words), *QUICK, *PLAIN, "--json"])
    content: dict[str, Any] = json.loads(capsys.readouterr().out)
    return code, content


def test_a_grid_becomes_run_folders_that_other_commands_read(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("sweep", "prototype", "--cache", store, "--grid", "lr=1e-2,1e-3", "--grid", "decay-all=on,off")
    code, content = document(capsys, *words, "--grid", "betas=0.9,0.99;0.8,0.9", "--out", tmp_path / "s")
    assert code == 0
    assert content["schema"] == "vfc.sweep.prototype/1"
    assert len(content["settings"]) == len(content["trials"]) == 8
    assert sum(row["chosen"] for row in content["settings"]) == 1
    assert content["bytes_read"] > 0
    (tested,) = [trial for trial in content["trials"] if trial["state"] == "tested"]
    settings = json.loads((tmp_path / "s" / tested["folder"] / "config.json").read_text())["config"]["train"]
    assert settings["lr"] == float(tested["values"]["lr"])
    assert settings["decay_all"] == (tested["values"]["decay_all"] == "True")
    assert settings["betas"] == [float(value) for value in tested["values"]["betas"].split(",")]
    # The winner is a run: the same line as a single training is the same run, and its settings can be given back.
    folder = tmp_path / "s" / tested["folder"]
    code, again = document(capsys, "train-head", "prototype", "--config", folder / "config.json")
    assert code == 0
    assert again["accuracy"] == content["settings"][0]["test"]["mean"]
    line = ["predict", "--head", str(folder), "--query-cache", str(store), "--support-cache", str(store)]
    assert app.run([*line, "--shot", "1", "--device", "cpu", "--progress", "none"]) == 0


def test_a_layer_and_a_store_are_groups_of_their_own(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = make_store(tmp_path / "other", noise=0.6)
    code, content = document(
        capsys, "sweep", "prototype", "--cache", store, "--grid", f"cache={store},{other}", "--out", tmp_path / "s"
    )
    assert code == 0
    folders = [tmp_path / "s" / trial["folder"] for trial in content["trials"]]
    stored = [json.loads((folder / "config.json").read_text())["data"]["store_digest"] for folder in folders]
    assert stored[0] != stored[1]


def test_seeds_of_one_setting(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, content = document(
        capsys, "train-head", "prototype", "--cache", store, "--seeds", "2", "--out", tmp_path / "s"
    )
    assert code == 0
    assert [trial["seed"] for trial in content["trials"]] == [0, 1]
    assert {trial["state"] for trial in content["trials"]} == {"tested"}
    code, alone = document(
        capsys, "train-head", "prototype", "--cache", store, "--seed", "1", "--out", tmp_path / "alone"
    )
    assert code == 0
    (row,) = read_rows(tmp_path / "s" / "seed=1" / "results.jsonl")
    assert alone["accuracy"] == row["accuracy"]


def test_random_search_draws_what_its_seed_says(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("sweep", "prototype", "--cache", store, "--grid", "lr=1e-4..1e-1", "--grid", "width=4..9")
    words = (*words, "--grid", "optimizer=adam,adamw", "--search", "random", "--trials", "5")  # type: ignore[assignment]
    drawn = []
    for number, seed in enumerate((0, 0, 1)):
        code, content = document(capsys, *words, "--search-seed", seed, "--out", tmp_path / str(number))
        assert code == 0
        drawn.append([trial["values"] for trial in content["trials"]])
    assert drawn[0] == drawn[1] != drawn[2]
    assert len({str(values) for values in drawn[0]}) == 5
    for values in drawn[0] + drawn[2]:
        assert 1e-4 <= float(values["lr"]) <= 1e-1
        assert 4 <= int(values["width"]) <= 9
        assert values["optimizer"] in ("adam", "adamw")


def test_random_rates_are_even_on_a_log_scale() -> None:
    generator = random.Random(0)
    rates = [float(Range(1e-5, 1e-1, whole=False).draw(generator)) for _ in range(2000)]
    shares = np.histogram(np.log10(rates), bins=4, range=(-5, -1))[0] / 2000
    assert np.abs(shares - 0.25).max() < 0.04
    widths = [int(Range(4, 7, whole=True).draw(generator)) for _ in range(400)]
    assert {*widths} == {4, 5, 6, 7}


def test_ranges_of_layers_are_those_of_the_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A token store of layer 3 alone: of 0-8 only that layer is there."""
    tokens = make_store(tmp_path / "tokens", noise=0.3, tokens=2)
    code, content = document(
        capsys, "sweep", "prototype", "--cache", tokens, "--grid", "layer=0-8", "--out", tmp_path / "s"
    )
    assert code == 0
    assert [trial["values"] for trial in content["trials"]] == [{"layer": "3"}]


def test_a_failed_trial_is_exit_code_3(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, content = document(
        capsys, "sweep", "prototype", "--cache", store, "--grid", "lr=0.01,1e30", "--out", tmp_path / "s"
    )
    assert code == 3
    assert [trial["state"] for trial in content["trials"]] == ["tested", "failed"]


@pytest.mark.parametrize(
    ("words", "problem", "remedy"),
    [
        (("--grid", "lr=1e-3,x", "--grid", "widht=3"), "--lr takes a number; got 'x'. There is no flag", "Known: "),
        (("--grid", "lr"), "--grid lr names no values.", "--grid lr=1e-3,3e-4"),
        (("--grid", "lr=1,2", "--grid", "lr=3"), "--grid lr is given twice.", "at once"),
        (("--grid", "lr=1,1"), "has a value twice.", "once"),
        (("--grid", "seed=1,2"), "--grid seed cannot be swept.", "--seeds 0,1,2"),
        (("--grid", "out=a,b"), "--grid out cannot be swept.", "--out"),
        (("--grid", "decay_all=maybe"), "it is on or off.", "on,off"),
        (("--grid", "lr=-1"), "lr", "0"),
        (("--grid", "cache=none"), "There is no store at none.", "vfc extract"),
        (("--grid", "schedule=cosin"), "Did you mean 'cosine'?", "Known: "),
        (("--grid", "lr=1e-4..1e-2"), "0.0001..0.01 has no end of values.", "--search random"),
        (("--grid", "lr=1e-2..1e-4", "--search", "random", "--trials", "2"), "is no range.", "lower end first"),
        (("--grid", "lr=1,2", "--search", "random", "--trials", "3"), "more than the 2 combinations", "fewer trials"),
        (("--search", "random"), "do not go together", "--trials 20"),
        (("--seeds", "0"), "--seeds 0 trains nothing.", "--seeds 3"),
        (("--seeds", "1,1"), "a seed twice", "--seeds 0,1,2"),
        (("--test", "some"), "test", "winner"),
    ],
)
def test_what_is_wrong_with_a_grid_is_told_before_anything_is_written(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], problem: str, remedy: str
) -> None:
    line = ["sweep", "prototype", "--cache", str(store), *words, "--out", str(tmp_path / "s"), *QUICK, *PLAIN]
    assert app.run(line) == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2
    assert problem in told[0]
    assert remedy in told[1]
    assert not (tmp_path / "s").exists()


def test_a_head_that_labels_for_others_is_refused(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["sweep", "frame-classifier", "--cache", str(store), "--seeds", "2", "--out", str(tmp_path / "s")]
    assert app.run([*line, "--progress", "none"]) == 2
    assert "vfc train-head frame-classifier" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["sweep", "train-head"])
@pytest.mark.parametrize("head", names())
def test_every_head_has_the_flags(command: str, head: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run([command, head, "--help"]) == 0
    shown = capsys.readouterr().out
    assert "--seeds" in shown
    assert ("--grid" in shown) == (command == "sweep")
