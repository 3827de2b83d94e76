"""ViCLIP as a user runs it: tails beside the records, long texts, pooling now or later, a plan."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from suites.checkpoints import clip_checkpoint
from suites.toy import write_clips

from vfc.cache_schema.reader import open_store
from vfc.cache_schema.reduction.frozen_blocks import check_tail, read_header, tail_path
from vfc.cache_schema.reduction.reduce import Reduction
from vfc.cache_schema.upkeep import inspect, materialize, merge, verify
from vfc.cache_schema.values.errors import AxisMismatch, BadInput, Damaged
from vfc.cache_schema.values.progress import Silent
from vfc.cache_schema.values.record import Key
from vfc.extract.backbones.viclip.tiny import write_tiny_viclip
from vfc.extract.config import PlanConfig
from vfc.extract.decode import Decoders
from vfc.extract.pipeline import prefetch as prefetch_module
from vfc.extract.pipeline.plan import plan
from vfc.extract.pipeline.run import ExtractConfig, Summary, extract

Run = Callable[..., Summary]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_viclip(tmp_path_factory.mktemp("weights") / "tiny-viclip", layers=4)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips"), 2)


@pytest.fixture(autouse=True)
def _decode_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetch_module, "Decoders", lambda workers, seconds: Decoders(0, seconds))


@pytest.fixture
def settings(weights: Path, clips: Path, tmp_path: Path) -> dict[str, Any]:
    given = {"videos": clips, "out": tmp_path / "store", "model": "viclip", "checkpoint": str(weights), "layer": ("2",)}
    return {**given, "num_frames": 4, "threads": 1}


class Saying(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


@pytest.fixture
def run(settings: dict[str, Any]) -> Run:
    return lambda said=None, **more: extract(ExtractConfig(**{**settings, **more}), said)


def test_a_tail_is_what_the_checkpoint_holds_above(run: Run, tmp_path: Path, weights: Path) -> None:
    said = Saying()
    run(said, tail=3)
    assert "tail/blocks-3.safetensors: blocks 3 and above." in said.lines
    path = tail_path(tmp_path / "store", 3)
    whole, kept = load_file(weights / "model.safetensors"), load_file(path)
    blocks = {name for name in whole if ".resblocks.2." in name or ".resblocks.3." in name}
    ends = {f"vision_encoder.{name}" for name in ("ln_post.weight", "ln_post.bias", "proj")}
    ends |= {f"text_encoder.{name}" for name in ("ln_final.weight", "ln_final.bias", "text_projection")}
    assert kept.keys() == blocks | ends | {"temp"}
    assert len(kept) == 2 * 2 * 12 + 7
    assert all(torch.equal(tensor, whole[name]) for name, tensor in kept.items())
    with safe_open(path, framework="pt") as opened:
        about = opened.metadata()
    with open_store(tmp_path / "store") as reader:
        assert about.pop("digest") == reader.recipe.fields["checkpoint"]["digest"]
    assert len(about.pop("crc32c")) == 8
    assert about == {
        "architecture": "viclip",
        "k": "3",
        "vision.layers": "4",
        "vision.width": "24",
        "vision.heads": "2",
        "text.layers": "4",
        "text.width": "16",
        "text.heads": "2",
        "embedding": "20",
        "activation": "quick_gelu",
        "eps": "1e-05",
        "grid": "4x4",
        "frames": "4",
        "context": "32",
        "checkpoint": "tiny-viclip",
    }


def test_tails_are_added_to_a_finished_store_and_made_once(run: Run, tmp_path: Path) -> None:
    store = tmp_path / "store"
    assert run().done == 2
    assert run(tail=3).done == 0
    made = tail_path(store, 3).stat().st_mtime_ns
    said = Saying()
    assert run(said, tail=2).done == 0
    assert "--tail 2 begins with arrays that are not kept; to keep them: --layer 1" in said.lines
    run(tail=3)
    assert tail_path(store, 3).stat().st_mtime_ns == made
    found = inspect(store, Silent())
    assert found.tails == ("blocks-2", "blocks-3")
    merge([store], tmp_path / "merged", Silent())
    assert inspect(tmp_path / "merged", Silent()).tails == found.tails
    assert verify(tmp_path / "merged", Silent()).ok


def test_another_tail_or_a_damaged_one_is_told(run: Run, tmp_path: Path) -> None:
    run(tail=3)
    store = tmp_path / "store"
    path = tail_path(store, 3)
    good = path.read_bytes()
    path.write_bytes(bytes([*good[:-1], good[-1] ^ 1]))
    with pytest.raises(Damaged, match=r"blocks-3.safetensors is not what was written\.\nRemove it"):
        check_tail(path)
    assert not verify(store, Silent()).ok
    path.write_bytes(good[:100])
    with pytest.raises(Damaged, match=r"blocks-3.safetensors cannot be read: it ends in its header"):
        run(tail=3)
    header = read_header_of(good)
    header["__metadata__"]["frames"] = "8"
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(AxisMismatch, match=r"holds blocks of another checkpoint, or for another number of frames"):
        run(tail=3)
    path.unlink()
    run(tail=3)
    # The library writes metadata in any order.
    assert read_header(path) == read_header_of(good)
    check_tail(path)


def read_header_of(data: bytes) -> dict[str, Any]:
    return dict(json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]))


def test_tails_that_cannot_be(run: Run, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"There is no block 5 in viclip\.\n--tail takes 1 to 4"):
        run(tail=5)
    with pytest.raises(BadInput, match=r"--tail is 0\.\n--tail takes 1 or more"):
        run(tail=0)
    clip = str(clip_checkpoint(tmp_path / "tiny-clip"))
    with pytest.raises(BadInput, match="--tail 3 is given, but no head takes over the upper blocks of clip"):
        run(model="clip", checkpoint=clip, tail=3)
    assert not (tmp_path / "store").exists()


def test_long_descriptions_are_refused_or_cut_on_record(run: Run, tmp_path: Path) -> None:
    long, short = "a video about " + "waving the hand of someone " * 8, "a video about kicking"
    (tmp_path / "texts.txt").write_text(f"{long.strip()}\n{short}\n")
    given = {"texts": str(tmp_path / "texts.txt"), "text_layer": ("2",)}
    refused = run(**given)
    assert len(refused.failed) == 1
    assert "the text tower takes 32" in refused.failed[0][1]
    assert refused.exit_code == 3
    done = run(**given, cut_texts=True, retry_failed=True)
    assert (done.done, done.exit_code) == (1, 0)
    with open_store(tmp_path / "store") as reader:
        key = Key("text", long.strip())
        told = reader.metadata(key)
        assert told["tokens"] == 32
        assert told["cut_tokens"] > 0
        assert reader.metadata(Key("text", short))["cut_tokens"] == 0
        assert reader.read(key, "layer2.text").shape == (32, 16)
        assert reader.read(key, "text.eot").tolist() == [31]
        assert reader.read(key, "embedding").shape == (20,)


def test_patches_are_pooled_now_as_later(run: Run, tmp_path: Path) -> None:
    run(dtype="fp32", out=tmp_path / "whole")
    run(dtype="fp32", pool="2x2")
    wanted = ("layer2.visual",)
    materialize(tmp_path / "whole", Reduction(pool="2x2"), Silent(), out=tmp_path / "after", arrays=wanted)
    with open_store(tmp_path / "store") as here, open_store(tmp_path / "after") as there:
        spec = here.spec("video", "layer2.visual")
        assert (spec.shape, spec.layout) == ((1 + 4 * 4, 24), "cls first, patch-major, grid 2x2, frames 4")
        assert there.spec("video", "layer2.visual") == spec
        assert here.spec("video", "embedding").shape == (20,)
        for key in here.keys("video"):
            assert np.array_equal(here.read(key, "layer2.visual"), there.read(key, "layer2.visual"))


def test_a_plan_counts_them(settings: dict[str, Any]) -> None:
    told = plan(PlanConfig(**settings, texts="classes", text_layer=("2",), calibrate=False))
    video, text = told.kinds
    assert video.record_bytes == (65 * 24 + 20) * 2
    assert (video.to_do, text.to_do) == (2, 2)


def test_videos_of_differing_length_have_rows_of_their_own(run: Run, tmp_path: Path) -> None:
    run(frames="stride:5", pool="mean")
    with open_store(tmp_path / "store") as reader:
        spec = reader.spec("video", "layer2.visual")
        assert (spec.shape, spec.layout) == ((None, 24), "cls first, patch-major, grid 1x1")
        assert {reader.length(key, "layer2.visual") for key in reader.keys("video")} == {1 + 2}
