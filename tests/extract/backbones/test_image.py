"""`image` against the library's own hidden states, over many families; and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from suites.backbone import BackboneSuite, clip_of
from suites.checkpoints import image_checkpoint, image_configs, image_pixels, save
from torch import Tensor

from vfc.cache_schema.values.errors import BadInput, UnknownName
from vfc.extract.backbone import BackboneOptions, open_backbone
from vfc.extract.backbones.image import ImageBackbone, frame_layout


def library(checkpoint: Path, pixels: Tensor) -> tuple[list[Tensor], Any]:
    """Hidden states as tokens `[T, N, D]`, from layer 0 on, and the whole output."""
    model = transformers.AutoModel.from_pretrained(checkpoint, dtype=torch.float32).eval()
    model.config.tie_last_hidden_states = False
    with torch.inference_mode():
        output = model(pixel_values=pixels, output_hidden_states=True)
    return [s.flatten(2).transpose(1, 2) if s.ndim == 4 else s for s in output.hidden_states], output


class TestTransformer(BackboneSuite):
    family = "image"
    options = BackboneOptions(layers=("0", "2", "3", "norm"), num_frames=4, storage="fp32")
    lower = BackboneOptions(layers=("2",), num_frames=4, storage="fp32", keep=("visual",))
    layer_range = "0 to 3, or norm"

    @pytest.fixture(scope="class")
    @classmethod
    def checkpoint(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return image_checkpoint(tmp_path_factory.mktemp("vit") / "tiny-vit", "vit")

    def library_states(self, checkpoint: Path, pixels: Tensor) -> dict[str, Tensor]:
        states, output = library(checkpoint, pixels)
        return {
            "frames": output.pooler_output,
            "layer0.visual": states[0],
            "layer2.visual": states[2],
            "layer3.visual": states[3],
            "norm.visual": output.last_hidden_state,
        }


class TestConvolutional(BackboneSuite):
    family = "image"
    options = BackboneOptions(layers=("0", "1", "2", "3"), num_frames=4, storage="fp32")
    lower = BackboneOptions(layers=("0", "1"), num_frames=4, storage="fp32", keep=("visual",))
    layer_range = "0 to 3"

    @pytest.fixture(scope="class")
    @classmethod
    def checkpoint(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return image_checkpoint(tmp_path_factory.mktemp("resnet") / "tiny-resnet", "resnet")

    def library_states(self, checkpoint: Path, pixels: Tensor) -> dict[str, Tensor]:
        states, output = library(checkpoint, pixels)
        return {"frames": output.pooler_output.flatten(1), **{f"layer{i}.visual": states[i] for i in range(4)}}


# Where the library's tuple begins: with the stem, or with the first block.
STEMLESS = ("mobilenet-v1", "mobilenet-v2", "pvt")
EXTRA = {"vit": 1, "deit": 2, "beit": 1, "dinov2": 1, "dinov2-registers": 5, "dinov3": 3, "clip-vision": 1}


@pytest.mark.parametrize("name", sorted(image_configs()))
def test_layers_are_the_library_s_in_every_family(name: str, tmp_path: Path) -> None:
    checkpoint = image_checkpoint(tmp_path, name)
    every = tuple(open_backbone("image", BackboneOptions(str(checkpoint))).taps()["visual"])
    backbone = open_backbone("image", BackboneOptions(str(checkpoint), layers=every, num_frames=3, storage="fp32"))
    backbone.load()
    pixels = backbone.pixels(clip_of(1, frames=3)).tensors
    (arrays,) = backbone.encode_videos([pixels])
    states, output = library(checkpoint, pixels["pixels"])
    if name in STEMLESS:
        states.insert(0, arrays["layer0.visual"])
    if "norm" in every:
        assert torch.equal(arrays["norm.visual"], output.last_hidden_state)
        if torch.equal(states[-1], output.last_hidden_state):
            states.pop()
    assert [layer for layer in every if layer != "norm"] == [str(i) for i in range(len(states))]
    for layer, expected in enumerate(states):
        assert torch.equal(arrays[f"layer{layer}.visual"], expected), layer
    if output.get("pooler_output") is not None:
        assert torch.equal(arrays["frames"], output.pooler_output.flatten(1))
    extra = f", cls and {EXTRA[name] - 1} more first in frame" if EXTRA.get(name, 0) > 1 else ""
    extra = ", cls first in frame" if EXTRA.get(name) == 1 else extra
    for spec in backbone.specs()["video"][1 : -3 if name == "pvt" else None]:  # only pvt's last stage has a class token
        assert spec.layout.startswith(f"frame-major{extra}, grid "), spec


def test_the_stem_s_output_is_layer_0(tmp_path: Path) -> None:
    checkpoint = image_checkpoint(tmp_path, "mobilenet-v1")
    backbone = open_backbone("image", BackboneOptions(str(checkpoint), layers=("0",), num_frames=2, storage="fp32"))
    backbone.load()
    pixels = backbone.pixels(clip_of(1, frames=2)).tensors
    model: Any = transformers.AutoModel.from_pretrained(checkpoint).eval()
    with torch.inference_mode():
        stem = model.conv_stem(pixels["pixels"])
    assert torch.equal(backbone.encode_videos([pixels])[0]["layer0.visual"], stem.flatten(2).transpose(1, 2))


def test_a_pooler_without_weights_is_not_drawn_at_random(tmp_path: Path) -> None:
    bare = transformers.ViTModel(image_configs()["vit"](), add_pooling_layer=False)
    checkpoint = save(bare, tmp_path / "bare", image_pixels())
    backbone = open_backbone("image", BackboneOptions(str(checkpoint), layers=("norm",), num_frames=2, storage="fp32"))
    backbone.load()
    (arrays,) = backbone.encode_videos([backbone.pixels(clip_of(1, frames=2)).tensors])
    assert torch.equal(arrays["frames"], arrays["norm.visual"][:, 0])
    assert backbone.recipe()["taps"] == {"visual": ["norm"], "frames": "class token"}
    whole = image_checkpoint(tmp_path / "whole", "vit")
    assert open_backbone("image", BackboneOptions(str(whole))).recipe()["taps"] == {
        "visual": [],
        "frames": "pooler_output",
    }


def test_the_vision_tower_of_a_two_tower_checkpoint(tmp_path: Path) -> None:
    from suites.checkpoints import clip_checkpoint

    checkpoint = clip_checkpoint(tmp_path / "clip")
    backbone = open_backbone("image", BackboneOptions(str(checkpoint), layers=("2",), num_frames=2, storage="fp32"))
    backbone.load()
    pixels = backbone.pixels(clip_of(1, frames=2)).tensors
    model = transformers.CLIPModel.from_pretrained(checkpoint).eval()
    with torch.inference_mode():
        output = model.vision_model(pixel_values=pixels["pixels"], output_hidden_states=True)
    (arrays,) = backbone.encode_videos([pixels])
    assert torch.equal(arrays["layer2.visual"], output.hidden_states[2])
    assert torch.equal(arrays["frames"], output.pooler_output)


def test_many_frames_are_cut_into_passes_of_one_size(tmp_path: Path) -> None:
    checkpoint = image_checkpoint(tmp_path, "vit")
    backbone = open_backbone("image", BackboneOptions(str(checkpoint), num_frames=None, storage="fp32"))
    backbone.load()
    sizes: list[int] = []
    assert isinstance(backbone, ImageBackbone)
    backbone._model.register_forward_pre_hook(
        lambda _m, _a, kw: sizes.append(len(kw["pixel_values"])), with_kwargs=True
    )
    pixels = backbone.pixels(clip_of(1, frames=150, height=33, width=40)).tensors["pixels"]
    (long,) = backbone.encode_videos([{"pixels": pixels}])
    assert sizes == [64, 64, 22]
    assert torch.equal(long["frames"][64:128], backbone.encode_videos([{"pixels": pixels[64:128]}])[0]["frames"])


def test_half_precision_is_computed_in_fp32_on_a_cpu_unless_asked_for(tmp_path: Path) -> None:
    checkpoint = image_checkpoint(tmp_path, "vit", dtype=torch.float16)
    said = {
        asked: open_backbone("image", BackboneOptions(str(checkpoint), dtype=asked)).recipe()["compute"]
        for asked in (None, "fp16", "bf16")
    }
    assert said == {
        None: {"dtype": "fp32", "attention": "sdpa"},
        "fp16": {"dtype": "fp16", "attention": "sdpa"},
        "bf16": {"dtype": "bf16", "attention": "sdpa"},
    }
    on_gpu = open_backbone("image", BackboneOptions(str(checkpoint), device="cuda"))
    assert on_gpu.recipe()["compute"] == {"dtype": "fp16", "attention": "sdpa"}


def test_attention_is_part_of_the_recipe_and_refused_where_there_is_none(tmp_path: Path) -> None:
    vit = image_checkpoint(tmp_path / "vit", "vit")
    eager = open_backbone("image", BackboneOptions(str(vit), attention="eager"))
    assert eager.recipe()["compute"] == {"dtype": "fp32", "attention": "eager"}
    resnet = image_checkpoint(tmp_path / "resnet", "resnet")
    assert open_backbone("image", BackboneOptions(str(resnet))).recipe()["compute"] == {
        "dtype": "fp32",
        "attention": None,
    }
    with pytest.raises(BadInput, match=r"cannot build ResNetModel with attention 'sdpa'.*\nLeave out --attention"):
        open_backbone("image", BackboneOptions(str(resnet), attention="sdpa"))


def test_no_checkpoint_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"image has no checkpoint of its own.\nGive --checkpoint"):
        open_backbone("image", BackboneOptions())


def test_what_is_no_image_encoder_is_refused(tmp_path: Path, shared_data: Path) -> None:
    (tmp_path / "config.json").write_text((shared_data / "weights/stories260K_hf/config.json").read_text())
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(image_pixels()))
    with pytest.raises(BadInput, match=r"LlamaModel does not take images of \(32, 32\) pixels.*\nCheck that"):
        open_backbone("image", BackboneOptions(str(tmp_path)))


def test_an_unknown_architecture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "perceptron-1958", "auto_map": {"AutoModel": "x.Y"}}')
    with pytest.raises(BadInput, match="does not know the architecture 'perceptron-1958'"):
        open_backbone("image", BackboneOptions(str(tmp_path)))


def test_random_masking_is_refused(tmp_path: Path) -> None:
    config = transformers.ViTMAEConfig(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=32,
        patch_size=8,
        decoder_hidden_size=16,
        decoder_num_attention_heads=2,
        decoder_num_hidden_layers=1,
        decoder_intermediate_size=16,
    )
    save(transformers.ViTMAEModel(config), tmp_path, image_pixels())
    with pytest.raises(BadInput, match="vit_mae drops three quarters of its patches at random"):
        open_backbone("image", BackboneOptions(str(tmp_path)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keep": ("frames",), "layers": ("1",)}, "Layers were asked for, but visual is not kept"),
        ({"keep": ("visual",)}, "Nothing would be kept"),
        ({"texts": True}, "image has no text tower.\nUse --model clip"),
    ],
)
def test_options_that_contradict_each_other(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    checkpoint = image_checkpoint(tmp_path, "vit")
    with pytest.raises(BadInput, match=message):
        open_backbone("image", BackboneOptions(str(checkpoint), **change))


def test_a_misspelt_stream_gets_a_suggestion(tmp_path: Path) -> None:
    checkpoint = image_checkpoint(tmp_path, "vit")
    with pytest.raises(UnknownName, match=r"There is no stream 'frame'. Did you mean 'frames'"):
        open_backbone("image", BackboneOptions(str(checkpoint), keep=("frame",)))


def test_a_processor_without_a_fixed_size_is_refused(tmp_path: Path) -> None:
    checkpoint = image_checkpoint(tmp_path, "vit")
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**image_pixels(), "do_center_crop": False}))
    with pytest.raises(BadInput, match=r"leaves each video its own shape.*\nSet do_center_crop"):
        open_backbone("image", BackboneOptions(str(checkpoint)))


def test_a_processor_of_another_size_is_refused(tmp_path: Path) -> None:
    checkpoint = image_checkpoint(tmp_path, "vit")
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(image_pixels(64)))
    with pytest.raises(BadInput, match=r"ViTModel does not take images of .64, 64. pixels"):
        open_backbone("image", BackboneOptions(str(checkpoint)))


@pytest.mark.parametrize(
    ("grid", "words"),
    [
        (None, "frame-major"),
        ((0, 7, 7), "frame-major, grid 7x7"),
        ((1, 14, 16), "frame-major, cls first in frame, grid 14x16"),
        ((5, 16, 16), "frame-major, cls and 4 more first in frame, grid 16x16"),
    ],
)
def test_layout_in_words(grid: tuple[int, int, int] | None, words: str) -> None:
    assert str(frame_layout(grid)) == words


def test_the_real_mobilenet(shared_data: Path) -> None:
    """Numbers equal the library's on its own weights; pixels lie within 2 grey levels of its PIL fall-back."""
    checkpoint = shared_data / "weights/mobilenet_v1_1.0_224_hf"
    backbone = open_backbone(
        "image", BackboneOptions(str(checkpoint), layers=("13", "26"), num_frames=2, storage="fp32")
    )
    backbone.load()
    clip = clip_of(1, frames=2, height=240, width=320)
    pixels = backbone.pixels(clip).tensors["pixels"]
    states, output = library(checkpoint, pixels)
    (arrays,) = backbone.encode_videos([{"pixels": pixels}])
    assert torch.equal(arrays["frames"], output.pooler_output)
    assert torch.equal(arrays["layer13.visual"], states[12])
    assert torch.equal(arrays["layer26.visual"], states[25])
    processor = transformers.AutoImageProcessor.from_pretrained(checkpoint)
    theirs = processor(list(clip.frames), return_tensors="pt")["pixel_values"]
    assert (theirs - pixels).abs().max() * 127.5 < 2.01
