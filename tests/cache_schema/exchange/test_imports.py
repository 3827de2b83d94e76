"""Import of MS-TCN folders: real labels against a slow reading of the folder, and every way it can be broken."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from suites.mstcn import write_mstcn

from vfc.cache_schema import (
    AxisMismatch,
    BadInput,
    Key,
    MissingPath,
    RecipeMismatch,
    RecordRejected,
    StoreReader,
    StoreWriter,
    open_store,
)
from vfc.cache_schema.annotations import Annotation, Annotations, load, write_annotations
from vfc.cache_schema.exchange import ImportOptions, ImportReport, export, import_features
from vfc.cache_schema.exchange.mstcn import mstcn, read_bundle, read_mapping, read_splits, read_truth
from vfc.cache_schema.upkeep import compare, inspect, verify
from vfc.cache_schema.values.progress import Silent

QUIET = Silent()


@pytest.fixture(scope="module")
def salads(tmp_path_factory: pytest.TempPathFactory, shared_data: Path) -> Path:
    """Eight of the 50 Salads, every sixteenth frame."""
    folder = tmp_path_factory.mktemp("salads")
    return write_mstcn(folder, shared_data / "labels" / "50salads", videos=8, stride=16, width=12)


def bring(folder: Path, out: Path, **options: object) -> ImportReport:
    return import_features(folder, out, ImportOptions(**options), QUIET)  # type: ignore[arg-type]


def by_hand(folder: Path, name: str) -> tuple[list[list[float]], list[int]]:
    """What the documents say: `[2048, T]`, one class name per line, ids of the mapping."""
    ids = {}
    for line in (folder / "mapping.txt").read_text().split("\n"):
        if line:
            number, spoken = line.split(" ")
            ids[spoken] = int(number)
    x = np.load(folder / "features" / f"{name}.npy")
    columns = [[float(x[d][t]) for d in range(x.shape[0])] for t in range(x.shape[1])]
    return columns, [ids[line] for line in (folder / "groundTruth" / f"{name}.txt").read_text().split("\n")[:-1]]


def require_equal(folder: Path, reader: StoreReader, name: str) -> None:
    columns, ids = by_hand(folder, name)
    steps = min(len(columns), len(ids))
    key = Key("video", name)
    np.testing.assert_array_equal(reader.view(key, "frames"), np.array(columns[:steps], np.float32).astype(np.float16))
    np.testing.assert_array_equal(reader.read(key, "labels"), ids[:steps])


def test_a_folder_is_what_the_store_holds(salads: Path, tmp_path: Path) -> None:
    done = bring(salads, tmp_path / "s", fps=30)
    assert (done.added, done.present, done.checked, done.failed, done.trimmed) == (8, 0, 8, (), ())
    reader = open_store(tmp_path / "s")
    names = sorted(path.stem for path in (salads / "features").iterdir())
    assert [key.name for key in reader.keys("video")] == names
    for name in names:
        require_equal(salads, reader, name)
        seconds = reader.read(Key("video", name), "seconds")
        assert seconds.tolist() == [i / 30 for i in range(len(seconds))]
    classes = [line.split()[1] for line in (salads / "mapping.txt").read_text().splitlines()]
    assert reader.axes("labels") == {"classes": {"names": classes}}
    assert [(s.name, s.dtype, s.shape, s.layout) for s in reader.kinds["video"]] == [
        ("frames", "fp16", (None, 12), "steps"),
        ("labels", "int64", (None,), "steps"),
        ("seconds", "float64", (None,), "steps"),
    ]
    imported = reader.recipe.fields["imported"]
    assert isinstance(imported, dict)
    assert (imported["format"], imported["told_by"], imported["fps"]) == ("ms-tcn", names[0], 30.0)
    for n in range(1, 6):
        rows = {}
        for part in ("train", "test"):
            for line in (salads / "splits" / f"{part}.split{n}.bundle").read_text().splitlines():
                rows[line[: -len(".txt")]] = part
        expected = {name: rows[name] for name in names}
        assert {row.name: row.split for row in load(tmp_path / "s", f"split{n}").rows} == expected
        assert done.splits[f"split{n}"] == (8, len(rows))
    assert [row.name for row in load(tmp_path / "s").rows] == names


@pytest.fixture
def broken(salads: Path, tmp_path: Path) -> Path:
    """One file cut short, one without ground truth, one a little too long, one with a word that is no class."""
    folder = tmp_path / "broken"
    shutil.copytree(salads, folder)
    files = sorted((folder / "features").iterdir())
    files[0].write_bytes(files[0].read_bytes()[:-40])
    (folder / "groundTruth" / f"{files[1].stem}.txt").unlink()
    np.save(files[2], np.load(files[2])[:, :-3])
    truth = folder / "groundTruth" / f"{files[3].stem}.txt"
    truth.write_text(truth.read_text().replace("cut_tomato", "cut_tomatos"))
    np.save(files[4], np.load(files[4])[:, ::2])
    np.save(files[5], np.full((12, len((folder / "groundTruth" / f"{files[5].stem}.txt").read_text().split())), np.nan))
    return folder


def test_what_is_broken_costs_only_itself_and_is_listed(broken: Path, salads: Path, tmp_path: Path) -> None:
    names = sorted(path.stem for path in (salads / "features").iterdir())
    done = bring(broken, tmp_path / "s")
    assert [name for name, _ in done.failed] == [names[i] for i in (0, 1, 3, 4, 5)]
    said = dict(done.failed)
    assert f"features/{names[0]}.npy cannot be read" in said[names[0]]
    assert said[names[1]] == f"There is no groundTruth/{names[1]}.txt."
    assert "there is no class 'cut_tomatos' in mapping.txt. Did you mean 'cut_tomato'?" in said[names[3]]
    assert "too far apart to be of one frame rate" in said[names[4]]
    assert said[names[5]] == "Array 'frames' holds NaN or Inf."
    steps = np.load(broken / "features" / f"{names[2]}.npy").shape[1]
    assert done.trimmed == ((names[2], steps, steps + 3),)
    reader = open_store(tmp_path / "s")
    assert reader.metadata(Key("video", names[2])) == {"trimmed": {"features": steps, "labels": steps + 3}}
    assert [key.name for key in reader.keys("video")] == [names[i] for i in (2, 6, 7)]
    for name in (names[2], names[6], names[7]):
        require_equal(broken, reader, name)
    assert {row["name"] for row in inspect(tmp_path / "s", QUIET).failures} == set(said)
    again = bring(broken, tmp_path / "s")
    assert (again.added, again.present, len(again.failed)) == (0, 3, 5)
    lines = (tmp_path / "s" / "failures" / "import.jsonl").read_text().split("\n")
    assert len([line for line in lines if line]) == 5
    # Mended, they are taken in, into the same store: what it was begun with has not changed.
    shutil.rmtree(broken)
    shutil.copytree(salads, broken)
    mended = bring_but(broken, tmp_path / "s", names[2], steps)
    assert (mended.added, mended.present, mended.failed) == (5, 3, ())
    assert inspect(tmp_path / "s", QUIET).failures == ()


def bring_but(folder: Path, out: Path, name: str, steps: int) -> ImportReport:
    """Import again, the features that were cut kept as they were imported."""
    path = folder / "features" / f"{name}.npy"
    np.save(path, np.load(path)[:, :steps])
    return bring(folder, out)


class Stopping(Silent):
    """Interrupts after so many items, as Ctrl-C does."""

    def __init__(self, after: int) -> None:
        self.left = after

    def advance(self, amount: int = 1, note: str = "") -> None:
        self.left -= amount
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("after", [1, 5, 8])
def test_an_import_that_was_stopped_goes_on(salads: Path, tmp_path: Path, after: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        import_features(salads, tmp_path / "s", ImportOptions(), Stopping(after))
    assert len(open_store(tmp_path / "s")) == after
    done = bring(salads, tmp_path / "s")
    assert (done.added, done.present, done.checked) == (8 - after, after, 8 - after)
    bring(salads, tmp_path / "once")
    assert open_store(tmp_path / "s").digest == open_store(tmp_path / "once").digest


def test_new_videos_are_added_and_rows_that_were_corrected_stay(salads: Path, tmp_path: Path) -> None:
    folder = tmp_path / "growing"
    shutil.copytree(salads, folder)
    names = sorted(path.stem for path in (folder / "features").iterdir())
    for name in names[3:]:
        (folder / "features" / f"{name}.npy").rename(tmp_path / f"{name}.npy")
        (folder / "groundTruth" / f"{name}.txt").rename(tmp_path / f"{name}.txt")
    assert bring(folder, tmp_path / "s").splits["split1"] == (3, 50)
    write_annotations(tmp_path / "s", "default", Annotations((Annotation(names[0], "mine"),)))
    for name in names[3:]:
        (tmp_path / f"{name}.npy").rename(folder / "features" / f"{name}.npy")
        (tmp_path / f"{name}.txt").rename(folder / "groundTruth" / f"{name}.txt")
    done = bring(folder, tmp_path / "s")
    assert (done.added, done.present, done.splits["split1"]) == (5, 3, (8, 50))
    assert [(row.name, row.label) for row in load(tmp_path / "s").rows] == [
        (n, "mine" * (n == names[0])) for n in names
    ]


def test_features_made_in_another_way_do_not_mix(salads: Path, tmp_path: Path, shared_data: Path) -> None:
    bring(salads, tmp_path / "s")
    other = write_mstcn(tmp_path / "o", shared_data / "labels" / "50salads", videos=8, stride=16, width=12, seed=1)
    with pytest.raises(RecipeMismatch, match=r"imported\.digest: "):
        bring(other, tmp_path / "s")
    with pytest.raises(RecipeMismatch, match=r'storage\.dtype: "fp16" there, "bf16" asked'):
        bring(salads, tmp_path / "s", dtype="bf16")
    (other / "features" / "rgb-06-1.npy").unlink()
    with pytest.raises(RecipeMismatch, match=r"was begun with 'rgb-06-1', which is not in .*\n.*--made-by TEXT"):
        bring(other, tmp_path / "s")


def test_two_folders_that_are_said_to_be_made_alike_join(salads: Path, tmp_path: Path) -> None:
    names = sorted(path.stem for path in (salads / "features").iterdir())
    for half, kept in (("a", names[:4]), ("b", names[4:])):
        shutil.copytree(salads, tmp_path / half)
        for name in set(names) - set(kept):
            (tmp_path / half / "features" / f"{name}.npy").unlink()
            (tmp_path / half / "groundTruth" / f"{name}.txt").unlink()
        for path in (tmp_path / half / "splits").iterdir():
            path.write_text("".join(f"{n}\n" for n in path.read_text().split() if n.removesuffix(".txt") in kept))
        done = bring(tmp_path / half, tmp_path / "s", made_by="i3d, 21 frames")
        assert done.added == 4
    assert len(open_store(tmp_path / "s")) == 8
    assert [row.name for row in load(tmp_path / "s", "split1").rows] == names
    assert verify(tmp_path / "s", QUIET).ok
    mapping = (
        (tmp_path / "b" / "mapping.txt").read_text().replace("17 ", "x ").replace("18 ", "17 ").replace("x ", "18 ")
    )
    (tmp_path / "b" / "mapping.txt").write_text(mapping)
    with pytest.raises(AxisMismatch, match="labels 'classes' of"):
        bring(tmp_path / "b", tmp_path / "s", made_by="i3d, 21 frames")


def test_features_with_time_in_front(salads: Path, tmp_path: Path) -> None:
    folder = tmp_path / "turned"
    shutil.copytree(salads, folder)
    for path in (folder / "features").iterdir():
        np.save(path, np.load(path).T)
    with pytest.raises(BadInput, match=r"time as the last axis the files have different widths.*\nGive --time first"):
        bring(folder, tmp_path / "s", time="last")
    assert not (tmp_path / "s").exists()
    done = bring(folder, tmp_path / "s")
    assert any("Time is the first axis" in note for note in done.notes)
    bring(salads, tmp_path / "t")
    found = compare(tmp_path / "s", tmp_path / "t", QUIET)
    assert found.identical
    assert not found.same_recipe


def test_a_folder_without_ground_truth_has_features_only(salads: Path, tmp_path: Path) -> None:
    folder = tmp_path / "plain"
    shutil.copytree(salads, folder, ignore=shutil.ignore_patterns("groundTruth", "mapping.txt"))
    done = bring(folder, tmp_path / "s")
    assert [spec.name for spec in done.arrays] == ["frames"]
    assert (done.added, done.splits["split2"][0]) == (8, 8)


def test_values_beyond_fp16_are_listed_and_kept_in_bf16(salads: Path, tmp_path: Path) -> None:
    folder = tmp_path / "large"
    shutil.copytree(salads, folder)
    path = sorted((folder / "features").iterdir())[3]
    x = np.load(path)
    x[0, 0] = 1e5
    np.save(path, x)
    done = bring(folder, tmp_path / "s")
    assert done.failed == ((path.stem, "Array 'frames' reaches 100000, beyond the 65504 of fp16."),)
    assert bring(folder, tmp_path / "t", dtype="bf16").failed == ()


def test_truth_and_mapping_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "mapping.txt"
    path.write_text("1 walk fast\n0 run\r\n\n2 sit\n")
    assert read_mapping(path) == ("run", "walk fast", "sit")
    truth = tmp_path / "x.txt"
    truth.write_text("sit\r\nwalk fast\r\nrun\r\n\n")
    assert read_truth(truth, read_mapping(path)).tolist() == [2, 1, 0]
    truth.write_text("sit\nruns\n")
    with pytest.raises(RecordRejected, match=r"x\.txt, line 2: there is no class 'runs' .* Did you mean 'run'\?"):
        read_truth(truth, read_mapping(path))
    truth.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecordRejected, match=r"x\.txt cannot be read"):
        read_truth(truth, read_mapping(path))
    for text, said in (("0 a\n2 b", r"ids \[0, 2\]"), ("a 0", "is no mapping"), ("0 a\n1 a", "every name once")):
        path.write_text(text)
        with pytest.raises(BadInput, match=said):
            read_mapping(path)
    with pytest.raises(BadInput, match=r"There is no .*none\.txt\.\nLabels need it"):
        read_mapping(tmp_path / "none.txt")


@pytest.mark.parametrize("first", ["", "\n", "# train\n", "bundle\n", "/some/where/list\n"])
def test_both_dialects_of_bundles(tmp_path: Path, first: str) -> None:
    path = tmp_path / "train.split3.bundle"
    path.write_text(f"{first}a.txt\nsub/b.txt\r\nnot here.txt\n\nb.txt\n")
    assert read_bundle(path, {"a", "b"}) == ["a", "b", "not here"]
    path.write_text("a\nb\n")  # without suffix: a video that is known is no extra line
    assert read_bundle(path, {"a", "b"}) == ["a", "b"]
    (tmp_path / "test.split3.bundle").write_text("c.txt")
    (tmp_path / "other.bundle").write_text("nothing")
    found = read_splits(tmp_path, ["a", "b", "c"])
    assert [(row.name, row.split) for row in found["split3"]] == [("c", "test"), ("a", "train"), ("b", "train")]
    (tmp_path / "test.split3.bundle").write_text("a.txt\n")
    with pytest.raises(BadInput, match=r"train\.split3\.bundle names 'a', which is in the test bundle"):
        read_splits(tmp_path, ["a", "b"])


def test_what_is_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(MissingPath, match=r"There is nothing at .*none\.\nGive a folder of features"):
        bring(tmp_path / "none", tmp_path / "s")
    (tmp_path / "f" / "features").mkdir(parents=True)
    with pytest.raises(BadInput, match=r"is no MS-TCN folder: it needs features/ and groundTruth/"):
        bring(tmp_path / "f", tmp_path / "s", form="ms-tcn")
    with pytest.raises(BadInput, match=r"was not written by `vfc store export`"):
        bring(tmp_path / "f", tmp_path / "s", form="export")
    (tmp_path / "f" / "splits").mkdir()
    with pytest.raises(BadInput, match=r"features holds no \.npy file"):
        mstcn(tmp_path / "f")
    np.save(tmp_path / "f" / "features" / "x.npy", np.zeros((2, 3), int))
    with pytest.raises(BadInput, match=r"holds int64 of shape \[2, 3\]; features are floating-point"):
        bring(tmp_path / "f", tmp_path / "s")
    with pytest.raises(BadInput, match=r"--fps is -1"):
        bring(tmp_path / "f", tmp_path / "s", fps=-1)
    (tmp_path / "f" / "groundTruth").mkdir()
    (tmp_path / "f" / "mapping.txt").write_text("0 run\n")
    with pytest.raises(BadInput, match=r"Nothing in .*f can be imported: There is no groundTruth/x\.txt\. \(x\)"):
        bring(tmp_path / "f", tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_damage_on_the_way_to_the_disk_is_found(salads: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    close = StoreWriter.close

    def failing_disk(self: StoreWriter) -> None:
        close(self)
        shard = next((tmp_path / "s" / "parts").glob("*/frames/c.*"))
        data = bytearray(shard.read_bytes())
        data[100] ^= 1
        shard.write_bytes(data)

    monkeypatch.setattr(StoreWriter, "close", failing_disk)
    with pytest.raises(ValueError, match=r"'frames' of video 'rgb-06-1'"):
        bring(salads, tmp_path / "s")


def test_both_data_sets_out_and_back(tmp_path: Path, shared_data: Path) -> None:
    for name, videos, stride in (("50salads", 10, 40), ("breakfast", 60, 20)):
        folder = write_mstcn(tmp_path / name, shared_data / "labels" / name, videos=videos, stride=stride)
        done = bring(folder, tmp_path / f"{name}.store", fps=15)
        assert (done.added, done.failed) == (videos, ())
        for form in ("hdf5", "npy", "safetensors"):
            out = tmp_path / f"{name}.{form}{'.h5' * (form == 'hdf5')}"
            assert export(tmp_path / f"{name}.store", out, form, QUIET).checked == videos  # type: ignore[arg-type]
            bring(out, tmp_path / f"{name}.{form}.back")
            assert compare(tmp_path / f"{name}.store", tmp_path / f"{name}.{form}.back", QUIET).identical
            assert load(tmp_path / f"{name}.{form}.back", "split2") == load(tmp_path / f"{name}.store", "split2")


def test_the_result_is_a_document(broken: Path, tmp_path: Path) -> None:
    assert json.loads(json.dumps(bring(broken, tmp_path / "s").to_json()))["format"] == "ms-tcn"
