"""`vfc predict` as a user types it: train on a store, then name new clips by a few labelled ones; what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from suites.film import encode
from suites.language import video_llava_checkpoint

from vfc.cache_schema import Key, open_store
from vfc.cli import app
from vfc.extract.synthetic.tiny_vit import write_tiny_vit
from vfc.heads.methods import fsar
from vfc.heads.runs.run_folder import load_weights
from vfc.heads.tasks.fewshot import EpisodeBatch

CLASSES = ("hop", "jump", "run", "sit", "stand", "walk")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of six classes with splits, a tiny model, a store of one layer and a trained run."""
    folder = tmp_path_factory.mktemp("place")
    rows = ["path,label,split"]
    for number, label in enumerate(CLASSES):
        for clip in range(3):
            path = folder / "videos" / label / f"{clip}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            encode(path, count=10, seed=10 * number + clip)
            rows.append(f"{label}/{clip}.mp4,{label},{('train', 'val', 'test')[number // 2]}")
    (folder / "videos" / "all.csv").write_text("\n".join(rows) + "\n")
    write_tiny_vit(folder / "model")
    line = f"extract --model image --checkpoint {folder}/model --layer 2 --keep visual --videos {folder}/videos/all.csv"
    assert app.run([*line.split(), "--out", str(folder / "store"), "--progress", "none"]) == 0
    line = f"train-head fsar --cache {folder}/store --way 2 --train-queries 2 --tasks 10 --out {folder}/run"
    sizes = "--dim 16 --down-hidden 12 --ffn-dim 20 --attention-heads 2 --mode inductive --steps 4 --val-tasks 5"
    sizes += " --device cpu"
    assert app.run([*line.split(), *sizes.split(), "--progress", "none"]) == 0
    for label in CLASSES[4:]:
        shutil.copytree(folder / "videos" / label, folder / "support" / label)
        (folder / "support" / label / "2.mp4").unlink()
    return folder


def read(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    capsys.readouterr()
    code = app.run([*arguments, "--json", "--progress", "none"])
    return code, json.loads(capsys.readouterr().out)


def line(place: Path, out: Path) -> list[str]:
    settings = {"head": place / "run", "support": place / "support", "checkpoint": place / "model", "out": out}
    query = place / "videos" / "stand" / "2.mp4"
    return [
        "predict",
        *(word for name, value in settings.items() for word in (f"--{name}", str(value))),
        "--query",
        str(query),
    ]


def test_new_clips_are_scored_as_the_head_scores_the_store(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, answer = read(capsys, *line(place, tmp_path / "p"))
    assert code == 0, answer
    (row,) = answer["predictions"]
    assert row["query"].endswith("stand/2.mp4")
    settings = json.loads((place / "run" / "config.json").read_text())["config"]["head"]
    with open_store(place / "store") as reader, torch.no_grad():
        names = ["stand/0.mp4", "stand/1.mp4", "walk/0.mp4", "walk/1.mp4", "stand/2.mp4"]
        frames = torch.stack([torch.from_numpy(reader.read(Key("video", name), "layer2.visual")) for name in names])
        head = fsar.Head(fsar.Config(**settings), {"visual": reader.spec("video", "layer2.visual")}).eval()
        load_weights(head, place / "run" / "head.safetensors")
        support, query = torch.tensor([[[0, 1], [2, 3]]]), torch.tensor([[4]])
        shares = head.scores(EpisodeBatch({"visual": frames}, support, query, query)).softmax(dim=-1)[0, 0]
    assert row["shares"] == pytest.approx({"stand": shares[0].item(), "walk": shares[1].item()}, abs=1e-6)
    assert row["class"] == max(row["shares"], key=row["shares"].get)
    assert app.run([*line(place, tmp_path / "p"), "--progress", "none"]) == 0
    assert "share" in capsys.readouterr().out


def test_what_it_refuses(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refusal(*changed: str) -> tuple[int, str]:
        capsys.readouterr()
        code = app.run([*line(place, tmp_path / "q"), *changed, "--progress", "none"])
        return code, capsys.readouterr().err

    code, message = refusal("--head", str(tmp_path))
    assert (code, "so it is no finished training" in message) == (2, True)
    code, message = refusal("--support", str(tmp_path / "nowhere"))
    assert (code, f"{tmp_path / 'nowhere'} does not exist." in message) == (2, True)
    write_tiny_vit(tmp_path / "other", seed=1)
    code, message = refusal("--checkpoint", str(tmp_path / "other"), "--out", str(tmp_path / "r"))
    assert (code, "were not made as those that the head was trained on: checkpoint.digest" in message) == (5, True)
    shutil.copytree(place / "support", tmp_path / "uneven")
    (tmp_path / "uneven" / "walk" / "1.mp4").unlink()
    code, message = refusal("--support", str(tmp_path / "uneven"), "--out", str(tmp_path / "s"))
    assert (code, "The labelled clips are 2 of 'stand', 1 of 'walk'." in message) == (2, True)
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    code, message = refusal("--query", str(tmp_path / "broken.mp4"), "--out", str(tmp_path / "t"))
    assert (code, "of the query clips could not be read" in message) == (2, True)


def test_a_head_that_reads_a_language_model_names_clips_too(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = video_llava_checkpoint(tmp_path / "llava")
    extraction_line = f"extract --model video-llava --checkpoint {model} --layer 2 --prompt unknown --num-frames 2"
    extraction_line += f" --videos {place}/videos/all.csv --out {tmp_path}/store --progress none"
    assert app.run(extraction_line.split()) == 0
    trained = f"train-head fsar --cache {tmp_path}/store --way 2 --train-queries 2 --tasks 10 --out {tmp_path}/run"
    trained += " --dim 16 --down-hidden 12 --ffn-dim 20 --attention-heads 2 --mode inductive --steps 2 --val-tasks 5"
    assert app.run([*trained.split(), "--device", "cpu", "--progress", "none"]) == 0
    words = line(place, tmp_path / "p")
    code, answer = read(capsys, *words, "--head", str(tmp_path / "run"), "--checkpoint", str(model))
    assert code == 0, answer
    assert sum(answer["predictions"][0]["shares"].values()) == pytest.approx(1)
    stores = [open_store(path) for path in (tmp_path / "p").iterdir() if path.is_dir()]
    assert {kind for store in stores for kind in store.kinds} == {"video", "prompted"}


def trained(place: Path, folder: Path, extraction: str) -> Path:
    """A store made with further flags of `vfc extract`, and the run of a small head trained on it."""
    extraction_line = f"extract {extraction} --videos {place}/videos/all.csv --out {folder}/store --progress none"
    assert app.run(extraction_line.split()) == 0
    head = f"train-head fsar --cache {folder}/store --way 2 --train-queries 2 --tasks 10 --out {folder}/run"
    head += " --dim 16 --down-hidden 12 --ffn-dim 20 --attention-heads 2 --mode inductive --steps 2 --val-tasks 5"
    assert app.run([*head.split(), "--device", "cpu", "--progress", "none"]) == 0
    return folder / "run"


@pytest.mark.parametrize(
    "flags", ["--pool 2x2", "--project pca:8 --fit-records 6", "--pool 2x2 --project random:8 --seed 3 --dtype fp32"]
)
def test_features_of_new_clips_are_reduced_as_those_of_the_training(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: str
) -> None:
    model = f"--model image --checkpoint {place}/model --layer 2 --keep visual"
    folder = trained(place, tmp_path, f"{model} {flags}")
    code, answer = read(capsys, *line(place, tmp_path / "p"), "--head", str(folder))
    assert code == 0, answer
    (query,) = (tmp_path / "p").glob("query-*/")
    with open_store(query) as new, open_store(tmp_path / "store") as training:
        (key,) = new.keys("video")
        stored = training.read(Key("video", "stand/2.mp4"), "layer2.visual")
        assert torch.equal(torch.from_numpy(new.read(key, "layer2.visual")), torch.from_numpy(stored))


def test_a_projection_that_is_gone_is_asked_for(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = f"--model image --checkpoint {place}/model --layer 2 --keep visual"
    folder = trained(place, tmp_path, f"{model} --project pca:8 --fit-records 6")
    (tmp_path / "store").rename(tmp_path / "moved")
    code, _ = read(capsys, *line(place, tmp_path / "p"), "--head", str(folder))
    assert code == 2
    assert app.run([*line(place, tmp_path / "p"), "--head", str(folder), "--progress", "none"]) == 2
    error = capsys.readouterr().err
    assert "which is not there; new features need its projection." in error
    assert "--cache STORE" in error
    code, answer = read(capsys, *line(place, tmp_path / "p"), "--head", str(folder), "--cache", str(tmp_path / "moved"))
    assert code == 0, answer


def test_a_prompt_in_the_users_words_is_asked_again(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = video_llava_checkpoint(tmp_path / "llava")
    flags = f"--model video-llava --checkpoint {model} --layer 2 --num-frames 2 --prompt-text mine=What?"
    folder = trained(place, tmp_path, flags)
    code, answer = read(capsys, *line(place, tmp_path / "p"), "--head", str(folder), "--checkpoint", str(model))
    assert code == 0, answer
    (query,) = (tmp_path / "p").glob("query-*/")
    with open_store(query) as new:
        assert new.axes("prompt") == {"mine": {"template": "What?"}}
        assert [key.prompt for key in new.keys("prompted")] == ["mine"]


def test_the_clips_of_this_call_count_with_their_present_content(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(place / "support", tmp_path / "support")
    shutil.copy(place / "videos" / "stand" / "2.mp4", tmp_path / "query.mp4")
    call = [
        *line(place, tmp_path / "p"),
        "--support",
        str(tmp_path / "support"),
        "--query",
        str(tmp_path / "query.mp4"),
    ]
    code, first = read(capsys, *call)
    assert code == 0, first

    def afresh(name: str) -> dict[str, Any]:
        code, found = read(capsys, *call, "--out", str(tmp_path / name))
        assert code == 0, found
        return found

    shutil.copy(place / "videos" / "walk" / "2.mp4", tmp_path / "query.mp4")
    code, overwritten = read(capsys, *call)
    assert (code, overwritten) == (0, afresh("q"))
    assert overwritten["predictions"] != first["predictions"]
    for label in CLASSES[4:]:
        (tmp_path / "support" / label / "0.mp4").unlink()
    code, fewer = read(capsys, *call)
    assert (code, fewer) == (0, afresh("r"))
    assert fewer["predictions"] != overwritten["predictions"]


def test_labelled_clips_of_a_store_name_as_their_files_do(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A clip and its record are one; the labelled clips are those of a list, of a split or drawn, and no query."""
    support = [f"{label}/{clip}.mp4" for label in CLASSES[4:] for clip in (0, 1)]
    listed = [json.dumps({"name": name, "label": name.partition("/")[0]}) for name in support]
    (tmp_path / "support.jsonl").write_text("\n".join(listed) + "\n")
    code, by_files = read(capsys, *line(place, tmp_path / "p"))
    store = ["predict", "--head", str(place / "run"), "--support-cache", str(place / "store"), "--device", "cpu"]
    list_words = ["--annotations", str(tmp_path / "support.jsonl")]
    query = ["--query", str(place / "videos" / "stand" / "2.mp4"), "--checkpoint", str(place / "model")]
    code_of_store, by_store = read(capsys, *store, *list_words, *query, "--features", str(tmp_path / "p"))
    assert (code, code_of_store) == (0, 0)
    assert by_store["predictions"][0]["shares"] == pytest.approx(by_files["predictions"][0]["shares"], abs=1e-6)
    cached = ["--query-cache", str(place / "store")]
    _, all_stored = read(capsys, *store, *list_words, *cached)
    names = {row["query"] for row in all_stored["predictions"]}
    assert names == {f"{label}/{clip}.mp4" for label in CLASSES for clip in range(3)} - set(support)
    (same,) = (row for row in all_stored["predictions"] if row["query"] == "stand/2.mp4")
    assert same["shares"] == pytest.approx(by_files["predictions"][0]["shares"], abs=1e-6)
    _, drawn = read(capsys, *store, "--support-split", "test", "--shot", "2", *cached)
    assert len(drawn["predictions"]) == 6 * 3 - 2 * 2
    assert set(drawn["predictions"][0]["shares"]) == set(CLASSES[4:])


def test_what_a_store_of_labelled_clips_cannot_give_is_said(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refusal(*words: str) -> str:
        capsys.readouterr()
        assert app.run(["predict", "--head", str(place / "run"), *words, "--progress", "none"]) == 2
        error = capsys.readouterr().err
        assert len(error.splitlines()) == 2
        return error

    store = ("--support-cache", str(place / "store"))
    query = ("--query-cache", str(place / "store"))
    assert "Both --support and --support-cache" in refusal(*store, "--support", str(place / "support"), *query)
    assert "--shot is given, but no store" in refusal("--support", str(place / "support"), "--shot", "1", *query)
    assert "no labelled clip of the split 'dev'" in refusal(*store, "--support-split", "dev", *query)
    assert "Class 'hop' has 3 videos; 4 shots were asked." in refusal(*store, "--shot", "4", *query)
    assert "All 18 clips of" in refusal(*store, *query)
    assert "There is no store at none." in refusal("--support-cache", "none", *query)
    assert "--shot is 0" in refusal(*store, "--shot", "0", *query)
