"""Classification as a user types it: a control over two seeds, its shuffled twin, and the report that compares them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from suites.motion_store import make_store

from vfc.cache_schema.annotations import Annotations, load, write_annotations
from vfc.cli import app


def read(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    """Exit code and JSON document of one command line."""
    code = app.run([*arguments, "--json", "--progress", "none"])
    return code, json.loads(capsys.readouterr().out)


def test_runs_over_seeds_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = make_store(tmp_path / "store", classes=3, split=False)
    runs = tmp_path / "runs"
    for name, flags in {"plain": [], "mixed": ["--shuffle-frames"]}.items():
        for seed in ("0", "1"):
            line = ["train-head", "linear-probe", "--cache", str(store), "--shots", "2", "--seed", seed, *flags]
            code, row = read(capsys, *line, "--epochs", "2", "--least-steps", "3", "--out", str(runs / f"{name}{seed}"))
            assert (code, row["updates"], row["train_videos"]) == (0, 3, 6)
            assert row["shuffle_frames"] is bool(flags)
    code, report = read(capsys, "report", str(runs), "--against", str(runs / "plain1"))
    assert (code, report["schema"]) == (0, "vfc.report/1")
    names = ["linear-probe (shuffle_frames False)", "linear-probe (shuffle_frames True)"]
    assert sorted(group["name"] for group in report["groups"].values()) == names
    ids = {group["name"]: key for key, group in report["groups"].items()}
    assert all(group["seeds"] == 2 for group in report["groups"].values())
    # A mean does not change with the order of what it is taken over.
    (apart,) = report["differences"]
    assert (apart["runs"], apart["against"]) == (ids[names[1]], ids[names[0]])
    assert apart["mean"] == pytest.approx(0)
    assert not apart["beyond"]
    assert app.run(["report", str(runs), "--progress", "none"]) == 0
    assert "mean ± std over seeds" in capsys.readouterr().out


def test_what_cannot_be_classified_ends_in_two_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = make_store(tmp_path / "store", classes=3, split=False)
    line = ["train-head", "text-zero-shot", "--cache", str(store), "--out", str(tmp_path / "run"), "--progress", "none"]
    assert app.run(line) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("Extract the class names with the store's model")
    rows = load(store).rows
    write_annotations(store, "one", Annotations(rows[:1]))
    assert app.run(["train-head", "linear-probe", "--cache", str(store), "--annotations", "one"]) == 2
    assert "no video to test on" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
