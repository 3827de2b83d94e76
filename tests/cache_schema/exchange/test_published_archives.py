"""Archives as they are published: video_features, crops, RULSTM's LMDB, MATLAB, and files that are not loaded."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pytest

from vfc.cache_schema import BadInput, Key, MissingExtra, UnknownName, open_store
from vfc.cache_schema.annotations import load
from vfc.cache_schema.exchange import ImportOptions, ImportReport, import_features
from vfc.cache_schema.exchange.video_features import split_suffix
from vfc.cache_schema.values.progress import Silent

Array = npt.NDArray[Any]


def bring(place: Path, out: Path, **options: object) -> ImportReport:
    return import_features(place, out, ImportOptions(**options), Silent())  # type: ignore[arg-type]


def shapes(out: Path) -> dict[tuple[str, int], dict[str, tuple[int, ...]]]:
    reader = open_store(out)
    arrays = [spec.name for spec in reader.kinds["video"]]
    return {(key.name, key.view): {a: reader.read(key, a).shape for a in arrays} for key in reader.keys("video")}


def saved(folder: Path, arrays: Mapping[str, Any]) -> Path:
    for name, values in arrays.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(folder / name, values)
    return folder


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("v_rgb_rgb", ("v_rgb", "rgb")),
        ("v_rgb_timestamps_ms", ("v_rgb", "timestamps_ms")),
        ("a/v_r21d", ("a/v", "r21d")),
        ("_rgb", ("_rgb", "")),
        ("a_b/rgb", ("a_b/rgb", "")),
        ("a/_flow", ("a/_flow", "")),
        ("clip_a", ("clip_a", "")),
    ],
)
def test_one_word_is_taken_off_a_name(name: str, parts: tuple[str, str]) -> None:
    assert split_suffix(name) == parts


@pytest.fixture
def i3d(tmp_path: Path) -> Path:
    """Three videos: one whose name ends in `_rgb`, one too short, whose features have no width; float64."""
    rgb = np.arange(12.0).reshape(3, 4)
    arrays: dict[str, Any] = {"a_rgb": rgb, "a_flow": -rgb[:, :3], "a_timestamps_ms": [2560.0, 5120, 7680]}
    arrays |= {"b_rgb_rgb": rgb[:2], "b_rgb_flow": -rgb[:2, :3], "b_rgb_timestamps_ms": [2560.0, 5120]}
    arrays |= {"c_rgb": np.zeros(0), "c_flow": np.zeros(0), "c_timestamps_ms": np.zeros(0)}
    return saved(tmp_path / "i3d", arrays | {f"{name}_fps": 25.0 for name in ("a", "b_rgb", "c")})


def test_two_streams_of_one_video(i3d: Path, tmp_path: Path) -> None:
    done = bring(i3d, tmp_path / "s")
    assert (done.added, [name for name, _ in done.failed]) == (2, ["c"])
    reader = open_store(tmp_path / "s")
    assert [(spec.name, spec.shape) for spec in reader.kinds["video"]] == [
        ("flow", (None, 3)),
        ("rgb", (None, 4)),
        ("seconds", (None,)),
    ]
    key = Key("video", "a")
    assert reader.read(key, "rgb").tolist() == np.arange(12.0).reshape(3, 4).tolist()
    assert reader.read(key, "flow").tolist() == (-np.arange(12.0).reshape(3, 4)[:, :3]).tolist()
    assert reader.read(key, "seconds").tolist() == [2.56, 5.12, 7.68]
    assert [key.name for key in reader.keys("video")] == ["a", "b_rgb"]


def test_streams_that_are_chosen(i3d: Path, tmp_path: Path) -> None:
    bring(i3d, tmp_path / "rgb", dataset="rgb")
    assert shapes(tmp_path / "rgb")["a", 0] == {"frames": (3, 4), "seconds": (3,)}
    bring(i3d, tmp_path / "both", dataset="rgb+flow")
    assert shapes(tmp_path / "both")["a", 0] == {"frames": (3, 7), "seconds": (3,)}
    assert open_store(tmp_path / "both").read(Key("video", "a"), "frames")[1].tolist() == [4, 5, 6, 7, -4, -5, -6]
    with pytest.raises(
        BadInput, match=r"holds rgb, flow features of video_features, not clip\.\n.*--dataset rgb\+flow"
    ):
        bring(i3d, tmp_path / "none", dataset="clip")
    with pytest.raises(BadInput, match=r"are streams of \[T, D\], and --layout frame-major is asked"):
        bring(i3d, tmp_path / "none", layout="frame-major")
    (i3d / "b_rgb_flow.npy").unlink()
    assert dict(bring(i3d, tmp_path / "t").failed)["b_rgb"] == "There is no b_rgb_flow file."
    np.save(i3d / "a_flow.npy", np.ones((2, 3)))
    np.save(i3d / "b_rgb_flow.npy", np.ones((2, 3)))
    reasons = dict(bring(i3d, tmp_path / "u").failed)
    assert "arrays of different lengths: {'rgb': 3, 'flow': 2, 'seconds': 3}" in reasons["a"]


def test_features_without_times(tmp_path: Path) -> None:
    saved(tmp_path / "in", {"a_r21d": np.ones((4, 8)), "b_rgb_r21d": np.ones((3, 8))})
    bring(tmp_path / "in", tmp_path / "s")
    assert shapes(tmp_path / "s") == {("a", 0): {"frames": (4, 8)}, ("b_rgb", 0): {"frames": (3, 8)}}
    # One name that ends otherwise: the folder is another archive, and its names are whole.
    saved(tmp_path / "in", {"other": np.ones((5, 8))})
    bring(tmp_path / "in", tmp_path / "t")
    assert [name for name, _ in shapes(tmp_path / "t")] == ["a_r21d", "b_rgb_r21d", "other"]


def test_crops_are_views(tmp_path: Path) -> None:
    crops = {name: np.random.default_rng(rows).random((rows, 10, 3)) for name, rows in [("x/one", 7), ("x/two", 5)]}
    done = bring(saved(tmp_path / "in", crops), tmp_path / "s")
    assert any("The 10 arrays of each file ([7, 10, 3]) are crops: views 0 to 9" in note for note in done.notes)
    reader = open_store(tmp_path / "s")
    assert len(list(reader.keys("video"))) == 20
    for name, values in crops.items():
        for crop in (0, 9):
            stored = reader.read(Key("video", name, crop), "frames")
            np.testing.assert_array_equal(stored, values[:, crop].astype(np.float32).astype(np.float16))
    assert [row.name for row in load(tmp_path / "s").rows] == ["x/one", "x/two"]
    # All of one length: nothing says that they are crops, so it has to be asked for.
    same = saved(tmp_path / "same", {name: np.ones((4, 10, 3)) for name in "ab"})
    done = bring(same, tmp_path / "t")
    assert (done.added, shapes(tmp_path / "t")["a", 0]) == (2, {"frames": (4, 10, 3)})
    assert "read as frame-major [T, N, D]; --layout crops for [T, crops, D]." in done.notes[0]
    assert bring(same, tmp_path / "u", layout="crops").added == 20
    with pytest.raises(BadInput, match=r"--layout crops does not fit features of shape \[4, 3\]"):
        bring(saved(tmp_path / "flat", {"a": np.ones((4, 3))}), tmp_path / "v", layout="crops")


def test_a_file_per_crop(tmp_path: Path) -> None:
    files = {f"Film__#00_label_A__{crop}": np.full((4, 3), crop) * 1.0 for crop in range(5)}
    bring(saved(tmp_path / "in", files), tmp_path / "s")
    assert list(shapes(tmp_path / "s")) == [("Film__#00_label_A", view) for view in range(5)]
    assert open_store(tmp_path / "s").read(Key("video", "Film__#00_label_A", 3), "frames")[0].tolist() == [3, 3, 3]
    saved(tmp_path / "in", {"Other__0": np.ones((4, 3))})  # not as many crops: names as they are
    bring(tmp_path / "in", tmp_path / "t")
    assert ("Other__0", 0) in shapes(tmp_path / "t")


def test_times_of_windows(tmp_path: Path) -> None:
    """ActionFormer: row i is centred on frame `i * stride + window / 2`; rates and splits from its JSON."""
    saved(tmp_path / "in", {"v_-a": np.ones((4, 3)), "b": np.ones((3, 3))})
    (tmp_path / "l.json").write_text(
        '{"database": {"-a": {"subset": "Validation", "fps": 25.0, "annotations": [{"label": "Run", "segment": [0, 1]},'
        '{"label": "Run", "segment": [2, 3]}]}, "b": {"subset": "Test", "fps": 30, "annotations": []}}}'
    )
    done = bring(tmp_path / "in", tmp_path / "s", labels=tmp_path / "l.json", stride=4, window=16)
    reader = open_store(tmp_path / "s")
    assert reader.read(Key("video", "v_-a"), "seconds").tolist() == [8 / 25, 12 / 25, 16 / 25, 20 / 25]
    assert reader.read(Key("video", "b"), "seconds").tolist() == [8 / 30, 12 / 30, 16 / 30]
    assert [(row.name, row.label, row.split) for row in load(tmp_path / "s").rows] == [
        ("b", "", "test"),
        ("v_-a", "Run", "val"),
    ]
    assert done.unlabelled == ("b",)
    bring(tmp_path / "in", tmp_path / "t", fps=30, stride=16)
    assert open_store(tmp_path / "t").read(Key("video", "b"), "seconds").tolist() == [8 / 30, 24 / 30, 40 / 30]
    with pytest.raises(BadInput, match=r"--stride is given without --fps"):
        bring(tmp_path / "in", tmp_path / "u", stride=16)
    with pytest.raises(BadInput, match=r"--window is given without --stride"):
        ImportOptions(window=4)


def test_a_clip_of_one_frame_is_one_step(tmp_path: Path) -> None:
    """AntGPT squeezes `[1, D]` to `[D]`."""
    saved(tmp_path / "in", {"a": np.ones((4, 3)), "b": np.arange(3.0), "c": np.ones((2, 3)), "d": np.ones(5)})
    done = bring(tmp_path / "in", tmp_path / "s")
    assert open_store(tmp_path / "s").read(Key("video", "b"), "frames").tolist() == [[0, 1, 2]]
    assert [name for name, _ in done.failed] == ["d"]


def test_rulstm(tmp_path: Path) -> None:
    lmdb = pytest.importorskip("lmdb", reason="the extra lmdb is not installed")
    keys = {"P01_1": (1, 9, 25), "P01_10": (1, 17)}
    for stream, width in (("rgb", 4), ("obj", 3)):
        (tmp_path / "in" / stream).mkdir(parents=True)
        with (
            lmdb.open(str(tmp_path / "in" / stream), map_size=1 << 20) as database,
            database.begin(write=True) as write,
        ):
            for video, frames in keys.items():
                for frame in frames:
                    write.put(f"{video}_frame_{frame:010d}.jpg".encode(), np.full(width, frame, np.float32).tobytes())
        (tmp_path / "in" / stream / "lock.mdb").unlink()
    done = bring(tmp_path / "in", tmp_path / "s")
    assert any("30 per second" in note for note in done.notes)
    reader = open_store(tmp_path / "s")
    assert shapes(tmp_path / "s") == {
        ("P01_1", 0): {"obj": (3, 3), "rgb": (3, 4), "seconds": (3,)},
        ("P01_10", 0): {"obj": (2, 3), "rgb": (2, 4), "seconds": (2,)},
    }
    assert reader.read(Key("video", "P01_1"), "rgb")[:, 0].tolist() == [1, 9, 25]
    assert reader.read(Key("video", "P01_1"), "seconds").tolist() == [0, 8 / 30, 24 / 30]
    assert not (tmp_path / "in" / "rgb" / "lock.mdb").exists()
    bring(tmp_path / "in" / "obj", tmp_path / "t", fps=60)
    assert shapes(tmp_path / "t")["P01_10", 0] == {"frames": (2, 3), "seconds": (2,)}
    assert open_store(tmp_path / "t").read(Key("video", "P01_10"), "seconds").tolist() == [0, 16 / 60]
    with pytest.raises(UnknownName, match=r"no database in .* 'flow'"):
        bring(tmp_path / "in", tmp_path / "u", dataset="flow")


def matlab_file(path: Path, names: list[str], arrays: list[Array]) -> None:
    """A file as MATLAB writes it with `-v7.3`: HDF5 behind 512 bytes, cells of references, everything transposed."""
    with h5py.File(path, "w", userblock_size=512) as file:
        cells = {"names": [np.frombuffer(n.encode("utf-16-le"), np.uint16)[:, None] for n in names]}
        cells["feats"] = [values.T for values in arrays]
        for cell, values in cells.items():
            references = np.empty((len(values), 1), h5py.ref_dtype)
            for i, one in enumerate(values):
                file[f"#refs#/{cell}{i}"] = one
                file[f"#refs#/{cell}{i}"].attrs["MATLAB_class"] = np.bytes_("char" if cell == "names" else "single")
                references[i, 0] = file[f"#refs#/{cell}{i}"].ref
            file.create_dataset(cell, data=references, dtype=h5py.ref_dtype)
        file["fps"] = np.ones((1, 1))
        file["empty"] = np.array([4.0, 0.0])
        file["empty"].attrs["MATLAB_empty"] = np.uint8(1)
    with open(path, "r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")


@pytest.mark.parametrize("version", ["7.3", "5"])
def test_matlab(tmp_path: Path, version: str) -> None:
    draw = np.random.default_rng(0)
    names, arrays = ["clip_a", "clip_é"], [draw.random((5, 6)).astype(np.float32) for _ in range(2)]
    path = tmp_path / "f.mat"
    if version == "7.3":
        matlab_file(path, names, arrays)
    else:
        scipy = pytest.importorskip("scipy.io", reason="the extra matlab is not installed")
        cell, texts = np.empty((1, 2), object), np.empty((1, 2), object)
        cell[0, :], texts[0, :] = arrays, names
        scipy.savemat(path, {"feats": cell, "names": texts, "fps": 25.0})
    done = bring(path, tmp_path / "s")
    assert (done.format, done.added) == ("matlab", 2)
    reader = open_store(tmp_path / "s")
    for name, values in zip(names, arrays, strict=True):
        np.testing.assert_array_equal(reader.read(Key("video", name), "frames"), values.astype(np.float16))
    with pytest.raises(UnknownName, match=r"no variable in .* 'feat'\. Did you mean 'feats'"):
        bring(path, tmp_path / "t", dataset="feat")


def test_matlab_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.mat").write_bytes(b"PK\x03\x04 no such thing")
    with pytest.raises(BadInput, match=r"is no MATLAB file: it begins b'PK"):
        bring(tmp_path / "a.mat", tmp_path / "s")
    (tmp_path / "b.mat").write_bytes(b"MATLAB 5.0 MAT-file".ljust(128))
    monkeypatch.setitem(__import__("sys").modules, "scipy.io", None)
    with pytest.raises(MissingExtra, match=r"needs scipy\.\npip install 'vfc\[matlab\]'"):
        bring(tmp_path / "b.mat", tmp_path / "s")


def test_pickles_are_not_loaded(tmp_path: Path) -> None:
    saved(tmp_path / "in", {"a": np.ones((4, 3)), "b": np.ones((2, 3))})
    np.save(tmp_path / "in/dict.npy", np.array({"x": np.ones(3)}, object), allow_pickle=True)
    (tmp_path / "in/c.pkl").write_bytes(pickle.dumps({"x": 1}))
    reasons = dict(bring(tmp_path / "in", tmp_path / "s").failed)
    assert sorted(reasons) == ["c", "dict"]
    assert "pickled Python objects, which can run code" in reasons["dict"]
    assert "numpy.savez('features.npz', **numpy.load(FILE, allow_pickle=True).item())" in reasons["dict"]
    assert "**pickle.load(open(FILE, 'rb'))" in reasons["c"]
    for place in (tmp_path / "in/c.pkl", tmp_path / "only"):
        (tmp_path / "only").mkdir(exist_ok=True)
        (tmp_path / "only/c.pkl").write_bytes(b"")
        with pytest.raises(BadInput, match=r"c\.pkl is a pickle, which can run code.*\nIf you trust its origin"):
            bring(place, tmp_path / "t")
    (tmp_path / "p.pt").write_bytes(pickle.dumps({"x": open}))
    with pytest.raises(BadInput, match=r"other things than tensors.*torch\.save\(tensor, FILE\)") as error:
        bring(tmp_path / "p.pt", tmp_path / "t")
    assert "weights_only" not in str(error.value)


def test_the_samples_of_the_shared_data(shared_data: Path, tmp_path: Path) -> None:
    """Names and shapes as the README of the samples says them."""
    base = shared_data / "archives"
    if not base.is_dir():
        pytest.skip("the shared data has no samples of archives")
    expected: dict[str, dict[tuple[str, int], tuple[int, ...]]] = {
        "video_features/clip/ViT-B_32": {("clip_a", 0): (5, 8), ("v_rgb", 0): (5, 8)},
        "rtfm_10crop": {
            (name, crop): (rows, 16) for name, rows in [("01_9001", 7), ("Abuse901_x264", 5)] for crop in range(10)
        },
        "per_crop_files": {("Example.Film__#00-01-02_00-01-09_label_G", crop): (4, 16) for crop in range(5)},
        "matlab73/features.mat": {("clip_a", 0): (6, 16), ("clip_b", 0): (4, 16), ("clip_é", 0): (3, 16)},
        "actionformer/i3d_features": {("video_test_9000002", 0): (122, 16), ("video_validation_9000001", 0): (192, 16)},
        "actionformer/epic_features": {("P91_01", 0): (12, 16)},
        "antgpt": {("0000b1b1-0000-4000-8000-00000000b1b1", 0): (75, 12)},
        "ms_tcn": {
            ("P91_cam01_P91_milk", 0): (40, 16),
            ("P92_cam01_P92_milk", 0): (33, 16),
            ("P93_webcam01_P93_milk", 0): (27, 16),
            ("P94_stereo01_P94_milk", 0): (30, 16),
        },
    }
    for folder, arrays in expected.items():
        out = tmp_path / folder.replace("/", "-")
        assert bring(base / folder, out).failed == ()
        assert {name: each["frames"] for name, each in shapes(out).items()} == arrays, folder
    seconds = open_store(tmp_path / "video_features-clip-ViT-B_32").read(Key("video", "v_rgb"), "seconds")
    assert seconds.tolist() == [0.0, 0.2, 0.4, 0.6, 0.8]
