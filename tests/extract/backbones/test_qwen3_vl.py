"""Qwen3-VL on a tiny checkpoint: the suites against the library, time stamps, features added behind early blocks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from suites.backbone import clip_of
from suites.language import PROMPTS, qwen3_checkpoint
from suites.language_inputs import qwen3_inputs
from suites.prompted import PromptedSuite, full_model
from torch import Tensor

from vfc.cache_schema.values.errors import BadInput, RecordRejected
from vfc.extract.backbone import BackboneOptions, open_backbone
from vfc.extract.backbones.qwen3_vl import stamps_of


class TestQwen3VL(PromptedSuite):
    family = "qwen3-vl"

    @classmethod
    def checkpoint_of(cls, folder: Path, **more: Any) -> Path:
        return qwen3_checkpoint(folder, **more)

    def library_inputs(self, checkpoint: Path, clip: Any, tensors: Mapping[str, Tensor], prompt: str) -> dict[str, Any]:
        return qwen3_inputs(checkpoint, clip, tensors, prompt)

    def rows_of(self, frames: int) -> int:
        # 6000 pixels for all frames: two of 48 x 64 become 40 x 56, five become 24 x 40; tokens of 8 x 8.
        return {2: 5 * 7, 5: 3 * 3 * 5}[frames]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return qwen3_checkpoint(tmp_path_factory.mktemp("qwen3-vl") / "tiny")


def opened(checkpoint: Path, **options: Any) -> Any:
    given: dict[str, Any] = {"num_frames": 4, "storage": "fp32", "prompts": True, **options}
    return open_backbone("qwen3-vl", BackboneOptions(str(checkpoint), **given))


def test_time_stamps_by_hand() -> None:
    # Frames 0 and 37 of 30 a second: 0 s and 1.2333 s, mean 0.6167; 75 and 112: 2.5 and 3.7333, mean 3.1167.
    assert stamps_of([0, 37, 75, 112], 30.0, 2) == ["<0.6 seconds>", "<3.1 seconds>"]
    assert stamps_of([0, 37, 75], 30.0, 2) == ["<0.6 seconds>", "<2.5 seconds>"]


def test_time_stamps_and_ids_follow_the_clip(tiny: Path) -> None:
    backbone = opened(tiny, num_frames=None)
    for indices, fps in (([0, 40, 80, 120], 30.0), ([3, 900, 3000], 23.976), ([5, 5], 1.0)):
        clip = clip_of(1, len(indices))
        clip.indices, clip.fps = np.array(indices), fps
        prepared = backbone.pixels(clip)
        inputs = qwen3_inputs(tiny, clip, prepared.tensors, PROMPTS[2])
        tail = backbone.prompt(PROMPTS[2]).tensors["ids"]
        assert torch.equal(torch.cat([prepared.tensors["ids"], tail]), inputs["input_ids"][0])
        model = full_model(tiny).model
        wanted, _ = model.get_rope_index(
            inputs["input_ids"], mm_token_type_ids=inputs["mm_token_type_ids"], video_grid_thw=inputs["video_grid_thw"]
        )
        following = (int(prepared.tensors["next"]) + torch.arange(len(tail))).expand(3, -1)
        assert torch.equal(torch.cat([prepared.tensors["positions"], following], dim=1), wanted[:, 0])
    assert prepared.metadata["timestamps"] == ["<5.0 seconds>"]


def test_text_holds_time_stamps_and_the_marks_around_each_pair(tiny: Path) -> None:
    backbone = opened(tiny, layers=("0",))
    backbone.load()
    (encoded,) = backbone.encode_prompted([backbone.pixels(clip_of(1)).tensors], [[backbone.prompt("Who?").tensors]])
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny)
    said = tokenizer.decode(encoded.prompted[0]["text.ids"])
    pair = "<|vision_start|><|vision_end|>"
    assert said == (
        f"<|im_start|>user\n<|vision_start|><0.0 seconds>{pair}<0.1 seconds>{pair}<|vision_end|>"
        "Who?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_layers_are_caught_before_features_are_added(tiny: Path) -> None:
    """Between block 1's output and block 2's input lies an addition, at visual places alone; it is not in layer 1."""
    backbone = opened(tiny, layers=("1",))
    backbone.load()
    clip = clip_of(2)
    item = backbone.pixels(clip).tensors
    visual = backbone.encode_videos([item])[0]["layer1.visual"]
    model = full_model(tiny)
    seen: dict[str, Tensor] = {}
    model.model.language_model.layers[1].register_forward_pre_hook(
        lambda _m, args, kwargs: seen.update(entered=(args or tuple(kwargs.values()))[0]), with_kwargs=True
    )
    inputs = qwen3_inputs(tiny, clip, item, PROMPTS[0])
    with torch.inference_mode():
        features = model.model.get_video_features(item["pixels"], item["grid"][None], return_dict=True)
        model(**inputs)
    marks = inputs["mm_token_type_ids"][0] == 2
    added = features.deepstack_features[0]
    added = added if isinstance(added, Tensor) else torch.cat(added)
    assert added.abs().max() > 0.1
    torch.testing.assert_close(seen["entered"][0, marks], visual + added, rtol=1e-5, atol=1e-5)


def test_pairs_of_frames_are_needed(tiny: Path) -> None:
    with pytest.raises(BadInput, match="qwen3-vl takes pairs of frames; one frame was asked for"):
        opened(tiny, num_frames=1)
    with pytest.raises(RecordRejected, match="takes 2 frames or more; this clip has 1"):
        opened(tiny, num_frames=None).pixels(clip_of(1, 1))


def test_a_video_without_a_frame_rate_is_refused(tiny: Path) -> None:
    clip = clip_of(1)
    clip.fps = 0.0
    with pytest.raises(RecordRejected, match="The video has no frame rate"):
        opened(tiny).pixels(clip)


def test_the_budget_is_for_all_frames(tiny: Path) -> None:
    few, many = (opened(tiny, num_frames=n).rows(480, 640)["layer3.visual"] / n for n in (4, 16))
    assert many < few / 2
    with pytest.raises(BadInput, match="At most 100 pixels over the clip were asked for"):
        opened(tiny, max_pixels=100)
