"""`viclip` against the same weights poured into torch's and transformers' own layers; its texts, its tail, its refusals."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from suites.backbone import TextBackboneSuite, clip_of, parameters
from suites.checkpoints import image_checkpoint
from suites.viclip import text_states, vision_states
from torch import Tensor

from vfc.cache_schema.errors import BadInput, MissingPath, RecordRejected, UnknownName
from vfc.cache_schema.record import ArraySpec
from vfc.extract.backbone import BackboneOptions, open_backbone
from vfc.extract.checkpoint import BPE
from vfc.extract.viclip.architecture import PUBLISHED, architecture_of
from vfc.extract.viclip.network import ViCLIP, VisionTower
from vfc.extract.viclip.tiny import random_weights, write_tiny_viclip
from vfc.extract.viclip.tokens import Texts, read_bpe

LONG = "a video of someone waving the hand " * 4


def opened(checkpoint: Path, **options: Any) -> Any:
    given: dict[str, Any] = {"texts": True, "num_frames": 4, "storage": "fp32", **options}
    return open_backbone("viclip", BackboneOptions(str(checkpoint), **given))


def close(made: Tensor, expected: Tensor) -> bool:
    """Within 1e-5 of the size of the numbers."""
    wide = expected.to(torch.float64)
    return made.shape == expected.shape and bool(
        torch.linalg.vector_norm(made - wide) <= 1e-5 * torch.linalg.vector_norm(wide)
    )


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_viclip(tmp_path_factory.mktemp("viclip") / "tiny-viclip")


class TestViclip(TextBackboneSuite):
    family = "viclip"
    texts = ("a video of someone waving", "kicking a ball!", "a", "  Shake the HAND\n")
    options = BackboneOptions(
        layers=("0", "1", "3", "norm"), text_layers=("0", "2", "3", "norm"), texts=True, num_frames=4, storage="fp32"
    )
    lower = BackboneOptions(layers=("1",), num_frames=4, storage="fp32", keep=("visual",))
    layer_range = "0 to 3, or norm"

    @pytest.fixture(scope="class")
    @classmethod
    def checkpoint(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return write_tiny_viclip(tmp_path_factory.mktemp("viclip") / "tiny-viclip")

    def agree(self, made: Tensor, expected: Tensor) -> bool:
        return close(made, expected) if made.is_floating_point() else torch.equal(made, expected)

    def rows_of(self, frames: int) -> int:
        return 1 + 16 * frames

    def library_states(self, checkpoint: Path, pixels: Tensor) -> dict[str, Tensor]:
        states, embedding = vision_states(load_file(checkpoint / "model.safetensors"), pixels, heads=2)
        names = {f"layer{layer}.visual": states[layer] for layer in (0, 1, 3)}
        return {**names, "norm.visual": states[4], "embedding": embedding}

    def library_text_states(self, checkpoint: Path, text: str) -> dict[str, Tensor]:
        tokenizer = read_bpe(checkpoint / BPE)
        ids = tokenizer(text)["input_ids"]
        states, embedding = text_states(load_file(checkpoint / "model.safetensors"), torch.tensor(ids), heads=2)
        names = {f"layer{layer}.text": states[layer] for layer in (0, 2, 3)}
        found = {"text.ids": torch.tensor(ids), "text.eot": torch.tensor([len(ids) - 1]), "embedding": embedding}
        return {**found, **names, "norm.text": states[4]}
