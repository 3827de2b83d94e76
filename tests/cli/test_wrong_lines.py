"""Wrong command lines: each is answered in two lines with its exit code, and cheap checks come before heavy imports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from vfc.cli import app

_RUN = """
import json, os, sys, tempfile
from vfc.cli import app

results = {}
for line, words in json.load(sys.stdin).items():
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        # A child for each line: what one line imports is not there for the next.
        child = os.fork()
        if not child:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            code = app.run(words)
            print(code, *sorted(heavy for heavy in ("torch", "transformers") if heavy in sys.modules), flush=True)
            sys.stderr.flush()
            os._exit(0)
        os.waitpid(child, 0)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode())
        results[line] = texts
print(json.dumps(results))
"""

_NO_STORE = ("There is no store at none.", "vfc extract --out")
_BELOW_FILE = ("lies below", "Give another --")


@dataclass(frozen=True)
class Wrong:
    """A line, what its two lines say, whether torch may be imported before it is refused, its exit code."""

    line: str
    problem: str
    remedy: str
    torch: bool = False
    code: int = 2

    def __str__(self) -> str:
        return self.line


TABLE = [
    Wrong("extract", "--videos videos does not exist.", "Give a folder of videos"),
    Wrong("extract --videos none --num-frames 0", "does not exist. --num-frames is 0.", "1 or more"),
    Wrong("extract --videos none --num-frames x --batch y", "got 'x'. --batch takes a whole", "--batch 1"),
    Wrong("extract --videos folder --out file.txt/store", *_BELOW_FILE),
    Wrong("extract --model clipp --videos none", "Did you mean 'clip'? --videos none does not exist.", "Known: clip, "),
    Wrong("extract --config none.json", "There is no config file none.json.", "Give the config.json"),
    Wrong("extract --videos folder --dtype fp8", "There is no dtype 'fp8'.", "Known: bf16, "),
    Wrong("extract --videos folder --batch 2 --mode deterministic", "contradicts", "Leave --batch out"),
    Wrong("extract --videos folder --episodes none.jsonl", "--episodes none.jsonl does not", "vfc episodes --out"),
    Wrong("extract --bogus 1", "No such option: --bogus", "See vfc extract --help."),
    Wrong(
        "extract --videos folder --out s3://bucket/x", "--out s3://bucket/x is a URL, and only paths", "Copy it here"
    ),
    Wrong("extract --videos https://a.org/v --out x", "--videos https://a.org/v is a URL", "Copy it here"),
    Wrong("store verify gs://bucket/store", "gs://bucket/store is a URL", "Copy it here"),
    Wrong("eval --cache=hf://datasets/a/b", "--cache hf://datasets/a/b is a URL", "Copy it here"),
    Wrong("train-head fsar --cache s3://b/s --out file://x", "--cache s3://b/s is a URL", "Copy it here"),
    Wrong("plan --videos none --out file.txt/x", "does not exist. --out file.txt/x lies below", "Give another --out."),
    Wrong("plan --videos folder --num-frames 4 --frames fps:2", "would change nothing.", "Leave --num-frames out"),
    Wrong("extract --videos folder --no-flip", "no view is drawn at random", "Leave --no-flip out"),
    Wrong("store inspect none", *_NO_STORE),
    Wrong("store verify file.txt", "is not a feature store", "Give the folder"),
    Wrong("store merge none folder --out x", "There is no store at none. folder is not a feature store", "vfc extract"),
    Wrong("store convert none --dtype fp8", "--out is missing. There is no dtype 'fp8'.", "Give --out: "),
    Wrong("store materialize none", *_NO_STORE),
    Wrong("store export none --format hdf5 --out x.h5", *_NO_STORE),
    Wrong("store import none --out x", "SOURCE none does not exist.", "Give a folder of features"),
    Wrong("store import folder --out file.txt/x", *_BELOW_FILE),
    Wrong("store compact none --part-mb 0", "There is no store at none. --part-mb is 0.", "more than 0"),
    Wrong("store repair none", *_NO_STORE),
    Wrong("store compare none nil", "There is no store at none. There is no store at nil.", "check the path"),
    Wrong("store inspec", "Did you mean 'inspect'?", "Known: "),
    Wrong("describe", "--checkpoint is missing.", "Give --checkpoint: "),
    Wrong("describe --checkpoint folder", "There is no class to describe.", "Give --class-list"),
    Wrong("describe --checkpoint folder --class-list none --count 0", "does not exist. --count is 0.", "1 or more"),
    Wrong("describe --checkpoint folder --cache folder", "is not a feature store", "Give the folder"),
    Wrong("predict", "--head is missing.", "Give --head: "),
    Wrong(
        "predict --head none --support nil --query no.mp4",
        "--query no.mp4 does not exist. --support nil",
        "vfc train-head",
    ),
    Wrong("predict --head folder --support folder --query file.txt --out file.txt/x", *_BELOW_FILE),
    Wrong("models show imag", "Did you mean 'image'?", "Known: clip, "),
    Wrong("models show image --dtype fp8", "There is no dtype 'fp8'.", "Known: bf16, "),
    Wrong("demo --steps -1", "--steps is -1.", "0 or more"),
    Wrong("demo --clips-per-class 0 --tasks 0", "--clips-per-class is 0. --tasks is 0.", "1 or more"),
    Wrong("demo --out file.txt/x", *_BELOW_FILE),
    Wrong("eval", "There is no store at store.", "vfc extract --out", torch=True),
    Wrong("eval --cache none --episodes nil", "at none. --episodes nil does not exist.", "vfc episodes"),
    Wrong("eval --cache=none --metric otm", *_NO_STORE),
    Wrong("probe-layers --cache none --page file.txt/x.html", "There is no store at none. --page", "another --page"),
    Wrong("episodes --cache folder", "is not a feature store", "Give the folder"),
    Wrong("train-head bogus", "No such command 'bogus'.", "Known: actionllm, "),
    Wrong("train-head fsar --cache none --out file.txt/x", "There is no store at none. --out", "Give another --out."),
    Wrong("train-head linear-probe --cache none --train-list nil", "--train-list nil does not", "Give the official"),
    Wrong("train-head fsar --config none.json", "--config none.json does not exist.", "Give the config.json"),
    Wrong("eval --cache none,none --metric otm", "There is no metric 'otm'.", "Known: ", torch=True),
    Wrong("report", "No run was given.", "Give the folders", torch=True),
    Wrong("report none --against nil", "--against nil does not exist.", "Give the folder of a", torch=True),
]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str]]:
    """What each line of the table writes to stdout and stderr, in a folder that holds `folder` and `file.txt` alone."""
    place = tmp_path_factory.mktemp("place")
    (place / "folder").mkdir()
    (place / "file.txt").write_text("a file\n")
    lines = json.dumps({wrong.line: wrong.line.split() for wrong in TABLE})
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", _RUN],
        input=lines,
        capture_output=True,
        text=True,
        cwd=place,
        env=environment,
        check=True,
        timeout=240,
    )
    assert sorted(path.name for path in place.iterdir()) == ["file.txt", "folder"], "a refused line wrote something"
    answers: dict[str, tuple[str, str]] = json.loads(done.stdout)
    return answers


@pytest.mark.parametrize("wrong", TABLE, ids=str)
def test_a_wrong_line_is_refused_in_two_lines_before_anything_heavy(
    wrong: Wrong, answers: dict[str, tuple[str, str]]
) -> None:
    out, err = answers[wrong.line]
    assert len(err.splitlines()) == 2, err
    problem, remedy = err.splitlines()
    assert wrong.problem in problem
    assert wrong.remedy in remedy
    code, *imported = out.split()
    assert int(code) == wrong.code
    assert wrong.torch or not imported


def test_a_folder_that_takes_no_writes_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    assert app.run(["store", "import", str(tmp_path), "--out", str(tmp_path / "store")]) == 2
    problem, remedy = capsys.readouterr().err.splitlines()
    assert problem == f"--out {tmp_path}/store cannot be written: {tmp_path} is read-only."
    assert remedy == "Give another --out."
