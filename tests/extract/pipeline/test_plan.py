from __future__ import annotations

import json
import shutil
from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from suites.checkpoints import clip_checkpoint, image_checkpoint, videomae_checkpoint
from suites.language import qwen3_checkpoint
from suites.toy import WIDTH, ToyBackbone, toy_family, write_clip, write_clips

from vfc.cache_schema.reader import open_store
from vfc.cache_schema.values.errors import AxisMismatch, MissingPath, NotAStore, RecipeMismatch, Refused
from vfc.cache_schema.values.record import ArraySpec
from vfc.extract.backbones.viclip.tiny import write_tiny_viclip
from vfc.extract.config import ExtractConfig, PlanConfig
from vfc.extract.decode import Decoders
from vfc.extract.pipeline import prefetch as prefetch_module
from vfc.extract.pipeline.plan import Plan, free_bytes, plan
from vfc.extract.pipeline.prefetch import usual_workers
from vfc.extract.pipeline.run import extract

EACH = 4 * WIDTH * 2  # four frames of fp16
Usage = namedtuple("Usage", "total used free")
CHECKPOINTS: dict[str, Callable[[Path], Path]] = {
    "clip": clip_checkpoint,
    "image": lambda folder: image_checkpoint(folder, "vit"),
    "viclip": write_tiny_viclip,
    "videomae": videomae_checkpoint,
    "qwen3-vl": qwen3_checkpoint,
}
Planning = Callable[..., Plan]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips"), 6)


@pytest.fixture(autouse=True)
def _decode_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetch_module, "Decoders", lambda workers, seconds: Decoders(0, seconds))


@pytest.fixture
def settings(clips: Path, tmp_path: Path) -> dict[str, Any]:
    return {"videos": clips, "out": tmp_path / "store", "model": "toy", "num_frames": 4, "threads": 1}


@pytest.fixture
def planned(settings: dict[str, Any]) -> Planning:
    def start(make: type[ToyBackbone] = ToyBackbone, **more: Any) -> Plan:
        with toy_family(make):
            return plan(PlanConfig(**{**settings, **more}))

    return start


def test_a_plan_counts_records_and_bytes_and_writes_nothing(planned: Planning, tmp_path: Path) -> None:
    found = planned(texts="classes")
    assert not (tmp_path / "store").exists()
    video, text = found.kinds
    assert (video.kind, video.wanted, video.there, video.failed, video.to_do) == ("video", 6, 0, 0, 6)
    assert (video.record_bytes, text.record_bytes) == (EACH, WIDTH * 2)
    assert [(array.name, array.shape, array.dtype) for array in video.arrays] == [("frames", (4, WIDTH), "fp16")]
    assert text.to_do == 2
    assert 6 * EACH + 2 * WIDTH * 2 <= found.total_bytes <= 6 * EACH + 2 * WIDTH * 2 + 8 * 1024
    assert abs(found.free_bytes - shutil.disk_usage(tmp_path).free) < 1 << 30


def test_a_plan_sees_what_is_there_and_what_failed(planned: Planning, settings: dict[str, Any], tmp_path: Path) -> None:
    videos = Path(shutil.copytree(settings["videos"], tmp_path / "videos"))
    (videos / "hug" / "bad.mp4").write_bytes(b"no video")
    with toy_family():
        extract(ExtractConfig(**{**settings, "videos": videos}))
    write_clip(videos / "kick" / "new.mp4", 42)
    (video,) = planned(videos=videos).kinds
    assert (video.wanted, video.there, video.failed, video.to_do) == (8, 6, 1, 1)
    (video,) = planned(videos=videos, retry_failed=True).kinds
    assert (video.failed, video.to_do) == (0, 2)


@pytest.mark.parametrize(("cores", "workers"), [(1, 1), (2, 2), (3, 2), (4, 2), (8, 6), (16, 14), (128, 32)])
def test_decoders_leave_two_cores_to_the_rest(cores: int, workers: int) -> None:
    assert usual_workers(cores) == workers


class Noted(ToyBackbone):
    """Notes how many videos come at once."""

    sizes: ClassVar[list[int]] = []

    def encode_videos(self, batch: Sequence[Mapping[str, torch.Tensor]]) -> list[dict[str, torch.Tensor]]:
        self.sizes.append(len(batch))
        return super().encode_videos(batch)


@pytest.mark.parametrize(("mode", "batch", "sizes"), [("fast", 2, [2, 2]), ("deterministic", None, [1, 1, 1, 1])])
def test_calibration_takes_the_batches_of_the_run(
    planned: Planning, mode: str, batch: int | None, sizes: list[int]
) -> None:
    Noted.sizes = []
    measured = planned(Noted, mode=mode, batch=batch).calibration
    assert Noted.sizes == sizes
    assert measured is not None
    assert measured.videos == sum(sizes)


def test_calibration_measures_and_can_be_left_out(planned: Planning) -> None:
    found = planned()
    assert found.calibration is not None
    assert found.calibration.videos == 4
    assert found.seconds is not None
    assert found.seconds > 0
    assert found.calibration.memory > 10_000_000
    loads = ToyBackbone.loads
    plain = planned(calibrate=False)
    assert (plain.calibration, plain.seconds, ToyBackbone.loads) == (None, None, loads)


def test_a_slow_forward_shows_in_the_estimate(planned: Planning, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOY_SECONDS", "0.05")
    found = planned()
    assert found.calibration is not None
    assert found.calibration.forward >= 0.05
    assert found.seconds is not None
    assert found.seconds >= 6 * 0.05
    halved = planned(rank=0, world_size=2)
    assert halved.seconds is not None
    assert halved.world_size == 2


class Ragged(ToyBackbone):
    def specs(self) -> Mapping[str, tuple[ArraySpec, ...]]:
        return {"video": (ArraySpec("frames", "fp16", (None, WIDTH), "frame-major"),)}


def test_ragged_arrays_are_measured(planned: Planning) -> None:
    (video,) = planned(Ragged, frames="all").kinds
    assert video.arrays[0].rows == 10
    assert video.record_bytes == 10 * WIDTH * 2
    (video,) = planned(Ragged, frames="all", calibrate=False).kinds
    assert video.arrays[0].rows is None
    assert video.record_bytes == WIDTH * 2


def test_a_plan_reads_well_and_is_json(planned: Planning) -> None:
    found = planned()
    text = "\n".join(found.lines())
    assert "toy on cpu, deterministic mode" in text
    assert "video: 6 wanted, 0 there, 0 failed before, 6 to do" in text
    assert "frames [4, 64] fp16: 512 B per record" in text
    assert "About 1 s" in text
    assert json.loads(json.dumps(found.to_json()))["total_bytes"] == found.total_bytes
    assert "with L = 10" in "\n".join(planned(Ragged, frames="all").lines())


def test_videos_that_would_fail_are_named_and_not_measured(settings: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    for i in range(3):
        (tmp_path / "bad" / f"{i}.mp4").write_bytes(b"no video")
    said: list[str] = []

    class Saying:
        def begin(self, label: str, total: int | None, unit: str = "records") -> None:
            return

        def advance(self, amount: int = 1, note: str = "") -> None:
            return

        def say(self, line: str) -> None:
            said.append(line)

    with toy_family():
        found = plan(PlanConfig(**{**settings, "videos": tmp_path / "bad"}), Saying())
    assert (found.calibration, found.seconds) == (None, None)
    assert sum("would fail" in line for line in said) == 3
    assert any("no estimate" in line for line in said)


def test_what_cannot_fit_is_refused_with_the_arithmetic(
    planned: Planning, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10_000, 9_000, 1_000))
    message = (
        r"6 video records of 512 B take 9\.216 kB, but 1 kB are free at .*store\.\nFree 8\.216 kB or give an --out"
    )
    with pytest.raises(Refused, match=message) as caught:
        planned()
    assert caught.value.exit_code == 6
    with toy_family(), pytest.raises(Refused, match=message):
        extract(ExtractConfig(**settings))
    assert not (tmp_path / "store").exists()


def test_ranks_are_checked_against_the_disk_together(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10_000, 1_000, 9_000))
    with toy_family(), pytest.raises(Refused, match=r"6 video records"):
        extract(ExtractConfig(**{**settings, "rank": 0, "world_size": 2}))


def test_the_disk_is_that_of_the_nearest_folder_that_exists(tmp_path: Path) -> None:
    assert abs(free_bytes(tmp_path / "a" / "b" / "c") - shutil.disk_usage(tmp_path).free) < 1 << 30


def test_a_plan_stops_where_the_run_would(planned: Planning, settings: dict[str, Any], tmp_path: Path) -> None:
    with toy_family():
        extract(ExtractConfig(**settings))
    with pytest.raises(RecipeMismatch):
        planned(frames="linspace")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "holiday.jpg").write_bytes(b"dear")
    with pytest.raises(NotAStore):
        planned(out=tmp_path / "other")


@pytest.mark.parametrize("family", ["clip", "image", "viclip", "videomae", "qwen3-vl"])
def test_a_plan_without_weights_gives_records_and_bytes(clips: Path, tmp_path: Path, family: str) -> None:
    checkpoint = CHECKPOINTS[family](tmp_path / "tiny")
    settings: dict[str, Any] = {"videos": clips, "out": tmp_path / "store", "model": family, "layer": ("1",)}
    settings |= {"checkpoint": str(checkpoint), "threads": 1}
    if family == "qwen3-vl":
        settings |= {"keep": ("visual",)}
    complete = plan(PlanConfig(**settings, calibrate=False))
    for file in checkpoint.glob("*.safetensors"):
        file.unlink()
    bare = plan(PlanConfig(**settings))
    assert (bare.kinds, bare.total_bytes) == (complete.kinds, complete.total_bytes)
    assert bare.kinds[0].to_do == 6
    assert bare.kinds[0].record_bytes > 0
    assert (bare.calibration, bare.seconds, bare.recipe) == (None, None, {})
    assert complete.no_weights == ""
    lines = [line for line in bare.lines() if "No estimate" in line]
    assert lines == [
        f"No estimate of time and memory, which need the weights: The checkpoint {checkpoint} holds no weights."
    ]
    with pytest.raises(MissingPath, match="holds no weights"):
        extract(ExtractConfig(**settings))


def test_a_plan_without_weights_compares_arrays_with_the_store(clips: Path, tmp_path: Path) -> None:
    checkpoint = videomae_checkpoint(tmp_path / "tiny")
    settings: dict[str, Any] = {"videos": clips, "out": tmp_path / "store", "model": "videomae", "threads": 1}
    settings |= {"checkpoint": str(checkpoint)}
    extract(ExtractConfig(**settings))
    (checkpoint / "model.safetensors").unlink()
    (video,) = plan(PlanConfig(**settings)).kinds
    assert (video.there, video.to_do) == (6, 0)
    with pytest.raises(AxisMismatch):
        plan(PlanConfig(**settings, layer=("1",)))


def test_videos_give_as_many_frames_as_the_checkpoint_takes(clips: Path, tmp_path: Path) -> None:
    checkpoint = videomae_checkpoint(tmp_path / "tiny")
    settings: dict[str, Any] = {"videos": clips, "model": "videomae", "checkpoint": str(checkpoint), "threads": 1}
    own = plan(PlanConfig(**settings, out=tmp_path / "store", calibrate=False))
    assert own.recipe["frames"]["count"] == 4  # type: ignore[index, call-overload]
    assert own.kinds[0].arrays[0].shape[0] == 2
    extract(ExtractConfig(**settings, out=tmp_path / "own"))
    extract(ExtractConfig(**settings, out=tmp_path / "named", num_frames=4))
    with open_store(tmp_path / "own") as one, open_store(tmp_path / "named") as other:
        assert one.recipe == other.recipe
        assert one.digest == other.digest
    assert ExtractConfig(model="clip").frames_per_clip == 8
