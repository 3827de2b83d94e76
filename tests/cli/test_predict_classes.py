"""`vfc predict` with a trained classifier: new videos from files, folders, lists and stores; what it refuses."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from suites.checkpoints import clip_checkpoint
from suites.film import encode
from suites.language import qwen3_checkpoint
from torch.nn import functional

from vfc.cache_schema import Key, open_store
from vfc.cli import app
from vfc.extract.backbones.viclip.tiny import write_tiny_viclip
from vfc.extract.synthetic.tiny_vit import write_tiny_vit
from vfc.heads.results.tables import read_rows

CLASSES = ("hop", "jump", "run")
TESTED = [f"{label}/3.mp4" for label in CLASSES]
TEXTS = ["--texts", "classes", "--template", "a video of {label}"]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four clips of each of three classes, the last for the test."""
    folder = tmp_path_factory.mktemp("videos")
    rows = ["path,label,split"]
    for number, label in enumerate(CLASSES):
        (folder / label).mkdir()
        for clip in range(4):
            encode(folder / label / f"{clip}.mp4", count=10, seed=10 * number + clip)
            rows.append(f"{label}/{clip}.mp4,{label},{'test' if clip == 3 else 'train'}")
    (folder / "all.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="module")
def clip(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny CLIP and a store of the videos and the class texts."""
    folder = tmp_path_factory.mktemp("clip")
    clip_checkpoint(folder / "model")
    work("extract", "--model", "clip", *where(folder, videos), *TEXTS, "--num-frames", "4")
    return folder


def work(*arguments: str) -> None:
    """One command line that must succeed."""
    assert app.run([*arguments, "--progress", "none"]) == 0


def where(folder: Path, videos: Path) -> list[str]:
    """The flags of an extraction of all videos into a folder that holds the model."""
    places = {"--checkpoint": folder / "model", "--videos": videos / "all.csv", "--out": folder / "store"}
    return [str(word) for pair in places.items() for word in pair]


def model(folder: Path) -> list[str]:
    """The flag that says where the weights are: the recipe has the name of a local folder, not its place."""
    return ["--checkpoint", str(folder / "model")]


def trained(head: str, store: Path, run: Path, *flags: str) -> Path:
    """The run of a head after two updates."""
    work("train-head", head, "--cache", str(store), "--steps", "2", "--device", "cpu", "--out", str(run), *flags)
    return run


def named(capsys: pytest.CaptureFixture[str], run: Path, *arguments: str) -> dict[str, dict[str, float]]:
    """Video -> class -> probability of every class, as `--json` gives them."""
    capsys.readouterr()
    code = app.run(["predict", "--head", str(run), *arguments, "--json", "--progress", "none", "--device", "cpu"])
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert code == 0, (answer.get("problem"), answer.get("remedy"))
    assert all(row["class"] == max(row["shares"], key=row["shares"].get) for row in answer["predictions"])
    return {row["query"]: row["shares"] for row in answer["predictions"]}


def query_files(videos: Path) -> str:
    """The test videos as `--query` takes them."""
    return ",".join(str(videos / name) for name in TESTED)


def as_in_the_store(files: dict[str, dict[str, float]], stored: dict[str, dict[str, float]], videos: Path) -> None:
    """Every test video has from its file the probabilities that it has from its features in the training store."""
    assert {Path(name).relative_to(videos).as_posix() for name in files} == set(TESTED)
    for name, shares in files.items():
        assert shares == pytest.approx(stored[Path(name).relative_to(videos).as_posix()], abs=1e-6)
        assert sum(shares.values()) == pytest.approx(1)


def predicted_in_the_test(run: Path) -> dict[str, str]:
    return {row["item"]: row["predicted"] for row in read_rows(run / "predictions.jsonl")}


def test_probabilities_are_those_of_the_weights(
    clip: Path, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained("linear-probe", clip / "store", tmp_path / "run")
    stored = named(capsys, run, "--query-cache", str(clip / "store"))
    weights = load_file(run / "head.safetensors")
    with open_store(clip / "store") as reader:
        assert stored.keys() == {key.name for key in reader.keys("video")}
        for name, shares in stored.items():
            mean = torch.from_numpy(reader.read(Key("video", name), "frames")).float().mean(dim=0)
            logits = weights["classify.weight"] @ functional.layer_norm(mean, mean.shape) + weights["classify.bias"]
            expected = dict(zip(CLASSES, logits.softmax(dim=0).tolist(), strict=True))
            assert shares == pytest.approx(expected, abs=1e-6)
    files = named(capsys, run, "--query", query_files(videos), "--out", str(tmp_path / "p"), *model(clip))
    as_in_the_store(files, stored, videos)
    best = {
        Path(name).relative_to(videos).as_posix(): max(shares, key=shares.__getitem__) for name, shares in files.items()
    }
    assert best == predicted_in_the_test(run)


@pytest.mark.parametrize(
    ("head", "flags"),
    [
        ("mean-pool", []),
        ("vidprism", ["--rates", "1,2"]),
        ("vidprism", ["--preset", "code", "--rates", "1,2"]),
        ("mote", []),
        ("text-zero-shot", []),
    ],
)
def test_every_head_names_files_as_the_store(
    clip: Path, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], head: str, flags: list[str]
) -> None:
    run = trained(head, clip / "store", tmp_path / "run", *flags)
    stored = named(capsys, run, "--query-cache", str(clip / "store"))
    best = {name: max(shares, key=shares.__getitem__) for name, shares in stored.items() if name in TESTED}
    assert best == predicted_in_the_test(run)
    as_in_the_store(
        named(capsys, run, "--query", query_files(videos), "--out", str(tmp_path / "p"), *model(clip)), stored, videos
    )


def test_msta_reads_the_frozen_blocks_of_a_store_that_moved(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tiny_viclip(tmp_path / "model")
    flags = ["--layer", "1,2", "--text-layer", "1", "--tail", "2", *TEXTS]
    work("extract", "--model", "viclip", *where(tmp_path, videos), *flags)
    run = trained("msta", tmp_path / "store", tmp_path / "run", "--from-block", "2", "--dim", "4")
    stored = named(capsys, run, "--query-cache", str(tmp_path / "store"))
    (tmp_path / "store").rename(tmp_path / "moved")
    query = ["--query", query_files(videos), "--out", str(tmp_path / "p"), *model(tmp_path)]
    assert app.run(["predict", "--head", str(run), *query, "--progress", "none"]) == 2
    assert "new features need its class texts" in capsys.readouterr().err
    as_in_the_store(named(capsys, run, *query, "--cache", str(tmp_path / "moved")), stored, videos)


@pytest.mark.parametrize("flags", ["--pool 2x2", "--pool mean --project pca:8 --fit-records 6", "--dtype int8"])
def test_reduced_stores_and_a_checkpoint_that_moved(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: str
) -> None:
    write_tiny_vit(tmp_path / "model")
    work("extract", "--model", "image", *where(tmp_path, videos), "--layer", "2", "--keep", "visual", *flags.split())
    run = trained("linear-probe", tmp_path / "store", tmp_path / "run")
    stored = named(capsys, run, "--query-cache", str(tmp_path / "store"))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "model").rename(tmp_path / "elsewhere" / "model")
    query = ["--query", query_files(videos), "--out", str(tmp_path / "p"), *model(tmp_path / "elsewhere")]
    as_in_the_store(named(capsys, run, *query), stored, videos)


def test_a_store_of_qwen(videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    qwen3_checkpoint(tmp_path / "model")
    flags = ["--layer", "2", "--prompt", "unknown", "--num-frames", "4", "--max-pixels", "40000"]
    work("extract", "--model", "qwen3-vl", *where(tmp_path, videos), *flags)
    run = trained("linear-probe", tmp_path / "store", tmp_path / "run")
    stored = named(capsys, run, "--query-cache", str(tmp_path / "store"))
    as_in_the_store(
        named(capsys, run, "--query", query_files(videos), "--out", str(tmp_path / "p"), *model(tmp_path)),
        stored,
        videos,
    )


def test_views_that_were_averaged_in_the_test_are_averaged(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tiny_vit(tmp_path / "model")
    views = ["--views", "test:2x3,augment:1", "--pipeline", "vidprism", "--num-frames", "4"]
    work("extract", "--model", "image", *where(tmp_path, videos), *views)
    run = trained(
        "linear-probe", tmp_path / "store", tmp_path / "run", "--test-views", "2x3", "--view-sum", "probabilities"
    )
    stored = named(capsys, run, "--query-cache", str(tmp_path / "store"))
    as_in_the_store(
        named(capsys, run, "--query", query_files(videos), "--out", str(tmp_path / "p"), *model(tmp_path)),
        stored,
        videos,
    )
    (out,) = (tmp_path / "p").glob("query-*/")
    with open_store(out) as reader:
        assert len({key.view for key in reader.keys("video")}) == 7


def test_a_folder_a_list_and_the_files_that_are_written(
    clip: Path, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained("linear-probe", clip / "store", tmp_path / "run")
    stored = named(capsys, run, "--query-cache", str(clip / "store"))
    new = tmp_path / "new"
    new.mkdir()
    for name in TESTED:
        shutil.copy(videos / name, new / name.replace("/", "-"))
    (new / "broken.mp4").write_bytes(b"no video")
    (tmp_path / "list.csv").write_text("path\n" + "".join(f"new/{name.replace('/', '-')}\n" for name in TESTED))
    names = {table: tmp_path / f"predictions.{table}" for table in ("csv", "jsonl", "html")}
    save = ["--save", ",".join(map(str, names.values())), "--top", "2", "--out", str(tmp_path / "p"), *model(clip)]
    line = ["predict", "--head", str(run), "--query", str(new), *save, "--device", "cpu"]
    assert app.run([*line, "--progress", "none"]) == 0
    assert "class 2" in capsys.readouterr().out
    rows = read_rows(names["jsonl"])
    assert {row["query"] for row in rows} == {name.replace("/", "-") for name in TESTED}
    for row in rows:
        best = dict(sorted(stored[row["query"].replace("-", "/")].items(), key=lambda pair: -pair[1])[:2])
        assert row["shares"] == pytest.approx(best, abs=1e-6)
    with names["csv"].open(newline="") as file:
        table = [*csv.reader(file)]
    assert table[0] == ["video", "class_1", "probability_1", "class_2", "probability_2"]
    assert [(row[0], row[1], float(row[4])) for row in table[1:]] == [
        (row["query"], row["class"], [*row["shares"].values()][1]) for row in rows
    ]
    page = names["html"].read_text()
    assert page.count("<li ") == 3
    assert "http" not in page
    assert "Not named, because it could not be read: broken.mp4." in page
    listed = named(capsys, run, "--query", str(tmp_path / "list.csv"), "--out", str(tmp_path / "p"), *model(clip))
    assert len(listed) == 3
    for name, shares in listed.items():
        assert shares == pytest.approx(
            next(v for k, v in stored.items() if name.endswith(k.replace("/", "-"))), abs=1e-6
        )


def test_a_run_without_its_class_list_names_the_classes_that_it_tested(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained("linear-probe", clip / "store", tmp_path / "run")
    new = named(capsys, run, "--query-cache", str(clip / "store"))
    (row,) = read_rows(run / "results.jsonl")
    assert row.pop("class_names") == [*CLASSES]
    (run / "results.jsonl").write_text(json.dumps(row) + "\n")
    assert named(capsys, run, "--query-cache", str(clip / "store")) == new
    config = json.loads((run / "config.json").read_text())
    config["config"]["task"]["protocol"] = "zero-shot"
    (run / "config.json").write_text(json.dumps(config))
    assert app.run(["predict", "--head", str(run), "--query-cache", str(clip / "store"), "--progress", "none"]) == 2
    assert "does not say which classes it was trained on" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--query", "new.mp4", "--support", "."], "it reads no labelled clips"),
        ([], "Neither --query and --query-cache"),
        (["--query", "new.mp4", "--query-cache", "STORE"], "Both --query and --query-cache"),
        (["--query", "new.mp4", "--save", "new.txt"], "has no suffix that says how it is written"),
        (["--query", "new.mp4", "--top", "0"], "--top is 0"),
        (["--query", "new.mp4,."], "is a folder"),
    ],
)
def test_what_is_refused(
    clip: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    problem: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "new.mp4").touch()
    run = trained("linear-probe", clip / "store", tmp_path / "run")
    capsys.readouterr()
    arguments = [str(clip / "store") if word == "STORE" else word for word in arguments]
    line = ["predict", "--head", str(run), *arguments, "--out", str(tmp_path / "p"), "--progress", "none"]
    assert app.run(line) == 2
    assert problem in capsys.readouterr().err
