"""Real clips through a real image encoder: the library's numbers, and no rank or thread setting changes a bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vfc.cache_schema.annotations import load
from vfc.cache_schema.reader import open_store
from vfc.cache_schema.values.record import Key
from vfc.extract.decode import read_clip
from vfc.extract.pipeline.run import ExtractConfig, Summary, extract

NAMES = ("hug/2_1_1.avi", "hug/10_2_1.avi", "kick/1_1_2.avi", "push/16_3_5.avi")


@pytest.fixture(scope="module")
def settings(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    listing = tmp_path_factory.mktemp("list") / "few.csv"
    listing.write_text("path\n" + "".join(f"{name}\n" for name in NAMES))
    return {
        "videos": listing,
        "root": shared_data / "clips" / "ut_interaction_set1",
        "model": "image",
        "checkpoint": str(shared_data / "weights" / "mobilenet_v1_1.0_224_hf"),
    }


@pytest.fixture(scope="module")
def once(settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Summary:
    return extract(ExtractConfig(**settings, out=tmp_path_factory.mktemp("once") / "store", decode_workers=2))


def test_the_numbers_are_those_of_the_library(once: Summary, settings: dict[str, Any]) -> None:
    from transformers import AutoImageProcessor, AutoModel

    assert (once.done, once.exit_code) == (4, 0)
    processor = AutoImageProcessor.from_pretrained(settings["checkpoint"], use_fast=False)
    model = AutoModel.from_pretrained(settings["checkpoint"], dtype=torch.float32).eval()
    with open_store(Path(once.out)) as reader:
        for name in NAMES[:2]:
            frames = read_clip(settings["root"] / name, "tsn-centre", 8).frames
            pixels = processor(images=list(frames), return_tensors="pt")["pixel_values"]
            with torch.inference_mode():
                wanted = model(pixel_values=pixels).pooler_output.numpy()
            got = reader.read(Key("video", name), "frames")
            # The library resizes by Pillow here, which differs by up to two grey levels from its torch processor.
            cosine = (got * wanted).sum(1) / np.linalg.norm(got, axis=1) / np.linalg.norm(wanted, axis=1)
            assert got.shape == (8, 1024)
            assert cosine.min() > 0.999
    assert load(Path(once.out)).labels() == ["hug", "kick", "push"]


def test_neither_ranks_nor_resumes_nor_threads_around_change_a_bit(
    once: Summary, settings: dict[str, Any], tmp_path: Path
) -> None:
    before = torch.get_num_threads()
    try:
        for rank in range(2):
            torch.set_num_threads(1 + rank)
            last = extract(ExtractConfig(**settings, out=tmp_path / "store", rank=rank, world_size=2, part_mb=1e-6))
    finally:
        torch.set_num_threads(before)
    assert last.digest == once.digest
