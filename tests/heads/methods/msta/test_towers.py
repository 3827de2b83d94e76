"""MSTA's towers and adapters against extraction's own network, published counts, and gradients told apart by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from suites.viclip_tail import TINY, class_ids, pair
from torch import Tensor, nn
from torch.nn import functional

from vfc.cache_schema.values.errors import BadInput, MissingPath
from vfc.extract.backbones.viclip.tiny import write_tiny_viclip
from vfc.heads.layers.gradient_scaling import gradient_times
from vfc.heads.methods.msta.adapter import Branch, VideoUp, consistency, initialise, shared_layer
from vfc.heads.methods.msta.blocks import Block, Tail, Tower, read_tail
from vfc.heads.methods.msta.cost import Sizes, saving_note
from vfc.heads.methods.msta.settings import PRESETS, Config
from vfc.heads.methods.msta.towers import Adapters, text_embeddings, video_embeddings


def base(first: int) -> Tail:
    """The blocks of ViCLIP-B/16 without weights."""
    with torch.device("meta"):
        vision = Tower(
            first, [Block(768, 3072, 12) for _ in range(first, 13)], nn.LayerNorm(768), torch.empty(768, 512)
        )
        text = Tower(first, [Block(512, 2048, 8) for _ in range(first, 13)], nn.LayerNorm(512), torch.empty(512, 512))
    return Tail(vision, text, 0.01, 8, 196)


@pytest.mark.parametrize(
    ("config", "published"),
    [
        (Config(), 1_744_000),
        (Config(preset="b2n-cached"), 1_744_000),
        (Config(preset="b2n"), 8_712_192),
        (Config(preset="supervised"), 8_712_192),
        (Config(from_block=1), 4_185_600),
        (Config(preset="zero-shot"), 4_185_600),
    ],
)
def test_parameter_counts_are_those_of_the_logs_and_the_paper(config: Config, published: int) -> None:
    adapters = Adapters(config, base(config.first))
    assert sum(p.numel() for p in adapters.parameters() if p.requires_grad) == published
    assert adapters.branches["video"][str(config.first)].up.temporal.weight.shape == (768, 1, 3, 1, 1)


@pytest.mark.parametrize("first", [1, 2, 3, 4])
@pytest.mark.parametrize("output", [False, True])
def test_lambda_0_is_the_frozen_model_from_any_layer(tmp_path: Path, first: int, output: bool) -> None:
    built = pair(tmp_path, first)
    tail = read_tail(built.tail, first)
    adapters = Adapters(Config(from_block=first, dim=8, strength=0.0), tail).eval()
    clips, ids = torch.randn(3, 4, 3, 16, 16), class_ids(5)
    taps, video = built.taps(clips, (first - 1, first))
    tokens, text = built.texts(ids, first - 1)
    got = video_embeddings(tail.vision, adapters, taps[str(first - 1)], taps[str(first)] if output else None)
    told_of = text_embeddings(tail.text, adapters, tokens, ids.argmax(dim=1))
    for mine, theirs in ((got, video), (told_of, text)):
        torch.testing.assert_close(functional.normalize(mine), functional.normalize(theirs), rtol=0, atol=1e-6)
    assert not any(parameter.requires_grad for parameter in adapters.parameters())


@pytest.mark.parametrize("adapter", ["lora", "adaptformer"])
def test_rivals_start_as_the_frozen_model_and_learn_in_every_tensor(tmp_path: Path, adapter: str) -> None:
    built = pair(tmp_path, 3)
    tail = read_tail(built.tail, 3)
    adapters = Adapters(Config(from_block=3, adapter=adapter, dim=4), tail)
    taps, video = built.taps(torch.randn(3, 4, 3, 16, 16), (2,))
    tokens, text = built.texts(class_ids(5), 2)
    end = class_ids(5).argmax(dim=1)
    torch.testing.assert_close(video_embeddings(tail.vision, adapters, taps["2"]), video, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(text_embeddings(tail.text, adapters, tokens, end), text, rtol=1e-4, atol=1e-4)
    optimizer = torch.optim.SGD(adapters.parameters(), 0.1)
    for _ in range(2):  # what is behind a zero learns from the second step on
        optimizer.zero_grad()
        seen = video_embeddings(tail.vision, adapters, taps["2"])
        read = text_embeddings(tail.text, adapters, tokens, end)
        (functional.normalize(seen) @ functional.normalize(read).T).square().sum().backward()
        optimizer.step()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in adapters.parameters())


def test_the_adapted_model_is_a_slow_loop_over_frames_and_patches(tmp_path: Path) -> None:
    built = pair(tmp_path, 3)
    tail = read_tail(built.tail, 3)
    torch.manual_seed(0)
    adapters = Adapters(Config(from_block=3, dim=8, strength=0.5), tail).eval()
    for parameter in adapters.parameters():
        nn.init.normal_(parameter, std=0.2)
    taps, _ = built.taps(torch.randn(2, 4, 3, 16, 16), (2,))

    def hook(number: int):  # type: ignore[no-untyped-def]
        branch, shared = adapters.branches["video"][str(number)], adapters.shared[str(number)]

        def added(block: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> Tensor:
            hidden = shared(torch.relu(branch.down[0](block.ln_1(given[0]))))
            rows = []
            for row in range(hidden.shape[1]):
                up = branch.up.spatial(hidden[:, row])
                if row:
                    patch, frame = divmod(row - 1, 4)
                    up = up + branch.up.temporal.bias
                    for tap, near in enumerate((frame - 1, frame, frame + 1)):
                        if 0 <= near < 4:
                            middle = hidden[:, 1 + patch * 4 + near].repeat_interleave(3, dim=1)
                            up = up + middle * branch.up.temporal.weight[:, 0, tap, 0, 0]
                rows.append(up)
            return out + 0.5 * torch.stack(rows, dim=1)[:, : out.shape[1]]

        return added

    blocks = built.network.vision_encoder.transformer.resblocks
    hooks = [blocks[number - 1].register_forward_hook(hook(number)) for number in (3, 4)]
    x = taps["2"]
    for block in blocks[2:]:
        x = block(x)
    expected = built.network.vision_encoder.ln_post(x[:, 0]) @ built.network.vision_encoder.proj
    for handle in hooks:
        handle.remove()
    torch.testing.assert_close(video_embeddings(tail.vision, adapters, taps["2"]), expected, rtol=1e-5, atol=1e-5)
    assert (expected - built.taps(torch.zeros(2, 4, 3, 16, 16), ())[1]).abs().max() > 0.1


def test_only_below_the_last_block_does_the_convolution_over_time_count(tmp_path: Path) -> None:
    built = pair(tmp_path, 3)
    tail = read_tail(built.tail, 3)
    adapters = Adapters(Config(from_block=3, dim=8), tail)
    taps, _ = built.taps(torch.randn(2, 4, 3, 16, 16), (2, 3))
    video_embeddings(tail.vision, adapters, taps["2"], taps["3"]).square().sum().backward()
    video = adapters.branches["video"]
    assert video["4"].up.temporal.weight.grad is None  # not even computed: the class token alone leaves the last block
    assert video["4"].up.spatial.weight.grad.abs().sum() > 0
    assert video["3"].up.temporal.weight.grad.abs().sum() > 0
    adapters.zero_grad()
    x = video["3"](tail.vision.block(3), adapters.shared["3"], taps["2"])
    x = video["4"](tail.vision.block(4), adapters.shared["4"], x)
    tail.vision.project(x[:, 0]).square().sum().backward()
    assert video["4"].up.temporal.weight.grad.abs().sum() == 0  # computed for all tokens, and read by nothing
    assert video["3"].up.temporal.weight.grad.abs().sum() > 0


def test_gradient_scaling_is_the_identity_and_learns_as_if_lambda_were_1() -> None:
    x = torch.randn(3, 5, requires_grad=True)
    scaled = gradient_times(x, 0.25)
    assert torch.equal(scaled, x)
    scaled.sum().backward()
    assert torch.equal(x.grad, torch.full((3, 5), 0.25))

    def grads(strength: float, scaling: bool) -> tuple[list[Tensor], Tensor, Tensor]:
        torch.manual_seed(1)
        block = Block(12, 24, 2).requires_grad_(False)
        branch = Branch(VideoUp(12, 6, 3), 12, 6, strength=strength, dropout=0.0, scale_gradients=scaling)
        shared = shared_layer(6)
        initialise(branch)
        initialise(shared)
        given = torch.randn(2, 1 + 2 * 3, 12, requires_grad=True)
        out = branch(block, shared, given)
        (out * torch.randn(out.shape)).sum().backward()
        learned = [*branch.parameters(), *shared.parameters()]
        assert given.grad is not None
        return [p.grad for p in learned if p.grad is not None], given.grad, out.detach()

    plain, below, out = grads(0.005, False)
    scaled_, below_scaled, out_scaled = grads(0.005, True)
    full, _, _ = grads(1.0, False)
    assert torch.equal(out, out_scaled)
    torch.testing.assert_close(below_scaled, below, rtol=1e-5, atol=1e-6)
    for mine, unscaled, one in zip(scaled_, plain, full, strict=True):
        torch.testing.assert_close(mine, 200 * unscaled, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(mine, one, rtol=1e-4, atol=1e-5)


def test_weights_start_kaiming_normal_by_fan_out() -> None:
    torch.manual_seed(0)
    adapters = Adapters(Config(from_block=12), base(12))
    video = adapters.branches["video"]["12"]
    for weight, fan_out in (
        (video.down[0].weight, 128),
        (video.up.spatial.weight, 768),
        (video.up.temporal.weight, 2304),
    ):
        assert float(weight.detach().std()) == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)
    assert not video.up.temporal.bias.any()


def test_consistency_is_a_loop_over_the_equation() -> None:
    texts, described = torch.randn(4, 7), torch.randn(4, 2, 7)
    total = 0.0
    for c in range(4):
        for p in range(2):
            a, b = texts[c], described[c, p]
            total += 1 - float(a @ b) / (float(a.norm()) * float(b.norm()))
    assert float(consistency(texts, described)) == pytest.approx(total / 4, rel=1e-5)
    assert float(consistency(texts, texts[:, None].expand(4, 2, 7))) == pytest.approx(0, abs=1e-6)


def test_savings_are_those_of_the_arithmetic_by_hand() -> None:
    b16 = Sizes(1569, 768, 12, 3072)
    assert b16.forward == pytest.approx(179.6e9, rel=1e-3)
    assert b16.step(8) == pytest.approx(254e9, rel=2e-3)
    for first, output, share in ((8, False, 0.41), (8, True, 0.47), (1, False, 0.002), (1, True, 0.04)):
        assert b16.saved(first, output=output) == pytest.approx(share, abs=0.005)
    assert saving_note(b16, 8, output=True).startswith(
        "Adapted from block 8 on cached layer 7 and the frozen layer 8: 47.2 %"
    )
    assert "half the space" in saving_note(b16, 1, output=False)


def test_a_whole_checkpoint_serves_as_a_tail(tmp_path: Path) -> None:
    built = pair(tmp_path, 2)
    torch.save({"model": built.network.state_dict()}, tmp_path / "viclip.pth")
    part, full = read_tail(built.tail, 3), read_tail(tmp_path / "viclip.pth", 3)
    assert (full.frames, full.patches, full.temperature) == (4, 4, part.temperature)
    for name, tensor in part.vision.state_dict().items():
        assert torch.equal(full.vision.state_dict()[name], tensor)
    folder = read_tail(write_tiny_viclip(tmp_path / "tiny", layers=3, width=24, text_width=12, heads=3), 2)
    assert [block.attn.num_heads for block in (*folder.vision.blocks, *folder.text.blocks)] == [3] * 4


def test_what_cannot_be_adapted_is_refused(tmp_path: Path) -> None:
    built = pair(tmp_path, 3)
    tail = read_tail(built.tail, 3)
    with pytest.raises(BadInput, match="A middle width of 512 does not divide the video tower's width of 768"):
        VideoUp(768, 512, 8)
    with pytest.raises(BadInput, match="Blocks 3 to 5 are to be adapted; the model has 4"):
        Adapters(Config(from_block=3, to_block=5), tail)
    with pytest.raises(BadInput, match="--from-block 0"):
        _ = Config(from_block=0).first
    with pytest.raises(BadInput, match=r"from block 3; blocks 2 and above"):
        read_tail(built.tail, 2)
    with pytest.raises(MissingPath, match="There is no file"):
        read_tail(tmp_path / "none.safetensors", 2)


def test_presets_are_the_rows_of_the_tables() -> None:
    rows = {name: (p.first, p.dim, p.strength, p.batch, p.lr, p.epochs) for name, p in PRESETS.items()}
    assert rows == {
        "fewshot": (8, 128, 0.005, 32, 1e-3, 50),
        "b2n": (1, 256, 0.005, 32, 1e-3, 11),
        "b2n-cached": (8, 128, 0.005, 32, 1e-3, 50),
        "zero-shot": (1, 128, 0.001, 256, 8e-3, 100),
        "supervised": (1, 256, 0.001, 256, 8e-3, 100),
    }
    assert Config(preset="b2n", from_block=8, strength=0.01).first == 8
    assert replace(Config(), adapter="lora").middle == 16
    assert TINY.grid == 2
