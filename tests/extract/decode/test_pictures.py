"""Folders of pictures: frame by frame those of the lossless video that they were written from."""

from __future__ import annotations

import itertools
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from suites.toy import toy_family

from vfc.cache_schema.reader import open_store
from vfc.cache_schema.values.errors import BadInput
from vfc.cache_schema.values.progress import Silent
from vfc.cache_schema.values.record import Key
from vfc.extract.collection import collect
from vfc.extract.config import ExtractConfig
from vfc.extract.decode import Job, read_chunks, read_clip, read_job
from vfc.extract.decode.pool import Decoders
from vfc.extract.pipeline import prefetch
from vfc.extract.pipeline.run import extract

RATE = 12


def frames_of(clip: Path, count: int) -> list[npt.NDArray[np.uint8]]:
    with av.open(str(clip)) as container:
        return [
            np.asarray(f.to_ndarray(format="rgb24"), np.uint8)
            for f in itertools.islice(container.decode(video=0), count)
        ]


def write_both(root: Path, name: str, frames: list[npt.NDArray[np.uint8]]) -> tuple[Path, Path]:
    """The frames as a lossless video `<name>.mkv`, and as pictures in the folder of the same name elsewhere."""
    video, folder = root / "videos" / f"{name}.mkv", root / "frames" / name
    video.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(parents=True)
    with av.open(str(video), "w") as container:
        stream = container.add_stream("ffv1", rate=RATE)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "bgr0"
        for number, image in enumerate(frames, start=1):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            Image.fromarray(image).save(folder / f"img_{number:05d}.png")
        container.mux(stream.encode())
    (folder / "flow_x_00001.jpg").touch()
    return video, folder


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    generator = np.random.default_rng(0)
    images = [generator.integers(0, 256, (24, 32, 3), dtype=np.uint8) for _ in range(11)]
    return write_both(tmp_path_factory.mktemp("both"), "0001", images)


@pytest.mark.parametrize(("rule", "count"), [("tsn-centre", 4), ("linspace", 16), ("stride:3", 0), ("fps:6", 0)])
@pytest.mark.parametrize("times", [(None, None), (0.25, 0.7)])
def test_the_frames_of_the_lossless_video(
    both: tuple[Path, Path], rule: str, count: int, times: tuple[float | None, float | None]
) -> None:
    video, folder = both
    expected = read_clip(video, rule, count, start_seconds=times[0], end_seconds=times[1])
    clip = read_job(Job("", folder, rule, count, None, 0, *times, fps=RATE))
    assert np.array_equal(clip.frames, expected.frames)
    assert clip.indices.tolist() == expected.indices.tolist()
    assert (clip.fps, clip.total_frames, clip.metadata()["repeated"]) == (RATE, 11, expected.metadata()["repeated"])
    np.testing.assert_allclose(clip.seconds, expected.seconds, atol=6e-4)  # Matroska counts in milliseconds


def test_chunks(both: tuple[Path, Path]) -> None:
    video, folder = both
    of_video = list(read_chunks(Job("", video, "all", 0, chunk=4, overlap=1)))
    of_pictures = list(read_chunks(Job("", folder, "all", 0, chunk=4, overlap=1, fps=RATE)))
    assert len(of_video) == len(of_pictures) == 4
    for one, other in zip(of_video, of_pictures, strict=True):
        assert one is not None
        assert other is not None
        assert np.array_equal(one.frames, other.frames)
        assert one.indices.tolist() == other.indices.tolist()


def test_pictures_say_no_rate(both: tuple[Path, Path]) -> None:
    clip = read_clip(both[1], "all", 0)
    assert (clip.fps, clip.notes["seconds_from"]) == (25.0, "25 frames per second, assumed")
    with pytest.raises(BadInput, match=r"(?s)frame rate is not known.*Give --fps"):
        read_clip(both[1], "all", 0, start_seconds=0.1)


def test_pictures_that_cannot_be_used(tmp_path: Path) -> None:
    for number, size in enumerate([(4, 4), (4, 5)], start=1):
        Image.new("RGB", size).save(tmp_path / f"{number}.png")
    with pytest.raises(BadInput, match=r"change their size at 2\.png"):
        read_clip(tmp_path, "all", 0)
    (tmp_path / "2.png").write_text("no picture")
    with pytest.raises(BadInput, match=r"2\.png cannot be read"):
        read_clip(tmp_path, "all", 0)


def test_extracted_features_of_a_real_clip_are_the_same(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefetch, "Decoders", lambda workers, seconds: Decoders(0, seconds))
    for clip in [video.path for video in collect(shared_data / "clips/ut_interaction_set1").videos][:2]:
        write_both(tmp_path, f"{clip.parent.name}/{clip.stem}", frames_of(clip, 20))
    digests = []
    for kind in ("videos", "frames"):
        settings = ExtractConfig(
            videos=tmp_path / kind, out=tmp_path / f"{kind}-store", model="toy", num_frames=8, threads=1, fps=RATE
        )
        with toy_family():
            summary = extract(settings, Silent())
        assert (summary.done, summary.exit_code) == (2, 0)
        with open_store(settings.out) as reader:
            keys = sorted(reader.keys("video"), key=lambda key: key.name)
            digests.append([(key.name.removesuffix(".mkv"), reader.read(key, "frames").tobytes()) for key in keys])
            assert all(reader.metadata(Key("video", key.name))["file"]["size"] > 0 for key in keys)
    assert digests[0] == digests[1]
    # A changed picture is a changed video.
    picture = next((tmp_path / "frames").rglob("img_00003.png"))
    with Image.open(picture) as image:
        size = image.size
    Image.new("RGB", size).save(picture)
    with toy_family():
        again = extract(settings, Silent())
    assert len(again.changed) == 1
