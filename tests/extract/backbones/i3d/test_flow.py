"""Optical flow: of pictures that move by known steps, from files of every form, cut off and scaled; what is missing."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from vfc.cache_schema.values.errors import MissingExtra, MissingPath, RecordRejected
from vfc.extract.backbones.i3d.flow import normalised, source
from vfc.extract.frames.pixels import pixel_rule

RULE = pixel_rule(
    {
        "video_processor_type": "VideoMAEVideoProcessor",
        "size": {"shortest_edge": 24},
        "crop_size": {"height": 16, "width": 16},
    }
)
FIELDS = np.random.default_rng(0).uniform(-20, 20, (5, 2, 6, 8)).astype(np.float32)


def moving(dx: int, dy: int, count: int = 3) -> npt.NDArray[np.uint8]:
    """A smooth picture that moves by (dx, dy) pixels per frame, its contents going right and down."""
    y, x = np.mgrid[0:72, 0:96]
    frames = [
        127 + 60 * np.sin((x - dx * t) / 7) * np.cos((y - dy * t) / 9) + 50 * np.sin((x + y - (dx + dy) * t) / 5)
        for t in range(count)
    ]
    return np.repeat(np.clip(np.stack(frames), 0, 255)[..., None], 3, axis=-1).astype(np.uint8)


@pytest.mark.parametrize(("dx", "dy"), [(3, 0), (0, 2), (-2, 1)])
def test_dis_finds_a_known_motion(dx: int, dy: int) -> None:
    pytest.importorskip("cv2", reason="needs OpenCV: pip install 'vfc[flow]'")
    flow = source("dis")
    fields = flow(moving(dx, dy), "", [0, 1, 2])
    assert fields.shape == (2, 2, 72, 96)
    assert fields.dtype == np.float32
    middle = fields[:, :, 20:-20, 20:-20]
    assert abs(float(np.median(middle[:, 0])) - dx) < 0.2
    assert abs(float(np.median(middle[:, 1])) - dy) < 0.2
    assert np.array_equal(fields, flow(moving(dx, dy), "", [0, 1, 2]))
    assert flow.between
    assert flow.recipe()["source"] == "dis"
    assert flow.recipe()["opencv"]


def test_without_opencv_the_install_line_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MissingExtra, match=r"--flow dis needs OpenCV, which is not installed.\nInstall it: pip .*flow"):
        source("dis")


def test_tv_l1_needs_the_contributed_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", SimpleNamespace())
    with pytest.raises(MissingExtra, match="--flow tv-l1 needs OpenCV's contributed modules, which the OpenCV"):
        source("tv-l1")


def test_tv_l1_is_asked_for_each_pair_on_grey(monkeypatch: pytest.MonkeyPatch) -> None:
    class Dual:
        def calc(self, one: Any, two: Any, start: None) -> Any:
            return np.stack([two.astype(np.float32) - one, np.full(one.shape, 7, np.float32)], axis=-1)

    cv2 = SimpleNamespace(
        optflow=SimpleNamespace(DualTVL1OpticalFlow_create=Dual),
        cvtColor=lambda frame, code: frame[..., 0],
        COLOR_RGB2GRAY=7,
        setNumThreads=lambda count: None,
        __version__="4",
    )
    monkeypatch.setitem(sys.modules, "cv2", cv2)
    frames = np.arange(4, dtype=np.uint8)[:, None, None, None] ** 2 * np.ones((1, 2, 3, 3), np.uint8)
    fields = source("tv-l1")(frames, "", range(4))
    assert fields[:, 0, 0, 0].tolist() == [1, 3, 5]
    assert fields[:, 1, 1, 2].tolist() == [7, 7, 7]


def test_neither_method_nor_folder() -> None:
    with pytest.raises(MissingPath, match="--flow 'tvl1' is neither a method nor a folder"):
        source("tvl1")


def images(folder: Path, name: str) -> None:
    """FIELDS as grey images, counted from 1, as flow tools write them."""
    target = folder / name
    target.mkdir(parents=True)
    levels = np.rint((FIELDS + 20) / 40 * 255).astype(np.uint8)
    for i, (x, y) in enumerate(levels, start=1):
        Image.fromarray(x).save(target / f"flow_x_{i:05}.png")
        Image.fromarray(y).save(target / f"flow_y_{i:05}.png")


@pytest.mark.parametrize("form", ["hw2", "2hw", "uint8", "images"])
def test_flow_made_before_is_read_in_every_form(tmp_path: Path, form: str) -> None:
    if form == "images":
        images(tmp_path, "cook/one")
    else:
        (tmp_path / "cook").mkdir()
        levels = np.rint((FIELDS + 20) / 40 * 255).astype(np.uint8)
        array = {"hw2": FIELDS.transpose(0, 2, 3, 1), "2hw": FIELDS, "uint8": levels.transpose(0, 2, 3, 1)}[form]
        np.save(tmp_path / "cook/one.npy", array)
    flow = source(str(tmp_path))
    fields = flow(np.empty((3, 1, 1, 3), np.uint8), "cook/one.mp4", [0, 3, 5])
    # Entry 5 of five is one too many: the last frame takes the flow that led to it.
    assert np.abs(fields - FIELDS[[0, 3, 4]]).max() <= (20 / 255 + 1e-5 if form in ("uint8", "images") else 0)
    assert not flow.between
    assert flow.recipe() == {"source": "files"}


@pytest.mark.parametrize("form", ["array", "images"])
def test_segments_read_the_flow_of_their_file(tmp_path: Path, form: str) -> None:
    if form == "images":
        images(tmp_path, "cook/one")
    else:
        (tmp_path / "cook").mkdir()
        np.save(tmp_path / "cook/one.npy", FIELDS)
    flow = source(str(tmp_path))
    for name in ("cook/one.mp4#t=0.04-0.12", "cook/one.mp4#t=0.04-", "cook/one.mp4#t=1-2"):
        fields = flow(np.empty((2, 1, 1, 3), np.uint8), name, [1, 2])
        assert np.abs(fields - FIELDS[[1, 2]]).max() < 0.1


def test_flow_that_is_not_there_costs_its_video(tmp_path: Path) -> None:
    flow = source(str(tmp_path))
    frames = np.empty((1, 1, 1, 3), np.uint8)
    with pytest.raises(RecordRejected, match=r"There is no flow of 'a/b\.mp4'"):
        flow(frames, "a/b.mp4", [0])
    np.save(tmp_path / "c.npy", FIELDS)
    with pytest.raises(RecordRejected, match=r"c\.npy holds flow of 5 frames; frame 6 is needed"):
        flow(frames, "c.mp4", [6])
    np.save(tmp_path / "c.npy", FIELDS[0])
    with pytest.raises(RecordRejected, match=r"has the shape \(2, 6, 8\)"):
        flow(frames, "c.mp4", [0])
    images(tmp_path, "d")
    (tmp_path / "d/flow_y_00002.png").unlink()
    with pytest.raises(RecordRejected, match="holds 5 images of x and 4 of y"):
        flow(frames, "d.mp4", [0])


def test_flow_is_resized_and_cropped_as_frames_but_not_scaled_with_them() -> None:
    fields = np.full((2, 2, 48, 96), 5, np.float32)
    fields[:, 1] = -30
    x = normalised(fields, RULE)
    assert x.shape == (2, 2, 16, 16)
    assert torch.equal(x[:, 0], torch.full((2, 16, 16), 0.25))
    assert torch.equal(x[:, 1], torch.full((2, 16, 16), -1.0))
    assert normalised(np.empty((0, 2, 48, 96), np.float32), RULE).shape[0] == 0


def test_the_crop_is_the_frames_own() -> None:
    rng = np.random.default_rng(1)
    grey = rng.integers(0, 256, (1, 40, 30, 1), dtype=np.uint8)
    flow = normalised(grey.transpose(0, 3, 1, 2).repeat(2, 1).astype(np.float32) / 255 * 40 - 20, RULE)
    pixels = RULE(grey.repeat(3, -1))
    assert (flow[:, 0] - pixels[:, 0]).abs().max() < 0.01  # frames are rounded to levels of 2 / 255
