"""Published views in a run: each a record of the frames and the crop that its number says, decoded once per clip."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from suites.i3d import i3d_checkpoint
from suites.toy import WIDTH, toy_family, write_clips

from vfc.cache_schema.reader import open_store
from vfc.cache_schema.values.errors import AxisMismatch, BadInput
from vfc.cache_schema.values.progress import Silent
from vfc.cache_schema.values.record import Key
from vfc.extract.decode import Clip, Decoders, read_clip
from vfc.extract.frames.augmentations import msta, vidprism
from vfc.extract.frames.views import CLIPS_RULE
from vfc.extract.pipeline import prefetch as prefetch_module
from vfc.extract.pipeline.run import ExtractConfig, Summary, extract

NAME = "kick/001.mp4"


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips"), 2)


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What decoders were asked, in this process."""
    asked: list[Any] = []

    class Telling(Decoders):
        def __init__(self, workers: int, seconds: float) -> None:
            super().__init__(0, seconds)

        def clips(self, jobs: Any, ahead: int) -> Any:
            asked.extend(jobs)
            return super().clips(jobs, ahead)

    monkeypatch.setattr(prefetch_module, "Decoders", Telling)
    return asked


def run(clips: Path, out: Path, **settings: Any) -> Summary:
    with toy_family():
        given: dict[str, Any] = {"model": "toy", "num_frames": 4, "threads": 1, "dtype": "fp32", **settings}
        return extract(ExtractConfig(videos=clips, out=out, **given), Silent())


def features(clip: Clip) -> Any:
    weights = torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(0))
    return torch.tanh(torch.from_numpy(clip.frames.copy()).float().mean((1, 2)) @ weights / 100).numpy()


def test_test_views_are_records_of_their_own(clips: Path, tmp_path: Path, jobs: list[Any]) -> None:
    assert run(clips, tmp_path / "s", views=("test:2x3",), pipeline="vidprism").done == 2 * (1 + 6)
    assert len(jobs) == 2 * (1 + 2), "crops of one clip share its frames"
    with open_store(tmp_path / "s") as reader:
        assert len(reader.axes("view")) == 6
        # 10 frames in 4 segments of 2.5: offsets 0 and 1.5.
        for clip, indices in ((1, [0, 2, 5, 7]), (2, [1, 4, 6, 9])):
            frames = read_clip(clips / NAME, f"shifted:{clip}/2", 4).frames
            for crop, left in ((1, 0), (2, 8), (3, 4)):  # 32 x 24
                key = Key("video", NAME, 1_002_000 + 10 * clip + crop)
                assert reader.metadata(key)["indices"] == indices
                assert reader.metadata(key)["box"] == [0, left, 24, 24]
                seen = Clip(frames[:, :, left : left + 24], np.zeros(4), np.zeros(4, np.int64), 10.0, 10)
                np.testing.assert_array_equal(reader.read(key, "frames"), features(seen))


def test_drawn_views_are_the_same_in_every_run(clips: Path, tmp_path: Path, jobs: list[Any]) -> None:
    asked = {"views": ("test:3x3", "augment:2"), "pipeline": "msta", "seed": 4}
    assert run(clips, tmp_path / "s", **asked).done == 2 * (1 + 9 + 2)
    with open_store(tmp_path / "s") as reader:
        drawn = [reader.metadata(Key("video", NAME, 2_003_000 + 10 * clip + 1))["indices"] for clip in (1, 2, 3)]
        for clip in (1, 2, 3):
            number = 2_003_000 + 10 * clip
            wanted = read_clip(clips / NAME, "tsn-random", 4, seed=4 + number, name=NAME).indices.tolist()
            assert all(reader.metadata(Key("video", NAME, number + crop))["indices"] == wanted for crop in (1, 2, 3))
        assert len({str(indices) for indices in drawn}) > 1
        number = 2_100_002
        frames = read_clip(clips / NAME, "tsn-random", 4, seed=4 + number, name=NAME)
        seen = msta(frames, NAME, number=number, seed=4, flip=True)
        np.testing.assert_array_equal(reader.read(Key("video", NAME, number), "frames"), features(seen))
        digest = reader.digest
    run(clips, tmp_path / "once", views=("augment:2",), pipeline="msta", seed=4)
    run(clips, tmp_path / "once", views=("test:3x3",), pipeline="msta", seed=4)
    assert open_store(tmp_path / "once").digest == digest, "views asked for later are the same views"
    with pytest.raises(AxisMismatch, match="view"):
        run(clips, tmp_path / "once", views=("augment:2",), pipeline="msta", seed=4, flip=False)


def test_pipelines_live_side_by_side(clips: Path, tmp_path: Path, jobs: list[Any]) -> None:
    for pipeline in ("plain", "vidprism", "msta"):
        run(clips, tmp_path / "s", views=("augment:1",), pipeline=pipeline)
    with open_store(tmp_path / "s") as reader:
        assert {key.view for key in reader.keys("video")} == {0, 10_001, 1_100_001, 2_100_001}
        frames = read_clip(clips / NAME, "tsn-random", 4, seed=1_100_001, name=NAME)
        seen = vidprism(frames, NAME, number=1_100_001, seed=0, flip=True)
        np.testing.assert_array_equal(reader.read(Key("video", NAME, 1_100_001), "frames"), features(seen))


def test_published_views_need_a_number_of_frames(clips: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"--views test:4x3 needs a frame rule that takes a number of frames"):
        run(clips, tmp_path / "s", views=("test:4x3",), frames="stride:2")


@pytest.mark.parametrize("view", ["three-crops", "augment:1", "test:1x3"])
@pytest.mark.usefixtures("jobs")
def test_flow_of_whole_pictures_is_not_taken_for_that_of_their_parts(clips: Path, tmp_path: Path, view: str) -> None:
    weights = str(i3d_checkpoint(tmp_path / "tiny-i3d"))
    given: dict[str, Any] = {"videos": clips, "out": tmp_path / "s", "threads": 1, "num_frames": 9}
    given |= {"model": "i3d", "checkpoint": weights, "window": 9, "keep": ("flow",), "flow": str(tmp_path / "flow")}
    for film in clips.rglob("*.mp4"):
        array = tmp_path / "flow" / film.relative_to(clips).with_suffix(".npy")
        array.parent.mkdir(parents=True, exist_ok=True)
        np.save(array, np.zeros((10, 2, 24, 32), np.float32))
    message = rf"--views {view} changes pictures; the flow in .*flow is of whole ones\.\nLeave these views"
    with pytest.raises(BadInput, match=message):
        extract(ExtractConfig(**given, views=(view,)))
    assert not (tmp_path / "s").exists()
    assert extract(ExtractConfig(**given, views=("clips:2",))).failed == ()


def test_clips_in_time_of_a_short_video_overlap(clips: Path, tmp_path: Path) -> None:
    """10 frames for 4 clips of 4: every clip moves, and the record says what it shares with its neighbour."""
    run(clips, tmp_path / "s", views=("clips:4",))
    with open_store(tmp_path / "s") as reader:
        clips_of = [reader.metadata(Key("video", NAME, 401 + i)) for i in range(4)]
        assert [one["indices"] for one in clips_of] == [[0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 6, 7], [6, 7, 8, 9]]
        assert [(one["repeated"], one["overlap"]) for one in clips_of] == [(0, 2)] * 4


def test_clips_by_the_rule_of_version_0_1_are_not_continued(clips: Path, tmp_path: Path) -> None:
    run(clips, tmp_path / "s", views=("clips:2",))
    axis = tmp_path / "s" / "axes" / "view-201.json"
    assert CLIPS_RULE in axis.read_text()
    axis.write_text(axis.read_text().replace(CLIPS_RULE, "equal parts of count x frames by the rule"))
    with pytest.raises(AxisMismatch, match="view '201' of"):
        run(clips, tmp_path / "s", views=("clips:2",))
