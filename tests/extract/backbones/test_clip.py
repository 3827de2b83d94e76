"""`clip` against the library's CLIPModel; its tokens, its end of text, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from suites.backbone import clip_of, parameters
from suites.checkpoints import clip_checkpoint, image_checkpoint, image_pixels
from suites.text_backbone import TextBackboneSuite
from torch import Tensor

from vfc.cache_schema.values.errors import BadInput
from vfc.extract.backbone import BackboneOptions, TextBackbone, open_backbone

CONTEXT = 16
LONG = "a video of someone waving the hand of someone kicking a ball of someone waving"


def opened(checkpoint: Path, **options: Any) -> Any:
    given: dict[str, Any] = {"texts": True, "num_frames": 2, "storage": "fp32", **options}
    backbone = open_backbone("clip", BackboneOptions(str(checkpoint), **given))
    assert isinstance(backbone, TextBackbone)
    return backbone


class TestClip(TextBackboneSuite):
    family = "clip"
    texts = ("a video of someone waving", "kicking a ball!", "a", "  Shake the HAND\n")
    options = BackboneOptions(
        layers=("0", "1", "3", "norm"), text_layers=("0", "2", "3", "norm"), texts=True, num_frames=4, storage="fp32"
    )
    lower = BackboneOptions(layers=("1",), num_frames=4, storage="fp32", keep=("visual",))
    layer_range = "0 to 3, or norm"

    @pytest.fixture(scope="class")
    @classmethod
    def checkpoint(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return clip_checkpoint(tmp_path_factory.mktemp("clip") / "tiny-clip")

    def library_states(self, checkpoint: Path, pixels: Tensor) -> dict[str, Tensor]:
        model = transformers.CLIPModel.from_pretrained(checkpoint).eval()
        with torch.inference_mode():
            output = model.vision_model(pixel_values=pixels, output_hidden_states=True)
            frames = model.get_image_features(pixel_values=pixels).pooler_output
            normed = model.vision_model.post_layernorm(output.hidden_states[3])
        assert torch.equal(normed[:, 0], output.pooler_output)
        states = {f"layer{i}.visual": output.hidden_states[i] for i in (0, 1, 3)}
        return {"frames": frames, **states, "norm.visual": normed}

    def library_text_states(self, checkpoint: Path, text: str) -> dict[str, Tensor]:
        model = transformers.CLIPModel.from_pretrained(checkpoint).eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
        inputs = tokenizer(text, padding="max_length", max_length=CONTEXT, return_tensors="pt")
        blocks: list[Tensor] = []
        last = model.text_model.encoder.layers[-1]
        handle = last.register_forward_hook(lambda _m, _a, out: blocks.append(out))
        with torch.inference_mode():
            output = model.text_model(**inputs, output_hidden_states=True)
            embedding = model.get_text_features(**inputs).pooler_output[0]
        handle.remove()
        length = int(inputs["attention_mask"].sum())
        return {
            "text.ids": inputs["input_ids"][0, :length],
            "text.eot": torch.tensor([length - 1]),
            "embedding": embedding,
            "layer0.text": output.hidden_states[0][0, :length],
            "layer2.text": output.hidden_states[2][0, :length],
            "layer3.text": blocks[0][0, :length],
            "norm.text": output.last_hidden_state[0, :length],
        }


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clip_checkpoint(tmp_path_factory.mktemp("clip") / "tiny-clip")


@pytest.mark.parametrize("legacy", [False, True])
def test_the_embedding_is_read_at_the_end_of_text_in_old_and_new_checkpoints(tmp_path: Path, legacy: bool) -> None:
    checkpoint = clip_checkpoint(tmp_path, legacy_eos=legacy)
    backbone = opened(checkpoint, text_layers=("norm",))
    backbone.load()
    (arrays,) = backbone.encode_texts([backbone.tokens("a ball").tensors])
    model = transformers.CLIPModel.from_pretrained(checkpoint).eval()
    with torch.inference_mode():
        by_hand = model.text_projection(arrays["norm.text"][int(arrays["text.eot"])])
    torch.testing.assert_close(arrays["embedding"], by_hand, rtol=1e-5, atol=1e-6)
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    assert arrays["text.ids"].tolist() == [
        tokenizer.bos_token_id,
        *tokenizer("a ball")["input_ids"][1:-1],
        tokenizer.eos_token_id,
    ]


def test_only_the_tower_that_was_asked_for_is_read(tiny: Path) -> None:
    sizes = {}
    for texts in (False, True):
        backbone = opened(tiny, texts=texts)
        backbone.load()
        sizes[texts] = parameters(backbone)
        assert ("text" in backbone.specs()) == texts
    model = transformers.CLIPModel.from_pretrained(tiny)
    vision = sum(p.numel() for part in (model.vision_model, model.visual_projection) for p in part.parameters())
    text = sum(p.numel() for part in (model.text_model, model.text_projection) for p in part.parameters())
    assert sizes == {False: vision, True: vision + text}


def test_text_layers_alone_cut_the_text_tower(tiny: Path) -> None:
    whole, short = (opened(tiny, text_layers=("1",), keep=keep) for keep in ((), ("text", "frames")))
    whole.load()
    short.load()
    assert parameters(short) < parameters(whole)
    assert [spec.name for spec in short.specs()["text"]] == ["text.ids", "text.eot", "layer1.text"]
    (left,), (right,) = (b.encode_texts([b.tokens("kicking").tensors]) for b in (whole, short))
    assert all(torch.equal(states, left[name]) for name, states in right.items())


def test_the_outer_projection_width_counts(tmp_path: Path) -> None:
    checkpoint = clip_checkpoint(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["projection_dim"] == 20
    for tower in ("text_config", "vision_config"):
        config[tower]["projection_dim"] = 512
    (tmp_path / "config.json").write_text(json.dumps(config))
    backbone = opened(checkpoint)
    backbone.load()
    assert backbone.encode_videos([backbone.pixels(clip_of(1, 2)).tensors])[0]["frames"].shape == (2, 20)
    assert backbone.encode_texts([backbone.tokens("a").tensors])[0]["embedding"].shape == (20,)


def test_another_architecture_is_refused_by_name(tmp_path: Path) -> None:
    checkpoint = image_checkpoint(tmp_path / "tiny-vit", "vit")
    with pytest.raises(BadInput, match="The checkpoint tiny-vit is a vit model; clip needs a clip one"):
        opened(checkpoint)


def test_pixels_of_another_size_are_refused(tmp_path: Path) -> None:
    checkpoint = clip_checkpoint(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(image_pixels(64)))
    with pytest.raises(BadInput, match=r"makes images of \(64, 64\), not \(32, 32\)"):
        opened(checkpoint)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": ("1",), "keep": ("frames",)}, "Layers were asked for, but visual is not kept.\nAdd visual"),
        ({"keep": ("text",)}, "Nothing would be kept of embedding and text.\nName layers with --text-layer"),
        ({"text_layers": ("4",)}, "There is no layer '4' in the text tower.\nAllowed: 0 to 3, or norm"),
    ],
)
def test_options_that_contradict_each_other(tiny: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        opened(tiny, **change)
