"""Videos that go through the model piece by piece: the same records, whatever happens on the way."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from suites.toy import ToyBackbone, toy_family, write_clip, write_clips

from vfc.cache_schema.reader import open_store
from vfc.cache_schema.values.record import Key
from vfc.extract.backbone import Chunking
from vfc.extract.config import PlanConfig
from vfc.extract.decode import Decoders, chunks
from vfc.extract.decode.decoding import IndexMismatch
from vfc.extract.pipeline import chunked
from vfc.extract.pipeline import prefetch as prefetch_module
from vfc.extract.pipeline.plan import plan
from vfc.extract.pipeline.run import ExtractConfig, Summary, extract

Run = Callable[..., Summary]


class Streaming(ToyBackbone):
    """The toy, three frames at a time."""

    longest = 0

    @property
    def chunking(self) -> Chunking:
        return Chunking(3)

    def encode_stream(self, chunks: Iterable[Mapping[str, torch.Tensor]]) -> Iterator[dict[str, torch.Tensor]]:
        for chunk in chunks:
            type(self).longest = max(type(self).longest, *(len(rows) for rows in chunk.values() if rows.ndim))
            yield self.encode_videos([chunk])[0]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips"), 4)


@pytest.fixture
def run(tmp_path: Path, clips: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    def start(make: type[ToyBackbone], *, workers: int = 0, **settings: Any) -> Summary:
        monkeypatch.setattr(prefetch_module, "Decoders", lambda _, seconds: Decoders(workers, seconds))
        given = {"videos": clips, "out": tmp_path / make.__name__, "model": "toy", "frames": "all", "threads": 1}
        with toy_family(make):
            return extract(ExtractConfig(**{**given, **settings}))

    return start


@pytest.mark.parametrize("mode", ["deterministic", "fast"])
def test_records_are_those_of_whole_videos(run: Run, tmp_path: Path, mode: str) -> None:
    Streaming.longest = 0
    whole, streamed = run(ToyBackbone, mode=mode), run(Streaming, mode=mode, workers=2)
    assert (streamed.done, streamed.failed, Streaming.longest) == (4, (), 3)
    assert streamed.digest == whole.digest
    with open_store(tmp_path / "ToyBackbone") as one, open_store(tmp_path / "Streaming") as other:
        for key in one.keys():  # noqa: SIM118 (a reader is no dict)
            told = other.metadata(key)
            assert told.pop("frames") == 10
            assert told == one.metadata(key)


def test_crops_stream_and_augmented_copies_do_not(run: Run, tmp_path: Path) -> None:
    Streaming.longest = 0
    assert run(Streaming, views=("three-crops",), out=tmp_path / "crops").done == 16
    assert Streaming.longest == 3
    run(ToyBackbone, views=("three-crops",))
    with open_store(tmp_path / "ToyBackbone") as one, open_store(tmp_path / "crops") as other:
        assert one.keys() == other.keys()
        for key in other.keys():  # noqa: SIM118 (a reader is no dict)
            np.testing.assert_allclose(other.read(key, "frames"), one.read(key, "frames"), atol=1e-3)
            assert one.metadata(key).get("box") == other.metadata(key).get("box")
    Streaming.longest = 0
    assert run(Streaming, views=("augment:1",)).done == 8
    assert Streaming.longest == 0


def test_a_counted_rule_takes_whole_clips(run: Run) -> None:
    Streaming.longest = 0
    assert run(Streaming, frames="tsn-centre", num_frames=4).done == 4
    assert Streaming.longest == 0


def test_what_is_refused_halfway_is_made_again_in_full(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = chunks.decode_at

    def failing(*args: Any) -> Iterator[Any]:
        for i, frame in enumerate(decode(*args)):
            if i == 7:
                raise IndexMismatch
            yield frame

    whole = run(ToyBackbone)
    monkeypatch.setattr(chunks, "decode_at", failing)
    assert run(Streaming).digest == whole.digest


def test_a_bad_video_and_one_that_upsets_the_model_cost_themselves(run: Run, clips: Path, tmp_path: Path) -> None:
    videos = Path(shutil.copytree(clips, tmp_path / "videos"))
    (videos / "hug/bad.mp4").write_bytes(b"no video")
    write_clip(videos / "hug/grey.mp4", 0, grey=200)
    found = run(Streaming, videos=videos, workers=1)
    assert found.done == 4
    reasons = dict(found.failed)
    assert "cannot be opened as a video" in next(text for name, text in reasons.items() if "bad" in name)
    assert len(reasons) == 2
    assert found.exit_code == 3
    again = run(Streaming, videos=videos)
    assert (again.done, again.skipped, len(again.failed_before)) == (0, 4, 2)
    with open_store(tmp_path / "Streaming") as store:
        assert Key("video", "hug/grey.mp4") not in store


def test_a_plan_looks_at_a_few_pieces_and_tells_the_rows_of_whole_videos(
    clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefetch_module, "Decoders", lambda _, seconds: Decoders(0, seconds))
    with toy_family(Streaming):
        found = plan(PlanConfig(videos=clips, out=tmp_path / "none", model="toy", frames="all", threads=1))
    (kind,) = found.kinds
    assert kind.arrays[0].rows == pytest.approx(10)
    assert found.calibration is not None
    assert found.calibration.videos == 4


def test_rows_of_a_record_are_joined_as_they_came_and_taken_only_once_the_next_ones_come() -> None:
    generator = torch.Generator().manual_seed(0)
    parts = [
        {
            "frames": torch.rand(length, 3, generator=generator).half(),
            "seconds": torch.rand(length, generator=generator),
        }
        for length in (1, 1, 0, 4, 1, 9, 2)
    ]
    rows = chunked._Rows()
    for part in parts:
        on_its_way = {name: torch.zeros_like(values) for name, values in part.items()}
        rows.append(on_its_way)
        for name, values in part.items():  # the copy from the device ends later
            on_its_way[name].copy_(values)
    joined = rows.joined()
    assert joined.keys() == parts[0].keys()
    for name, values in joined.items():
        expected = torch.cat([part[name] for part in parts])
        assert values.dtype == expected.dtype
        assert torch.equal(values, expected)
        assert values.untyped_storage().nbytes() == expected.nbytes
