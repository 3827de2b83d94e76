"""`vfc predict` from pooled, int8 and Qwen stores: a file is named as its features in the training store are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from suites.film import encode
from suites.language import qwen3_checkpoint

from vfc.cache_schema import open_store
from vfc.cli import app
from vfc.extract.synthetic.tiny_vit import write_tiny_vit

CLASSES = ("hop", "run", "sit", "walk")


def work(*arguments: str) -> None:
    """One command line that must succeed."""
    assert app.run([*arguments, "--progress", "none"]) == 0


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four classes of three clips: split by clips in all.csv, by classes in classes.csv."""
    folder = tmp_path_factory.mktemp("place")
    rows, few_shot = ["path,label,split"], ["path,label,split"]
    for number, label in enumerate(CLASSES):
        (folder / "videos" / label).mkdir(parents=True)
        for clip in range(3):
            size = (96, 64) if clip < 2 else (160, 64)  # grids of Qwen that differ
            encode(folder / "videos" / label / f"{clip}.mp4", count=10, size=size, seed=10 * number + clip)
            rows.append(f"{label}/{clip}.mp4,{label},{'test' if clip == 2 else 'train'}")
            few_shot.append(f"{label}/{clip}.mp4,{label},{'test' if number < 2 else 'train'}")
    (folder / "videos" / "classes.csv").write_text("\n".join(few_shot) + "\n")
    (folder / "videos" / "all.csv").write_text("\n".join(rows) + "\n")
    write_tiny_vit(folder / "vit")
    line = f"extract --model image --checkpoint {folder}/vit --layer 2 --keep visual --num-frames 10"
    work(*line.split(), "--videos", str(folder / "videos" / "all.csv"), "--out", str(folder / "store"))
    return folder


def shares(capsys: pytest.CaptureFixture[str], run: Path, *more: str) -> dict[str, dict[str, float]]:
    """Video -> class -> probability."""
    capsys.readouterr()
    code = app.run(["predict", "--head", str(run), "--device", "cpu", *more, "--json", "--progress", "none"])
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert code == 0, answer
    return {row["query"]: row["shares"] for row in answer["predictions"]}


def trained(head: str, store: Path, run: Path, *flags: str) -> Path:
    """The run of a head after two updates."""
    work("train-head", head, "--cache", str(store), "--steps", "2", "--device", "cpu", "--out", str(run), *flags)
    return run


@pytest.mark.parametrize(
    ("derivation", "head"),
    [
        ("materialize STORE --pool 2x2 --dtype fp32", "vidprism --rates 1,2"),
        ("convert STORE --dtype int8", "linear-probe"),
        ("materialize STORE --project pca:6", "linear-probe"),
        ("materialize STORE --project random:8 --dtype int8", "mean-pool"),
    ],
)
def test_files_are_reduced_as_a_derived_store_was(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], derivation: str, head: str
) -> None:
    work("store", *derivation.replace("STORE", str(place / "store")).split(), "--out", str(tmp_path / "derived"))
    name, *flags = head.split()
    run = trained(name, tmp_path / "derived", tmp_path / "run", *flags)
    stored = shares(capsys, run, "--query-cache", str(tmp_path / "derived"))
    kept = ("--features", str(tmp_path / "p"))
    files = shares(capsys, run, "--query", str(place / "videos" / "all.csv"), *kept)
    assert files.keys() == stored.keys()
    for name, expected in stored.items():
        assert files[name] == pytest.approx(expected, abs=1e-6)
    assert shares(capsys, run, "--query", str(place / "videos" / "all.csv"), *kept) == files


def test_every_projection_on_the_way_is_that_of_the_training(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two derivations, of which the first projects; without its store nothing else is fitted in its place."""
    work("store", "materialize", str(place / "store"), "--project", "pca:6", "--out", str(tmp_path / "narrow"))
    work("store", "convert", str(tmp_path / "narrow"), "--dtype", "bf16", "--out", str(tmp_path / "derived"))
    run = trained("linear-probe", tmp_path / "derived", tmp_path / "run")
    stored = shares(capsys, run, "--query-cache", str(tmp_path / "derived"))
    one = next(path for path in sorted((place / "videos").rglob("*.mp4")))
    files = shares(capsys, run, "--query", str(one), "--features", str(tmp_path / "p"))
    name = one.relative_to(place / "videos").as_posix()
    assert [*files.values()] == [pytest.approx(stored[name], abs=1e-6)]
    (tmp_path / "narrow").rename(tmp_path / "elsewhere")
    capsys.readouterr()
    line = f"predict --head {run} --query {one} --features {tmp_path}/q --device cpu --progress none"
    assert app.run([*line.split(), "--checkpoint", str(place / "vit")]) == 2
    error = capsys.readouterr().err
    assert f"The projection of the features is that of {tmp_path}/narrow, which is not there." in error


def test_fsar_names_videos_from_a_qwen_store(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = qwen3_checkpoint(tmp_path / "qwen3")
    line = f"extract --model qwen3-vl --checkpoint {model} --layer 2 --prompt unknown --num-frames 4"
    work(*line.split(), "--videos", str(place / "videos" / "classes.csv"), "--out", str(tmp_path / "store"))
    sizes = "--dim 16 --down-hidden 12 --ffn-dim 20 --attention-heads 2 --mode inductive --prompt unknown --select last"
    sizes += " --way 2 --train-queries 1 --tasks 5"
    run = trained("fsar", tmp_path / "store", tmp_path / "run", *sizes.split())
    for label in CLASSES[:2]:
        (tmp_path / "support" / label).mkdir(parents=True)
        (tmp_path / "support" / label / "0.mp4").write_bytes((place / "videos" / label / "0.mp4").read_bytes())
    more = ["--support", str(tmp_path / "support"), "--features", str(tmp_path / "p")]
    named = shares(capsys, run, "--query", str(place / "videos" / "hop" / "2.mp4"), *more)
    stored = shares(capsys, run, "--query-cache", str(tmp_path / "store"), *more)
    (probabilities,) = named.values()
    with open_store(tmp_path / "store") as reader:
        grids = {reader.view(key, "layer2.visual").shape for key in reader.keys("video")}
    assert len(grids) == 2
    assert probabilities == pytest.approx(stored["hop/2.mp4"], abs=1e-5)
