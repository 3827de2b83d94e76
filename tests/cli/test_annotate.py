"""`vfc store annotate` and `--annotations FILE`: tables and official lists for the records of a store."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from vfc.cache_schema import ArraySpec, BadInput, Key, Recipe, Record, StoreWriter
from vfc.cache_schema.annotations import load
from vfc.cli import app

NAMES = ("hug/a.mp4", "hug/b.mp4", "kick/c.mp4", "P01_01.MP4#t=1.5-62")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    with StoreWriter(tmp_path / "s", Recipe({"backbone": "none"}), worker="w") as writer:
        writer.declare("video", (ArraySpec("frames", "fp32", (2,)),))
        for name in NAMES:
            writer.add(Record(Key("video", name), {"frames": np.zeros(2, np.float32)}, {}))
    return tmp_path / "s"


def annotate(store: Path, *words: str) -> int:
    return app.run(["store", "annotate", str(store), *words, "--json"])


def rows(store: Path, name: str = "default") -> dict[str, tuple[str, str]]:
    return {row.name: (row.label, row.split) for row in load(store, name).rows}


def test_a_table(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "l.csv"
    table.write_bytes("\ufeffPath;Class;Split\r\nG:\\x\\a.avi;embrace;Training\r\nz.mp4;x;test\r\n".encode())
    assert annotate(store, str(table)) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["rows"], document["strangers"]) == (1, ["z.mp4"])
    assert document["without"] == [NAMES[3], NAMES[1], NAMES[2]]
    assert document["digest"] == load(store).digest
    assert rows(store)[NAMES[0]] == ("embrace", "train")
    (tmp_path / "m.jsonl").write_text('{"name": "b", "label": "squeeze"}\n')
    assert annotate(store, str(tmp_path / "m.jsonl")) == 0
    assert (rows(store)[NAMES[0]], rows(store)[NAMES[1]]) == (("embrace", "train"), ("squeeze", ""))
    assert annotate(store, str(table), "--name", "mine") == 0
    assert rows(store, "mine") == {NAMES[0]: ("embrace", "train")}


def test_an_official_list(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = "video_id,start_timestamp,stop_timestamp,verb_class,noun_class\nP01_01,00:00:01.50,00:01:02.00,3,4\n"
    (tmp_path / "EPIC_100_train.csv").write_text(lines)
    assert annotate(store, str(tmp_path / "EPIC_100_train.csv"), "--label", "noun", "--name", "epic") == 0
    assert rows(store, "epic") == {NAMES[3]: ("4", "train")}
    (tmp_path / "trainlist01.txt").write_text("Hugging/b.avi 1\n")
    assert annotate(store, str(tmp_path / "trainlist01.txt"), "--name", "ucf") == 0
    assert rows(store, "ucf") == {NAMES[1]: ("Hugging", "train")}


def test_rows_of_other_videos_are_refused(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "l.csv").write_text("name,label\nx,y\n")
    assert annotate(store, str(tmp_path / "l.csv"), "--name", "mine") == 2
    assert "None of the 1 rows names a record" in capsys.readouterr().out
    assert not (store / "annotations" / "mine.jsonl").exists()


def test_a_table_instead_of_a_set(store: Path, tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("name\tlabel\na\thug\n")
    annotate(store, str(tmp_path / "l.csv"))
    (tmp_path / "m.TSV").write_text("video\taction\tsplit\nb\tsqueeze\tval\nc\tkick\tdev\n")
    assert rows(store, str(tmp_path / "m.TSV")) == {"hug/b.mp4": ("squeeze", "val"), "kick/c.mp4": ("kick", "val")}
    (tmp_path / "n.csv").write_text("x,y\n1,2\n")
    with pytest.raises(BadInput, match="none of names"):
        load(store, str(tmp_path / "n.csv"))
