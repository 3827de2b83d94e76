"""`vfc store <verb>` on small stores: what a person reads, what a program reads, and the exit codes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from vfc.cache_schema import ArraySpec, Key, Recipe, Record, StoreWriter, open_store
from vfc.cache_schema.annotations import Annotation, Annotations, write_annotations
from vfc.cli import app


def make(root: Path, first: int = 0, count: int = 40, part: int = 20) -> Path:
    """A store of `count` records in parts of `part`; record i holds the number i."""
    recipe = Recipe({"model": "by hand"})
    for start in range(first, first + count, part):
        with StoreWriter(root, recipe) as writer:
            writer.declare("video", [ArraySpec("frames", "fp16", (4, 8), "frame-major")])
            for i in range(start, start + part):
                writer.add(Record(Key("video", f"c{i % 2}/{i:03}.mp4"), {"frames": np.full((4, 8), i, np.float32)}))
    rows = tuple(Annotation(key.name, label=key.name[:2]) for key in open_store(root).keys("video"))
    write_annotations(root, "default", Annotations(rows))
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make(tmp_path / "store")


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """Exit code and stdout of one command line."""
    code = app.run(["store", *map(str, arguments), "--progress", "none"])
    return code, capsys.readouterr().out


def read(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    """The JSON document of one command line."""
    _, out = run(capsys, *arguments, "--json")
    document = json.loads(out)
    assert isinstance(document, dict)
    return document


def damage(root: Path) -> Path:
    """Flip one byte of the features of record 0."""
    shard = next(
        path
        for path in sorted((root / "parts").rglob("*"))
        if path.is_file() and "frames" in path.parts and path.name != "zarr.json"
    )
    data = bytearray(shard.read_bytes())
    data[3] ^= 1
    shard.write_bytes(data)
    return shard


def test_inspect_says_what_there_is(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out = run(capsys, "inspect", root)
    assert code == 0
    for part in ("40 records", "[4, 8]", "fp16", open_store(root).digest, '"by hand"', "default"):
        assert part in out
    document = read(capsys, "inspect", root)
    assert document["schema"] == "vfc.store.inspect/1"
    assert document["records"] == 40
    assert document["digest"] == open_store(root).digest


def test_verify_finds_a_flipped_byte_and_repair_names_the_record(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, "verify", root)[0] == 0
    damage(root)
    code, out = run(capsys, "verify", root)
    assert code == 4
    assert f"Next: vfc store repair {root} --yes" in out
    assert app.run(["store", "repair", str(root)]) == 2
    assert "This takes damaged parts out of" in capsys.readouterr().err
    code, out = run(capsys, "repair", root, "--yes")
    assert code == 3
    assert "19 records saved" in out
    assert "To make again with the same vfc extract command: 1 record" in out
    assert run(capsys, "verify", root)[0] == 0
    code, out = run(capsys, "repair", root, "--yes")
    assert (code, out) == (0, f"{root}: nothing is damaged.\n")


def test_compact_wants_yes_and_keeps_the_digest(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = open_store(root).digest
    assert app.run(["store", "compact", str(root)]) == 2
    answer = capsys.readouterr().err.splitlines()
    assert answer[0].endswith("so it needs --yes.")
    assert answer[1] == f"Look first: vfc store inspect {root}"
    document = read(capsys, "compact", root, "--yes")
    assert (document["parts_before"], document["parts_after"], document["records"]) == (2, 1, 40)
    assert open_store(root).digest == before


def test_merge_takes_each_record_once(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = make(tmp_path / "other", first=20, count=40)
    code, out = run(capsys, "merge", root, other, "--out", tmp_path / "all")
    assert code == 0
    assert out.splitlines()[-1] == f"{tmp_path / 'all'}: 60 records"
    assert sorted(open_store(tmp_path / "all").keys()) == sorted({*open_store(root).keys(), *open_store(other).keys()})


def test_convert_and_compare_say_how_far_apart(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "convert", root, "--dtype", "bf16", "--out", tmp_path / "half")[0] == 0
    code, out = run(capsys, "compare", root, tmp_path / "half")
    assert code == 4
    assert "The recipes differ:" in out
    assert '  model: "by hand" here, null there' in out
    shutil.copytree(root, tmp_path / "copy")
    code, out = run(capsys, "compare", root, tmp_path / "copy")
    assert code == 0
    assert out.endswith("Both hold the same records.\n")


def test_materialize_keeps_a_smaller_store_inside(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out = run(capsys, "materialize", root, "--project", "pca:2", "--fit-records", "10", "--name", "small")
    assert code == 0
    assert "[4, 2]" in out
    assert open_store(root / "derived" / "small").spec("video", "frames").shape == (4, 2)
    assert read(capsys, "inspect", root)["derived"] == ["small"]


def test_export_to_hdf5_points_at_the_store(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out = run(capsys, "export", root, "--format", "hdf5", "--out", tmp_path / "store.h5")
    assert code == 0
    assert "40 records of frames in 1 file" in out
    shapes: list[tuple[int, ...]] = []
    with h5py.File(tmp_path / "store.h5") as file:
        file.visititems(lambda name, item: shapes.append(item.shape) if isinstance(item, h5py.Dataset) else None)
    assert (40, 4, 8) in shapes


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["convert", "{root}", "--dtype", "fp23", "--out", "x"], 2, "There is no dtype 'fp23'. Did you mean 'fp32'?"),
        (["convert", "{root}", "--dtype", "bf16"], 2, "--out is missing."),
        (["export", "{root}", "--format", "hdf", "--out", "x"], 2, "There is no format 'hdf'. Did you mean 'hdf5'?"),
        (["materialize", "{root}", "--array", "frame", "--pool", "mean", "--name", "x"], 2, "Did you mean 'frames'?"),
        (["compact", "{root}", "--yes", "--part-mb", "0"], 2, "--part-mb is 0."),
        (["compact", "{root}", "--yes", "--part-mb", "nan"], 2, "--part-mb is nan."),
        (["merge", "--out", "x"], 2, "Missing argument 'STORE...'."),
        (["inspect", "{root}/none"], 2, "none"),
        (["inspekt", "{root}"], 2, "No such command 'inspekt'. Did you mean 'inspect'?"),
    ],
)
def test_mistakes_are_told_in_two_lines(
    root: Path, arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.run(["store", *(argument.format(root=root) for argument in arguments)]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 2
    assert message in err


def test_a_merge_of_two_recipes_is_refused(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "convert", root, "--dtype", "bf16", "--out", tmp_path / "half")
    assert app.run(["store", "merge", str(root), str(tmp_path / "half"), "--out", str(tmp_path / "all"), "--json"]) == 5
    document = json.loads(capsys.readouterr().out)
    assert (document["error"], document["exit_code"]) == ("RecipeMismatch", 5)


def test_import_says_what_was_done_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "in"
    for folder in ("features", "groundTruth", "splits"):
        (source / folder).mkdir(parents=True)
    (source / "mapping.txt").write_text("0 run\n1 sit\n")
    for i in range(5):
        np.save(source / "features" / f"v{i}.npy", np.full((4, 6 + (i == 2)), i, np.float32))
        (source / "groundTruth" / f"v{i}.txt").write_text("run\nsit\n" * 3)
    (source / "features" / "v0.npy").write_bytes(b"broken")
    (source / "groundTruth" / "v1.txt").unlink()
    (source / "splits" / "train.split1.bundle").write_text("v0.txt\nv2.txt\nv3.txt\n")
    (source / "splits" / "test.split1.bundle").write_text("v4.txt\n")
    code, out = run(capsys, "import", source, "--out", tmp_path / "s", "--fps", 15)
    assert code == 3
    assert "3 records added, 0 there already, 3 read back" in out
    assert "split1       3 of 4 videos named" in out
    assert "trimmed to the shorter: v2, 7 steps of features, 6 of labels" in out
    assert "not imported: v0: " in out
    assert "not imported: v1: There is no groundTruth/v1.txt." in out
    assert f"Listed in {tmp_path / 's' / 'failures'}" in out
    document = read(capsys, "import", source, "--out", tmp_path / "s", "--fps", 15)
    assert (document["exit_code"], document["added"], document["present"]) == (3, 0, 3)
    np.save(source / "features" / "v0.npy", np.zeros((4, 6), np.float32))
    (source / "groundTruth" / "v1.txt").write_text("run\nsit\n" * 3)
    code, out = run(capsys, "import", source, "--out", tmp_path / "s", "--fps", 15)
    assert (code, "2 records added, 3 there already" in out) == (0, True)
    assert run(capsys, "import", source, "--out", tmp_path / "s", "--fps", 30)[0] == 5
    assert run(capsys, "import", tmp_path / "none", "--out", tmp_path / "t")[0] == 2
    assert run(capsys, "inspect", tmp_path / "s")[0] == 0


def test_export_run_again_says_what_was_there(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ("export", root, "--format", "npy", "--out", tmp_path / "x")
    code, out = run(capsys, *line)
    assert (code, "40 read back: every byte is what was committed" in out) == (0, True)
    (tmp_path / "x" / "video" / "frames" / "c1" / "001.mp4.npy").unlink()
    assert "39 were there already, 1 were written anew" in run(capsys, *line)[1]
    assert run(capsys, "import", tmp_path / "x", "--out", tmp_path / "back")[0] == 0
    assert run(capsys, "compare", root, tmp_path / "back")[0] == 0
