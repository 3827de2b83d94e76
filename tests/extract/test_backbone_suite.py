"""The suite that every family inherits: mistakes planted into a family, each caught by the test named after it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from suites.backbone import BackboneSuite
from suites.checkpoints import clip_checkpoint

from vfc.cache_schema.values.record import Json
from vfc.extract.backbone import BackboneOptions, Frames, Prepared
from vfc.extract.backbones.clip import ClipBackbone


class ClipSuite(BackboneSuite):
    """Run by hand below, on families with a mistake."""

    family = "clip"
    options = BackboneOptions(layers=("1",), num_frames=4, storage="fp32")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clip_checkpoint(tmp_path_factory.mktemp("clip") / "tiny-clip")


def test_swapped_colours_are_caught(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suite = ClipSuite()
    suite.test_pixels_are_those_of_the_library(checkpoint, suite.opened(checkpoint))
    correct = ClipBackbone.pixels

    def swapped(backbone: ClipBackbone, clip: Frames) -> Prepared:
        prepared = correct(backbone, clip)
        return replace(prepared, tensors={"pixels": prepared.tensors["pixels"].flip(1)})

    monkeypatch.setattr(ClipBackbone, "pixels", swapped)
    with pytest.raises(AssertionError):
        suite.test_pixels_are_those_of_the_library(checkpoint, suite.opened(checkpoint))


def test_a_constant_pixel_rule_in_the_recipe_is_caught(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    suite = ClipSuite()
    suite.test_recipe_follows_the_pixel_rule(checkpoint, suite.opened(checkpoint), tmp_path / "correct")
    correct = ClipBackbone.recipe

    def constant(backbone: Any) -> dict[str, Json]:
        return {**correct(backbone), "pixels": {"size": 224}}

    monkeypatch.setattr(ClipBackbone, "recipe", constant)
    with pytest.raises(AssertionError):
        suite.test_recipe_follows_the_pixel_rule(checkpoint, suite.opened(checkpoint), tmp_path / "planted")
