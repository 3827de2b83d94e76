"""Where `vfc predict` finds the weights, keeps features and writes results; the frames on its page."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from suites.film import encode

from vfc.cache_schema import open_store
from vfc.cache_schema.upkeep import merge
from vfc.cache_schema.upkeep.circumstances import last_circumstance
from vfc.cache_schema.upkeep.compacting import compact
from vfc.cache_schema.values.progress import Silent
from vfc.cli import app
from vfc.extract.pipeline import run as pipeline
from vfc.extract.synthetic.tiny_vit import write_tiny_vit
from vfc.heads.results.tables import read_rows


def work(*arguments: str) -> None:
    """One command line that must succeed."""
    assert app.run([*arguments, "--progress", "none"]) == 0


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of three clips, a model, a store and a trained linear probe."""
    folder = tmp_path_factory.mktemp("place")
    for number, label in enumerate(("hop", "run")):
        for clip in range(3):
            path = folder / "videos" / label / f"{clip}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            encode(path, count=10, seed=10 * number + clip)
    write_tiny_vit(folder / "model")
    line = f"extract --model image --checkpoint {folder}/model --keep frames --videos {folder}/videos"
    work(*line.split(), "--out", str(folder / "store"))
    line = f"train-head linear-probe --cache {folder}/store --steps 2 --device cpu --out {folder}/run"
    work(*line.split())
    return folder


@pytest.fixture
def place(made_once: Path) -> Any:
    """The same, with the weights where they were at first."""
    yield made_once
    if (made_once / "moved").exists():
        (made_once / "moved").rename(made_once / "model")


def predicted(place: Path, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, dict[str, Any]]:
    capsys.readouterr()
    line = ["predict", "--head", str(place / "run"), "--query", str(place / "videos"), "--device", "cpu"]
    code = app.run([*line, *more, "--json", "--progress", "none"])
    return code, json.loads(capsys.readouterr().out)


def test_weights_are_found_where_they_were_and_a_second_call_extracts_nothing(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = ("--features", str(tmp_path / "p"))
    code, first = predicted(place, capsys, *kept, "--out", str(tmp_path / "out.csv"))
    assert code == 0, first
    (store,) = (tmp_path / "p").glob("query-*")
    parts = sorted(path.name for path in (store / "parts").iterdir())

    def never(*_: object) -> None:
        raise AssertionError("the features are there")

    monkeypatch.setattr(pipeline, "forward", never)
    code, second = predicted(place, capsys, *kept)
    assert (code, second) == (0, first)
    assert sorted(path.name for path in (store / "parts").iterdir()) == parts
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 7


def test_weights_that_have_moved_are_asked_for_and_may_have_another_name(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, before = predicted(place, capsys, "--features", str(tmp_path / "p"))
    assert code == 0, before
    (place / "model").rename(place / "moved")
    code, refused = predicted(place, capsys, "--features", str(tmp_path / "q"))
    assert (code, refused["remedy"]) == (2, "Give their place now: --checkpoint FOLDER.")
    assert f"were made with the weights {place / 'model'}, which are not there any more." in refused["problem"]
    for features in ("q", "p"):
        code, after = predicted(place, capsys, "--features", str(tmp_path / features), "--checkpoint", f"{place}/moved")
        assert (code, after) == (0, before)
    with open_store(place / "store") as reader, open_store(next((tmp_path / "q").glob("query-*"))) as new:
        assert new.recipe.fields["checkpoint"]["id"] == "moved"  # type: ignore[call-overload,index]
        assert not reader.recipe.difference(new.recipe)
    write_tiny_vit(tmp_path / "model", seed=1)
    code, other = predicted(place, capsys, "--features", str(tmp_path / "r"), "--checkpoint", str(tmp_path / "model"))
    assert (code, "checkpoint.digest" in other["problem"]) == (5, True)


def test_stores_made_from_a_store_know_the_weights_too(place: Path, tmp_path: Path) -> None:
    weights = str(place / "model")
    assert last_circumstance(place / "store", "checkpoint") == weights
    assert last_circumstance(place / "store", "videos") == str(place / "videos")
    merge([place / "store"], tmp_path / "merged", Silent())
    assert last_circumstance(tmp_path / "merged", "checkpoint") == weights
    work("store", "convert", str(place / "store"), "--dtype", "fp32", "--out", str(tmp_path / "converted"))
    assert last_circumstance(tmp_path / "converted", "checkpoint") == weights
    shutil.copytree(place / "store", tmp_path / "compacted")
    compact(tmp_path / "compacted", Silent())
    assert last_circumstance(tmp_path / "compacted", "checkpoint") == weights
    assert last_circumstance(tmp_path / "nothing", "checkpoint") == ""


def test_the_page_shows_three_frames_of_every_video(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    code, answer = predicted(place, capsys, "--features", str(tmp_path / "p"), "--out", str(page))
    assert code == 0, answer
    text = page.read_text()
    assert "http" not in text
    pictures = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', text)
    assert len(pictures) == 3 * 6
    sizes = {Image.open(io.BytesIO(base64.b64decode(data))).size for data in pictures}
    assert all(0 < width <= 192 and 0 < height <= 112 for width, height in sizes)
    stored = tmp_path / "stored.html"
    line = ["predict", "--head", str(place / "run"), "--query-cache", str(place / "store"), "--out", str(stored)]
    work(*line, "--device", "cpu")
    assert stored.read_text().count("data:image/jpeg") == 3 * 6


def test_result_files_and_folders_of_features_are_told_apart(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, answer = predicted(place, capsys, "--out", "a.jsonl,b.csv", "--out", "folder")
    assert code == 0, answer
    assert [row["query"] for row in read_rows(tmp_path / "a.jsonl")] == [row["query"] for row in answer["predictions"]]
    assert (tmp_path / "b.csv").exists()
    assert len([*(tmp_path / "folder").glob("query-*")]) == 1
    assert not (tmp_path / "predict").exists()
    code, refused = predicted(place, capsys, "--observe", "0.2")
    assert (code, "for heads that predict segments" in refused["problem"]) == (2, True)
