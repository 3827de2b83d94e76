"""`vfc bench efficiency` on small stores that were really extracted: rows, what is left out, formats, a page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from suites.family_stores import ADAPTED, extract_family, write_videos
from suites.sequence_store import write_made_up

from docs.places import CHECKPOINTS
from vfc.cli.app import run

FEW = ("--rounds", "2", "--no-papers", "--progress", "none")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stores of clip, video-llava and viclip over the same videos, and one of sequences."""
    root = tmp_path_factory.mktemp("bench")
    videos = write_videos(root / "videos")
    for family, settings in (("clip", {"num_frames": 8}), ("video-llava", {}), ("viclip", ADAPTED)):
        extract_family(family, videos, root, **settings)
    write_made_up(root / "sequences", videos=6, tests=2)
    CHECKPOINTS["huggyllama/llama-7b"](root / "llama")
    return root


def bench(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, dict[str, Any], str]:
    code = run(["bench", "efficiency", *map(str, words), "--json"])
    printed = capsys.readouterr()
    return code, json.loads(printed.out), printed.err


def test_a_few_shot_head_beside_the_model_in_the_loop(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The text of a prompt goes through the model as well; a task has way x (shot + 1) clips."""
    words = ("--head", "fsar", "--cache", folder / "store-video-llava", "--set", "way=2", "--set", "dim=16")
    code, document, _ = bench(capsys, *words, "--set", "shot=2", *FEW)
    assert code == 0
    (row,) = document["rows"]
    assert row["unit"] == "task: 2-way 2-shot, 6 clips"
    assert (row["clips"], row["batch"]) == (6, 1)
    assert row["trained"] == row["parameters"] > 0
    assert row["model"]["name"] == "video-llava"
    assert row["model"]["flops"] > 0
    assert row["ratio_scoring"] > 1
    assert row["ratio_training"] > 1
    assert row["reading"]["median"] < row["scoring"]["median"]
    assert row["training_memory"] > row["scoring_memory"] > 4 * row["parameters"]
    assert document["left_out"] == []


def test_classifiers_on_several_stores_and_what_they_cannot_read(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stores = f"{folder / 'store-clip'},{folder / 'store-viclip'}"
    words = ("--head", "vidprism,msta", "--cache", stores, "--set", "dim=12", "--batch", "2", "--no-online")
    code, document, _ = bench(capsys, *words, *FEW)
    assert code == 0
    rows = {row["head"]: row for row in document["rows"]}
    assert set(rows) == {"vidprism", "msta"}
    assert rows["msta"]["parameters"] > rows["msta"]["trained"]  # its frozen blocks
    assert rows["msta"]["flops_once"] > 0
    assert rows["vidprism"]["flops_once"] == 0
    assert rows["vidprism"]["online_scoring"] is None
    reasons = {row["name"].split(" ")[0] + "-" + row["name"][-2]: row["reason"] for row in document["left_out"]}
    assert len(reasons) == 2
    assert "layer7.visual" in " ".join(reasons.values())


def test_a_run_has_its_own_settings_weights_and_store(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder / "run"
    train = ("train-head", "linear-probe", "--cache", folder / "store-clip", "--steps", "2", "--out", out)
    assert run([*map(str, train), "--progress", "none"]) == 0
    capsys.readouterr()
    code, document, _ = bench(capsys, "--checkpoint", out, "--no-online", *FEW)
    assert code == 0
    (row,) = document["rows"]
    assert (row["head"], row["run"]) == ("linear-probe", str(out))
    assert row["store"] == str(folder / "store-clip")


def test_a_head_with_a_language_model_on_long_videos(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Imported features were made by no model here: it is not in the loop, and the table says why."""
    sets = ("llm=" + str(folder / "llama"), "observed_labels=truth", "stride=8", "cmib_width=8")
    words = [word for pair in sets for word in ("--set", pair)]
    code, document, _ = bench(capsys, "--head", "actionllm", "--cache", folder / "sequences", *words, *FEW)
    assert code == 0, document
    (row,) = document["rows"]
    assert row["unit"].startswith("window of ")
    assert row["model"] is None
    assert "imported" in row["no_online"]


def test_the_papers_need_no_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.html"
    assert run(["bench", "efficiency", "--head", "vidprism", "--table", "csv", "--out", str(page)]) == 0
    printed = capsys.readouterr().out
    assert '"VidPrism, Table 1: CLIP B/16, 8 frames",clip,"12,424,345"' in printed
    text = page.read_text("utf-8")
    assert "vfc bench efficiency --head vidprism" in text
    assert "140.5 G" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--head", "linear-probe"), "No head has a table in its paper"),
        (("--head", "fsar", "--set", "dimm=3"), "dimm"),
        (("--head", "fsar", "--set", "dim"), "is no NAME=VALUE"),
        (("--head", "fsa"), "fsa"),
        (("--rounds", "0"), "--rounds is 0"),
    ],
)
def test_what_is_refused(words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, document, error = bench(capsys, *words)
    assert code == 2
    assert message in error
    assert message in document["problem"]
