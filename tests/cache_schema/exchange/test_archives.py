"""Import of archives: HDF5 in its usual shapes, folders and files of npy, npz, safetensors and pt; labels from CSV."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_tensors

from vfc.cache_schema import BadInput, Key, MissingExtra, MissingPath, StoreReader, UnknownName, open_store
from vfc.cache_schema.annotations import Annotation, Annotations, load, write_annotations
from vfc.cache_schema.exchange import ImportOptions, ImportReport, import_features
from vfc.cache_schema.exchange.labels import matched, read_labels
from vfc.cache_schema.values.progress import Silent

Array = npt.NDArray[Any]
NAMES = ("b/two", "a/one", "a/three")


def bring(place: Path, out: Path, **options: object) -> ImportReport:
    return import_features(place, out, ImportOptions(**options), Silent())  # type: ignore[arg-type]


def sequences(width: int = 6) -> dict[str, npt.NDArray[np.float32]]:
    draw = np.random.default_rng(0)
    return {name: draw.standard_normal((5 + 3 * i, width), np.float32) for i, name in enumerate(NAMES)}


def require_equal(out: Path, wanted: dict[str, Array], array: str = "frames", dtype: type = np.float16) -> StoreReader:
    reader = open_store(out)
    assert [key.name for key in reader.keys("video")] == sorted(wanted)
    for name, values in wanted.items():
        stored = reader.view(Key("video", name), array)
        np.testing.assert_array_equal(stored, np.asarray(values).astype(dtype), strict=True)
    return reader


def test_hdf5_with_one_data_set_per_video(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        for name, values in sequences().items():
            file[name] = values
    done = bring(tmp_path / "x.h5", tmp_path / "s", fps=25)
    assert (done.format, done.added, done.unlabelled) == ("hdf5", 3, ())
    reader = require_equal(tmp_path / "s", dict(sequences()))
    assert reader.spec("video", "frames").layout == "steps"
    assert reader.read(Key("video", "a/one"), "seconds").tolist() == [i / 25 for i in range(8)]
    assert {row.name: row.label for row in load(tmp_path / "s").rows} == {n: n[0] for n in NAMES}


def test_hdf5_with_several_data_sets_per_video(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        for name, values in sequences().items():
            flat = name.replace("/", "_")
            file[f"{flat}/rgb"], file[f"{flat}/flow"], file[f"{flat}/frames"] = values, -values, 7
    with pytest.raises(BadInput, match=r"Every video in .* has 2 data sets: flow, rgb\.\nSay which: --dataset NAME"):
        bring(tmp_path / "x.hdf5", tmp_path / "s")
    with pytest.raises(UnknownName, match=r"no data set in .* 'rgbs'\. Did you mean 'rgb'"):
        bring(tmp_path / "x.hdf5", tmp_path / "s", dataset="rgbs")
    bring(tmp_path / "x.hdf5", tmp_path / "s", dataset="flow")
    require_equal(tmp_path / "s", {name.replace("/", "_"): -values for name, values in sequences().items()})


def test_hdf5_with_one_last_name(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        for name, values in sequences().items():
            file[f"{name}/c3d_features"] = values
    bring(tmp_path / "x.h5", tmp_path / "s")
    require_equal(tmp_path / "s", dict(sequences()))


@pytest.mark.parametrize("ends", ["offsets", "lengths", "rows"])
def test_hdf5_with_one_array_and_an_index(tmp_path: Path, ends: str) -> None:
    wanted: dict[str, Array] = dict(sequences())
    lengths = [len(values) for values in wanted.values()]
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["names"] = [name.encode() for name in wanted]
        file["class_ids"] = np.array([4, 2, 4])
        if ends == "rows":
            wanted = {name: values[0] for name, values in wanted.items()}
            file["features"] = np.stack(list(wanted.values()))
        else:
            file["features"] = np.concatenate(list(wanted.values()))
            file[ends] = np.cumsum([0, *lengths]) if ends == "offsets" else lengths
    done = bring(tmp_path / "x.h5", tmp_path / "s", array="embedding")
    assert done.format == "hdf5 array"
    spec = require_equal(tmp_path / "s", wanted, "embedding").spec("video", "embedding")
    assert (spec.shape, spec.layout) == (((6,), "") if ends == "rows" else ((None, 6), "steps"))


def test_hdf5_that_can_be_read_in_two_ways(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["names"] = [b"a", b"b"]
        file["rgb"], file["flow"] = np.zeros((2, 3), "f4"), np.ones((2, 3), "f4")
    with pytest.raises(BadInput, match=r"in several ways: flow by names, rgb by names\.\nSay which array: --dataset"):
        bring(tmp_path / "x.h5", tmp_path / "s")
    bring(tmp_path / "x.h5", tmp_path / "s", dataset="flow")
    require_equal(tmp_path / "s", {"a": np.ones(3), "b": np.ones(3)})


def as_npz(path: Path, values: Array) -> None:
    np.savez(path, features=values)


def as_tensor(path: Path, values: Array) -> None:
    torch.save(torch.from_numpy(np.asarray(values, np.float32)), path)


SAVERS: dict[str, Callable[[Path, Array], None]] = {
    ".npy": lambda path, values: np.save(path, values.astype(np.float64)),
    ".npz": as_npz,
    ".safetensors": lambda path, values: save_file({"features": np.ascontiguousarray(values)}, path),
    ".pt": as_tensor,
}


@pytest.mark.parametrize("suffix", SAVERS)
def test_folders_of_files(tmp_path: Path, suffix: str) -> None:
    for name, values in sequences().items():
        path = tmp_path / "in" / f"{name}.mp4{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        SAVERS[suffix](path, values)
    (tmp_path / "in" / "a" / ".hidden.npy").write_text("x")
    (tmp_path / "in" / "readme.txt").write_text("x")
    done = bring(tmp_path / "in", tmp_path / "s", dtype="fp32", time="first")
    assert (done.format, done.added, done.failed) == ("files", 3, ())
    require_equal(tmp_path / "s", {f"{n}.mp4": v for n, v in sequences().items()}, dtype=np.float32)


def test_folders_of_files_with_several_arrays(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for i in range(3):
        np.savez(tmp_path / "in" / f"{i}.npz", rgb=np.full((4, 2), i, "f4"), flow=np.full((4, 2), -i, "f4"))
    with pytest.raises(BadInput, match=r"0\.npz holds 2 arrays: flow, rgb"):
        bring(tmp_path / "in", tmp_path / "s")
    np.savez(tmp_path / "in" / "3.npz", other=np.zeros((4, 2), "f4"))
    done = bring(tmp_path / "in", tmp_path / "s", dataset="flow")
    assert [(name, "no array in" in reason) for name, reason in done.failed] == [("3", True)]
    require_equal(tmp_path / "s", {str(i): np.full((4, 2), -i) for i in range(3)})


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".pt"])
def test_one_file_of_many(tmp_path: Path, suffix: str) -> None:
    path, held = tmp_path / f"all{suffix}", sequences()
    if suffix == ".npz":
        np.savez(path, **held)
    elif suffix == ".pt":
        torch.save({name: torch.from_numpy(values) for name, values in held.items()} | {"epoch": 3}, path)
    else:
        save_file(dict(held), path)
    assert bring(path, tmp_path / "s").added == 3
    require_equal(tmp_path / "s", dict(held))


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_bf16_keeps_its_bits(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "in").mkdir()
    tensor = torch.randn(7, 5).to(torch.bfloat16)
    path = tmp_path / "in" / f"x{suffix}"
    torch.save(tensor, path) if suffix == ".pt" else save_tensors({"x": tensor}, path)
    bring(tmp_path / "in", tmp_path / "s", dtype="bf16")
    bits = open_store(tmp_path / "s").view(Key("video", "x"), "frames")
    np.testing.assert_array_equal(bits, tensor.view(torch.int16).numpy().view(np.uint16))


class Evil:
    """Would run, if it were unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("/nonexistent/never"),))


def test_files_that_cannot_be_read_cost_only_themselves(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    np.save(tmp_path / "in" / "good.npy", np.ones((4, 3), np.float32))
    np.save(tmp_path / "in" / "objects.npy", np.array([Evil()], object), allow_pickle=True)
    (tmp_path / "in" / "pickled.pt").write_bytes(pickle.dumps(Evil()))
    torch.save({"epoch": 3}, tmp_path / "in" / "empty.pt")
    (tmp_path / "in" / "short.npz").write_bytes(b"PK\x03\x04")
    save_file({"x": np.ones((4, 3), np.float32)}, tmp_path / "in" / "cut.safetensors")
    cut = tmp_path / "in" / "cut.safetensors"
    cut.write_bytes(cut.read_bytes()[:-4])
    np.save(tmp_path / "in" / "wide.npy", np.ones((6, 5), np.float32))
    np.save(tmp_path / "in" / "none.npy", np.ones((0, 3), np.float32))
    done = bring(tmp_path / "in", tmp_path / "s", made_by="hand")
    said = dict(done.failed)
    assert sorted(said) == ["cut", "empty", "none", "objects", "pickled", "short", "wide"]
    assert "tensor 'x' is cut short" in said["cut"]
    assert "holds no tensor but a dict" in said["empty"]
    assert "Python objects" in said["objects"]
    assert "it was cut short, or is no npz file" in said["short"]
    assert "cannot be read" in said["pickled"]
    assert "has the shape [6, 5]; its kind is declared as [L, 3]" in said["wide"]
    assert "is empty: [0, 3]" in said["none"]
    assert done.added == 1


def test_layouts(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for i in range(3):
        np.save(tmp_path / "in" / f"{i}.npy", np.full((8, 4), i, np.float32))
    bring(tmp_path / "in", tmp_path / "s", layout="frame-major")
    spec = open_store(tmp_path / "s").spec("video", "frames")
    assert (spec.shape, spec.layout) == ((8, 4), "frame-major")
    with pytest.raises(BadInput, match=r"--layout vector does not fit features of shape \[8, 4\]"):
        bring(tmp_path / "in", tmp_path / "t", layout="vector")
    with pytest.raises(BadInput, match=r"--fps and labels per frame need --layout steps, not frame-major"):
        bring(tmp_path / "in", tmp_path / "t", layout="frame-major", fps=1)
    np.save(tmp_path / "in" / "3.npy", np.full((8, 4, 2), 1, np.float32))
    assert bring(tmp_path / "in", tmp_path / "u").failed[0][0] == "3"
    assert not (tmp_path / "t").exists()


def test_labels_from_csv(tmp_path: Path) -> None:
    for name, values in sequences().items():
        path = tmp_path / "in" / f"{name}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, values)
    (tmp_path / "l.csv").write_text("Path,Class,Split,fps\na/one.mp4,walk,train,3\nthree,run,test,3\nz,run,test,3\n")
    done = bring(tmp_path / "in", tmp_path / "s", labels=tmp_path / "l.csv")
    assert (done.unlabelled, done.strangers) == (("b/two",), ("z",))
    rows = {row.name: (row.label, row.split) for row in load(tmp_path / "s").rows}
    assert rows == {"a/one": ("walk", "train"), "a/three": ("run", "test"), "b/two": ("", "")}
    (tmp_path / "l.jsonl").write_text('{"name": "b/two", "label": "sit"}\n')
    assert bring(tmp_path / "in", tmp_path / "s", labels=tmp_path / "l.jsonl").unlabelled == ("a/one", "a/three")
    rows = {row.name: (row.label, row.split) for row in load(tmp_path / "s").rows}
    assert rows == {"a/one": ("walk", "train"), "a/three": ("run", "test"), "b/two": ("sit", "")}


def test_labels_that_cannot_be_used(tmp_path: Path) -> None:
    path = tmp_path / "l.csv"
    with pytest.raises(MissingPath, match=r"no file of labels .*l\.csv"):
        read_labels(path)
    path.write_text("clip,what\na,b\n")
    with pytest.raises(BadInput, match=r"has the columns clip, what, and none of names\.\nGive it a header"):
        read_labels(path)
    path.write_text("name,start\na,soon\n")
    with pytest.raises(BadInput, match=r"l\.csv, line 2: could not convert string to float: 'soon'"):
        read_labels(path)
    path.write_text("name,label\na,b\n,c\n")
    with pytest.raises(BadInput, match=r"l\.csv, line 3: An annotation of '' cannot be used: its name is empty"):
        read_labels(path)
    path.write_bytes(b"name,label\n\xff\xfe,b\n")
    with pytest.raises(BadInput, match=r"is not UTF-8 text \(byte 11\)"):
        read_labels(path)
    path.write_text("name\nx.mp4\nx\n")
    with pytest.raises(BadInput, match=r"'a/x' has two rows of labels"):
        matched(read_labels(path), ["a/x"])
    assert matched(read_labels(path), ["a/x", "b/x"]) == ({}, ["x.mp4", "x"])


@pytest.mark.parametrize(
    ("written", "record"),
    [
        ("/home/user/SH_Train/01_9001_i3d.npy", "01_9001"),
        ("G:\\UCF_Train\\Abuse901_x264_i3d.npy", "Abuse901_x264"),
        ("AAAAAAAAAA0", "v_AAAAAAAAAA0"),
        ("v_BBBBBBBBBB1.mp4", "BBBBBBBBBB1"),
        ("walk/c", "walk/c.mp4"),
        ("c", "walk/c.mp4"),
    ],
)
def test_a_row_names_its_record_as_others_call_it(written: str, record: str) -> None:
    others = ["01_9001", "Abuse901_x264", "v_AAAAAAAAAA0", "BBBBBBBBBB1", "walk/c.mp4", "run/d.mp4"]
    rows, strangers = matched([Annotation(written, "x")], others)
    assert (list(rows), strangers) == ([record], [])


@pytest.mark.parametrize("separator", ",;\t")
def test_tables_of_labels_in_every_form(tmp_path: Path, separator: str) -> None:
    """Spreadsheets write semicolons, tabs, a byte order mark and carriage returns; rows may end early."""
    lines = [["Name", "Label", "Split"], ["b/two", '"sit, down; slowly"', "Training"], ["a/one", "walk"]]
    text = "\ufeff" + "".join(separator.join(line) + "\r\n" for line in lines)
    (tmp_path / "l.csv").write_bytes(text.encode())
    rows = read_labels(tmp_path / "l.csv")
    assert rows == (Annotation("b/two", "sit, down; slowly", "train"), Annotation("a/one", "walk"))
    (tmp_path / "l.jsonl").write_text('{"path": "b/two", "class": "sit", "more": 1}\n{"path": "a/one", "class": 7}\n')
    assert read_labels(tmp_path / "l.jsonl") == (Annotation("b/two", "sit"), Annotation("a/one", "7"))


def test_what_holds_nothing(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(BadInput, match=r"holds no \.npy, \.npz, .* file and is no MS-TCN folder .*its files are: none"):
        bring(tmp_path / "in", tmp_path / "s")
    (tmp_path / "x.h5").write_text("no")
    with pytest.raises(BadInput, match=r"x\.h5 is no HDF5 file"):
        bring(tmp_path / "x.h5", tmp_path / "s")
    with h5py.File(tmp_path / "y.h5", "w") as file:
        file["ids"] = np.arange(3)
    with pytest.raises(BadInput, match=r"y\.h5 holds no floating-point data set"):
        bring(tmp_path / "y.h5", tmp_path / "s")
    (tmp_path / "x.pt").write_text("no")
    with pytest.raises(BadInput, match=r"x\.pt cannot be read"):
        bring(tmp_path / "x.pt", tmp_path / "s")
    for suffix in (".npy", ".npz"):
        np.save(tmp_path / "in" / "twice.npy", np.ones((2, 2), np.float32))
        np.savez(tmp_path / "in" / "twice.npz", np.ones((2, 2), np.float32))
        with pytest.raises(BadInput, match=rf"Two sources would make the record 'twice': .*\.npy and .*{suffix[0]}npz"):
            bring(tmp_path / "in", tmp_path / "s")


def test_pt_without_torch_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_tensor(tmp_path / "x.pt", np.ones((2, 2)))
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtra, match=r"Reading .*x\.pt needs torch\.\npip install torch"):
        bring(tmp_path / "x.pt", tmp_path / "s")


def test_labels_by_folder_do_not_undo_what_was_corrected(tmp_path: Path) -> None:
    for name in ("a/one", "b/two"):
        path = tmp_path / "in" / f"{name}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.ones((4, 3), np.float32))
    bring(tmp_path / "in", tmp_path / "s")
    rows = (Annotation("a/one", "A", "train", "1"), Annotation("b/two", "b", "test", "2"))
    write_annotations(tmp_path / "s", "default", Annotations(rows))
    np.save(tmp_path / "in" / "b" / "three.npy", np.ones((4, 3), np.float32))
    bring(tmp_path / "in", tmp_path / "s")
    assert load(tmp_path / "s") == Annotations((*rows, Annotation("b/three", "b")))


def test_hdf5_whose_rows_can_be_divided_in_two_ways(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["names"], file["features"] = [b"a", b"b"], np.ones((5, 3), "f4")
        file["ends"], file["lengths"], file["offsets"] = np.array([2, 9]), np.array([2, 3]), np.array([0, 2, 5])
    bring(tmp_path / "x.h5", tmp_path / "s")
    assert [open_store(tmp_path / "s").length(Key("video", name), "frames") for name in "ab"] == [2, 3]
    with h5py.File(tmp_path / "x.h5", "a") as file:
        file["labels"] = np.array([4, 1])  # class ids whose sum happens to be the number of rows
    with pytest.raises(BadInput, match=r"in several ways: labels or lengths may say how many rows of features each of"):
        bring(tmp_path / "x.h5", tmp_path / "t")


def test_a_missing_file_of_labels_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    np.save(tmp_path / "in" / "a.npy", np.ones((3, 4), np.float32))
    with pytest.raises(MissingPath, match=r"There is no file of labels .*labels\.csv"):
        bring(tmp_path / "in", tmp_path / "s", labels=tmp_path / "labels.csv")
    assert not (tmp_path / "s").exists()


def test_labels_of_another_split_replace_all_splits(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in "abc":
        np.save(tmp_path / "in" / f"{name}.npy", np.ones((3, 4), np.float32))
    lists = {"one": {"a": "train", "b": "Test", "c": "train"}, "two": {"a": "test", "b": "training"}}
    for name, splits in lists.items():
        lines = [f"{video},x,{split}" for video, split in splits.items()]
        (tmp_path / f"{name}.csv").write_text("\n".join(["name,label,split", *lines]))
        done = bring(tmp_path / "in", tmp_path / "s", labels=tmp_path / f"{name}.csv")
        assert done.unsplit == (("c",) if name == "two" else ())
    assert {row.name: row.split for row in load(tmp_path / "s").rows} == {"a": "test", "b": "train", "c": ""}
