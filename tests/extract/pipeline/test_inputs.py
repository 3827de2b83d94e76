"""Wrong paths and options are refused before a model is looked for: the checkpoint named here exists nowhere."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from suites.toy import write_clips

from vfc.cache_schema.values.errors import BadInput, MissingPath, ReadOnlyTarget, UnknownName
from vfc.extract.config import ExtractConfig, PlanConfig
from vfc.extract.pipeline.plan import plan
from vfc.extract.pipeline.run import extract


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips"), 2)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"videos": "nowhere"}, MissingPath, "There is no folder or file .*nowhere"),
        ({"root": "nowhere"}, MissingPath, "There is no folder .*nowhere to look for"),
        ({"include": ("juggle",)}, UnknownName, "juggle"),
        ({"classes": "hmdb51"}, UnknownName, "hmdb51"),
        ({"frames": "tsn-center"}, UnknownName, "tsn-center"),
        ({"views": ("clip:2",)}, UnknownName, "clip:2"),
        ({"pool": "big"}, BadInput, "--pool 'big' is no grid"),
        ({"project": "pca"}, BadInput, "--project 'pca' is no projection"),
        ({"texts": "nowhere.txt"}, MissingPath, "There is no file of texts nowhere.txt"),
        ({"prompt": ("unknow",)}, UnknownName, "There is no prompt 'unknow'"),
        ({"prompt": ("known-query",), "episodes": Path("nowhere.json")}, MissingPath, "nowhere.json"),
        ({"flow": "nowhere"}, MissingPath, "--flow 'nowhere' is neither a method nor a folder"),
        ({"out": "{file}/store"}, BadInput, "Cannot make the store .*: .*000.mp4 is a file"),
    ],
)
def test_what_needs_no_model_is_checked_first(
    clips: Path, tmp_path: Path, settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    config: dict[str, Any] = {"videos": clips, "out": tmp_path / "store", "checkpoint": "nobody/nothing"} | settings
    config["videos"] = tmp_path / config["videos"]
    config["out"] = Path(str(config["out"]).format(file=clips / "hug" / "000.mp4"))
    if "root" in config:
        config["root"] = tmp_path / config["root"]
    for model in ("clip", "video-llava"):
        with pytest.raises(error, match=message):
            extract(ExtractConfig(model=model, **config))
        with pytest.raises(error, match=message):
            plan(PlanConfig(model=model, **config))


def test_a_folder_that_takes_no_writes_is_refused_first(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # tests may run as root, who may write anywhere
    with pytest.raises(ReadOnlyTarget, match=r"Cannot write .*store: .*Permission denied"):
        extract(ExtractConfig(videos=clips, out=tmp_path / "deep" / "store", model="clip", checkpoint="nobody/nothing"))
    assert not (tmp_path / "deep").exists()
