"""Pixels equal to transformers' torchvision processors: by golden hashes always, live where torchvision is found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from suites.patch_cases import PATCH_CASES, PATCH_GOLDEN
from suites.pixel_cases import CASES, FLOAT_RESIZE, GOLDEN, frames, sha

from vfc.cache_schema.values.errors import BadInput, MissingPath
from vfc.extract.frames.pixels import centre_crop, pixel_rule, read_pixel_rule, resized
from vfc.extract.frames.processor_defaults import DEFAULTS, MODEL_TYPES

SUITES = Path(__file__).parents[2] / "suites"


@pytest.mark.parametrize("case", sorted(GOLDEN))
def test_pixels_hash_to_the_library_s_result(case: str) -> None:
    assert sha(pixel_rule(CASES[case])) == GOLDEN[case]


def test_every_case_has_a_golden_hash_or_a_reason() -> None:
    assert CASES.keys() == GOLDEN.keys() | set(FLOAT_RESIZE)
    assert {pixel_rule(section).processor for section in CASES.values()} == DEFAULTS.keys()


def test_pixels_equal_the_real_processors_live() -> None:
    folder = os.environ.get("VFC_TORCHVISION")
    if not folder:
        pytest.skip("set VFC_TORCHVISION to a folder made by `pip install --no-deps --target FOLDER torchvision`")
    done = subprocess.run(
        [sys.executable, str(SUITES / "torchvision_parity.py"), folder],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    cases, golden = [*CASES, *PATCH_CASES], {**GOLDEN, **PATCH_GOLDEN}
    assert {name: report[name]["unequal"] for name in cases} == {name: [] for name in cases}
    assert {name: report[name]["golden"] for name in golden} == golden


@pytest.mark.parametrize("name", sorted(DEFAULTS))
def test_defaults_are_the_installed_library_s(name: str) -> None:
    """Against the PIL twins, which can be looked at without torchvision."""
    import transformers

    twin = getattr(transformers, f"{name}Pil", None)
    if twin is None:
        pytest.skip(f"{name} has no PIL twin; the live comparison covers it")
    for field, value in DEFAULTS[name].items():
        theirs = getattr(twin, field, None)
        assert (theirs or None) == (value or None), field


def test_model_types_name_the_library_s_processors() -> None:
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

    for model_type, processor in MODEL_TYPES.items():
        theirs = IMAGE_PROCESSOR_MAPPING_NAMES.get(model_type.replace("_vision_model", ""), {})
        if theirs and not processor.endswith("VideoProcessor"):
            assert theirs.get("torchvision") == processor, model_type


@given(st.integers(1, 2000), st.integers(1, 2000), st.integers(1, 600), st.none() | st.integers(1, 1200))
def test_resized_shapes_are_the_library_s(height: int, width: int, shortest: int, longest: int | None) -> None:
    from transformers.image_transforms import get_resize_output_image_size, get_size_with_aspect_ratio

    if longest is not None:
        expected = get_size_with_aspect_ratio((height, width), shortest, longest)
    else:
        expected = get_resize_output_image_size(
            np.broadcast_to(np.uint8(0), (3, height, width)),
            shortest,
            default_to_square=False,
            input_data_format="channels_first",
        )
    assert resized(height, width, shortest, longest) == tuple(expected)


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 12), st.integers(1, 12))
def test_centre_crop_by_hand(height: int, width: int, crop_h: int, crop_w: int) -> None:
    x = torch.arange(1, height * width + 1).view(1, height, width)
    canvas = torch.zeros(1, height + 40, width + 40, dtype=x.dtype)
    canvas[:, 20 : 20 + height, 20 : 20 + width] = x
    top = 20 + ((height - crop_h) // 2 if crop_h <= height else -((crop_h - height) // 2))
    left = 20 + ((width - crop_w) // 2 if crop_w <= width else -((crop_w - width) // 2))
    assert torch.equal(centre_crop(x, (crop_h, crop_w)), canvas[:, top : top + crop_h, left : left + crop_w])


def test_a_frame_s_pixels_do_not_depend_on_its_neighbours() -> None:
    rule = pixel_rule(CASES["clip"])
    clip = frames(97, 131, count=5)
    whole = rule(clip)
    assert all(torch.equal(whole[i], rule(clip[i : i + 1])[0]) for i in range(5))
    assert torch.equal(whole, rule(torch.from_numpy(clip)))
    assert whole.shape == (5, 3, 224, 224)
    assert whole.dtype == torch.float32


def test_the_input_frames_are_not_changed() -> None:
    clip = frames(224, 224)
    before = clip.copy()
    for case in ("vit", "vit-as-it-comes", "vit-unscaled"):
        pixel_rule(CASES[case])(clip)
    np.testing.assert_array_equal(clip, before)


@pytest.mark.parametrize(
    "bad", [np.zeros((2, 8, 8, 3), np.float32), np.zeros((8, 8, 3), np.uint8), np.zeros((2, 8, 8, 4), np.uint8)]
)
def test_anything_but_uint8_rgb_is_refused(bad: Any) -> None:
    with pytest.raises(BadInput, match="Give uint8 RGB frames"):
        pixel_rule(CASES["clip"])(bad)


def test_files_are_looked_up_in_order(tmp_path: Path) -> None:
    def write(name: str, content: dict[str, Any]) -> None:
        (tmp_path / name).write_text(json.dumps(content))

    with pytest.raises(MissingPath, match=r"does not say how its pixels are made: no processor_config.json"):
        read_pixel_rule(tmp_path, model_type="clip")
    write("preprocessor_config.json", {"size": {"shortest_edge": 10}})
    assert read_pixel_rule(tmp_path, model_type="clip").shortest_edge == 10
    assert read_pixel_rule(tmp_path, model_type="video_llava", video=True).processor == "VideoLlavaVideoProcessor"
    write(
        "video_preprocessor_config.json",
        {"video_processor_type": "VideoMAEVideoProcessor", "size": {"shortest_edge": 20}},
    )
    assert read_pixel_rule(tmp_path, model_type="videomae", video=True).shortest_edge == 20
    assert read_pixel_rule(tmp_path, model_type="clip").shortest_edge == 10
    write(
        "processor_config.json",
        {
            "processor_class": "VideoLlavaProcessor",
            "image_processor": {"image_processor_type": "CLIPImageProcessorFast", "size": {"shortest_edge": 30}},
            "video_processor": {"video_processor_type": "VideoLlavaVideoProcessor", "size": {"shortest_edge": 40}},
        },
    )
    image = read_pixel_rule(tmp_path, model_type="video_llava")
    assert (image.processor, image.shortest_edge) == ("CLIPImageProcessor", 30)
    assert read_pixel_rule(tmp_path, model_type="video_llava", video=True).shortest_edge == 40


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"image_processor_type": "DonutImageProcessor"}, "from DonutImageProcessor, whose steps are not reproduced"),
        ({"image_processor_type": "CLIPImageProcessor", "resample": 1}, r"resizes with lanczos \(resample 1\)"),
        ({"image_processor_type": "CLIPImageProcessor", "resample": 0}, r"nearest .*\nReproduced here: bilinear"),
        ({"image_processor_type": "CLIPImageProcessor", "do_pad": True}, r"pads \(do_pad\)"),
        ({"image_processor_type": "CLIPImageProcessor", "size": {"max_height": 4, "max_width": 4}}, "has the size"),
        (
            {"image_processor_type": "ConvNextImageProcessor", "size": {"height": 4, "width": 4}},
            "It takes shortest_edge",
        ),
        ({}, "from unnamed, whose steps"),
    ],
)
def test_what_is_not_reproduced_is_refused_by_name(section: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        pixel_rule(section)


@pytest.mark.parametrize("processor", ["ViTImageProcessor", "DINOv3ViTImageProcessor", "VideoLlavaVideoProcessor"])
def test_null_switches_a_step_off(processor: str) -> None:
    """Absent is the default, -1 to 1 or wider; null is off, 0 to 1."""
    section = {"image_processor_type": processor, "size": {"height": 20, "width": 20}, "do_center_crop": None}
    assert float(pixel_rule(section)(frames(20, 20)).min()) <= -1
    off = pixel_rule({**section, "do_normalize": None})
    assert (off.mean, off.std) == (None, None)
    assert off.crops == ()
    pixels = off(frames(20, 20))
    assert (float(pixels.min()), float(pixels.max())) == (0.0, 1.0)
    assert pixel_rule({**section, "do_rescale": None}).rescale is None
    assert pixel_rule({**section, "do_resize": None}).exact is None


@pytest.mark.parametrize(
    ("setting", "step"),
    [
        ("size", "do_resize"),
        ("resample", "do_resize"),
        ("crop_size", "do_center_crop"),
        ("rescale_factor", "do_rescale"),
        ("image_mean", "do_normalize"),
        ("image_std", "do_normalize"),
    ],
)
def test_null_is_refused_for_a_setting_that_a_step_needs(setting: str, step: str) -> None:
    section = {"image_processor_type": "CLIPImageProcessor", setting: None}
    with pytest.raises(BadInput, match=rf"CLIPImageProcessor of the checkpoint has {setting} null, which"):
        pixel_rule(section)
    pixel_rule({**section, step: False})


@pytest.mark.parametrize("text", ["[]", "{", "3"])
def test_a_processor_file_that_is_no_json_object_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "preprocessor_config.json").write_text(text)
    with pytest.raises(BadInput, match=r"preprocessor_config\.json is not (JSON|a JSON object)"):
        read_pixel_rule(tmp_path, model_type="clip")


def test_files_from_before_video_processors() -> None:
    old = {"image_processor_type": "VideoLlavaImageProcessor", "size": {"shortest_edge": 224}, "crop_size": 224}
    assert pixel_rule(old) == pixel_rule(CASES["video-llava"])


def test_recipe_spells_out_what_the_file_left_unsaid() -> None:
    said = pixel_rule({"image_processor_type": "ViTImageProcessor", "size": 96}).recipe()
    assert json.loads(json.dumps(said)) == said
    assert said["implementation"] == "torch uint8 antialias"
    assert (said["version"], said["exact"], said["resample"], said["mean"]) == (1, [96, 96], "bilinear", [0.5] * 3)
    old = {"feature_extractor_type": "ViTFeatureExtractor", "size": 96}
    assert pixel_rule(old).recipe() == said
