"""From a published archive of long sequences to the report over its splits, as a user types it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from suites.mstcn import write_mstcn

from vfc.cli import app


def read(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    """Exit code and JSON document of one command line."""
    code = app.run([*arguments, "--json", "--progress", "none"])
    return code, json.loads(capsys.readouterr().out)


def test_import_label_anticipate_report(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_mstcn(tmp_path / "50salads", shared_data / "labels" / "50salads", videos=20, stride=48, width=8)
    code, _ = read(capsys, "store", "import", "50salads", "--out", "store")
    assert code == 0
    small = ["--cache", "store", "--fold", "2", "--device", "cpu"]
    code, missing = read(capsys, "train-head", "actionllm", *small)
    assert code == 2
    assert "no predicted labels for 'split2'" in missing["problem"]
    code, labels = read(capsys, "train-head", "frame-classifier", *small, "--steps", "60", "--batch", "64")
    assert code == 0
    assert (tmp_path / "store" / "derived" / "frame-labels-split2").is_dir()
    assert 0.05 < labels["accuracy"] <= 1.0
    sizes = ["--width", "16", "--attention-heads", "2", "--decoder-layers", "1", "--stride", "2", "--epochs", "1"]
    code, trained = read(capsys, "train-head", "futr", *small, *sizes, "--warmup-epochs", "0")
    assert code == 0
    assert trained["split"] == "split2"
    code, report = read(capsys, "report", "runs")
    assert code == 0
    assert {"futr", "frame-classifier"} <= {group["head"] for group in report["groups"].values()}
    assert app.run(["report", trained["folder"]]) == 0
    text = capsys.readouterr().out
    assert "MoC in %, mean over splits, every label frame scored" in text
    assert "futr - repeat last label" in text
