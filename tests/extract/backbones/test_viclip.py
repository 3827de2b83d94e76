"""`viclip` against the same weights in torch's and transformers' own layers; published files, tokens, refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from suites.backbone import clip_of, parameters
from suites.checkpoints import image_checkpoint
from suites.text_backbone import TextBackboneSuite
from suites.viclip import text_states, vision_states
from torch import Tensor

from vfc.cache_schema.values.errors import BadInput, MissingPath, RecordRejected, UnknownName
from vfc.extract.backbone import BackboneOptions, open_backbone
from vfc.extract.backbones.viclip.architecture import PUBLISHED, architecture_of
from vfc.extract.backbones.viclip.network import ViCLIP
from vfc.extract.backbones.viclip.tiny import write_tiny_viclip
from vfc.extract.backbones.viclip.tokens import Texts, read_bpe
from vfc.extract.models.checkpoint import BPE, Checkpoint

LONG = "a video of someone waving the hand " * 4


def opened(checkpoint: Path, **options: Any) -> Any:
    given: dict[str, Any] = {"texts": True, "num_frames": 4, "storage": "fp32", **options}
    return open_backbone("viclip", BackboneOptions(str(checkpoint), **given))


def close(made: Tensor, expected: Tensor) -> bool:
    """Within 1e-5 of the size of the numbers."""
    wide = expected.to(torch.float64)
    return made.shape == expected.shape and bool(
        torch.linalg.vector_norm(made - wide) <= 1e-5 * torch.linalg.vector_norm(wide)
    )


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_viclip(tmp_path_factory.mktemp("viclip") / "tiny-viclip")


class TestViclip(TextBackboneSuite):
    family = "viclip"
    texts = ("a video of someone waving", "kicking a ball!", "a", "  Shake the HAND\n")
    options = BackboneOptions(
        layers=("0", "1", "3", "norm"), text_layers=("0", "2", "3", "norm"), texts=True, num_frames=4, storage="fp32"
    )
    lower = BackboneOptions(layers=("1",), num_frames=4, storage="fp32", keep=("visual",))
    layer_range = "0 to 3, or norm"

    @pytest.fixture(scope="class")
    @classmethod
    def checkpoint(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return write_tiny_viclip(tmp_path_factory.mktemp("viclip") / "tiny-viclip")

    def agree(self, made: Tensor, expected: Tensor) -> bool:
        return close(made, expected) if made.is_floating_point() else torch.equal(made, expected)

    def rows_of(self, frames: int) -> int:
        return 1 + 16 * frames

    def library_pixels(self, checkpoint: Path, frames: Any) -> dict[str, Tensor]:
        images = [Image.fromarray(frame).resize((32, 32), Image.Resampling.BICUBIC) for frame in frames]
        values = torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2) / 255
        mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[..., None, None]
        return {"pixels": (values - mean) / std}

    def library_states(self, checkpoint: Path, pixels: Tensor) -> dict[str, Tensor]:
        states, embedding = vision_states(load_file(checkpoint / "model.safetensors"), pixels, heads=2)
        names = {f"layer{layer}.visual": states[layer] for layer in (0, 1, 3)}
        return {**names, "norm.visual": states[4], "embedding": embedding}

    def library_text_states(self, checkpoint: Path, text: str) -> dict[str, Tensor]:
        tokenizer = read_bpe(checkpoint / BPE)
        ids = tokenizer(text)["input_ids"]
        states, embedding = text_states(load_file(checkpoint / "model.safetensors"), torch.tensor(ids), heads=2)
        names = {f"layer{layer}.text": states[layer] for layer in (0, 2, 3)}
        found = {"text.ids": torch.tensor(ids), "text.eot": torch.tensor([len(ids) - 1]), "embedding": embedding}
        return {**found, **names, "norm.text": states[4]}


# Numbers


@pytest.mark.parametrize("frames", [1, 4, 8, 16])
def test_any_number_of_frames_equals_the_other_formulation(tiny: Path, frames: int) -> None:
    backbone = opened(tiny, num_frames=frames, texts=False, layers=("0", "2", "3"))
    backbone.load()
    prepared = backbone.pixels(clip_of(1, frames)).tensors
    (arrays,) = backbone.encode_videos([prepared])
    states, embedding = vision_states(load_file(tiny / "model.safetensors"), prepared["pixels"], heads=2)
    assert arrays["layer2.visual"].shape == (1 + 16 * frames, 24)
    for layer in (0, 2, 3):
        assert close(arrays[f"layer{layer}.visual"], states[layer])
    assert close(arrays["embedding"], embedding)


def test_the_last_block_of_the_class_token_alone_gives_the_same_embedding(tiny: Path) -> None:
    alone, whole = (opened(tiny, texts=False, layers=layers) for layers in (("2",), ("2", "3")))
    made = []
    for backbone in (alone, whole):
        backbone.load()
        made.append(backbone.encode_videos([backbone.pixels(clip_of(3)).tensors])[0])
    assert torch.equal(made[0]["layer2.visual"], made[1]["layer2.visual"])
    assert close(made[0]["embedding"], made[1]["embedding"])
    rows: list[int] = []
    handle = alone._vision.transformer.resblocks[2].register_forward_hook(lambda _m, _a, out: rows.append(out.shape[1]))
    alone.encode_videos([alone.pixels(clip_of(3)).tensors])
    handle.remove()
    assert rows == [1]


def test_half_precision_is_near(tiny: Path) -> None:
    whole, half = (opened(tiny, texts=False, layers=("2",), dtype=dtype) for dtype in ("fp32", "bf16"))
    whole.load()
    half.load()
    one, other = (b.encode_videos([b.pixels(clip_of(3)).tensors])[0]["layer2.visual"] for b in (whole, half))
    assert 0 < torch.linalg.vector_norm(one - other) < 0.03 * torch.linalg.vector_norm(one)


# What was published


def block(width: int) -> dict[str, tuple[int, ...]]:
    norms = {f"ln_{i}.{part}": (width,) for i in (1, 2) for part in ("weight", "bias")}
    attention = {"in_proj_weight": (3 * width, width), "in_proj_bias": (3 * width,)}
    attention |= {"out_proj.weight": (width, width), "out_proj.bias": (width,)}
    mlp = {"c_fc.weight": (4 * width, width), "c_fc.bias": (4 * width,)}
    mlp |= {"c_proj.weight": (width, 4 * width), "c_proj.bias": (width,)}
    return {**norms, **{f"attn.{n}": s for n, s in attention.items()}, **{f"mlp.{n}": s for n, s in mlp.items()}}


def test_the_published_names_and_shapes() -> None:
    with torch.device("meta"):
        network = ViCLIP(PUBLISHED["b"])
    wanted: dict[str, tuple[int, ...]] = {
        "temp": (),
        "vision_encoder.class_embedding": (768,),
        "vision_encoder.positional_embedding": (197, 768),
        "vision_encoder.temporal_positional_embedding": (1, 8, 768),
        "vision_encoder.proj": (768, 512),
        "vision_encoder.conv1.weight": (768, 3, 1, 16, 16),
        "text_encoder.token_embedding.weight": (49408, 512),
        "text_encoder.positional_embedding": (32, 512),
        "text_encoder.text_projection": (512, 512),
    }
    for norm, width in (
        ("vision_encoder.ln_pre", 768),
        ("vision_encoder.ln_post", 768),
        ("text_encoder.ln_final", 512),
    ):
        wanted |= {f"{norm}.weight": (width,), f"{norm}.bias": (width,)}
    for tower, width in (("vision_encoder", 768), ("text_encoder", 512)):
        for i in range(12):
            wanted |= {f"{tower}.transformer.resblocks.{i}.{name}": shape for name, shape in block(width).items()}
    state = network.state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == wanted
    assert len(state) == 303
    counts = [sum(p.numel() for p in part.parameters()) for part in (network.vision_encoder, network.text_encoder)]
    assert counts == [86_198_784, 63_405_056]
    assert sum(p.numel() for p in network.parameters()) == 149_603_841


def test_the_large_one_is_read_off_its_shapes() -> None:
    for made in PUBLISHED.values():
        with torch.device("meta"):
            shapes = {name: tuple(tensor.shape) for name, tensor in ViCLIP(made).state_dict().items()}
        assert architecture_of({}, lambda shapes=shapes: shapes, "x") == made  # type: ignore[misc]
    large = PUBLISHED["l"]
    assert (large.vision.width, large.vision.layers, large.vision.heads, large.grid) == (1024, 24, 16, 16)


def test_what_the_published_base_gives(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["ViCLIP"], "size": "b"}))
    backbone = opened(tmp_path, texts=False, num_frames=8, layers=("7",), storage=None)
    (layer, embedding) = backbone.specs()["video"]
    assert (layer.name, layer.shape, layer.dtype) == ("layer7.visual", (1569, 768), "fp16")
    assert layer.layout == "cls first, patch-major, grid 14x14, frames 8"
    assert (embedding.name, embedding.shape) == ("embedding", (512,))
    assert list(backbone.taps()["text"]) == [*map(str, range(13)), "norm"]
    assert (backbone.rule.exact, backbone.rule.resample, backbone.rule.crops) == ((224, 224), "bicubic", ())
    cropping = opened(tmp_path, texts=False, pixels="centre-crop")
    assert (cropping.rule.shortest_edge, cropping.rule.crops) == (256, ((224, 224),))
    for rule in (backbone.rule, cropping.rule):
        assert (rule.mean, rule.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    many = opened(tmp_path, texts=False, num_frames=None, layers=("0",), storage="int8").specs()["video"]
    assert [(spec.shape, spec.dtype) for spec in many] == [((None, 768), "int8"), ((512,), "fp16")]


def test_real_vocabulary_gives_the_published_ids(shared_data: Path) -> None:
    tokenizer = read_bpe(shared_data / "weights" / "clip_bpe" / BPE)
    assert len(tokenizer) == 49408
    tokens = Texts.of(Checkpoint("clip", shared_data / "weights" / "clip_bpe"), PUBLISHED["b"], True)
    made = tokens("A video  of brush hair.").tensors
    assert made["ids"].tolist() == [49406, 320, 1455, 539, 8594, 2225, 269, 49407, *[0] * 24]
    assert made["eot"].tolist() == [7]
    assert tokens("hello world").tensors["ids"].tolist()[:4] == [49406, 3306, 1002, 49407]
    assert tokens("salt &amp;amp; pepper").tensors["ids"].equal(tokens("salt & pepper").tensors["ids"])
    cut = tokens("hello world " * 20)
    assert cut.tensors["ids"].tolist() == [49406, *[3306, 1002] * 15, 49407]
    assert cut.metadata == {"tokens": 32, "cut_tokens": 10}


# Files


def embeds(checkpoint: Path) -> Tensor:
    backbone = opened(checkpoint, texts=False)
    backbone.load()
    made: Tensor = backbone.encode_videos([backbone.pixels(clip_of(2)).tensors])[0]["embedding"]
    return made


@pytest.fixture(scope="module")
def sixty_four(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Heads as wide as the published ones, so that shapes tell all."""
    return write_tiny_viclip(tmp_path_factory.mktemp("viclip") / "wide", layers=1, width=128, text_width=128)


@pytest.mark.parametrize("kind", ["safetensors", "pth", "legacy", "wrapped"])
def test_one_file_is_a_checkpoint(sixty_four: Path, tmp_path: Path, kind: str) -> None:
    weights = load_file(sixty_four / "model.safetensors")
    file = tmp_path / ("ViCLIP.safetensors" if kind == "safetensors" else "ViCLIP.pth")
    if kind == "safetensors":
        save_file(weights, file)
    elif kind == "wrapped":
        torch.save({"epoch": 3, "model": {f"module.{name}": tensor for name, tensor in weights.items()}}, file)
    else:
        torch.save({"model": weights}, file, _use_new_zipfile_serialization=kind == "pth")
    assert torch.equal(embeds(file), embeds(sixty_four))
    assert torch.equal(embeds(tmp_path), embeds(sixty_four))
    shutil.copy(sixty_four / BPE, tmp_path)
    backbone = opened(file)
    backbone.load()
    assert backbone.recipe()["checkpoint"]["id"] == file.name
    assert backbone.encode_texts([backbone.tokens("a ball").tensors])[0]["embedding"].shape == (20,)
    shutil.copy(file, tmp_path / "second.pth")
    with pytest.raises(BadInput, match=r"several weight files: .*second.pth\.\nGive one of them"):
        opened(tmp_path)


def test_shards_behind_a_prefix(tiny: Path, tmp_path: Path) -> None:
    weights = load_file(tiny / "model.safetensors")
    made = Path(shutil.copytree(tiny, tmp_path / "shards", ignore=shutil.ignore_patterns("*.safetensors")))
    for i, tower in enumerate(("vision_encoder", "t")):
        shard = {f"clip.{name}": tensor for name, tensor in weights.items() if name.startswith(tower)}
        save_file(shard, made / f"model-0000{i + 1}-of-00002.safetensors")
    assert torch.equal(embeds(made), embeds(tiny))


def changed(tiny: Path, folder: Path, change: str) -> Path:
    made = Path(shutil.copytree(tiny, folder / "changed"))
    weights = load_file(tiny / "model.safetensors")
    if change == "lacking":
        del weights["text_encoder.ln_final.bias"], weights["temp"]
    elif change == "extra":
        weights |= {f"vision_encoder.mask_token.{i}": torch.ones(2) for i in range(5)}
    else:
        weights["vision_encoder.proj"] = torch.ones(24, 21)
    save_file(weights, made / "model.safetensors")
    return made


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("lacking", "The checkpoint changed lacks weights that ViCLIP needs: temp, text_encoder.ln_final.bias\\."),
        ("extra", r"holds weights that ViCLIP has no place for: vision_encoder.mask_token.0, .* and 2 more"),
        ("shape", r"another shape than its configuration says: vision_encoder.proj \[24, 21\], not \[24, 20\]"),
    ],
)
def test_weights_that_do_not_fit_are_named(tiny: Path, tmp_path: Path, change: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        opened(changed(tiny, tmp_path, change)).load()


class Sly:
    def __reduce__(self) -> Any:
        return (print, ("code was run",))


def test_a_file_that_would_run_code_is_not_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"model": {}, "args": Sly()}, tmp_path / "sly.pth")
    with pytest.raises(BadInput, match=r"sly.pth holds more than weights, and reading it would run code"):
        opened(tmp_path / "sly.pth", texts=False)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "clip"}, "is a clip model; viclip needs a ViCLIP one"),
        ({"architectures": ["CLIPModel"]}, "is a CLIPModel model"),
        ({"architectures": ["ViCLIP"], "size": "h"}, r"says size 'h'\.\nKnown sizes: b, l"),
        ({"model_type": "viclip", "vision": {"width": 8}}, "does not describe a ViCLIP: TypeError"),
        ({"model_type": "viclip", "vision": {}, "text": {}}, "does not describe a ViCLIP"),
    ],
)
def test_configurations_of_something_else(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadInput, match=message):
        opened(tmp_path)


def test_other_files(tiny: Path, tmp_path: Path) -> None:
    made = Path(shutil.copytree(tiny, tmp_path / "odd"))
    config = json.loads((made / "config.json").read_text())
    config["text"]["heads"] = 5
    (made / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadInput, match="the text tower is 16 wide, with 5 heads"):
        opened(made)
    with pytest.raises(BadInput, match="is a vit model; viclip needs"):
        opened(image_checkpoint(tmp_path / "vit", "vit"))
    save_file({"layer.weight": torch.ones(2)}, tmp_path / "other.safetensors")
    with pytest.raises(BadInput, match=r"other.safetensors is no ViCLIP: 'vision_encoder.conv1.weight' is not as"):
        opened(tmp_path / "other.safetensors")
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(BadInput, match=r"notes.txt is not a weight file\.\nKnown suffixes: .safetensors"):
        opened(tmp_path / "notes.txt")
    torch.save([1], tmp_path / "list.pt")
    with pytest.raises(BadInput, match=r"list.pt holds a list, no weights by name"):
        opened(tmp_path / "list.pt")


# Texts


def test_a_text_beyond_the_context_is_refused_or_cut_and_says_so(tiny: Path) -> None:
    with pytest.raises(RecordRejected, match=r"has \d+ tokens; the text tower takes 32"):
        opened(tiny).tokens(LONG)
    cutting = opened(tiny, cut_texts=True, text_layers=("1",))
    cutting.load()
    prepared = cutting.tokens(LONG)
    full = read_bpe(tiny / BPE)(LONG, verbose=False)["input_ids"]
    assert prepared.metadata == {"tokens": 32, "cut_tokens": len(full) - 32}
    assert prepared.tensors["ids"].tolist() == [*full[:31], full[-1]]
    (arrays,) = cutting.encode_texts([prepared.tensors])
    assert (arrays["layer1.text"].shape, arrays["text.eot"].tolist()) == ((32, 16), [31])


def test_a_tokenizer_that_is_not_there_or_of_another_checkpoint(tiny: Path, tmp_path: Path) -> None:
    bare = Path(shutil.copytree(tiny, tmp_path / "bare", ignore=shutil.ignore_patterns(BPE)))
    opened(bare, texts=False)
    with pytest.raises(MissingPath, match=f"has no tokenizer, and texts were asked for.\nPut CLIP's {BPE}"):
        opened(bare)
    (bare / BPE).write_bytes(b"no gzip")
    with pytest.raises(BadInput, match=r"cannot be read: .*\nCopy it again"):
        opened(bare)
    (bare / BPE).unlink()
    read_bpe(tiny / BPE).save_pretrained(bare)
    assert opened(bare).tokens("a ball").tensors["ids"].equal(opened(tiny).tokens("a ball").tensors["ids"])
    config = json.loads((bare / "config.json").read_text())
    (bare / "config.json").write_text(json.dumps({**config, "vocabulary": 99}))
    with pytest.raises(BadInput, match=r"has \d+ ids; its text tower 99"):
        opened(bare)


# Options


def test_only_what_was_asked_for_is_read(tiny: Path) -> None:
    sizes = {}
    asked: dict[str, dict[str, Any]] = {
        "stem": {"layers": ("0",), "keep": ("visual",)},
        "vision": {},
        "both": {"texts": True},
        "short": {"texts": True, "text_layers": ("1",), "keep": ("text",)},
    }
    for name, options in asked.items():
        backbone = opened(tiny, **{"texts": False, **options})
        backbone.load()
        sizes[name] = parameters(backbone)
    assert sizes["stem"] < sizes["vision"] < sizes["short"] < sizes["both"]


def test_embedding_names_those_of_videos_and_texts(tiny: Path) -> None:
    def kept(**options: Any) -> list[list[str]]:
        specs = opened(tiny, **options).specs()
        return [[spec.name for spec in specs[kind]] for kind in ("video", "text")]

    ids = ["text.ids", "text.eot"]
    assert kept(layers=("1",)) == [["layer1.visual", "embedding"], [*ids, "embedding"]]
    assert kept(layers=("1",), keep=("visual",)) == [["layer1.visual"], [*ids, "embedding"]]
    assert kept(keep=("embedding",)) == [["embedding"], [*ids, "embedding"]]
    assert kept(text_layers=("2",), keep=("text",)) == [["embedding"], [*ids, "layer2.text"]]


@pytest.mark.parametrize(
    ("change", "message", "error"),
    [
        ({"layers": ("1",), "keep": ("embedding",)}, "Layers were asked for, but visual is not kept", BadInput),
        ({"keep": ("text",)}, "Nothing would be kept of embedding and text.\nName layers with --text-layer", BadInput),
        ({"keep": ("frames",)}, "no stream 'frames'", UnknownName),
        ({"text_layers": ("4",)}, "There is no layer '4' in the text tower.\nAllowed: 0 to 3, or norm", BadInput),
        ({"attention": "eager"}, "viclip attends with torch's sdpa; eager was asked for", BadInput),
        ({"pixels": "center-crop"}, "'center-crop'. Did you mean 'centre-crop'", UnknownName),
    ],
)
def test_options_that_cannot_be(tiny: Path, change: dict[str, Any], message: str, error: type[Exception]) -> None:
    with pytest.raises(error, match=message):
        opened(tiny, **change)


def test_ways_of_making_pixels_are_the_familys_own(tiny: Path, tmp_path: Path) -> None:
    ways = [opened(tiny, texts=False, pixels=way) for way in (None, "resize", "centre-crop")]
    own, whole, crop = (backbone.pixels(clip_of(1)).tensors["pixels"] for backbone in ways)
    assert torch.equal(own, whole)
    assert own.shape == crop.shape == (4, 3, 32, 32)
    assert not torch.equal(own, crop)
    assert ways[0].recipe() == ways[1].recipe() != ways[2].recipe()
    with pytest.raises(BadInput, match="image makes pixels in one way; --pixels resize is given"):
        open_backbone("image", BackboneOptions(str(image_checkpoint(tmp_path / "vit", "vit")), pixels="resize"))
