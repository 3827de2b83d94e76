"""Qwen2-VL on a tiny checkpoint: the suites against the library, its grid and its 3-D positions, refusals."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from suites.backbone import clip_of, equal
from suites.language import PROMPTS, qwen2_checkpoint
from suites.language_inputs import qwen2_inputs
from suites.prompted import PromptedSuite, full_model
from torch import Tensor

from vfc.cache_schema.values.errors import BadInput, RecordRejected
from vfc.extract.backbone import BackboneOptions, open_backbone


class TestQwen2VL(PromptedSuite):
    family = "qwen2-vl"

    @classmethod
    def checkpoint_of(cls, folder: Path, **more: Any) -> Path:
        return qwen2_checkpoint(folder, **more)

    def library_inputs(self, checkpoint: Path, clip: Any, tensors: Mapping[str, Tensor], prompt: str) -> dict[str, Any]:
        return qwen2_inputs(checkpoint, tensors, prompt)

    def rows_of(self, frames: int) -> int:
        # 48 x 64 pixels of the tiny checkpoint are 3 x 5 tokens for each pair of frames.
        return math.ceil(frames / 2) * 15


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return qwen2_checkpoint(tmp_path_factory.mktemp("qwen2-vl") / "tiny")


def opened(checkpoint: Path, **options: Any) -> Any:
    given: dict[str, Any] = {"num_frames": 4, "storage": "fp32", "prompts": True, **options}
    return open_backbone("qwen2-vl", BackboneOptions(str(checkpoint), **given))


def test_grid_and_times_stand_beside_the_tokens(tiny: Path) -> None:
    backbone = opened(tiny, layers=("0",), num_frames=3)
    backbone.load()
    clip = clip_of(1, 3, 30, 60)
    clip.seconds = np.array([0.5, 1.0, 4.0])
    prepared = backbone.pixels(clip)
    (arrays,) = backbone.encode_videos([prepared.tensors])
    assert arrays["visual.grid"].tolist() == [2, 3, 6]
    assert len(arrays["layer0.visual"]) == 2 * 3 * 6
    assert arrays["visual.seconds"].tolist() == [0.75, 4.0]
    assert prepared.metadata == {"visual_tokens": 36, "pixels": [24, 48], "temporal_patches": 2}
    assert backbone.specs()["video"][0].layout == "ragged grid"


def test_positions_of_prompts_are_the_library_s_for_long_clips_too(tiny: Path) -> None:
    """Where there are more pairs of frames than rows or columns, what follows the video stands before its last ones."""
    backbone = opened(tiny, num_frames=None)
    model = full_model(tiny).model
    for frames, height, width in ((4, 48, 64), (40, 48, 64), (7, 16, 90), (2, 200, 16)):
        item = backbone.pixels(clip_of(1, frames, height, width)).tensors
        inputs = qwen2_inputs(tiny, item, PROMPTS[1])
        wanted, _ = model.get_rope_index(
            inputs["input_ids"], mm_token_type_ids=inputs["mm_token_type_ids"], video_grid_thw=inputs["video_grid_thw"]
        )
        tail = len(backbone.prompt(PROMPTS[1]).tensors["ids"])
        following = int(item["next"]) + torch.arange(tail)
        assert torch.equal(torch.cat([item["positions"], following.expand(3, -1)], dim=1), wanted[:, 0])
        assert torch.equal(torch.cat([item["ids"], backbone.prompt(PROMPTS[1]).tensors["ids"]]), inputs["input_ids"][0])


def test_long_clips_under_a_shared_prefix_are_the_library_s(tiny: Path) -> None:
    suite = TestQwen2VL()
    backbone = opened(tiny, num_frames=None, prompt_batching="packed", layers=("1", "norm"))
    backbone.load()
    clip = clip_of(1, 24, 48, 64)
    item = backbone.pixels(clip).tensors
    (encoded,) = backbone.encode_prompted([item], [[backbone.prompt(text).tensors for text in PROMPTS[:2]]])
    model = full_model(tiny)
    for text, answer in zip(PROMPTS[:2], encoded.prompted, strict=True):
        inputs = qwen2_inputs(tiny, item, text)
        with torch.inference_mode():
            states = model(**inputs, output_hidden_states=True).hidden_states
        ids = inputs["input_ids"][0]
        for name, rows in (("layer1.text", states[1]), ("norm.text", states[4])):
            torch.testing.assert_close(answer[name], rows[0, ids != suite.video_token(tiny)], rtol=1e-4, atol=1e-5)


def test_the_chat_template_may_lie_in_any_of_its_files(tiny: Path, tmp_path: Path) -> None:
    form = opened(tiny).chat.form
    assert form.startswith("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n")
    other = qwen2_checkpoint(tmp_path / "tiny")
    template = (other / "chat_template.jinja").read_text()
    (other / "chat_template.jinja").unlink()
    with pytest.raises(FileNotFoundError, match=r"tiny has no chat template\.\nCopy chat_template\.jinja"):
        opened(other)
    (other / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    assert opened(other).chat.form == form
    (other / "chat_template.json").write_text(json.dumps({"chat_template": template.replace("helpful", "silent")}))
    assert opened(other).recipe() != opened(tiny).recipe()


def test_a_template_with_the_prompt_in_front_is_refused(tmp_path: Path) -> None:
    other = qwen2_checkpoint(tmp_path / "tiny")
    template = (
        "{% for p in messages[0].content | reverse %}{{ p.text if p.type == 'text' else '<|video_pad|>' }}{% endfor %}"
    )
    (other / "chat_template.jinja").write_text(template)
    with pytest.raises(BadInput, match="The chat template of tiny puts the prompt before the video"):
        opened(other)


def test_a_configuration_in_the_hub_s_older_form(tiny: Path, tmp_path: Path) -> None:
    """`Qwen/Qwen2-VL-*` have the language model's settings at the top, and M-RoPE as `rope_scaling`."""
    other = Path(shutil.copytree(tiny, tmp_path / "tiny"))
    config = json.loads((other / "config.json").read_text())
    text = {k: v for k, v in config["text_config"].items() if k not in ("rope_parameters", "layer_types", "dtype")}
    rest = {k: v for k, v in config.items() if k.endswith("_id") or k in ("vision_config", "architectures")}
    rope = {"rope_theta": 1e6, "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}}
    flat = {**text, **rest, **rope, "model_type": "qwen2_vl", "torch_dtype": "float32"}
    (other / "config.json").write_text(json.dumps(flat))
    arrays = []
    for checkpoint in (tiny, other):
        backbone = opened(checkpoint, layers=("1", "norm"))
        backbone.load()
        arrays += backbone.encode_videos([backbone.pixels(clip_of(1)).tensors])
    assert equal(*arrays)


def test_a_budget_of_pixels(tiny: Path) -> None:
    whole, less = opened(tiny), opened(tiny, max_pixels=300)
    tokens = [b.pixels(clip_of(1)).metadata["visual_tokens"] for b in (whole, less)]
    # 48 x 64 becomes 24 x 40 and, for 300 pixels, 8 x 16: tokens of 8 x 8, two pairs of frames.
    assert tokens == [30, 4]
    assert whole.recipe() != less.recipe()
    assert less.rows(48, 64)["layer3.visual"] == 4
    with pytest.raises(BadInput, match="At most 100 pixels per frame were asked for"):
        opened(tiny, max_pixels=100)


def test_frames_that_no_size_fits_cost_that_clip(tiny: Path) -> None:
    with pytest.raises(RecordRejected, match="Frames of 1x300 are too long for their width"):
        opened(tiny).pixels(clip_of(1, 4, 1, 300))


def test_blocks_that_do_not_see_everything_share_no_prefix(tmp_path: Path) -> None:
    other = qwen2_checkpoint(
        tmp_path / "tiny", use_sliding_window=True, sliding_window=8, max_window_layers=2, layer_types=None
    )
    message = r"tiny has blocks of sliding_attention; --prompt-batching packed .*\nGive --prompt-batching single"
    with pytest.raises(BadInput, match=message):
        opened(other, prompt_batching="packed")
    backbone = opened(other, prompt_batching="single", layers=("4",))
    backbone.load()
    item = backbone.pixels(clip_of(1)).tensors
    (encoded,) = backbone.encode_prompted([item], [[backbone.prompt(PROMPTS[0]).tensors]])
    blocks: list[Tensor] = []
    model = full_model(other)
    model.model.language_model.layers[3].register_forward_hook(lambda _m, _a, out: blocks.append(out[0]))
    with torch.inference_mode():
        model(**qwen2_inputs(other, item, PROMPTS[0]))
    assert torch.equal(blocks[0][encoded.prompted[0]["text.positions"]], encoded.prompted[0]["layer4.text"])


def test_another_patch_size_is_refused(tmp_path: Path) -> None:
    other = qwen2_checkpoint(tmp_path / "tiny")
    (other / "preprocessor_config.json").write_text(json.dumps({"patch_size": 14}))
    with pytest.raises(BadInput, match=r"makes patches of \{'patch': 14"):
        opened(other)
