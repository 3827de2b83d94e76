"""Exports for toolkits of action detection: files and JSON as these read them; the same store when they come back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from suites.checkpoints import clip_checkpoint, image_checkpoint, videomae_checkpoint
from suites.i3d import i3d_checkpoint
from suites.toy import write_clip

from vfc.cache_schema import ArraySpec, BadInput, Key, Recipe, Record, StoreWriter, open_store
from vfc.cache_schema.exchange import ImportOptions, export, import_features
from vfc.cache_schema.upkeep import convert
from vfc.cache_schema.values.progress import Silent
from vfc.extract.backbones.viclip.tiny import write_tiny_viclip
from vfc.extract.config import ExtractConfig
from vfc.extract.pipeline.run import extract

QUIET = Silent()
RATE = 10  # of the clips
FRAMES = {"hug/a.mp4": 30, "kick/b.mp4": 75}
FAMILIES: dict[str, tuple[Any, dict[str, Any], float]] = {
    # checkpoint, settings, frames per second that the windows are cut from
    "i3d": (i3d_checkpoint, {"frames": "all", "window": 10, "stride": 10}, 10),
    "videomae": (videomae_checkpoint, {"frames": "stride:2", "window": 4, "stride": 3, "border": "repeat"}, 5),
    "viclip": (write_tiny_viclip, {"frames": "all", "window": 8, "stride": 8, "dtype": "fp32"}, 10),
    "clip": (clip_checkpoint, {"frames": "fps:5", "window": 6, "stride": 2, "border": "zero", "dtype": "bf16"}, 5),
    "image": (lambda folder: image_checkpoint(folder, "vit"), {"frames": "all", "window": 5, "stride": 1}, 10),
}


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for number, (name, frames) in enumerate(FRAMES.items()):
        write_clip(folder / name, number, frames=frames)
    return folder


def extracted(family: str, videos: Path, place: Path, **more: Any) -> Path:
    write, settings, _ = FAMILIES[family]
    given = {"checkpoint": str(write(place / "tiny")), "threads": 1, "decode_workers": 1, "device": "cpu"}
    extract(ExtractConfig(videos=videos, model=family, out=place / "store", **{**given, **settings, **more}))
    return place / "store"


@pytest.mark.parametrize("family", FAMILIES)
def test_windows_of_every_family_are_read_by_toolkits_and_come_back(family: str, videos: Path, tmp_path: Path) -> None:
    store, out = extracted(family, videos, tmp_path), tmp_path / "detection"
    report = export(store, out, "detection", QUIET)
    assert (report.records, report.arrays) == (2, ("frames", "seconds"))
    about = json.loads((out / "features.json").read_text())
    _, settings, rate = FAMILIES[family]
    assert (about["window"], about["stride"], about["model"]) == (settings["window"], settings["stride"], family)
    assert set(about["database"]) == {"hug/a", "kick/b"}
    with open_store(store) as reader:
        for name, video in about["database"].items():
            key = Key("video", f"{name}.mp4")
            rows, seconds = reader.read(key, "frames"), reader.read(key, "seconds")
            features = np.load(out / "features" / f"{name}.npy")
            assert features.shape == (video["steps"], about["dimensions"])
            np.testing.assert_array_equal(features.astype(np.float32), rows)
            np.testing.assert_array_equal(np.load(out / "seconds" / f"{name}.npy"), seconds)
            # The formula of the toolkits: the middle of each window, here the frame after it of an even number.
            middles = about["offset"] + np.arange(video["steps"]) * about["stride"] + about["window"] // 2
            np.testing.assert_allclose(middles / video["fps"], seconds, atol=1e-6)
            assert video["fps"] == rate
            assert video["frames"] == -(-FRAMES[key.name] // (RATE / rate))
            assert video["duration"] == FRAMES[key.name] / RATE
            assert (video["label"], video["subset"]) == (name.partition("/")[0], "")
    assert import_features(out, tmp_path / "again", ImportOptions(), QUIET).added == 2
    with open_store(store) as one, open_store(tmp_path / "again") as other:
        assert one.digest == other.digest
        assert one.recipe == other.recipe
        for key in one.keys("video"):
            for array in ("frames", "seconds"):
                assert one.read(key, array).tobytes() == other.read(key, array).tobytes()


def test_an_int8_store_its_views_and_a_second_run(videos: Path, tmp_path: Path) -> None:
    store = extracted("image", videos, tmp_path, views=("three-crops",), frames="all", stride=1, window=5)
    convert(store, tmp_path / "int8", "int8", QUIET)
    out = tmp_path / "out"
    export(tmp_path / "int8", out, "detection", QUIET)
    about = json.loads((out / "features.json").read_text())
    assert set(about["database"]) == {"kick/b", "kick/b@1", "kick/b@2", "kick/b@3"}  # too few rows in hug/a for int8
    assert (about["database"]["kick/b@2"]["view"], about["window"], about["stride"]) == (2, 5, 1)
    assert np.load(out / "features" / "kick" / "b@2.npy").dtype == np.float32
    (out / "features" / "kick" / "b.npy").write_bytes(b"spoilt")
    again = export(tmp_path / "int8", out, "detection", QUIET)
    assert (again.present, again.mended) == (3, 1)
    import_features(out, tmp_path / "again", ImportOptions(), QUIET)
    assert open_store(tmp_path / "int8").digest == open_store(tmp_path / "again").digest


def store_of(root: Path, names: list[str], *specs: ArraySpec) -> Path:
    with StoreWriter(root, Recipe({"imported": {"fps": 5.0}})) as writer:
        writer.declare("video", specs)
        for name in names:
            shapes = {spec.name: [3 if size is None else size for size in spec.shape] for spec in specs}
            writer.add(Record(Key("video", name), {name: np.ones(shape, np.float32) for name, shape in shapes.items()}))
    return root


def test_an_import_is_a_step_per_frame_and_equal_ids_stay_apart(tmp_path: Path) -> None:
    store = store_of(tmp_path / "store", ["a.mp4", "a.avi", "b.v2"], ArraySpec("frames", "fp16", (None, 4), "steps"))
    export(store, tmp_path / "out", "detection", QUIET)
    about = json.loads((tmp_path / "out" / "features.json").read_text())
    assert (about["window"], about["stride"], about["offset"]) == (1, 1, 0)
    files = {video["name"]: video["file"] for video in about["database"].values()}
    assert len(set(files.values())) == 3
    assert files["b.v2"] == "features/b.v2.npy"
    assert {video["fps"] for video in about["database"].values()} == {5.0}
    import_features(tmp_path / "out", tmp_path / "again", ImportOptions(), QUIET)
    assert open_store(store).digest == open_store(tmp_path / "again").digest


def test_what_is_no_vector_per_step_is_refused(tmp_path: Path) -> None:
    tokens = ArraySpec("layer1.visual", "fp16", (None, 5, 4), "frame-major")
    one, other = (ArraySpec(name, "fp16", (None, 4), "steps") for name in ("rgb", "flow"))
    with pytest.raises(BadInput, match=r"there: layer1\.visual \[L, 5, 4\]\.\nMake one: vfc store materialize"):
        export(store_of(tmp_path / "tokens", ["a"], tokens), tmp_path / "out", "detection", QUIET)
    both = store_of(tmp_path / "both", ["a"], one, other)
    with pytest.raises(BadInput, match=r"asked: the only one; there: .*\nGive --array with one of them: "):
        export(both, tmp_path / "out", "detection", QUIET)
    assert not (tmp_path / "out").exists()
    assert export(both, tmp_path / "out", "detection", QUIET, arrays=("flow",)).arrays == ("flow",)
