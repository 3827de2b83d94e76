"""What a model would give is told from its configuration: layers, tokens, bytes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import transformers
from suites.checkpoints import image_checkpoint
from suites.language import llama_tokenizer, qwen2_checkpoint

from vfc.cache_schema.values.errors import BadInput, UnknownName
from vfc.extract.backbone import BackboneOptions
from vfc.extract.pipeline.model_card import describe


@pytest.fixture(scope="module")
def seven_billion(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Video-LLaVA-7B as far as its configuration goes; no weights."""
    folder = tmp_path_factory.mktemp("weights") / "seven"
    tokenizer = llama_tokenizer()
    video = tokenizer.convert_tokens_to_ids("<video>")
    config = transformers.VideoLlavaConfig(
        vision_config=transformers.CLIPVisionConfig(
            hidden_size=1024,
            intermediate_size=4096,
            num_hidden_layers=24,
            num_attention_heads=16,
            image_size=224,
            patch_size=14,
        ),
        text_config=transformers.LlamaConfig(vocab_size=32_064, max_position_embeddings=4096),
        video_token_index=video,
    )
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    sizes = {"video_processor": {"size": {"shortest_edge": 224}, "crop_size": 224}}
    (folder / "processor_config.json").write_text(json.dumps(sizes))
    return str(folder)


def test_the_real_shape_is_told_without_weights(seven_billion: str) -> None:
    found = describe("video-llava", BackboneOptions(checkpoint=seven_billion, layers=("31",)))
    assert list(found["layers"]["visual"]) == [*map(str, range(33)), "norm"]
    (visual,) = found["record"]["video"]
    assert (visual["name"], visual["shape"], visual["bytes"]) == ("layer31.visual", [8, 257, 4096], 8 * 257 * 4096 * 2)
    text, ids, positions = found["record"]["prompted"]
    assert (text["name"], text["shape"]) == ("layer31.text", [None, 4096])
    assert text["bytes"] == text["rows"] * 4096 * 2
    assert found["bytes"] == {"video": visual["bytes"], "prompted": text["bytes"] + ids["bytes"] + positions["bytes"]}
    pooled = describe(
        "video-llava", BackboneOptions(checkpoint=seven_billion, layers=("31",), keep=("visual",)), pool="4x4"
    )
    assert pooled["bytes"] == {"video": 8 * 17 * 4096 * 2}
    longer = describe(
        "video-llava", BackboneOptions(checkpoint=seven_billion, layers=("31",)), prompt="unknown-temporal"
    )
    assert longer["record"]["prompted"][0]["rows"] > text["rows"]


def test_tokens_depend_on_the_size_of_frames_where_the_model_says_so(tmp_path: Path) -> None:
    weights = str(qwen2_checkpoint(tmp_path / "tiny-qwen2"))
    sizes = [
        describe("qwen2-vl", BackboneOptions(checkpoint=weights, max_pixels=pixels), size=size)["record"]["video"][0][
            "rows"
        ]
        for size, pixels in (("24x32", None), ("240x320", None), ("240x320", 2400))
    ]
    # Tokens of 8x8 pixels, pairs of frames; 240x320 is shrunk to 24x40 within 1280 pixels, to 40x56 within 2400.
    assert sizes == [4 * 3 * 4, 4 * 3 * 5, 4 * 5 * 7]
    pooled = describe("qwen2-vl", BackboneOptions(checkpoint=weights), pool="2x2")
    assert pooled["record"]["video"][0]["rows"] == 4 * 4
    with pytest.raises(BadInput, match=r"--size '240' is no size.\nGive height x width"):
        describe("qwen2-vl", BackboneOptions(checkpoint=weights), size="240")
    with pytest.raises(UnknownName, match=r"no prompt 'unknow'. Did you mean 'unknown'"):
        describe("qwen2-vl", BackboneOptions(checkpoint=weights), prompt="unknow")


def test_models_without_prompts_are_described_too(tmp_path: Path) -> None:
    weights = str(image_checkpoint(tmp_path / "vit", "vit"))
    found = describe("image", BackboneOptions(checkpoint=weights, layers=("2",), num_frames=4))
    assert {each["name"] for each in found["record"]["video"]} == {"frames", "layer2.visual"}
    assert found["bytes"] == {"video": sum(each["bytes"] for each in found["record"]["video"])}
    assert found["assumed"] == "4 frames"
