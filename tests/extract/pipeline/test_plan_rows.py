"""Rows and bytes of a plan where videos differ in length, without decoding: those of the store that is then made."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from suites.checkpoints import clip_checkpoint, image_checkpoint, videomae_checkpoint
from suites.i3d import i3d_checkpoint
from suites.language import qwen2_checkpoint, video_llava_checkpoint
from suites.toy import ToyBackbone, toy_family, write_clip

from vfc.cache_schema.reader import open_store
from vfc.extract.backbones.viclip.tiny import write_tiny_viclip
from vfc.extract.config import ExtractConfig, PlanConfig
from vfc.extract.decode.clip import Job
from vfc.extract.decode.count import count_frames
from vfc.extract.decode.read import read_job
from vfc.extract.pipeline.plan import plan
from vfc.extract.pipeline.run import extract

FRAMES = (10, 25)
CASES: dict[str, tuple[Callable[[Path], Path], dict[str, Any]]] = {
    "clip": (clip_checkpoint, {"frames": "all", "layer": ("1",)}),
    "image": (lambda folder: image_checkpoint(folder, "vit"), {"frames": "stride:3", "window": 3, "stride": 2}),
    "videomae": (videomae_checkpoint, {"frames": "all", "layer": ("1",)}),
    "viclip": (write_tiny_viclip, {"frames": "all", "stride": 2}),
    "i3d": (i3d_checkpoint, {"frames": "all", "window": 10, "stride": 3, "border": "repeat"}),
    "video-llava": (video_llava_checkpoint, {"frames": "stride:5", "keep": ("visual",)}),
    "qwen2-vl": (qwen2_checkpoint, {"frames": "fps:5", "pool": "mean", "keep": ("visual",)}),
}


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for number, frames in enumerate(FRAMES):
        write_clip(folder / "hug" / f"{number}.mp4", number, frames=frames)
    return folder


@pytest.mark.parametrize("family", CASES)
def test_a_plan_knows_the_rows_that_the_run_makes(videos: Path, tmp_path: Path, family: str) -> None:
    write, own = CASES[family]
    settings: dict[str, Any] = {"videos": videos, "model": family, "out": tmp_path / "store", **own}
    settings |= {"checkpoint": str(write(tmp_path / "tiny")), "threads": 1, "decode_workers": 1, "device": "cpu"}
    planned = plan(PlanConfig(**settings, calibrate=False))
    extract(ExtractConfig(**settings))
    (kind,) = (kind for kind in planned.kinds if kind.kind == "video")
    ragged = {array.name: array.rows for array in kind.arrays if None in array.shape}
    assert ragged
    with open_store(tmp_path / "store") as reader:
        keys = reader.keys("video")
        assert ragged == {name: statistics.mean(len(reader.read(key, name)) for key in keys) for name in ragged}
    assert "not known" not in "\n".join(planned.lines())


def test_rows_that_nothing_predicts_are_said_to_be_unknown(videos: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"videos": videos, "model": "toy", "out": tmp_path / "store", "frames": "all"}
    with toy_family(ToyBackbone):
        bare = plan(PlanConfig(**settings, calibrate=False)).lines()
        measured = plan(PlanConfig(**settings, decode_workers=1)).lines()
    assert "  frames [L, 64] fp16: 128 B per row; how many rows a video gives is not known" in bare
    assert any(line.startswith("At least ") and "one row per record where it is not known" in line for line in bare)
    assert "  frames [L, 64] fp16: 2.304 kB per record with L = 17.5" in measured
    assert not any("At least" in line for line in measured)


@pytest.mark.parametrize("suffix", ["mp4", "avi"])
@pytest.mark.parametrize(
    ("rule", "part", "frames"),
    [("all", (None, None), 25), ("stride:4", (None, None), 7), ("fps:5", (None, None), 13), ("all", (0.4, 0.8), 4)],
)
def test_frames_are_counted_by_packets_or_by_the_header(
    tmp_path: Path, suffix: str, rule: str, part: tuple[float | None, float | None], frames: int
) -> None:
    file = tmp_path / f"clip.{suffix}"
    write_clip(file, 0, frames=25)
    job = Job("clip", file, rule, 8, None, 0, *part)
    assert count_frames(job) == frames == len(read_job(job).frames)


def test_a_file_that_is_no_video_has_no_count(tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    assert count_frames(Job("bad", tmp_path / "bad.mp4", "all", 8, None, 0, None, None)) is None
