"""`vfc predict` with heads of long sequences: the segments are those that the run predicted in its own test."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from suites.film import encode
from suites.sequence_store import write_made_up

from vfc.cache_schema import Key, open_store
from vfc.cli import app
from vfc.extract.synthetic.tiny_vit import write_tiny_vit
from vfc.heads.results.tables import read_rows

FUTR = "--width 16 --attention-heads 2 --decoder-layers 1 --queries 6 --stride 8 --epochs 4 --warmup-epochs 0"


def work(*arguments: str) -> None:
    """One command line that must succeed."""
    assert app.run([*arguments, "--progress", "none"]) == 0


def asked(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    """Exit code and document of `vfc predict`."""
    capsys.readouterr()
    code = app.run(["predict", *arguments, "--json", "--progress", "none", "--device", "cpu"])
    return code, json.loads(capsys.readouterr().out)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight made-up sequences with labels, two of them for the test."""
    return write_made_up(tmp_path_factory.mktemp("sequences") / "store", videos=8, tests=2)


@pytest.fixture(scope="module")
def classifier(store: Path) -> Path:
    """The run of a frame classifier on the store."""
    run = store.parent / "classifier"
    line = f"train-head frame-classifier --cache {store} --steps 40 --batch 32 --device cpu --out {run}"
    work(*line.split())
    return run


def as_in_the_test(run: Path, rows: list[dict[str, Any]]) -> int:
    """Compare with predictions.jsonl of the run; how many rows were compared."""
    names = read_rows(run / "results.jsonl")[0]["class_names"]
    predicted = {(row["query"], row["observed"]): row for row in rows}
    items = read_rows(run / "predictions.jsonl")
    for item in items:
        video, _, share = item["item"].rpartition(" after ")
        row = predicted[video, float(share)]
        assert [part["class"] for part in row["segments"]] == [names[i] if i >= 0 else "" for i in item["actions"]]
        assert [part["stop"] - part["start"] for part in row["segments"]] == item["frames"]
        assert row["segments"][0]["start"] == int(float(share) * row["frames"])
    return len(items)


def test_futr_predicts_what_it_predicted_in_its_test(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    work("train-head", "futr", "--cache", str(store), *FUTR.split(), "--device", "cpu", "--out", str(run))
    files = [tmp_path / f"segments.{suffix}" for suffix in ("csv", "jsonl", "html")]
    line = ["--head", str(run), "--query-cache", str(store), "--out", ",".join(map(str, files))]
    code, document = asked(capsys, *line)
    assert code == 0, document
    assert as_in_the_test(run, document["predictions"]) == 4
    assert len(document["predictions"]) == 2 * 8
    assert read_rows(files[1]) == document["predictions"]
    with files[0].open(newline="") as file:
        table = [*csv.DictReader(file)]
    assert [(row["video"], row["class"], int(row["stop_frame"])) for row in table] == [
        (row["query"], part["class"], part["stop"]) for row in document["predictions"] for part in row["segments"]
    ]
    page = files[2].read_text()
    assert page.count("<li ") == 8
    assert page.count('<div class="strip">') == 16
    assert "http" not in page
    code, document = asked(capsys, "--head", str(run), "--query-cache", str(store), "--observe", "0.5,1")
    assert code == 0, document
    half, end = document["predictions"][:2]
    assert (half["observed"], end["observed"]) == (0.5, 1.0)
    assert half["segments"][0]["start"] == int(0.5 * half["frames"])
    assert end["segments"][0]["start"] == end["frames"]
    assert end["segments"][-1]["stop"] == end["frames"] + int(0.5 * end["frames"])
    for wrong in ("0", "1.5"):
        code, document = asked(capsys, "--head", str(run), "--query-cache", str(store), "--observe", wrong)
        assert (code, f"--observe is {wrong}" in document["problem"]) == (2, True)


def test_the_frame_classifier_labels_every_frame(
    store: Path, classifier: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, document = asked(capsys, "--head", str(classifier), "--query-cache", str(store))
    assert code == 0, document
    tested = {row["item"] for row in read_rows(classifier / "predictions.jsonl")}
    names = [*read_rows(classifier / "results.jsonl")[0]["per_class"]]
    assert len(tested) == 2
    with open_store(store / "derived" / "frame-labels-split1") as labels:
        for row in document["predictions"]:
            ids = [names.index(part["class"]) for part in row["segments"] for _ in range(part["start"], part["stop"])]
            if row["query"] in tested:
                assert ids == labels.view(Key("video", row["query"]), "labels").tolist()
            assert (row["segments"][0]["start"], row["segments"][-1]["stop"]) == (0, row["frames"])


def test_actionllm_reads_the_labels_of_a_frame_classifier(
    store: Path, classifier: Path, shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = shared_data / "weights" / "stories260K_hf"
    if not (model / "model.safetensors").is_file():
        pytest.skip(f"no stories260K at {model}")
    run = tmp_path / "run"
    sizes = "--queries 8 --cmib-width 8 --adapter-width 8 --stride 16 --train-ratios 0.2,0.5 --offsets 1 --epochs 1"
    line = f"train-head actionllm --cache {store} --llm {model} {sizes} --batch 4 --device cpu --out {run}"
    work(*line.split())
    code, document = asked(capsys, "--head", str(run), "--query-cache", str(store))
    assert code == 0, document
    assert as_in_the_test(run, document["predictions"]) == 4
    (store / "derived").rename(tmp_path / "derived")
    try:
        code, refused = asked(capsys, "--head", str(run), "--query-cache", str(store))
        assert (code, "--frame-classifier RUN" in refused["remedy"]) == (2, True)
        line = f"--head {run} --query-cache {store} --frame-classifier {run}"
        code, wrong = asked(capsys, *line.split())
        assert (code, "is a run of actionllm" in wrong["problem"]) == (2, True)
        line = f"--head {run} --query-cache {store} --frame-classifier {classifier}"
        code, again = asked(capsys, *line.split())
    finally:
        (tmp_path / "derived").rename(store / "derived")
    assert code == 0, again
    assert as_in_the_test(run, again["predictions"]) == 4


def test_videos_of_ones_own_are_anticipated_from_their_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {name: tmp_path / "labels" / name for name in ("groundTruth", "splits")}
    for folder in (*places.values(), tmp_path / "videos"):
        folder.mkdir(parents=True)
    names = [f"v{i}" for i in range(6)]
    for i, name in enumerate(names):
        encode(tmp_path / "videos" / f"{name}.mp4", count=40, seed=i)
        (places["groundTruth"] / f"{name}.txt").write_text("\n".join(["pour"] * 20 + ["stir"] * 20) + "\n")
    (tmp_path / "labels" / "mapping.txt").write_text("0 pour\n1 stir\n")
    for part, listed in (("train", names[:4]), ("test", names[4:])):
        (places["splits"] / f"{part}.split1.bundle").write_text("".join(f"{name}.txt\n" for name in listed))
    write_tiny_vit(tmp_path / "model")
    line = f"extract --model image --checkpoint {tmp_path}/model --keep frames --frames all"
    work(*line.split(), "--videos", str(tmp_path / "videos"), "--out", str(tmp_path / "store"))
    run = tmp_path / "run"
    line = f"train-head futr --cache {tmp_path}/store --labels {tmp_path}/labels --device cpu --out {run} {FUTR}"
    work(*line.replace("--stride 8", "--stride 4").split())
    query = ["--query", ",".join(str(tmp_path / "videos" / f"{name}.mp4") for name in names[4:])]
    page = tmp_path / "page.html"
    places_of_results = ["--out", str(page), "--features", str(tmp_path / "p")]
    code, document = asked(capsys, "--head", str(run), *query, *places_of_results)
    assert code == 0, document
    rows = [{**row, "query": Path(row["query"]).name} for row in document["predictions"]]
    assert as_in_the_test(run, rows) == 4
    assert all(row["fps"] > 0 for row in rows)
    assert page.read_text().count("data:image/jpeg;base64,") == 6
    code, document = asked(capsys, "--head", str(run), "--query-cache", str(tmp_path / "store"))
    assert code == 0, document
    assert as_in_the_test(run, document["predictions"]) == 4
