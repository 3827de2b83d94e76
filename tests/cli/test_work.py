"""The main line as a user types it: plan, extract, again, eval, episodes, train-head; and what can go wrong."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from suites.checkpoints import videomae_checkpoint
from suites.film import encode
from suites.motion_store import make_store

from vfc.cache_schema import open_store
from vfc.cli import app
from vfc.extract.synthetic.tiny_vit import write_tiny_vit


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with six clips in two classes, and a tiny model."""
    folder = tmp_path_factory.mktemp("place")
    for i in range(6):
        path = folder / "videos" / ("jump", "run")[i % 2] / f"{i}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        encode(path, count=20, seed=i)
    write_tiny_vit(folder / "model")
    return folder


def flags(place: Path, store: Path) -> list[str]:
    """The settings of one extraction."""
    settings = {"model": "image", "checkpoint": place / "model", "videos": place / "videos", "out": store}
    return [word for name, value in settings.items() for word in (f"--{name}", str(value))]


def read(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    """Exit code and JSON document of one command line."""
    code = app.run([*arguments, "--json", "--progress", "none"])
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert document["exit_code"] == code
    assert err == "" or code
    return code, document


def test_models_show_counts_the_frames_that_the_checkpoint_takes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    videomae_checkpoint(tmp_path / "tiny")
    (tmp_path / "tiny" / "model.safetensors").unlink()
    code, shown = read(capsys, "models", "show", "videomae", "--checkpoint", str(tmp_path / "tiny"))
    assert (code, shown["assumed"], shown["record"]["video"][0]["shape"][0]) == (0, "4 frames", 2)
    code, shown = read(
        capsys, "models", "show", "videomae", "--checkpoint", str(tmp_path / "tiny"), "--num-frames", "8"
    )
    assert (code, shown["assumed"], shown["record"]["video"][0]["shape"][0]) == (0, "8 frames", 4)


def test_a_plan_names_records_and_bytes_and_writes_nothing(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, planned = read(capsys, "plan", *flags(place, tmp_path / "store"), "--no-calibrate")
    assert code == 0
    (kind,) = planned["kinds"]
    assert (kind["kind"], kind["to_do"]) == ("video", 6)
    assert kind["record_bytes"] == 8 * 64 * 2
    assert not (tmp_path / "store").exists()


def test_extract_then_again_then_with_other_settings(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    code, first = read(capsys, "extract", *flags(place, store))
    assert (code, first["done"], first["skipped"]) == (0, 6, 0)
    assert first["digest"] == open_store(store).digest

    # The settings lie beside the result and are enough to give the same line again.
    code, again = read(capsys, "extract", "--config", str(store / "config.json"))
    assert (code, again["done"], again["skipped"]) == (0, 0, 6)

    code, refused = read(capsys, "extract", "--config", str(store / "config.json"), "--num-frames", "4")
    assert code == 5
    assert refused["error"] == "RecipeMismatch"
    assert "frames.count: 8 there, 4 asked" in refused["problem"]
    assert open_store(store).digest == first["digest"]


def test_a_video_that_cannot_be_read_costs_itself_and_the_code_is_3(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    videos = tmp_path / "videos"
    for path in (place / "videos").rglob("*.mp4"):
        (videos / path.parent.name).mkdir(parents=True, exist_ok=True)
        (videos / path.parent.name / path.name).symlink_to(path)
    (videos / "run" / "broken.mp4").write_bytes(b"no video at all" * 100)
    code = app.run(["extract", *flags(place, tmp_path / "store"), "--videos", str(videos)])
    out, err = capsys.readouterr()
    assert code == 3
    assert "6 records made, 0 were there, 1 failed" in out
    assert "run/broken.mp4: " in out
    assert "extract: 7/7 records" in err
    code = app.run(["store", "inspect", str(tmp_path / "store"), "--progress", "none"])
    assert code == 0
    assert "1 failure:\n    run/broken.mp4: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        (["--videos", "{tmp}/none"], 2, "none"),
        (["--videos", "{tmp}"], 2, "is empty"),
        (["--layer", "9"], 2, "There is no layer '9'"),
        (["--checkpoint", "{tmp}/none"], 2, "none"),
        (["--include", "jmup"], 2, "Did you mean 'jump'?"),
        (["--frames", "tsn-center"], 2, "Did you mean 'tsn-centre'?"),
    ],
)
def test_mistakes_cost_nothing(
    place: Path, tmp_path: Path, change: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word.format(tmp=tmp_path) for word in change]
    assert app.run(["extract", *flags(place, tmp_path / "store"), *words, "--progress", "none"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 2
    assert message in err
    assert not (tmp_path / "store").exists()


def test_sigterm_keeps_what_was_made(place: Path, tmp_path: Path) -> None:
    """A real process, stopped in the middle of many videos: code 143, and a store of just what was made."""
    videos = tmp_path / "videos" / "run"
    videos.mkdir(parents=True)
    source = next((place / "videos").rglob("*.mp4"))
    for i in range(200):
        shutil.copy(source, videos / f"{i:03}.mp4")
    arguments = [*flags(place, tmp_path / "store"), "--videos", str(videos.parent), "--part-seconds", "0.01"]
    line = [sys.executable, "-c", "from vfc.cli.app import main; main()", "extract", *arguments, "--json"]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not any((tmp_path / "store" / "parts").glob("r0-*")) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGTERM)
    out, _ = process.communicate(timeout=120)
    document = json.loads(out)
    assert process.returncode == document["exit_code"] == 143
    assert 0 < document["done"] < 200
    assert document["done"] + document["left"] == 200
    assert len(open_store(tmp_path / "store")) == document["done"]


def test_eval_and_episodes_name_the_same_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = make_store(tmp_path / "store")
    sizes = ["--way", "3", "--tasks", "50"]
    code, listed = read(capsys, "episodes", "--cache", str(store), *sizes, "--out", str(tmp_path / "list.jsonl"))
    assert (code, listed["tasks"]) == (0, 50)
    code, scored = read(capsys, "eval", "--cache", str(store), *sizes, "--representation", "difference")
    assert (code, scored["schema"]) == (0, "vfc.eval/1")
    assert scored["list_digest"] == listed["list_digest"]
    assert 0 <= scored["accuracy"] <= 1
    code, from_file = read(
        capsys, "eval", "--cache", str(store), "--representation", "difference", "--episodes", listed["path"]
    )
    assert (code, from_file["accuracy"]) == (0, scored["accuracy"])
    assert app.run(["eval", "--cache", str(store), *sizes, "--progress", "none"]) == 0
    assert "accuracy" in capsys.readouterr().out


def test_train_head_leaves_a_run_that_its_own_settings_reproduce(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = make_store(tmp_path / "store")
    out = tmp_path / "run"
    line = ["train-head", "prototype", "--cache", str(store), "--way", "3", "--tasks", "50", "--val-tasks", "20"]
    code, row = read(capsys, *line, "--steps", "4", "--validate-every", "2", "--out", str(out))
    assert (code, row["updates"], row["folder"]) == (0, 4, str(out))
    assert {"head.safetensors", "config.json", "results.jsonl", "report.html"} <= {path.name for path in out.iterdir()}
    code, again = read(
        capsys, "train-head", "prototype", "--config", str(out / "config.json"), "--out", str(tmp_path / "second")
    )
    assert (code, again["accuracy"]) == (0, row["accuracy"])
    assert app.run(["train-head", "prototype", "--config", str(out / "config.json"), "--progress", "none"]) == 0
    output = capsys.readouterr().out
    assert "head - this, paired" in output
    assert f"Weights, curve, settings and report.html: {out}" in output
