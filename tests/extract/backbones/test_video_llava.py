"""Video-LLaVA on a tiny checkpoint: the suites against the library, the row of tokens by hand, refusals."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from suites.backbone import clip_of, equal
from suites.language import video_llava_checkpoint
from suites.language_inputs import video_llava_inputs
from suites.prompted import PromptedSuite
from torch import Tensor

from vfc.cache_schema.values.errors import BadInput
from vfc.extract.backbone import BackboneOptions, open_backbone

TOKENS = 5
"""Of a frame of the tiny checkpoint: 2x2 patches and a class token."""


class TestVideoLlava(PromptedSuite):
    family = "video-llava"
    # The last block of the tower too: features are read below it.
    skipped = ("model.image_tower.", "model.video_tower.encoder.layers.2.")

    @classmethod
    def checkpoint_of(cls, folder: Path, **more: Any) -> Path:
        return video_llava_checkpoint(folder, **more)

    def library_inputs(self, checkpoint: Path, clip: Any, tensors: Mapping[str, Tensor], prompt: str) -> dict[str, Any]:
        return video_llava_inputs(checkpoint, tensors, prompt, TOKENS)

    def shaped(self, visual: Tensor, clip: Any) -> Tensor:
        return visual.view(len(clip.frames), TOKENS, -1)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return video_llava_checkpoint(tmp_path_factory.mktemp("video-llava") / "tiny")


def opened(checkpoint: Path, **options: Any) -> Any:
    given: dict[str, Any] = {"num_frames": 2, "storage": "fp32", "prompts": True, **options}
    return open_backbone("video-llava", BackboneOptions(str(checkpoint), **given))


def test_layouts_say_where_the_class_token_is(tiny: Path) -> None:
    (visual,) = opened(tiny).specs()["video"]
    assert visual.layout == "frame-major, cls first in frame, grid 2x2"
    assert visual.shape == (2, 5, 32)


def test_every_frame_s_class_token_is_its_first_row(tiny: Path) -> None:
    """Layer 0 holds the projected tower at visual places: its first row per frame is that of the class embedding."""
    backbone = opened(tiny, layers=("0",))
    backbone.load()
    item = backbone.pixels(clip_of(4, 2)).tensors
    model = transformers.AutoModel.from_pretrained(tiny).eval()
    with torch.inference_mode():
        tower = model.video_tower(item["pixels"], output_hidden_states=True).hidden_states[-2]
        by_hand = model.multi_modal_projector(tower[:, 0])
    visual = backbone.encode_videos([item])[0]["layer0.visual"]
    torch.testing.assert_close(visual[:, 0], by_hand, rtol=1e-4, atol=1e-5)


def test_text_stands_around_one_run_of_visual_tokens(tiny: Path) -> None:
    backbone = opened(tiny, layers=("0",))
    backbone.load()
    prompt = backbone.prompt("Who?")
    (encoded,) = backbone.encode_prompted([backbone.pixels(clip_of(1, 2)).tensors], [[prompt.tensors]])
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny)
    arrays = encoded.prompted[0]
    head = tokenizer("USER: ")["input_ids"]
    assert arrays["text.ids"].tolist()[: len(head)] == head
    assert head[0] == tokenizer.bos_token_id
    assert tokenizer.decode(arrays["text.ids"], skip_special_tokens=True).split() == ["USER:", "Who?", "ASSISTANT:"]
    places = arrays["text.positions"].tolist()
    assert places == [*range(len(head)), *range(len(head) + 10, len(head) + 10 + len(prompt.tensors["ids"]))]


def test_weights_are_found_under_the_hub_s_names(tiny: Path, tmp_path: Path) -> None:
    """`LanguageBind/Video-LLaVA-7B-hf` has its towers' weights one level deeper than the library saves them today."""
    other = Path(shutil.copytree(tiny, tmp_path / "tiny"))
    weights = load_file(other / "model.safetensors")
    towers = ("video_tower.", "image_tower.")
    named = {
        f"{name.split('.')[0]}.vision_model.{name.split('.', 1)[1]}" if name.startswith(towers) else name: values
        for name, values in weights.items()
    }
    assert named.keys() != weights.keys()
    save_file(named, other / "model.safetensors", {"format": "pt"})
    arrays = []
    for checkpoint in (tiny, other):
        backbone = opened(checkpoint, layers=("1",))
        backbone.load()
        arrays += backbone.encode_videos([backbone.pixels(clip_of(1, 2)).tensors])
    assert equal(*arrays)


def test_half_precision_becomes_single_on_a_cpu_unless_asked_for(tmp_path: Path) -> None:
    checkpoint = video_llava_checkpoint(tmp_path / "half", dtype=torch.float16)
    assert opened(checkpoint).recipe()["compute"]["dtype"] == "fp32"
    assert opened(checkpoint, device="cuda").compute.dtype == "fp16"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_pixels": 100_000}, "video-llava takes frames of one size.\nLeave out --max-pixels"),
        ({"num_frames": 300}, r"300 frames make a row of 150\d tokens; tiny takes 1024.\nA frame takes 5"),
    ],
)
def test_what_cannot_be(tiny: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        opened(tiny, **change)


def test_pixels_of_another_size_are_refused(tmp_path: Path) -> None:
    checkpoint = video_llava_checkpoint(tmp_path / "tiny")
    (checkpoint / "processor_config.json").write_text(json.dumps({"video_processor": {"crop_size": 42}}))
    with pytest.raises(BadInput, match=r"makes images of \(42, 42\), not \(28, 28\)"):
        opened(checkpoint)


def test_a_tokenizer_that_does_not_know_the_video_is_refused(tmp_path: Path) -> None:
    checkpoint = video_llava_checkpoint(tmp_path / "tiny")
    config = json.loads((checkpoint / "config.json").read_text())
    config["video_token_index"] -= 5
    (checkpoint / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadInput, match="has 0 places for a video"):
        opened(checkpoint)
