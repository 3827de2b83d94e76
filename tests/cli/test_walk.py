"""Lines that are wrong only beside what a store, a run or a checkpoint holds: two lines, code 2, nothing written."""

from __future__ import annotations

from pathlib import Path

import pytest
from suites.checkpoints import clip_checkpoint
from suites.film import encode
from suites.motion_store import make_store
from suites.sequence_store import write_made_up

from vfc.cli import app
from vfc.extract.synthetic.tiny_vit import write_tiny_vit


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips, two tiny models, a few-shot store, a store of sequences and the store of the clips."""
    folder = tmp_path_factory.mktemp("walk")
    for name in ("jump", "run"):
        (folder / "videos" / name).mkdir(parents=True)
        encode(folder / "videos" / name / "0.mp4", count=8, seed=len(name))
    write_tiny_vit(folder / "vit")
    clip_checkpoint(folder / "clip")
    make_store(folder / "motion")
    write_made_up(folder / "seq")
    (folder / "folder").mkdir()
    (folder / "classes.txt").write_text("jump\nrun\n")
    (folder / "settings.json").write_text('{"head": "linear-probe", "config": {"task": {"template": ["x"]}}}')
    line = f"extract --model clip --checkpoint {folder}/clip --videos {folder}/videos --out {folder}/store"
    assert app.run([*line.split(), "--num-frames", "2", "--progress", "none"]) == 0
    return folder


CLIP = "extract --model clip --checkpoint {0}/clip --videos {0}/videos --out {0}/new --num-frames 2"
TABLE = [
    (CLIP + " --texts classes --template same", "has no {label}, so all texts would be the same", "Put {label} where"),
    (CLIP + " --layer 99", "There is no layer '99'", "Allowed: "),
    (CLIP + " --worker a/b", "A worker cannot be called 'a/b'", "Use letters"),
    (CLIP + " --prompt unknown", "--model clip takes no prompts", "Leave it out"),
    (CLIP.replace("/videos", "/folder"), "is empty", "Give a folder with videos"),
    ("train-head prototype --cache {0}/motion --way 1 --shot 0", "--way 1 cannot be used", "2 or more"),
    ("train-head prototype --cache {0}/motion --tasks 0 --val-tasks 0", "--tasks 0 and --val-tasks 0", "1 or more"),
    ("train-head prototype --cache {0}/motion --array none", "needs 5 classes in every split", "Known: frames."),
    ("train-head prototype --config {0}/settings.json", "written by vfc train-head linear-probe.", "Known: "),
    ("train-head prototype --cache {0}/motion --lr nan", "--lr nan cannot be used", "0 or more"),
    ("train-head linear-probe --cache {0}/motion --template x", "this head reads no class texts", "Leave --template"),
    ("train-head text-zero-shot --cache {0}/motion", "has no 'embedding' of the class names", "--texts classes"),
    ("train-head vidprism --cache {0}/motion --rates 0", "--rates 0 cannot be used", "1 or more"),
    ("train-head futr --cache {0}/seq --observe 2", "--observe 2 cannot be used", "more than 0, and less than 1"),
    (
        "train-head futr --cache {0}/seq --observed-labels none",
        "--observed-labels none does not exist",
        "Give predicted",
    ),
    ("train-head futr --cache {0}/motion", "holds no sequences", "vfc store import"),
    ("train-head futr --cache {0}/seq --fold 9", "'split9'", "Known: split1, split2."),
    ("eval --cache {0}/motion --way 1", "--way 1 cannot be used", "2 or more"),
    ("eval --cache {0}/motion --episodes {0}/classes.txt", "is no episode list", "vfc episodes"),
    ("episodes --cache {0}/motion --shot 0 --queries 0", "--shot 0 and --queries 0 cannot be used", "1 or more"),
    ("probe-layers --cache {0}/motion", "no visual array of a layer", "Extract several layers"),
    ("store materialize {0}/store --pool mean", "needs either a name or an --out", "Give --name"),
    ("store materialize {0}/store --project random:4 --out {0}/store", "is the store that is read", "another folder"),
    ("store convert {0}/store --dtype bf16 --out {0}/store", "is the store that is read", "another folder"),
    ("store export {0}/store --format hdf5 --out {0}/folder", "is a folder; hdf5 writes one file", "store.h5"),
    ("store export {0}/store --format npy --out {0}/classes.txt", "is a file; npy writes a folder", "another --out"),
    ("store import {0}/classes.txt --out {0}/new", "is no file of features", "ends in .npy"),
    ("store import {0}/folder --out {0}/new --fps 0", "--fps is 0", "more than 0"),
    ("store import {0}/folder --out {0}/new --format hdf5", "is no HDF5 file", "Fetch it again"),
    ("store compact {0}/store", "needs --yes", "Look first"),
    ("models show image --checkpoint {0}/vit --size big", "--size 'big' is no size", "360x640"),
    ("models show image --checkpoint {0}/vit --keep none", "There is no stream 'none'", "Known: frames"),
    ("describe --checkpoint {0}/vit --class-list {0}/classes.txt --tries 0 --count 0", "--tries is 0", "1 or more"),
    (
        "describe --checkpoint {0}/vit --class-list {0}/classes.txt --out {0}/new",
        "cannot be opened",
        "Give --checkpoint",
    ),
    ("report {0}/folder", "holds no finished run", "vfc train-head"),
]


@pytest.mark.parametrize(("line", "problem", "remedy"), TABLE)
def test_what_does_not_fit_is_refused_in_two_lines(
    place: Path, line: str, problem: str, remedy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    files = sorted(place.rglob("*"))
    assert app.run([*(word.replace("{0}", str(place)) for word in line.split()), "--progress", "none"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 2, err
    assert problem in err.splitlines()[0]
    assert remedy in err.splitlines()[1]
    assert sorted(place.rglob("*")) == files
