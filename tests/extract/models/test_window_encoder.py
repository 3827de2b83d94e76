"""Windows: each vector equals the family's own features of these frames as a clip; times; chunks; bounded memory."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file
from suites.backbone import clip_of
from suites.checkpoints import clip_checkpoint, image_checkpoint, videomae_checkpoint
from suites.film import encode
from suites.viclip import vision_states
from torch import Tensor

from vfc.cache_schema.reader import open_store
from vfc.cache_schema.values.errors import BadInput, RecordRejected
from vfc.cache_schema.values.record import ArraySpec, Key
from vfc.extract.backbone import BackboneOptions, StreamingBackbone, TextBackbone, open_backbone
from vfc.extract.backbones.viclip.tiny import write_tiny_viclip
from vfc.extract.config import ExtractConfig
from vfc.extract.decode import read_clip
from vfc.extract.frames.windows import Track
from vfc.extract.pipeline.run import extract

FRAMES = 22
LENGTH = 4
FAMILIES = ("videomae", "viclip", "clip", "image")
PER_FRAME = ("clip", "image")
"""Families that see every frame once, however many windows it is in."""


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    return {
        "videomae": videomae_checkpoint(folder / "tiny-videomae"),
        "viclip": write_tiny_viclip(folder / "tiny-viclip"),
        "clip": clip_checkpoint(folder / "tiny-clip"),
        "image": image_checkpoint(folder / "tiny-vit", "vit"),
    }


def opened(family: str, checkpoint: Path, **options: Any) -> Any:
    values: dict[str, Any] = {"storage": "fp32", "num_frames": None, **options}
    backbone = open_backbone(family, BackboneOptions(str(checkpoint), **values))
    backbone.load()
    return backbone


def part(start: int, stop: int) -> Any:
    clip = clip_of(3, frames=FRAMES)
    frames = slice(start, stop)
    return SimpleNamespace(
        frames=clip.frames[frames], seconds=clip.seconds[frames], indices=clip.indices[frames], fps=25.0
    )


def of_one_clip(family: str, checkpoint: Path, frames: np.ndarray[Any, Any]) -> Tensor:
    """The family's own vector of a clip: ViCLIP's embedding, else the mean of its rows."""
    backbone = opened(family, checkpoint, num_frames=len(frames))
    clip = SimpleNamespace(frames=frames, seconds=np.zeros(len(frames)), indices=np.arange(len(frames)), fps=25.0)
    (arrays,) = backbone.encode_videos([backbone.pixels(clip).tensors])
    vector: Tensor = arrays["embedding"] if family == "viclip" else arrays["frames"].mean(dim=0)
    return vector


def require_same(family: str, one: Tensor, other: Tensor) -> None:
    """Bit for bit, but for image networks, which see the frames of a clip in another batch."""
    if family in PER_FRAME:
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    else:
        assert torch.equal(one, other)


def by_the_weights(family: str, checkpoint: Path, pixels: Tensor) -> Tensor:
    """The same from the library's network, or from a network written from the published weights."""
    if family == "viclip":
        return vision_states(load_file(checkpoint / "model.safetensors"), pixels, heads=2)[1].float()
    if family in PER_FRAME:
        cls: Any = transformers.CLIPModel if family == "clip" else transformers.ViTModel
        model = cls.from_pretrained(checkpoint, dtype=torch.float32).eval()
        with torch.inference_mode():
            output = (model.get_image_features if family == "clip" else model)(pixel_values=pixels)
        return output.pooler_output.mean(dim=0)  # type: ignore[no-any-return]
    model = transformers.VideoMAEModel.from_pretrained(checkpoint, dtype=torch.float32).eval()
    with torch.inference_mode():
        last: Tensor = model(pixel_values=pixels[None]).last_hidden_state[0]
    return last.mean(dim=0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("stride", [3, 4, 9])
def test_each_vector_is_that_of_its_frames_as_a_clip(checkpoints: dict[str, Path], family: str, stride: int) -> None:
    backbone = opened(family, checkpoints[family], window=LENGTH, stride=stride)
    starts = range(0, FRAMES - LENGTH + 1, stride)
    video = part(0, FRAMES)
    prepared = backbone.pixels(video).tensors
    (arrays,) = backbone.encode_videos([prepared])
    assert list(arrays) == ["frames", "seconds"]
    assert arrays["seconds"].tolist() == [(start + LENGTH // 2) / 25 for start in starts]
    frames, _ = backbone.specs()["video"]
    assert arrays["frames"].shape == (len(starts), frames.shape[1])
    for vector, start in zip(arrays["frames"], starts, strict=True):
        window = slice(start, start + LENGTH)
        require_same(family, vector, of_one_clip(family, checkpoints[family], video.frames[window]))
        expected = by_the_weights(family, checkpoints[family], prepared["pixels"][window])
        torch.testing.assert_close(vector, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_border_repeats_frames_or_puts_zeros(checkpoints: dict[str, Path], family: str) -> None:
    video, checkpoint = part(0, FRAMES), checkpoints[family]
    repeat, zero = (opened(family, checkpoint, window=LENGTH, stride=5, border=border) for border in ("repeat", "zero"))
    pixels = repeat.pixels(video).tensors
    (repeated,), (zeros,) = repeat.encode_videos([pixels]), zero.encode_videos([pixels])
    assert repeated["seconds"].tolist() == [i / 25 for i in range(0, FRAMES, 5)]
    first = video.frames[[0, 0, 0, 1]]
    require_same(family, repeated["frames"][0], of_one_clip(family, checkpoint, first))
    padded = torch.cat([torch.zeros_like(pixels["pixels"][:2]), pixels["pixels"][:2]])
    torch.testing.assert_close(zeros["frames"][0], by_the_weights(family, checkpoint, padded), rtol=1e-4, atol=1e-5)
    assert torch.equal(zeros["frames"][1], repeated["frames"][1])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("sizes", [[8, 8, 6], [1, 20, 1]])
def test_chunks_give_the_rows_of_the_whole(checkpoints: dict[str, Path], family: str, sizes: list[int]) -> None:
    backbone = opened(family, checkpoints[family], window=LENGTH, stride=3, border="repeat")
    assert isinstance(backbone, StreamingBackbone)
    stops = np.cumsum(sizes).tolist()

    def chunks() -> Iterator[Any]:
        for size, stop in zip(sizes, stops, strict=True):
            yield backbone.pixels(part(stop - size, stop)).tensors

    (whole,) = backbone.encode_videos([backbone.pixels(part(0, FRAMES)).tensors])
    rows = list(backbone.encode_stream(chunks()))
    for name, array in whole.items():
        require_same(family, array, torch.cat([row[name] for row in rows]))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_leaves_before_the_next_chunk_is_read(checkpoints: dict[str, Path], family: str) -> None:
    backbone = opened(family, checkpoints[family], window=LENGTH, stride=LENGTH)
    pending = 0

    def chunks(count: int) -> Iterator[dict[str, Tensor]]:
        nonlocal pending
        for number in range(count):
            pending += 1
            yield {"pixels": torch.zeros(8, 3, 32, 32), "seconds": torch.arange(8.0) + 8 * number}

    rows, most = 0, 0
    for _ in backbone.encode_stream(chunks(40)):
        rows += 1
        most = max(most, pending * 8 - rows * LENGTH)
    assert rows == 80
    assert most <= 8  # a row leaves before frames beyond its chunk are read


@pytest.mark.parametrize("family", FAMILIES)
def test_records_options_and_recipe(checkpoints: dict[str, Path], family: str) -> None:
    checkpoint = checkpoints[family]
    backbone = opened(family, checkpoint, window=LENGTH, storage="int8")
    frames, seconds = backbone.specs()["video"]
    assert (frames.dtype, frames.shape[0], frames.layout) == ("int8", None, "steps")
    assert seconds == ArraySpec("seconds", "float64", (None,), "steps")
    recipe = backbone.recipe()
    assert recipe["storage"] == "int8"
    assert {name: recipe["windows"][name] for name in ("frames", "stride", "border")} == {
        "frames": LENGTH,
        "stride": LENGTH,
        "border": "drop",
    }
    assert "windows" not in opened(family, checkpoint, num_frames=4).recipe()
    others = ({"stride": 2}, {"border": "zero"}, {"storage": "fp16"})
    recipes = [
        opened(family, checkpoint, **{"window": LENGTH, "storage": "int8", **other}).recipe() for other in others
    ]
    assert all(other != recipe for other in recipes)
    with pytest.raises(RecordRejected, match=r"Its 3 frames are fewer than one window of 4 needs\.\n.*--window"):
        backbone.encode_videos([backbone.pixels(part(0, 3)).tensors])


@pytest.mark.parametrize("family", ["viclip", "clip"])
def test_texts_stand_beside_windows(checkpoints: dict[str, Path], family: str) -> None:
    windows, clips = (
        opened(family, checkpoints[family], texts=True, storage="fp16", **more) for more in ({"window": 8}, {})
    )
    assert isinstance(windows, TextBackbone)
    assert windows.specs()["text"] == clips.specs()["text"]
    ids = windows.tokens("a video of someone waving").tensors
    assert torch.equal(windows.encode_texts([ids])[0]["embedding"], clips.encode_texts([ids])[0]["embedding"])
    assert windows.shared_space == (frozenset({"frames", "embedding"}),)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_store_holds_the_windows_of_decoded_videos(checkpoints: dict[str, Path], family: str, tmp_path: Path) -> None:
    (tmp_path / "videos" / "run").mkdir(parents=True)
    path = encode(tmp_path / "videos" / "run" / "long.mp4", count=150, seed=1)
    settings: dict[str, Any] = {"videos": tmp_path / "videos", "model": family, "frames": "all", "dtype": "fp32"}
    settings |= {"checkpoint": str(checkpoints[family]), "threads": 1, "window": LENGTH, "stride": 16}
    config = ExtractConfig(**settings, out=tmp_path / "store")
    assert extract(config).done == 1
    clip = read_clip(path, "all", 1)
    with open_store(tmp_path / "store") as store:
        vectors = np.asarray(store.read(Key("video", "run/long.mp4"), "frames"))
        seconds = np.asarray(store.read(Key("video", "run/long.mp4"), "seconds"))
        fields = store.recipe.fields
    again = ExtractConfig.from_recipe(fields, videos=settings["videos"], out=tmp_path / "again")
    assert (again.window, again.stride, again.border, again.model) == (LENGTH, 16, "drop", family)
    starts = range(0, 150 - LENGTH + 1, 16)
    np.testing.assert_array_equal(seconds, clip.seconds[[start + LENGTH // 2 for start in starts]])
    for vector, start in zip(vectors, starts, strict=True):
        expected = of_one_clip(family, checkpoints[family], clip.frames[start : start + LENGTH])
        np.testing.assert_allclose(vector, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_long_video_holds_no_more_frames_than_a_short_one(checkpoints: dict[str, Path], family: str) -> None:
    backbone = opened(family, checkpoints[family], window=LENGTH, stride=3, border="repeat")
    edge = backbone.pixels(part(0, 1)).tensors["pixels"].shape[-1]

    def most_rows(chunks: int, size: int = 8) -> int:
        """The most rows of pixels of a video that are alive at once, where its chunks come one by one."""
        alive: weakref.WeakSet[Tensor] = weakref.WeakSet()
        most = 0

        def arriving() -> Iterator[dict[str, Tensor]]:
            nonlocal most
            for number in range(chunks):
                pixels = torch.zeros(size, 3, edge, edge)
                alive.add(pixels)
                most = max(most, sum(map(len, alive)))
                yield {"pixels": pixels, "seconds": torch.arange(float(size)) + size * number}
                del pixels

        rows = 0
        for _ in backbone.encode_stream(arriving()):
            rows += 1
            most = max(most, sum(map(len, alive)), *(len(track) for track in _tracks()))
        assert rows == -(-size * chunks // 3)
        return most

    short = most_rows(4)
    assert most_rows(14) == short
    assert short <= 8 + 8 + LENGTH  # the chunk at hand, the one that arrives, what a window reaches back


def _tracks() -> Iterator[Tensor]:
    """The rows that windows hold, of all streams that are being cut."""
    yield torch.empty(0)
    for item in gc.get_objects():
        if type(item) is Track:
            yield from item.parts


@pytest.mark.parametrize("family", PER_FRAME)
def test_every_frame_is_encoded_once(
    checkpoints: dict[str, Path], family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = opened(family, checkpoints[family], window=LENGTH, stride=1)
    encode, seen = backbone.clips.encode_videos, list[int]()

    def counted(batch: Sequence[Mapping[str, Tensor]]) -> Any:
        seen.extend(len(item["pixels"]) for item in batch)
        return encode(batch)

    monkeypatch.setattr(backbone.clips, "encode_videos", counted)
    pixels = backbone.pixels(part(0, FRAMES)).tensors
    pieces = [{name: rows[i : i + 8] for name, rows in pixels.items()} for i in range(0, FRAMES, 8)]
    assert len(list(backbone.encode_stream(pieces))) == FRAMES - LENGTH + 1
    assert seen == [8, 8, 6]


@pytest.mark.parametrize("family", FAMILIES)
def test_zeros_at_the_border_are_zeros_after_normalisation_on_every_device(
    checkpoints: dict[str, Path], family: str
) -> None:
    own, on_gpu = (
        open_backbone(family, BackboneOptions(str(checkpoints[family]), num_frames=None, border="zero", device=device))
        for device in ("cpu", "cuda")
    )
    video = part(0, FRAMES)
    one, other = own.pixels(video).tensors["pixels"], on_gpu.pixels(video).tensors["pixels"]
    assert torch.equal(one, other)
    plain = open_backbone(family, BackboneOptions(str(checkpoints[family]), num_frames=None, stride=2, device="cuda"))
    assert plain.pixels(video).tensors["pixels"].dtype == torch.uint8


@pytest.mark.parametrize("family", PER_FRAME)
def test_what_windows_do_not_keep_is_refused(checkpoints: dict[str, Path], family: str) -> None:
    with pytest.raises(
        BadInput, match=r"--keep visual is given, but windows keep one vector each.*\nGive --keep frames"
    ):
        opened(family, checkpoints[family], window=4, keep=("visual",))
    assert opened(family, checkpoints[family], stride=2).windows.frames == 8
