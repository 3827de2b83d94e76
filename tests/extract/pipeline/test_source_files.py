"""A record belongs to the content of its file: what is changed, gone, doubled or one frame repeated is said."""

from __future__ import annotations

import json
import os
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from suites.toy import ToyBackbone, toy_family, write_clip, write_clips

from vfc.cache_schema.annotations import load
from vfc.cache_schema.reader import open_store
from vfc.cache_schema.values.record import Key
from vfc.extract.config import PlanConfig
from vfc.extract.decode import Decoders
from vfc.extract.pipeline import prefetch as prefetch_module
from vfc.extract.pipeline import source_files
from vfc.extract.pipeline.plan import plan
from vfc.extract.pipeline.run import ExtractConfig, Summary, extract
from vfc.extract.pipeline.source_files import is_changed

Run = Callable[..., Summary]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips"), 4)


@pytest.fixture
def videos(clips: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(clips, tmp_path / "videos"))


@pytest.fixture
def run(tmp_path: Path, videos: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(prefetch_module, "Decoders", lambda workers, seconds: Decoders(0, seconds))

    def start(**settings: Any) -> Summary:
        given = {"videos": videos, "out": tmp_path / "store", "model": "toy", "num_frames": 4, "threads": 1, **settings}
        with toy_family(ToyBackbone):
            return extract(ExtractConfig(**given))

    return start


def frames_of(store: Path, name: str) -> Any:
    with open_store(store) as reader:
        return reader.read(Key("video", name), "frames")


def test_a_file_that_was_overwritten_is_named_and_made_again_on_request(run: Run, videos: Path, tmp_path: Path) -> None:
    run()
    before = frames_of(tmp_path / "store", "hug/000.mp4")
    write_clip(videos / "hug/000.mp4", 99)
    again = run()
    assert (again.done, again.skipped, again.changed, again.exit_code) == (0, 3, ("hug/000.mp4",), 3)
    assert any("Changed since they were extracted" in line for line in again.lines())
    assert np.array_equal(frames_of(tmp_path / "store", "hug/000.mp4"), before)
    fresh = run(refresh=True)
    assert (fresh.done, fresh.refreshed, fresh.skipped, fresh.changed, fresh.exit_code) == (1, 1, 3, (), 0)
    assert fresh.digest == run(out=tmp_path / "whole").digest
    assert not np.array_equal(frames_of(tmp_path / "store", "hug/000.mp4"), before)
    assert run().exit_code == 0
    assert json.loads(json.dumps(again.to_json()))["changed"] == ["hug/000.mp4"]


def test_another_folder_of_the_same_names_is_noticed(run: Run, tmp_path: Path) -> None:
    run()
    other = tmp_path / "other"
    for number, name in enumerate(("hug/000.mp4", "hug/002.mp4", "kick/001.mp4", "kick/003.mp4")):
        write_clip(other / name, 50 + number)
    again = run(videos=other)
    assert (len(again.changed), again.exit_code) == (4, 3)
    assert again.lines()[0] == f"Nothing to do: 0 records are in {tmp_path / 'store'}."
    fresh = run(videos=other, refresh=True)
    assert (fresh.refreshed, fresh.digest) == (4, run(videos=other, out=tmp_path / "whole").digest)


def test_a_copy_with_another_time_is_the_same_content(run: Run, videos: Path) -> None:
    run()
    for path in videos.rglob("*.mp4"):
        os.utime(path, ns=(1, 1))
    again = run()
    assert (again.changed, again.exit_code, again.skipped) == ((), 0, 4)


def test_only_a_check_of_the_content_sees_bytes_that_changed_in_place(run: Run, videos: Path) -> None:
    run()
    path = videos / "hug/000.mp4"
    times, data = path.stat(), bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    source_files._sha256.cache_clear()
    assert run().changed == ()
    assert run(check_content=True).changed == ("hug/000.mp4",)


def test_records_without_a_time_are_compared_by_their_content(videos: Path) -> None:
    path = videos / "hug/000.mp4"
    identity: Any = source_files.file_identity(path)
    del identity["mtime_ns"]
    assert not is_changed(path, {"file": identity}, check_content=False)
    assert is_changed(path, {"file": {**identity, "sha256": "0" * 64}}, check_content=False)
    assert is_changed(path, {"file": {**identity, "size": 1}}, check_content=False)
    assert not is_changed(path, {}, check_content=True)


def test_every_rank_replaces_its_own_records(run: Run, videos: Path, tmp_path: Path) -> None:
    run()
    for number, path in enumerate(sorted(videos.rglob("*.mp4"))):
        write_clip(path, 70 + number)
    parts = [run(refresh=True, rank=rank, world_size=2) for rank in range(2)]
    assert sum(part.refreshed for part in parts) == 4
    assert parts[1].digest == run(out=tmp_path / "whole").digest


def test_a_plan_counts_what_changed(run: Run, videos: Path, tmp_path: Path) -> None:
    run()
    write_clip(videos / "hug/000.mp4", 99)
    settings: dict[str, Any] = {"videos": videos, "out": tmp_path / "store", "model": "toy", "num_frames": 4}
    with toy_family(ToyBackbone):
        (kind,) = plan(PlanConfig(**settings, threads=1, calibrate=False)).kinds
        (fresh,) = plan(PlanConfig(**settings, threads=1, calibrate=False, refresh=True)).kinds
    assert (kind.there, kind.changed, kind.to_do) == (3, 1, 0)
    assert (fresh.there, fresh.changed, fresh.to_do) == (3, 0, 1)


def test_identical_files_are_told_with_their_names_and_splits(run: Run, videos: Path) -> None:
    assert run().identical == ()
    shutil.copy(videos / "hug/000.mp4", videos / "hug/copy.mp4")
    (videos / "list.csv").write_text("path,label,split\nhug/000.mp4,hug,train\nhug/copy.mp4,hug,test\n")
    summary = run(videos=videos / "list.csv")
    assert summary.identical == ((("hug/000.mp4", "train"), ("hug/copy.mp4", "test")),)
    text = "\n".join(summary.lines())
    assert "Identical files under several names, 1 of them in several splits (1):" in text
    assert "hug/000.mp4 (train) = hug/copy.mp4 (test)" in text
    (group,) = summary.to_json()["identical"]
    assert group[1] == {"name": "hug/copy.mp4", "split": "test"}


def test_annotations_without_a_file_are_counted_and_pruned(run: Run, videos: Path, tmp_path: Path) -> None:
    run()
    (videos / "hug/000.mp4").rename(videos / "kick/000.mp4")
    moved = run()
    assert moved.gone == ("hug/000.mp4",)
    assert any("without a file in this folder" in line for line in moved.lines())
    assert len(load(tmp_path / "store")) == 5
    assert run(prune=True).gone == ()
    assert [row.name for row in load(tmp_path / "store").rows if row.label == "hug"] == ["hug/002.mp4"]


def test_another_split_list_replaces_all_splits(run: Run, videos: Path, tmp_path: Path) -> None:
    lists = {
        "one": {"hug/000.mp4": "train", "hug/002.mp4": "test", "kick/001.mp4": "train"},
        "two": {"hug/000.mp4": "test", "hug/002.mp4": "train"},
    }
    for name, splits in lists.items():
        rows = [f"{path},{path.split('/')[0]},{split}" for path, split in splits.items()]
        (videos / f"{name}.csv").write_text("\n".join(["path,label,split", *rows]) + "\n")
        run(videos=videos / f"{name}.csv")
    assert {row.name: row.split for row in load(tmp_path / "store").rows} == {**lists["two"], "kick/001.mp4": ""}
    run(videos=videos / "two.csv", include=("hug",))
    assert len(load(tmp_path / "store")) == 3


def test_clips_that_are_one_frame_are_counted(run: Run, videos: Path, tmp_path: Path) -> None:
    write_clip(videos / "hug/short.mp4", 5, frames=1)
    summary = run(views=("clips:2",))
    assert {"hug/short.mp4", "hug/short.mp4 (view 201)"} <= set(summary.single_frame)
    assert not any("000.mp4" in name for name in summary.single_frame)
    assert any("Clips that are one frame, repeated" in line for line in summary.lines())
    with open_store(tmp_path / "store") as reader:
        assert reader.metadata(Key("video", "hug/short.mp4"))["single_frame"] is True
        assert "single_frame" not in reader.metadata(Key("video", "hug/000.mp4"))


def test_a_new_file_with_other_content_is_no_moved_one(run: Run, tmp_path: Path) -> None:
    run()
    (tmp_path / "other/wave").mkdir(parents=True)
    write_clip(tmp_path / "other/wave/000.mp4", 77)
    run(videos=tmp_path / "other")
    labels = {row.name: row.label for row in load(tmp_path / "store").rows}
    assert labels["hug/000.mp4"] == "hug"
    assert labels["wave/000.mp4"] == "wave"


def test_a_file_whose_name_is_spelled_in_another_unicode_form_is_there(run: Run, videos: Path, tmp_path: Path) -> None:
    (videos / "hug/000.mp4").rename(videos / unicodedata.normalize("NFD", "hug/é.mp4"))
    run()
    run(include=("kick",), prune=True)
    assert len(load(tmp_path / "store")) == 4


def test_more_videos_go_through_the_projection_of_the_store(run: Run, videos: Path, tmp_path: Path) -> None:
    (videos / "train.csv").write_text("path,split\nhug/000.mp4,train\nkick/001.mp4,train\n")
    assert run(videos=videos / "train.csv", project="pca:2").done == 2
    (videos / "test.csv").write_text("path,split\nhug/002.mp4,test\n")
    assert run(videos=videos / "test.csv", project="pca:2").done == 1
