"""Every command that runs a model or a head has one `--device`, checked before anything is read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from vfc.cache_schema.values.recipe import Recipe
from vfc.cache_schema.writer import StoreWriter
from vfc.cli import app

# Nothing is in the folder and in the store: they would be refused as well, but later. Classes cost no import of torch.
COMMANDS = {
    "extract": "--model clip --videos {empty} --out {out}",
    "plan": "--model clip --videos {empty} --out {out}",
    "train-head": "prototype --cache {store} --out {out}",
    "eval": "--cache {store}",
    "probe-layers": "--cache {store}",
    "predict": "--head {empty} --query {empty} --features {out}",
    "describe": "--checkpoint {empty} --class-list {classes} --out {out}",
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("device", "problem"),
    [
        ("cuda:7", "--device cuda:7 asks for a GPU, but torch sees none here."),
        ("mps", "--device mps asks for a GPU, but torch sees none here."),
        ("gpu", "--device gpu is not known."),
    ],
)
def test_a_device_that_is_not_there_is_refused_before_anything_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, device: str, problem: str
) -> None:
    if device != "gpu" and torch.get_device_module(device).device_count() > int(device.partition(":")[2] or 0):
        pytest.skip(f"this machine has {device}")
    (empty := tmp_path / "empty").mkdir()
    (classes := tmp_path / "classes.txt").write_text("run\njump\n")
    StoreWriter(tmp_path / "store", Recipe({})).close()
    line = COMMANDS[command].format(empty=empty, store=tmp_path / "store", out=tmp_path / "out", classes=classes)
    assert app.run([command, *line.split(), "--device", device]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert said[0] == problem
    assert not (tmp_path / "out").exists()
