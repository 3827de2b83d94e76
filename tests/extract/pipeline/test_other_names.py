"""The same videos under other names are told before anything runs; a moved file and meant copies are no such thing."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from suites.toy import ToyBackbone, toy_family, write_clip, write_clips

from vfc.cache_schema.reader import open_store
from vfc.cache_schema.values.errors import BadInput
from vfc.extract.config import PlanConfig
from vfc.extract.decode import Decoders
from vfc.extract.pipeline import prefetch as prefetch_module
from vfc.extract.pipeline.plan import plan
from vfc.extract.pipeline.run import ExtractConfig, Summary, extract

Run = Callable[..., Summary]
NAMES = ["hug/000.mp4", "hug/002.mp4", "kick/001.mp4", "kick/003.mp4"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_clips(tmp_path / "data/clips", 4)
    return tmp_path / "data"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(prefetch_module, "Decoders", lambda workers, seconds: Decoders(0, seconds))

    def start(**settings: Any) -> Summary:
        given = {"out": tmp_path / "store", "model": "toy", "num_frames": 4, "threads": 1, **settings}
        with toy_family(ToyBackbone):
            return extract(ExtractConfig(**given))

    return start


def names_in(store: Path) -> list[str]:
    with open_store(store) as reader:
        return [key.name for key in reader.keys("video")]


def test_a_list_one_folder_up(run: Run, data: Path, tmp_path: Path) -> None:
    run(videos=data / "clips")
    assert names_in(tmp_path / "store") == NAMES
    (data / "list.csv").write_text("path\n" + "".join(f"clips/{name}\n" for name in NAMES))
    message = (
        r"4 of 4 new videos are in .*store under other names: 'clips/hug/000\.mp4' is 'hug/000\.mp4' there "
        rf"\(the same end of the path, files of one size\)\.\nGive --root {data / 'clips'}, so"
    )
    with pytest.raises(BadInput, match=message):
        run(videos=data / "list.csv")
    settings: dict[str, Any] = {"out": tmp_path / "store", "model": "toy", "num_frames": 4, "threads": 1}
    with toy_family(ToyBackbone), pytest.raises(BadInput, match="under other names"):
        plan(PlanConfig(videos=data / "list.csv", calibrate=False, **settings))
    assert names_in(tmp_path / "store") == NAMES
    # The line that is suggested.
    (data / "list.csv").write_text("path\n" + "".join(f"{name}\n" for name in NAMES))
    assert run(videos=data / "list.csv", root=data / "clips").skipped == 4


def test_a_folder_further_down(run: Run, data: Path, tmp_path: Path) -> None:
    run(videos=data)
    with pytest.raises(BadInput, match=rf"is 'clips/hug/000\.mp4' there.*\nGive --root {data}, so"):
        run(videos=data / "clips")
    assert run(videos=data / "clips", root=data).skipped == 4
    assert names_in(tmp_path / "store") == [f"clips/{name}" for name in NAMES]


def test_segments_of_the_same_files(run: Run, data: Path) -> None:
    for folder, prefix in ((data / "clips", ""), (data, "clips/")):
        lines = "".join(f"{prefix}{name},0,0.2\n" for name in NAMES)
        (folder / "list.csv").write_text(f"path,start_seconds,end_seconds\n{lines}")
    run(videos=data / "clips/list.csv")
    with pytest.raises(BadInput, match=r"4 of 4 new videos are in .* under other names"):
        run(videos=data / "list.csv")


def test_what_is_no_other_root(run: Run, data: Path, tmp_path: Path) -> None:
    clips = data / "clips"
    for number, name in enumerate(("one.mp4", "two.mp4", "three.mp4")):
        write_clip(clips / name, 30 + number)
    run(videos=clips)
    (clips / "deep").mkdir()
    # One file in another folder was moved; so were two among many new ones.
    (clips / "one.mp4").rename(clips / "deep/one.mp4")
    assert run(videos=clips).done == 1
    for number, name in enumerate(("two.mp4", "three.mp4")):
        (clips / name).rename(clips / "deep" / name)
        for copy in range(2):
            write_clip(clips / f"new/{number}{copy}.mp4", 40 + 2 * number + copy)
    write_clip(clips / "new/9.mp4", 49)
    assert run(videos=clips).done == 7
    # Copies beside their originals are meant.
    shutil.copytree(clips / "kick", clips / "copies/kick")
    assert run(videos=clips).done == 2
    # Files of other sizes are other videos.
    for number, name in enumerate(NAMES):
        write_clip(data / "other/new" / name, 70 + number)
        with open(data / "other/new" / name, "ab") as file:
            file.write(bytes(100 + number))
    assert run(videos=data / "other").done == 4
