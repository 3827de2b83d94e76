"""Weights go to the device one by one, and only those that are run are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
import transformers
from suites.checkpoints import image_checkpoint
from torch import nn

from vfc.extract.backbone import BackboneOptions, open_backbone
from vfc.extract.models.loading import end_to_end


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Dinov2 in several files."""
    folder = image_checkpoint(tmp_path_factory.mktemp("dinov2") / "whole", "dinov2")
    model: Any = transformers.AutoModel.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="20KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    return folder


class _Reads:
    """Stands in for `safe_open` and notes the bytes of every tensor that is read."""

    def __init__(self) -> None:
        self.num_bytes: dict[str, int] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        num_bytes = self.num_bytes
        opened: Any = safetensors.safe_open(*args, **kwargs)

        class Slice:
            def __init__(self, name: str) -> None:
                self.name, self.inner = name, opened.get_slice(name)

            def __getattr__(self, attribute: str) -> Any:
                return getattr(self.inner, attribute)

            def __getitem__(self, index: Any) -> Any:
                tensor: torch.Tensor = self.inner[index]
                num_bytes[self.name] = tensor.nbytes
                return tensor

        class File:
            def __getattr__(self, attribute: str) -> Any:
                return getattr(opened, attribute)

            def get_slice(self, name: str) -> Slice:
                return Slice(name)

            def __enter__(self) -> Any:
                return self

            def __exit__(self, *args: object) -> None:
                opened.__exit__(*args)

        return File()


def test_weights_pass_through_the_host_one_by_one_and_no_others_are_read(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved, reads, to = list[int](), _Reads(), nn.Module.to

    def counted(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        moved.append(sum(p.nbytes for p in self.parameters() if p.device.type == "cpu"))
        return to(self, *args, **kwargs)

    monkeypatch.setattr(nn.Module, "to", counted)
    monkeypatch.setattr("transformers.modeling_utils.safe_open", reads)
    backbone = open_backbone("image", BackboneOptions(str(shards), layers=("1",), keep=("visual",), device="meta"))
    backbone.load()
    model: Any = backbone._model  # type: ignore[attr-defined]
    assert sum(moved) == 0, "the whole model was on the CPU first"
    assert {p.device.type for p in model.parameters()} == {"meta"}
    assert sum(reads.num_bytes.values()) == sum(p.nbytes for p in model.parameters())
    assert [name for name in reads.num_bytes if ".layer.0." in name]
    assert not [name for name in reads.num_bytes if ".layer.1." in name or ".layer.2." in name]


def test_one_clip_alone_is_not_copied() -> None:
    one, two = torch.arange(6).reshape(2, 3), torch.ones(1, 3, dtype=torch.int64)
    assert end_to_end([one], "cpu") is one
    assert end_to_end([one, two], "cpu").tolist() == [[0, 1, 2], [3, 4, 5], [1, 1, 1]]
