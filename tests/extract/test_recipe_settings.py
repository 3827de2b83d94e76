"""Settings -> recipe -> settings: the features are the same, whatever the family and whatever was asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import transformers
from suites.checkpoints import clip_checkpoint, image_checkpoint, save
from suites.i3d import i3d_checkpoint
from suites.language import qwen2_checkpoint, qwen3_checkpoint, video_llava_checkpoint
from suites.toy import write_clips

from vfc.cache_schema.values.errors import BadInput, VfcError
from vfc.cache_schema.values.progress import Silent
from vfc.extract.backbone import family_names
from vfc.extract.backbones.viclip.tiny import write_tiny_viclip
from vfc.extract.config import ExtractConfig
from vfc.extract.pipeline.ranks import Rank
from vfc.extract.pipeline.worklist import WorkList, build_work_list


def videomae_checkpoint(folder: Path) -> Path:
    """Clips of 4 frames of 32 x 32, two blocks."""
    sizes: dict[str, Any] = {"image_size": 32, "patch_size": 8, "num_frames": 4, "hidden_size": 32}
    sizes |= {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    pixels = {"feature_extractor_type": "VideoMAEFeatureExtractor", "size": {"shortest_edge": 40}}
    model = transformers.VideoMAEModel(transformers.VideoMAEConfig(**sizes))
    return save(model, folder, {**pixels, "crop_size": {"height": 32, "width": 32}})


CHECKPOINTS: dict[str, Callable[[Path], Path]] = {
    "clip": clip_checkpoint,
    "i3d": i3d_checkpoint,
    "image": lambda folder: image_checkpoint(folder, "vit"),
    "qwen2-vl": qwen2_checkpoint,
    "qwen3-vl": qwen3_checkpoint,
    "viclip": write_tiny_viclip,
    "video-llava": video_llava_checkpoint,
    "videomae": videomae_checkpoint,
}
NOT_OF_THE_FEATURES = (
    "videos root dataset dataset_list dataset_views label class_list split_folders fps "
    "include exclude classes out retry_failed part_mb part_seconds worker device batch decode_workers "
    "seconds_per_video rank world_size refresh check_content prune tail texts template text_layer cut_texts episodes"
).split()
"""Fields that say where things are and how fast, and those of text records, which no recipe holds."""
CASES: list[tuple[str, dict[str, Any]]] = [
    ("clip", {"layer": ("1", "norm"), "keep": ("visual",), "pool": "2x2", "dtype": "fp32"}),
    ("clip", {"layer": ("1",), "project": "pca:4", "fit_records": 3, "seed": 2, "frames": "tsn-random"}),
    ("clip", {"layer": ("1",), "keep": ("visual",), "project": "pca:4", "project_fit": "0.1"}),
    ("clip", {"keep": ("frames",), "project": "pca:4", "project_mean": True}),
    ("clip", {"keep": ("frames",), "frames": "stride:2", "stream": 0, "compute_dtype": "bf16", "attention": "eager"}),
    ("clip", {"layer": ("0",), "num_frames": 16, "dtype": "int8", "keep": ("visual",), "pool": "mean"}),
    ("clip", {"views": ("three-crops", "clips:2", "clips:3", "augment:3"), "seed": 4, "flip": False}),
    ("clip", {"views": ("test:2x3", "augment:2"), "pipeline": "vidprism", "seed": 4, "flip": False}),
    ("clip", {"views": ("test:2x3", "test:1x1", "augment:2"), "pipeline": "msta", "seed": 4}),
    ("clip", {"views": ("test:2x3",), "pipeline": "msta", "seed": 3}),
    ("image", {"layer": ("1", "2"), "threads": 2, "frames": "linspace", "num_frames": 3}),
    ("image", {"mode": "fast"}),
    ("videomae", {"layer": ("1",), "frames": "fps:2"}),
    ("videomae", {"keep": ("frames",), "num_frames": 16}),
    ("viclip", {"layer": ("1",), "pixels": "centre-crop"}),
    ("viclip", {"keep": ("embedding",), "pixels": "resize"}),
    ("i3d", {"frames": "all", "window": 32, "stride": 4, "border": "zero"}),
    ("clip", {"frames": "all", "window": 6, "stride": 4, "border": "zero", "keep": ("frames",)}),
    ("image", {"frames": "fps:5", "stride": 4}),
    ("i3d", {"frames": "all", "flow": "dis", "window": 16, "stride": 8, "keep": ("rgb", "flow")}),
    ("i3d", {"frames": "all", "flow": "dis", "window": 16, "keep": ("flow",)}),
    ("video-llava", {"layer": ("1", "3"), "prompt": ("unknown", "known-support"), "pool": "1x1"}),
    (
        "video-llava",
        {"layer": ("1",), "prompt_text": ("Who, {label}?", "my=What\nnow?"), "prompt_batching": "single"},
    ),
    ("video-llava", {"layer": ("1",), "keep": ("visual",), "mode": "fast", "project": "random:8", "seed": 1}),
    ("video-llava", {"layer": ("1",), "keep": ("text",), "mode": "fast", "prompt_batching": "batched"}),
    ("qwen2-vl", {"layer": ("2",), "max_pixels": 12_544, "compute_dtype": "bf16"}),
    ("qwen3-vl", {"layer": ("2",), "max_pixels": 65_536, "dtype": "bf16", "num_frames": 4}),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("settings")
    write_clips(folder / "clips", 2)
    return folder


def checkpoint(place: Path, model: str) -> Path:
    folder = place / f"tiny-{model}"
    return folder if folder.exists() else CHECKPOINTS[model](folder)


def surveyed(config: ExtractConfig) -> WorkList:
    return build_work_list(config, Rank(), Silent())


def meanings(work: WorkList) -> dict[str, dict[str, Any]]:
    axes: dict[str, dict[str, Any]] = {}
    for axis, name, meaning in work.axes:
        axes.setdefault(axis, {})[name] = meaning
    return axes


@pytest.mark.parametrize(("model", "settings"), CASES, ids=lambda value: value if isinstance(value, str) else "")
def test_settings_from_a_recipe_have_that_recipe(place: Path, model: str, settings: dict[str, Any]) -> None:
    if settings.get("flow") == "dis":
        pytest.importorskip("cv2", reason="needs OpenCV: pip install 'vfc[flow]'")
    where: dict[str, Any] = {"videos": place / "clips", "out": place / "store"}
    where["checkpoint"] = str(checkpoint(place, model))
    work = surveyed(ExtractConfig(model=model, **where, **settings))
    again = surveyed(ExtractConfig.from_recipe(work.recipe.fields, axes=meanings(work), **where))
    assert again.recipe.difference(work.recipe) == []
    assert again.recipe.digest == work.recipe.digest
    assert meanings(again) == meanings(work)
    if "text" not in settings.get("keep", ()):  # which of its two streams a language model keeps is no part of a recipe
        assert again.requested == work.requested
        assert again.specs == work.specs


def test_every_family_and_every_field_of_the_features_is_tried() -> None:
    # A family that is added later is tried with its defaults where it needs no checkpoint, by the test below.
    assert {model for model, _ in CASES} == set(CHECKPOINTS) <= set(family_names())
    tried = {"model", "checkpoint"} | {name for _, settings in CASES for name in settings}
    assert tried | set(NOT_OF_THE_FEATURES) == {field.name for field in fields(ExtractConfig)}


def test_a_family_that_is_added_has_its_settings_in_its_recipe(place: Path) -> None:
    where: dict[str, Any] = {"videos": place / "clips", "out": place / "store"}
    for model in set(family_names()) - set(CHECKPOINTS):
        try:
            work = surveyed(ExtractConfig(model=model, **where))
        except VfcError:
            continue  # needs a checkpoint
        again = surveyed(ExtractConfig.from_recipe(work.recipe.fields, **where))
        assert again.recipe.digest == work.recipe.digest


def test_flow_from_files_needs_its_folder(place: Path, tmp_path: Path) -> None:
    where: dict[str, Any] = {"videos": place / "clips", "out": place / "store"}
    where["checkpoint"] = str(checkpoint(place, "i3d"))
    work = surveyed(ExtractConfig(model="i3d", frames="all", flow=str(tmp_path), **where))
    with pytest.raises(BadInput, match=r"flow read from files.*\n.*--flow FOLDER"):
        ExtractConfig.from_recipe(work.recipe.fields, **where)
    again = surveyed(ExtractConfig.from_recipe(work.recipe.fields, flow=str(tmp_path), **where))
    assert again.recipe == work.recipe


def test_features_that_are_no_videos_have_no_settings() -> None:
    with pytest.raises(BadInput, match=r"their recipe holds function, parent"):
        ExtractConfig.from_recipe({"parent": {}, "function": "predict"})
    copies: dict[str, Any] = {
        "1100001": {"copy": 1, "pipeline": "vidprism", "seed": 0},
        "2100001": {"copy": 1, "pipeline": "msta", "seed": 0},
    }
    recipe = {"backbone": "clip", "frames": {"rule": "all"}, "numerics": {"mode": "fast"}}
    with pytest.raises(BadInput, match="copies of two pipelines: vidprism and msta"):
        ExtractConfig.from_recipe(recipe, axes={"view": copies})
