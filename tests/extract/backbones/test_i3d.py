"""`i3d`: records of windows, in pieces as at once, RGB then flow, whatever the frames' rate; what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from suites.backbone import clip_of
from suites.i3d import i3d_checkpoint, piergiaj
from suites.library_pixels import library_pixels, still_image
from torch import Tensor

from vfc.cache_schema.values.errors import BadInput, MissingPath, RecordRejected, UnknownName
from vfc.cache_schema.values.record import ArraySpec
from vfc.extract.backbone import BackboneOptions, StreamingBackbone, open_backbone
from vfc.extract.backbones.i3d.network import InceptionI3d
from vfc.extract.pipeline.model_card import describe

FRAMES = 30


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return i3d_checkpoint(tmp_path_factory.mktemp("i3d") / "tiny-i3d")


@pytest.fixture(scope="module")
def flow_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("flow")
    fields = np.random.default_rng(5).uniform(-25, 25, (FRAMES - 1, 48, 64, 2)).astype(np.float32)
    np.save(folder / "film.npy", fields)
    return folder


def opened(checkpoint: Path, **options: Any) -> Any:
    backbone = open_backbone("i3d", BackboneOptions(str(checkpoint), num_frames=None, storage="fp32", **options))
    backbone.load()
    return backbone


def film(seed: int = 0, frames: int = FRAMES, start: int = 0) -> Any:
    clip = clip_of(seed, frames=FRAMES)
    part = slice(start, start + frames)
    return SimpleNamespace(
        frames=clip.frames[part],
        seconds=clip.seconds[part],
        indices=clip.indices[part],
        fps=25.0,
        name="film.mp4",
    )


def network(channels: int, seed: int) -> InceptionI3d:
    model = InceptionI3d(channels, 8).eval()
    model.load_state_dict(piergiaj(channels, seed), strict=False)
    return model


def vectors(rows: Tensor, starts: list[int], frames: int, model: InceptionI3d) -> Tensor:
    """One vector per window, each window sliced from the whole and run alone."""
    with torch.inference_mode():
        return torch.cat([model.vectors(rows[s : s + frames].transpose(0, 1)[None]).mean(dim=1) for s in starts])


def test_a_record_is_a_vector_and_a_time_per_window(checkpoint: Path) -> None:
    backbone = opened(checkpoint, window=12, stride=7)
    assert backbone.specs() == {
        "video": (ArraySpec("frames", "fp32", (None, 128), "steps"), ArraySpec("seconds", "float64", (None,), "steps"))
    }
    prepared = backbone.pixels(film()).tensors
    (arrays,) = backbone.encode_videos([prepared])
    assert torch.equal(arrays["frames"], vectors(prepared["rgb"], [0, 7, 14], 12, network(3, 0)))
    assert arrays["seconds"].tolist() == [6 / 25, 13 / 25, 20 / 25]
    values = torch.from_numpy(film().frames).permute(0, 3, 1, 2).float()
    assert float(prepared["rgb"].min()) >= -1
    assert abs(float(prepared["rgb"].mean()) - float(values.mean() / 255 * 2 - 1)) < 0.02


def test_rgb_comes_before_flow(checkpoint: Path, flow_folder: Path) -> None:
    backbone = opened(checkpoint, window=12, stride=9, flow=str(flow_folder))
    prepared = backbone.pixels(film()).tensors
    (arrays,) = backbone.encode_videos([prepared])
    assert arrays["frames"].shape == (3, 256)
    rgb, flow = arrays["frames"].split(128, dim=1)
    assert torch.equal(rgb, vectors(prepared["rgb"], [0, 9, 18], 12, network(3, 0)))
    assert torch.equal(flow, vectors(prepared["flow"], [0, 9, 18], 12, network(2, 1)))
    assert float(prepared["flow"].abs().max()) <= 1
    (alone,) = opened(checkpoint, window=12, stride=9, flow=str(flow_folder), keep=("flow",)).encode_videos([prepared])
    assert torch.equal(alone["frames"], flow)


def pieces(backbone: Any, sizes: list[int], overlap: int) -> list[Any]:
    found, start = [], 0
    for i, size in enumerate(sizes):
        before = overlap if i else 0
        found.append(backbone.pixels(film(frames=size + before, start=start - before)).tensors)
        start += size
    return found


class Differences:
    """Stands in for flow that is made between the frames of a clip."""

    between = True

    def __call__(self, frames: Any, name: str, indices: Any) -> Any:
        return np.diff(frames[..., :2].astype(np.float32), axis=0).transpose(0, 3, 1, 2)


@pytest.mark.parametrize("sizes", [[8, 8, 8, 6], [1, 20, 9], [29, 1]])
@pytest.mark.parametrize("border", ["drop", "repeat", "zero"])
def test_in_pieces_as_at_once(checkpoint: Path, flow_folder: Path, sizes: list[int], border: str) -> None:
    backbone = opened(checkpoint, window=9, stride=10, border=border, flow=str(flow_folder))
    backbone._flow = Differences()
    assert isinstance(backbone, StreamingBackbone)
    assert backbone.chunking.overlap == 1
    (whole,) = backbone.encode_videos([backbone.pixels(film()).tensors])
    parts = list(backbone.encode_stream(pieces(backbone, sizes, 1)))
    assert len(parts) == 3
    for name, rows in whole.items():
        assert torch.equal(rows, torch.cat([part[name] for part in parts])), name


def test_without_flow_no_frame_comes_twice(checkpoint: Path) -> None:
    backbone = opened(checkpoint, window=21, stride=5, border="repeat")
    assert backbone.chunking.overlap == 0
    (whole,) = backbone.encode_videos([backbone.pixels(film()).tensors])
    parts = list(backbone.encode_stream(pieces(backbone, [11, 11, 8], 0)))
    assert len(parts) == len(whole["frames"]) == 6
    assert all(torch.equal(rows, torch.cat([part[name] for part in parts])) for name, rows in whole.items())
    assert whole["seconds"].tolist() == [i / 25 for i in range(0, 30, 5)]


def test_the_batch_does_not_matter(checkpoint: Path) -> None:
    backbone = opened(checkpoint, window=20)
    batch = [backbone.pixels(film(seed)).tensors for seed in (1, 2)]
    for one, together in zip(batch, backbone.encode_videos(batch), strict=True):
        assert torch.equal(backbone.encode_videos([one])[0]["frames"], together["frames"])


@pytest.mark.parametrize("storage", ["fp32", "fp16", "bf16"])
def test_arrays_leave_in_the_dtype_they_are_stored_in(checkpoint: Path, storage: Any) -> None:
    backbone = open_backbone("i3d", BackboneOptions(str(checkpoint), num_frames=20, storage=storage, window=20))
    backbone.load()
    (arrays,) = backbone.encode_videos([backbone.pixels(film()).tensors])
    assert arrays["frames"].dtype == {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[storage]
    assert arrays["seconds"].dtype == torch.float64


def test_a_video_shorter_than_a_window_costs_itself(checkpoint: Path) -> None:
    backbone = opened(checkpoint, window=31)
    with pytest.raises(RecordRejected, match="Its 30 frames are fewer than one window of 31 needs"):
        backbone.encode_videos([backbone.pixels(film()).tensors])


def test_the_recipe_tells_windows_flow_and_weights(checkpoint: Path, flow_folder: Path, tmp_path: Path) -> None:
    known = opened(checkpoint, window=21, stride=8, border="repeat").recipe()
    assert json.loads(json.dumps(known, allow_nan=False)) == known
    assert known["windows"] == {"frames": 21, "stride": 8, "border": "repeat"}
    assert (known["flow"], known["streams"]) == (None, ["rgb"])
    others = [
        opened(checkpoint, **options).recipe()
        for options in (
            {"window": 22, "stride": 8, "border": "repeat"},
            {"window": 21, "stride": 9, "border": "repeat"},
            {"window": 21, "stride": 8, "border": "zero"},
            {"window": 21, "stride": 8, "border": "repeat", "flow": str(flow_folder)},
        )
    ]
    torch.save(piergiaj(3, seed=7), tmp_path / "rgb_tiny.pt")
    (tmp_path / "preprocessor_config.json").write_bytes((checkpoint / "preprocessor_config.json").read_bytes())
    others.append(opened(tmp_path, window=21, stride=8, border="repeat").recipe())
    assert all(other != known for other in others)
    assert others[3]["flow"] == {"source": "files"}


def test_pixels_are_the_authors_where_nothing_else_is_said(tmp_path: Path) -> None:
    torch.save(piergiaj(3), tmp_path / "rgb.pt")
    rule = opened(tmp_path, window=16).rule
    assert (rule.shortest_edge, rule.crops, rule.resample) == (256, ((224, 224),), "bilinear")
    white = rule(np.full((1, 300, 400, 3), 255, np.uint8))
    assert white.shape == (1, 3, 224, 224)
    assert white.flatten()[0] == 1
    assert rule(np.zeros((1, 300, 400, 3), np.uint8)).flatten()[0] == -1


def test_models_show_needs_no_number_of_frames(checkpoint: Path) -> None:
    found = describe("i3d", BackboneOptions(checkpoint=str(checkpoint)))
    assert [array["name"] for array in found["record"]["video"]] == ["frames", "seconds"]
    assert found["layers"] == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"checkpoint": None}, "i3d has no checkpoint of its own.\nGive --checkpoint FOLDER with rgb_imagenet"),
        ({"num_frames": 8}, "Windows of 64 frames were asked for, of 8 frames per video.\nGive --frames all"),
        ({"layers": ("3",)}, "i3d keeps one vector per window"),
        ({"attention": "sdpa"}, "i3d has no attention"),
        ({"keep": ("flow",)}, "--keep names flow, but there is no --flow.\nGive its source"),
        ({"keep": ("rgb",), "flow": "FOLDER"}, "--flow is given, but flow is not kept"),
    ],
)
def test_contradictions_are_refused(checkpoint: Path, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    options = {name: str(tmp_path) if value == "FOLDER" else value for name, value in options.items()}
    with pytest.raises(BadInput, match=message):
        open_backbone("i3d", BackboneOptions(**{"checkpoint": str(checkpoint), "num_frames": None, **options}))


def test_streams_and_files_that_are_not_there(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="There is no stream 'visual'"):
        opened(checkpoint, keep=("visual",))
    torch.save(piergiaj(3), tmp_path / "rgb.pt")
    with pytest.raises(MissingPath, match="one weight file with 'flow' in its name"):
        opened(tmp_path, flow=str(tmp_path))
    with pytest.raises(BadInput, match="--window is for models that look at windows of a video; qwen2-vl does not"):
        open_backbone("qwen2-vl", BackboneOptions(str(tmp_path), window=16))


def test_a_way_of_making_pixels_is_refused(checkpoint: Path) -> None:
    with pytest.raises(BadInput, match="i3d makes pixels in one way; --pixels size is given"):
        open_backbone("i3d", BackboneOptions(str(checkpoint), num_frames=None, pixels="size"))


def test_pixels_are_those_of_the_library(checkpoint: Path) -> None:
    clip = film()
    clip.frames = np.stack([still_image()] * len(clip.frames))
    expected = library_pixels(checkpoint, clip.frames)
    rgb = opened(checkpoint, window=9).pixels(clip).tensors["rgb"]
    assert rgb.shape == expected.shape
    # Pillow is one or two of 255 grey levels away.
    assert float((rgb - expected).abs().max()) <= 2.5 * 2 / 255
