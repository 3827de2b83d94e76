"""Patches equal to transformers' video processors for Qwen: golden hashes, sizes by property, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from suites.patch_cases import PATCH_CASES, PATCH_GOLDEN, patch_sha
from suites.pixel_cases import frames
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize as of_qwen2
from transformers.models.qwen3_vl.video_processing_qwen3_vl import smart_resize as of_qwen3

from vfc.cache_schema.values.errors import BadInput, MissingPath, RecordRejected
from vfc.extract.frames.qwen_patches import patch_rule, read_patch_rule


@pytest.mark.parametrize("case", sorted(PATCH_CASES))
def test_patches_hash_to_the_library_s_result(case: str) -> None:
    model_type, section = PATCH_CASES[case]
    assert patch_sha(patch_rule(section, model_type=model_type)) == PATCH_GOLDEN[case]


SIDES = st.integers(1, 1500)


@settings(deadline=None)
@given(SIDES, SIDES)
def test_sizes_of_qwen2_are_the_library_s(height: int, width: int) -> None:
    rule = patch_rule({"min_pixels": 3136, "max_pixels": 60000}, model_type="qwen2_vl")
    try:
        expected = of_qwen2(height, width, 28, 3136, 60000)
    except (ValueError, ZeroDivisionError):
        with pytest.raises(RecordRejected, match="too long for their width"):
            rule.size(8, height, width)
        return
    assert rule.size(8, height, width) == expected
    assert rule.grid(7, height, width) == (4, expected[0] // 14, expected[1] // 14)
    assert rule.tokens(rule.grid(7, height, width)) == (4, expected[0] // 28, expected[1] // 28)


@settings(deadline=None)
@given(st.integers(2, 40), SIDES, SIDES)
def test_sizes_of_qwen3_are_the_library_s(count: int, height: int, width: int) -> None:
    rule = patch_rule({"size": {"shortest_edge": 4096, "longest_edge": 500_000}}, model_type="qwen3_vl")
    try:
        expected = of_qwen3(count, height, width, 2, 32, 4096, 500_000)
    except ValueError:
        with pytest.raises(RecordRejected, match="too long for their width"):
            rule.size(count, height, width)
        return
    assert rule.size(count, height, width) == expected


def test_the_patches_of_a_token_lie_together_in_pairs_of_frames() -> None:
    rule = patch_rule({"min_pixels": 1, "max_pixels": 10**6, "do_normalize": False}, model_type="qwen2_vl")
    clip = frames(56, 84, 3)
    patches, grid = rule(clip)
    assert grid == (2, 4, 6)
    assert patches.shape == (2 * 4 * 6, 3 * 2 * 14 * 14)
    # Token (row 1, column 2) of the second pair: its four patches, row by row; the third frame stands in for a fourth.
    token = patches.view(2, 2, 3, 4, 3, 2, 14, 14)[1, 1, 2]
    scaled = torch.from_numpy(clip[2]).permute(2, 0, 1) * (1 / 255)
    for i, (row, column) in enumerate([(28, 56), (28, 70), (42, 56), (42, 70)]):
        for frame in range(2):
            assert torch.equal(token[i][:, frame], scaled[:, row : row + 14, column : column + 14])


def test_a_budget_may_be_given() -> None:
    section = {"size": {"shortest_edge": 4096, "longest_edge": 25165824}}
    whole, less = (patch_rule(section, model_type="qwen3_vl", max_pixels=n) for n in (None, 100_000))
    assert whole.size(8, 360, 640) == (352, 640)
    high, wide = less.size(8, 360, 640)
    assert 8 * high * wide <= 100_000
    assert whole.recipe() != less.recipe()


def test_recipe_says_how_pixels_are_counted() -> None:
    said = [patch_rule({}, model_type=name).recipe() for name in ("qwen2_vl", "qwen3_vl")]
    assert json.loads(json.dumps(said)) == said
    assert [each["pixels_counted"] for each in said] == ["per frame", "over the clip"]
    assert said[0]["implementation"] == "torch uint8 antialias"
    assert (said[0]["min_pixels"], said[0]["max_pixels"], said[0]["patch"], said[0]["merge"]) == (100352, 602112, 14, 2)


def test_files_are_those_of_the_other_processors(tmp_path: Path) -> None:
    with pytest.raises(MissingPath, match="does not say how its pixels are made"):
        read_patch_rule(tmp_path, model_type="qwen2_vl")
    old = {"min_pixels": 3136, "max_pixels": 99999, "image_processor_type": "Qwen2VLImageProcessor"}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(old))
    assert read_patch_rule(tmp_path, model_type="qwen2_vl").max_pixels == 99999
    assert read_patch_rule(tmp_path, model_type="qwen2_vl", max_pixels=50000).max_pixels == 50000
    (tmp_path / "video_preprocessor_config.json").write_text(
        json.dumps({"size": {"shortest_edge": 5000, "longest_edge": 77777}})
    )
    assert read_patch_rule(tmp_path, model_type="qwen2_vl").max_pixels == 77777


def test_the_input_frames_are_not_changed() -> None:
    clip = frames(224, 224, 4)
    before = clip.copy()
    patch_rule({"do_normalize": False}, model_type="qwen2_vl")(clip)
    np.testing.assert_array_equal(clip, before)


@pytest.mark.parametrize(
    ("model_type", "section", "budget", "message"),
    [
        ("qwen2_vl", {"cap_pixels_per_frame": True}, None, "has cap_pixels_per_frame, which is not reproduced"),
        ("qwen3_vl", {"do_resize": False}, None, "has do_resize false, which is not reproduced"),
        ("qwen2_vl", {}, 3000, "At most 3000 pixels per frame were asked for.*\nGive --max-pixels 100352 or more"),
        ("qwen3_vl", {}, 3000, "At most 3000 pixels over the clip"),
        ("qwen3_vl", {"size": {"height": 4}}, None, "It takes shortest_edge and longest_edge"),
        ("qwen2_vl", {"resample": 1}, None, "resizes with lanczos"),
    ],
)
def test_what_is_not_reproduced_is_refused(
    model_type: str, section: dict[str, Any], budget: int | None, message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        patch_rule(section, model_type=model_type, max_pixels=budget)


def test_null_switches_a_step_off_and_is_refused_where_a_value_is_needed() -> None:
    rule = patch_rule({"do_normalize": None, "min_pixels": None, "cap_pixels_per_frame": None}, model_type="qwen2_vl")
    assert (rule.frames.mean, rule.frames.std) == (None, None)
    assert rule.min_pixels == patch_rule({}, model_type="qwen2_vl").min_pixels
    assert patch_rule({"do_rescale": None}, model_type="qwen3_vl").frames.rescale is None
    for name in ("image_mean", "patch_size", "size", "resample"):
        with pytest.raises(BadInput, match=f"has {name} null"):
            patch_rule({name: None}, model_type="qwen3_vl")
    with pytest.raises(BadInput, match="do_resize false, which is not reproduced"):
        patch_rule({"do_resize": None}, model_type="qwen2_vl")


def test_one_frame_makes_no_pair() -> None:
    with pytest.raises(RecordRejected, match="takes 2 frames or more; this clip has 1"):
        patch_rule({}, model_type="qwen3_vl")(frames(64, 64, 1))
    with pytest.raises(BadInput, match="Give uint8 RGB frames"):
        patch_rule({}, model_type="qwen2_vl")(np.zeros((8, 8, 3), np.uint8))
