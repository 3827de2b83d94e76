"""Hooks that leave nothing behind, networks cut short, frames in passes; on toys worked by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from suites.checkpoints import TOWER, image_checkpoint
from torch import Tensor, nn

from vfc.cache_schema.values.errors import BadInput
from vfc.extract.backbone import BackboneOptions
from vfc.extract.models.checkpoint import locate
from vfc.extract.models.frame_encoder import FRAMES_PER_FORWARD, over_frames
from vfc.extract.models.loading import Compute, attention_of, load, on_meta
from vfc.extract.models.taps import Tap, captured, shortened, transferred

CPU = Compute("fp32", "cpu")


class AddOne(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, str]:
        return x + 1, "more"


class Toy(nn.Module):
    """Blocks add one; `late` are called but change nothing that was caught."""

    def __init__(self, blocks: int = 3, *, twice: bool = False, in_place: bool = False) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(AddOne() for _ in range(blocks))
        self.twice, self.in_place, self.ran = twice, in_place, 0

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x, _ = block(x)
            self.ran += 1
            if self.in_place:
                x.mul_(10)
        if self.twice:
            x, _ = self.blocks[0](x)
        return x


def copied(_: str, tensor: Tensor) -> Tensor:
    return tensor.clone()


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


TAPS = {"0": Tap("blocks.0", "input"), "1": Tap("blocks.0"), "3": Tap("blocks.2")}


def test_inputs_and_outputs_are_caught_and_hooks_removed() -> None:
    toy = Toy()
    with captured(toy, TAPS, copied) as found:
        assert hooks(toy) == 3
        assert torch.equal(toy(torch.zeros(2)), torch.full((2,), 3.0))
    assert {name: value[0].item() for name, value in found.items()} == {"0": 0, "1": 1, "3": 3}
    assert hooks(toy) == 0


def test_what_was_caught_is_safe_from_later_writes() -> None:
    with captured(toy := Toy(in_place=True), TAPS, copied) as found:
        toy(torch.zeros(1))
    assert {name: value.item() for name, value in found.items()} == {"0": 0, "1": 1, "3": 111}


def test_a_pass_ends_with_the_last_tap() -> None:
    toy = Toy(5)
    with captured(toy, {"2": Tap("blocks.1")}, copied, stop=True) as found:
        toy(torch.zeros(1))
        raise AssertionError("not reached")
    assert found["2"].item() == 2
    assert toy.ran == 1
    assert hooks(toy) == 0


def test_a_block_that_runs_twice_is_an_error() -> None:
    toy = Toy(twice=True)
    with (
        pytest.raises(RuntimeError, match="the module of tap '1' ran twice"),
        captured(toy, {"1": Tap("blocks.0")}, copied),
    ):
        toy(torch.zeros(1))
    assert hooks(toy) == 0


def test_a_tap_that_is_never_reached_is_an_error() -> None:
    toy = Toy()
    with pytest.raises(RuntimeError, match="never reached: 1, 3"), captured(toy, {k: TAPS[k] for k in "13"}, copied):
        pass
    assert hooks(toy) == 0


def test_what_is_no_tensor_is_an_error() -> None:
    class Says(nn.Module):
        def forward(self, _: Tensor) -> str:
            return "words"

    model = nn.Sequential(Says())
    with pytest.raises(RuntimeError, match="tap 'x' captured a str"), captured(model, {"x": Tap("0")}, copied):
        model(torch.zeros(1))


def test_other_errors_pass_through_and_leave_no_hooks() -> None:
    toy = Toy()
    with pytest.raises(ZeroDivisionError), captured(toy, TAPS, copied, stop=True):
        _ = 1 / 0
    assert hooks(toy) == 0


def test_shortened_classes_stop_at_the_block_at_every_level() -> None:
    class Deep(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.stem = nn.Linear(width, width)
            self.stages = nn.ModuleList(nn.Sequential(*(nn.Linear(width, width) for _ in range(3))) for _ in range(4))
            self.head = nn.Linear(width, 1)

    short = shortened(Deep, "stages.1.0")(5)
    assert [len(stage) for stage in short.stages] == [3, 1]
    assert isinstance(short, Deep)
    assert str(type(short)) == str(Deep)
    assert [len(stage) for stage in Deep(5).stages] == [3] * 4


def test_upper_layers_are_never_read(tmp_path: Path) -> None:
    checkpoint = locate(str(image_checkpoint(tmp_path, "vit")), default=None, family="image")
    config = transformers.ViTConfig.from_pretrained(checkpoint.folder)
    whole, short = (
        load(cls, checkpoint, config, CPU)
        for cls in (transformers.ViTModel, shortened(transformers.ViTModel, "layers.0"))
    )
    block = sum(p.numel() for p in whole.layers[0].parameters())
    assert whole.num_parameters() - short.num_parameters() == 2 * block
    mine = dict(short.named_parameters())
    assert all(torch.equal(mine[name], value) for name, value in whole.named_parameters() if name in mine)


def test_weights_that_are_missing_are_refused_unless_allowed(tmp_path: Path) -> None:
    checkpoint = locate(str(image_checkpoint(tmp_path, "vit")), default=None, family="image")
    config = transformers.ViTConfig.from_pretrained(checkpoint.folder)
    config.num_hidden_layers = 4
    with pytest.raises(
        BadInput, match=r"lacks weights that ViTModel needs: layers.3.* and 13 more.\nIts config.json names"
    ):
        load(transformers.ViTModel, checkpoint, config, CPU)
    load(transformers.ViTModel, checkpoint, config, CPU, may_lack=("layers.3.",))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_device_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    checkpoint = locate(str(image_checkpoint(tmp_path, "vit")), default=None, family="image")
    with pytest.raises(BadInput, match=r"The device cuda:1 was asked for, and there is none here.\nLeave out --device"):
        load(transformers.ViTModel, checkpoint, None, Compute("fp32", "cuda:1"))


def test_pickled_weights_are_read_as_weights_only(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    folder = image_checkpoint(tmp_path, "vit")
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    checkpoint = locate(str(folder), default=None, family="image")
    config = transformers.ViTConfig.from_pretrained(folder)
    model = load(transformers.ViTModel, checkpoint, config, CPU)
    assert torch.equal(model.layernorm.weight, tensors["layernorm.weight"])


def test_loading_is_silent_and_leaves_logging_as_it_was(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from transformers.utils import logging

    checkpoint = locate(str(image_checkpoint(tmp_path, "vit")), default=None, family="image")
    config = transformers.ViTConfig.from_pretrained(checkpoint.folder)
    before = (logging.get_verbosity(), logging.is_progress_bar_enabled())
    capfd.readouterr()
    load(shortened(transformers.ViTModel, "layers.0"), checkpoint, config, CPU)
    assert capfd.readouterr() == ("", "")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


def test_the_compute_dtype() -> None:
    def config(dtype: torch.dtype | None) -> Any:
        return transformers.ViTConfig(dtype=dtype)

    assert Compute.of(BackboneOptions(dtype=None, device="cpu"), config(torch.bfloat16)).dtype == "bf16"
    assert Compute.of(BackboneOptions(dtype=None, device="cpu"), config(torch.float16)).dtype == "fp32"
    assert Compute.of(BackboneOptions(dtype=None, device="cuda:0"), config(torch.float16)).dtype == "fp16"
    assert Compute.of(BackboneOptions(dtype="fp16", device="cpu"), config(torch.float32)).dtype == "fp16"
    assert Compute.of(BackboneOptions(dtype=None, device="cuda"), config(None)).dtype == "fp32"


def test_a_model_on_meta_holds_no_memory_and_tells_its_attention() -> None:
    model = on_meta(transformers.ViTModel, transformers.ViTConfig(**TOWER), None)
    assert {p.device.type for p in model.parameters()} == {"meta"}
    assert attention_of(model) == "sdpa"
    assert attention_of(on_meta(transformers.ViTModel, transformers.ViTConfig(**TOWER), "eager")) == "eager"
    assert attention_of(on_meta(transformers.ResNetModel, transformers.ResNetConfig(), None)) is None


def test_maps_become_tokens_row_by_row_in_transfer_dtype() -> None:
    maps = torch.arange(24.0).view(1, 2, 3, 4)
    tokens = transferred(maps, "fp16")
    assert tokens.dtype == torch.float16
    assert tokens.is_contiguous()
    assert all(tokens[0, 4 * y + x, c] == maps[0, c, y, x] for y in range(3) for x in range(4) for c in range(2))
    same = torch.zeros(1, 2, 3)
    assert transferred(same, "fp32").data_ptr() != same.data_ptr()
    assert transferred(same, "int8").dtype == torch.float32
    assert transferred(same, "bf16").dtype == torch.bfloat16


def test_frames_of_several_clips_go_through_in_passes_and_come_back_apart() -> None:
    passes: list[int] = []

    def run(pixels: Tensor) -> dict[str, Tensor]:
        passes.append(len(pixels))
        return {"sum": pixels.sum(dim=(1, 2, 3)), "pixels": pixels}

    lengths = (3, FRAMES_PER_FORWARD, 1)
    batch = [{"pixels": torch.randn(length, 3, 2, 2)} for length in lengths]
    out = over_frames(batch, run, CPU)
    assert passes == [FRAMES_PER_FORWARD, 4]
    for item, arrays in zip(batch, out, strict=True):
        assert torch.equal(arrays["pixels"], item["pixels"])
        torch.testing.assert_close(arrays["sum"], item["pixels"].sum(dim=(1, 2, 3)))
