"""`videomae` against the library's own hidden states; checkpoints in old and in the authors' names; long videos."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from suites.backbone import BackboneSuite, clip_of
from suites.checkpoints import VIDEOMAE, VIDEOMAE_PIXELS, randomise, save
from suites.checkpoints import videomae_checkpoint as videomae
from torch import Tensor

from vfc.cache_schema.values.errors import BadInput
from vfc.extract.backbone import BackboneOptions, StreamingBackbone, open_backbone
from vfc.extract.backbones.videomae.weights import library_names
from vfc.extract.pipeline.model_card import describe

LABELS: dict[str, Any] = {"num_labels": 3}


def library(checkpoint: Path, clip: Tensor) -> tuple[list[Tensor], Tensor]:
    """Hidden states and last state of one clip `[4, 3, 32, 32]` as `[2, 16, D]`."""
    model = transformers.VideoMAEModel.from_pretrained(checkpoint, dtype=torch.float32).eval()
    with torch.inference_mode():
        output = model(pixel_values=clip[None], output_hidden_states=True)
    return [state.reshape(2, 16, -1) for state in output.hidden_states], output.last_hidden_state.reshape(2, 16, -1)


class TestPretrained(BackboneSuite):
    family = "videomae"
    options = BackboneOptions(layers=("0", "2", "3", "norm"), num_frames=4, storage="fp32")
    lower = BackboneOptions(layers=("2",), num_frames=4, storage="fp32", keep=("visual",))
    layer_range = "0 to 3, or norm"
    other_frames: ClassVar[int] = 8

    @pytest.fixture(scope="class")
    @classmethod
    def checkpoint(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return videomae(tmp_path_factory.mktemp("videomae") / "tiny-videomae")

    def rows_of(self, frames: int) -> int:
        return -(-frames // 2)

    def library_states(self, checkpoint: Path, pixels: Tensor) -> dict[str, Tensor]:
        states, last = library(checkpoint, pixels)
        layers = {f"layer{i}.visual": states[i] for i in (0, 2, 3)}
        return {"frames": last.mean(dim=1), **layers, "norm.visual": last}


def opened(checkpoint: Path, **options: Any) -> Any:
    backbone = open_backbone("videomae", BackboneOptions(str(checkpoint), storage="fp32", **options))
    backbone.load()
    return backbone


def test_a_finetuned_checkpoint_has_no_final_norm(tmp_path: Path) -> None:
    config = transformers.VideoMAEConfig(**VIDEOMAE, use_mean_pooling=True, **LABELS)
    checkpoint = save(
        randomise(transformers.VideoMAEForVideoClassification(config)), tmp_path / "tuned", VIDEOMAE_PIXELS
    )
    backbone = opened(checkpoint, layers=("3",), num_frames=4)
    assert "norm" not in backbone.taps()["visual"]
    pixels = backbone.pixels(clip_of(1)).tensors
    states, last = library(checkpoint, pixels["pixels"])
    (arrays,) = backbone.encode_videos([pixels])
    assert torch.equal(arrays["layer3.visual"], states[3])
    assert torch.equal(arrays["frames"], last.mean(dim=1))
    meaning = "mean over the tokens of the last state, without the classifier's norm (fc_norm)"
    assert backbone.recipe()["taps"]["frames"] == meaning
    assert describe("videomae", BackboneOptions(str(checkpoint), num_frames=4))["meanings"] == {"frames": meaning}
    pretrained = opened(videomae(tmp_path / "pretrained"), num_frames=4)
    assert pretrained.recipe()["taps"]["frames"] == "mean over the tokens of the normed last state"


def test_names_of_older_files_are_read(tmp_path: Path) -> None:
    checkpoint = videomae(tmp_path / "new")
    state = load_file(checkpoint / "model.safetensors")
    (checkpoint / "model.safetensors").unlink()
    names = {".query.bias": ".q_bias", ".value.bias": ".v_bias"}

    def old(name: str) -> str:
        for new, before in names.items():
            name = name.replace(new, before)
        return f"videomae.{name}"

    before = tmp_path / "old"
    before.mkdir()
    save_file({old(name): tensor for name, tensor in state.items()}, before / "model.safetensors", {"format": "pt"})
    for file in checkpoint.iterdir():
        (before / file.name).write_bytes(file.read_bytes())
    save_file(state, checkpoint / "model.safetensors", {"format": "pt"})
    one, other = (opened(folder, layers=("1", "3"), num_frames=4) for folder in (checkpoint, before))
    pixels = one.pixels(clip_of(2)).tensors
    (here,), (there,) = one.encode_videos([pixels]), other.encode_videos([pixels])
    assert all(torch.equal(here[name], there[name]) for name in here)


class Original(torch.nn.Module):
    """A VideoMAE v2 block in the authors' words: fused qkv whose keys have no bias."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        nn = torch.nn
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn: Any = nn.Module()
        self.attn.qkv, self.attn.proj = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)
        self.attn.q_bias, self.attn.v_bias = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(width))
        self.mlp: Any = nn.Module()
        self.mlp.fc1, self.mlp.fc2 = nn.Linear(width, inner), nn.Linear(inner, width)
        self.heads = heads

    def forward(self, x: Tensor) -> Tensor:
        bias = torch.cat([self.attn.q_bias, torch.zeros_like(self.attn.q_bias), self.attn.v_bias])
        qkv = torch.nn.functional.linear(self.norm1(x), self.attn.qkv.weight, bias)
        q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1) @ v
        x = x + self.attn.proj(mixed.transpose(1, 2).flatten(2))
        inner: Tensor = self.mlp.fc2(torch.nn.functional.gelu(self.mlp.fc1(self.norm2(x))))
        return x + inner


def original(folder: Path, **changes: Any) -> tuple[Path, Any]:
    """A checkpoint as the authors of v2 publish it, and the network whose weights it holds."""
    nn = torch.nn
    network: Any = nn.Module()
    network.patch_embed = nn.Module()
    network.patch_embed.proj = nn.Conv3d(3, 32, (2, 8, 8), (2, 8, 8))
    network.blocks = nn.ModuleList([Original(32, 2, 48) for _ in range(2)])
    network.fc_norm, network.head = nn.LayerNorm(32), nn.Linear(32, 5)
    randomise(network, 3)
    said: dict[str, Any] = {
        "img_size": 32,
        "patch_size": 8,
        "num_frames": 4,
        "tubelet_size": 2,
        "embed_dim": 32,
        "depth": 2,
    }
    said |= {"num_heads": 2, "mlp_ratio": 1.5, "qkv_bias": True, "use_mean_pooling": True, "cos_attn": False, **changes}
    folder.mkdir()
    config = {"model_type": "VideoMAEv2_Base", "architectures": ["VideoMAEv2"], "model_config": said}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text(json.dumps(VIDEOMAE_PIXELS))
    state = {f"model.{name}": tensor for name, tensor in network.state_dict().items()}
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    return folder, network


def test_the_authors_form_of_v2_gives_the_authors_numbers(tmp_path: Path) -> None:
    checkpoint, network = original(tmp_path / "v2")
    backbone = opened(checkpoint, layers=("0", "1", "2"), num_frames=4)
    pixels = backbone.pixels(clip_of(4)).tensors
    (arrays,) = backbone.encode_videos([pixels])
    with torch.inference_mode():
        x = network.patch_embed.proj(pixels["pixels"].transpose(0, 1)[None]).flatten(2).transpose(1, 2)
        position, channel = torch.arange(32.0, dtype=torch.float64), torch.arange(32)
        angle = position[:, None] / 10000 ** (2 * torch.div(channel, 2, rounding_mode="floor") / 32)
        x = x + torch.where(channel % 2 == 0, angle.sin(), angle.cos()).float()
        for layer, block in enumerate((None, *network.blocks)):
            x = x if block is None else block(x)
            torch.testing.assert_close(arrays[f"layer{layer}.visual"], x.reshape(2, 16, 32), rtol=1e-4, atol=1e-5)
    assert torch.equal(arrays["frames"], arrays["layer2.visual"].mean(dim=1))
    assert backbone.recipe()["checkpoint"]["id"] == "v2"


def test_what_the_library_lacks_is_refused_by_name(tmp_path: Path) -> None:
    cosine, _ = original(tmp_path / "cosine", cos_attn=True)
    with pytest.raises(BadInput, match="has cos_attn True, which transformers' VideoMAE lacks"):
        open_backbone("videomae", BackboneOptions(str(cosine), num_frames=4))
    with pytest.raises(BadInput, match=r"holds model\.blocks\.0\.gamma_1, for which"):
        library_names({"model.blocks.0.gamma_1": torch.zeros(1)}, "it")
    poor, _ = original(tmp_path / "poor")
    state = load_file(poor / "model.safetensors")
    state.pop("model.blocks.1.attn.qkv.weight")
    save_file(state, poor / "model.safetensors", {"format": "pt"})
    with pytest.raises(BadInput, match="poor lacks weights that VideoMAEModel needs: encoder"):
        open_backbone("videomae", BackboneOptions(str(poor), num_frames=4)).load()


@pytest.mark.parametrize("extra", ["model.norm.weight", "model.blocks.2.mlp.fc1.bias"])
def test_weights_that_the_configuration_has_no_place_for_are_refused(tmp_path: Path, extra: str) -> None:
    checkpoint, _ = original(tmp_path / "more")
    state = load_file(checkpoint / "model.safetensors")
    save_file({**state, extra: torch.ones(32)}, checkpoint / "model.safetensors", {"format": "pt"})
    message = (
        r"The checkpoint more holds .*, for which its model_config has no place\.\nIts config.json and its weights"
    )
    with pytest.raises(BadInput, match=message):
        opened(checkpoint, num_frames=4)


def test_a_network_cut_short_passes_over_the_blocks_above(tmp_path: Path) -> None:
    checkpoint, _ = original(tmp_path / "v2")
    whole, short = (opened(checkpoint, layers=("1",), num_frames=4, keep=keep) for keep in ((), ("visual",)))
    assert len(short._model.encoder.layer) == 1
    pixels = whole.pixels(clip_of(4)).tensors
    (one,), (other,) = whole.encode_videos([pixels]), short.encode_videos([pixels])
    assert torch.equal(one["layer1.visual"], other["layer1.visual"])


def test_long_videos_go_clip_by_clip_and_repeats_are_left_out(tmp_path: Path) -> None:
    checkpoint = videomae(tmp_path / "tiny")
    backbone = opened(checkpoint, layers=("2",), num_frames=None)
    assert isinstance(backbone, StreamingBackbone)
    pixels = backbone.pixels(clip_of(5, frames=11)).tensors["pixels"]
    (whole,) = backbone.encode_videos([{"pixels": pixels}])
    parts = list(backbone.encode_stream({"pixels": part} for part in pixels.split(backbone.chunking.frames)))
    for name, rows in whole.items():
        assert len(rows) == 6
        assert torch.equal(rows, torch.cat([part[name] for part in parts]))
    states, _ = library(checkpoint, torch.cat([pixels[8:], pixels[-1:]]))
    assert torch.equal(whole["layer2.visual"][4:], states[2])


def test_another_number_of_frames_is_refused(tmp_path: Path) -> None:
    checkpoint = videomae(tmp_path / "tiny")
    with pytest.raises(BadInput, match=r"tiny takes clips of 4 frames; 6 were asked for.\nGive --num-frames 4"):
        open_backbone("videomae", BackboneOptions(str(checkpoint), num_frames=6))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"texts": True}, "videomae has no text tower"),
        ({"layers": ("2",), "keep": ("frames",)}, "visual is not kept"),
        ({"keep": ("visual",)}, "Nothing would be kept"),
        ({"flow": "dis"}, "--flow is for models that look at windows of a video; videomae does not"),
        ({"window": 6}, "--window 6 is given, but this checkpoint takes clips of 4 frames"),
        ({"window": 4, "layers": ("1",)}, "Layers 1 were asked for, but windows keep one vector each"),
        ({"window": 4, "num_frames": 3}, "Windows of 4 frames were asked for, of 3 frames per video"),
    ],
)
def test_contradictions_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    checkpoint = videomae(tmp_path / "tiny")
    with pytest.raises(BadInput, match=message):
        open_backbone("videomae", BackboneOptions(str(checkpoint), **{"num_frames": 4, **options}))


def test_the_table_of_positions_is_on_the_device_before_the_first_forward(tmp_path: Path) -> None:
    backbone: Any = open_backbone(
        "videomae", BackboneOptions(str(videomae(tmp_path / "tiny")), num_frames=4, device="meta")
    )
    backbone.load()
    assert backbone._model.embeddings.position_embeddings.device.type == "meta"
