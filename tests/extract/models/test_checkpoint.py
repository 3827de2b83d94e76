"""Checkpoints: folders and hub ids, what is missing is said, digests worked by hand."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from vfc.cache_schema.values.errors import BadInput, MissingPath
from vfc.extract.models import checkpoint as module
from vfc.extract.models.checkpoint import Checkpoint, files_digest, locate


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "tiny"
    made.mkdir()
    (made / "config.json").write_text('{"model_type": "vit"}')
    save_file({"layer.weight": torch.ones(2)}, made / "model.safetensors")
    return made


def test_a_folder_is_a_checkpoint(folder: Path) -> None:
    found = locate(str(folder), default=None, family="image")
    assert (found.id, found.revision, found.model_type) == ("tiny", None, "vit")
    assert found.weights() == [folder / "model.safetensors"]
    assert found.tensor_names() == {"layer.weight"}


def test_the_digest_by_hand(folder: Path) -> None:
    (folder / "README.md").write_text("notes do not count")
    expected = hashlib.sha256()
    for name in ("config.json", "model.safetensors"):
        expected.update(f"{name}\0{hashlib.sha256((folder / name).read_bytes()).hexdigest()}\n".encode())
    assert locate(str(folder), default=None, family="image").digest() == expected.hexdigest()


def test_the_digest_follows_contents_and_names(folder: Path, tmp_path: Path) -> None:
    before = files_digest([folder / "config.json"])
    (folder / "config.json").write_text('{"model_type": "bit"}')
    assert files_digest([folder / "config.json"]) != before
    assert files_digest([(folder / "config.json").rename(tmp_path / "other.json")]) != before
    assert files_digest([]) == hashlib.sha256().hexdigest()


def test_files_are_hashed_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = locate(str(folder), default=None, family="image")
    first = found.digest()

    def never(*_: object) -> Any:
        raise AssertionError("read again")

    monkeypatch.setattr(hashlib, "file_digest", never)
    assert found.digest() == first


def test_weights_are_chosen_in_order(folder: Path) -> None:
    found = locate(str(folder), default=None, family="image")
    torch.save({"old.weight": torch.ones(1)}, folder / "pytorch_model.bin")
    for shard in ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"):
        save_file({f"{shard[6:11]}.weight": torch.ones(1)}, folder / shard)
    assert [file.name for file in found.weights()] == ["model.safetensors"]
    (folder / "model.safetensors").unlink()
    assert found.tensor_names() == {"00001.weight", "00002.weight"}
    for path in folder.glob("model-*"):
        path.unlink()
    assert found.tensor_names() == {"old.weight"}
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(MissingPath, match=r"tiny holds no weights.\nPut model.safetensors"):
        found.weights()


@pytest.mark.parametrize(("text", "message"), [("{", "is not JSON"), ("[]", "is not a JSON object")])
def test_a_broken_configuration_is_named(folder: Path, text: str, message: str) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(BadInput, match=message):
        _ = locate(str(folder), default=None, family="image").config


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"image has no checkpoint of its own.\nGive --checkpoint"):
        locate(None, default=None, family="image")
    with pytest.raises(MissingPath, match=r"is no checkpoint: it holds no config.json.\nGive the folder"):
        locate(str(tmp_path), default=None, family="image")
    with pytest.raises(MissingPath, match=r"There is no checkpoint folder /no/such/folder.\nGive a folder"):
        locate("/no/such/folder", default=None, family="image")


def test_offline_says_how_to_get_it(tmp_path: Path) -> None:
    program = (
        "from vfc.extract.models.checkpoint import locate\n"
        "from vfc.cache_schema.values.errors import MissingPath\n"
        "try: locate(None, default='someone/tiny-clip', family='clip')\n"
        "except MissingPath as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)},
    )
    first, second = done.stdout.strip().splitlines()
    assert first.startswith("The checkpoint someone/tiny-clip is neither a folder here nor in the local hub cache")
    assert second.startswith("Where there is a network, run `hf download someone/tiny-clip`")


class Hub:
    """Stands in for the hub: notes what is asked for, hands out what `files` holds."""

    def __init__(self, root: Path, files: dict[str, str]) -> None:
        self.root, self.files = root / "3f1c0de", files
        self.asked: list[Any] = []

    def __call__(self, repo: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        self.asked.append((repo, revision, tuple(allow_patterns)))
        self.root.mkdir(exist_ok=True)
        for name, content in self.files.items():
            if any(Path(name).match(pattern) for pattern in allow_patterns):
                (self.root / name).write_text(content)
        return str(self.root)


def test_a_hub_id_brings_small_files_first_and_weights_when_they_are_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = Hub(
        tmp_path, {"config.json": json.dumps({"model_type": "clip"}), "pytorch_model.bin": "x", "vocab.json": "{}"}
    )
    monkeypatch.setattr("huggingface_hub.snapshot_download", hub)
    found = locate("someone/tiny-clip@main", default=None, family="clip")
    assert found == Checkpoint("someone/tiny-clip", hub.root, "3f1c0de")
    assert sorted(file.name for file in hub.root.iterdir()) == ["config.json", "vocab.json"]
    assert hub.asked == [("someone/tiny-clip", "main", module.SMALL)]
    assert [file.name for file in found.weights()] == ["pytorch_model.bin"]
    assert {(repo, revision) for repo, revision, _ in hub.asked[1:]} == {("someone/tiny-clip", "3f1c0de")}


def test_a_hub_id_without_a_configuration_is_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", Hub(tmp_path, {"data.csv": "1"}))
    with pytest.raises(MissingPath, match="The checkpoint someone/data is neither a folder here"):
        locate("someone/data", default=None, family="clip")
