"""`vfc videos`: the rows of a list as JSON and as CSV, which reads back; the same reading as that of an extraction."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vfc.cli import app
from vfc.extract.collection import collect

_LIST = "label,youtube_id,time_start,time_end,split\n" + "".join(
    f"{label},{video},{start},{start + 10},train\n"
    for label, video, start in [("air drumming", "-aaaaaaaaaa", 3), ("abseiling", "bbbbbbbbbbb", 0)]
)


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    (tmp_path / "train").mkdir()
    (tmp_path / "train/bbbbbbbbbbb_000000_000010.mp4").touch()
    (tmp_path / "k.csv").write_text(_LIST)
    return tmp_path / "k.csv"


def test_json(listed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["videos", str(listed), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    times = {"start_seconds": None, "end_seconds": None}
    assert document["rows"] == [
        {"name": "train/-aaaaaaaaaa_000003_000013.mp4", "label": "air drumming", "split": "train", **times},
        {"name": "train/bbbbbbbbbbb_000000_000010.mp4", "label": "abseiling", "split": "train", **times},
    ]
    assert document["recognised"] == [{"file": str(listed), "format": "Kinetics"}]
    assert document["unmatched"] == ["train/-aaaaaaaaaa_000003_000013.mp4"]
    assert document["counts"] == [
        {"split": "train", "label": "abseiling", "rows": 1, "files": 1},
        {"split": "train", "label": "air drumming", "rows": 1, "files": 0},
    ]
    assert document["digest"] == collect(listed).annotations().digest


def test_csv_is_read_back(listed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["videos", str(listed), "--csv"]) == 0
    (listed.parent / "own.csv").write_text(capsys.readouterr().out)
    assert collect(listed.parent / "own.csv").annotations() == collect(listed).annotations()


def test_segments_are_read_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "P01_01.MP4").touch()
    (tmp_path / "EPIC_100_train.csv").write_text(
        "video_id,start_timestamp,stop_timestamp,verb_class,noun_class\nP01_01,00:00:01.50,00:01:02.00,3,4\n"
    )
    assert app.run(["videos", str(tmp_path / "EPIC_100_train.csv"), "--csv"]) == 0
    (tmp_path / "own.csv").write_text(capsys.readouterr().out)
    (video,) = collect(tmp_path / "own.csv").videos
    assert (video.name, video.label, video.split) == ("P01_01.MP4#t=1.5-62", "3", "train")
    assert video.path == tmp_path / "P01_01.MP4"


def test_text_says_what_is_missing(listed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["videos", str(listed)]) == 0
    output = capsys.readouterr().out
    assert "read as 'Kinetics': train 2 videos" in output
    assert "Without a file: 1 of 2 rows." in output
    assert app.run(["videos", str(listed.parent / "nothing.csv")]) == 2
