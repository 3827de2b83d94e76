"""Records made smaller as they are written equal those made smaller afterwards; projections; int8; views."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from suites.checkpoints import clip_checkpoint
from suites.language import qwen2_checkpoint, video_llava_checkpoint
from suites.toy import write_clips
from torch.nn import functional

from vfc.cache_schema.reader import StoreReader, open_store
from vfc.cache_schema.reduction.projection import load_projection, same_projection
from vfc.cache_schema.reduction.reduce import Reduction
from vfc.cache_schema.upkeep import materialize
from vfc.cache_schema.values.errors import AxisMismatch, BadInput, Damaged, RecipeMismatch
from vfc.cache_schema.values.progress import Silent
from vfc.cache_schema.values.record import Dtype, Key
from vfc.extract.backbone import BackboneOptions, open_backbone
from vfc.extract.config import PlanConfig
from vfc.extract.decode import Decoders, read_clip
from vfc.extract.pipeline import prefetch as prefetch_module
from vfc.extract.pipeline.plan import plan
from vfc.extract.pipeline.run import ExtractConfig, Summary, extract

Run = Callable[..., Summary]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("weights")
    return {
        "video-llava": str(video_llava_checkpoint(folder / "tiny-video-llava")),
        "qwen2-vl": str(qwen2_checkpoint(folder / "tiny-qwen2")),
    }


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips"), 6)


@pytest.fixture
def settings(weights: dict[str, str], clips: Path, tmp_path: Path) -> dict[str, Any]:
    return {
        "videos": clips,
        "out": tmp_path / "store",
        "model": "video-llava",
        "checkpoint": weights["video-llava"],
        "layer": ("2", "3"),
        "num_frames": 4,
        "threads": 1,
    }


@pytest.fixture
def run(settings: dict[str, Any]) -> Run:
    return lambda **more: extract(ExtractConfig(**{**settings, **more}))


@pytest.fixture(autouse=True)
def _decode_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetch_module, "Decoders", lambda workers, seconds: Decoders(0, seconds))


def same(here: StoreReader, there: StoreReader, kind: str) -> None:
    keys = here.keys(kind)
    assert keys == there.keys(kind)
    for key in keys:
        for spec in here.kinds[kind]:
            assert np.array_equal(here.view(key, spec.name), there.view(key, spec.name)), (key, spec.name)


# The oracles here are written with numpy and torch alone, from the store that was not reduced.


def pooled_by_torch(tokens: Any, rows: int, columns: int) -> Any:
    """Frames of tokens `[T, rows, columns, D]` onto a grid of 1 x 2, as `[T, 2, D]`."""
    frames = torch.from_numpy(tokens).reshape(-1, rows, columns, tokens.shape[-1]).permute(0, 3, 1, 2)
    return functional.adaptive_avg_pool2d(frames, (1, 2)).flatten(2).permute(0, 2, 1).numpy()


def test_pooled_tokens_are_the_means_over_cells_of_each_frame(
    run: Run, tmp_path: Path, weights: dict[str, str]
) -> None:
    run(dtype="fp32", out=tmp_path / "unreduced")
    run(dtype="fp32", pool="1x2")
    with open_store(tmp_path / "unreduced") as unreduced, open_store(tmp_path / "store") as store:
        assert store.spec("video", "layer3.visual").shape == (4, 3, 32)
        for key in unreduced.keys("video"):
            tokens = unreduced.read(key, "layer3.visual")
            expected = np.concatenate([tokens[:, :1], pooled_by_torch(tokens[:, 1:], 2, 2)], axis=1)
            np.testing.assert_allclose(store.read(key, "layer3.visual"), expected, rtol=0, atol=1e-6)
            assert np.ptp(expected) > 0.1


def test_a_grid_that_follows_the_video_is_pooled_frame_by_frame(
    run: Run, tmp_path: Path, weights: dict[str, str]
) -> None:
    settings = {"model": "qwen2-vl", "checkpoint": weights["qwen2-vl"], "dtype": "fp32"}
    run(**settings, out=tmp_path / "unreduced")
    run(**settings, pool="1x2")
    with open_store(tmp_path / "unreduced") as unreduced, open_store(tmp_path / "store") as store:
        for key in unreduced.keys("video"):
            frames, rows, columns = (int(size) for size in unreduced.read(key, "visual.grid"))
            assert columns > 2, "nothing would be averaged along a row"
            tokens = unreduced.read(key, "layer3.visual")
            assert len(tokens) == frames * rows * columns
            expected = pooled_by_torch(tokens, rows, columns).reshape(-1, tokens.shape[-1])
            np.testing.assert_allclose(store.read(key, "layer3.visual"), expected, rtol=0, atol=1e-6)
            assert store.read(key, "visual.grid").tolist() == [frames, 1, 2]


@pytest.mark.parametrize("model", ["video-llava", "qwen2-vl"])
def test_pooled_at_extraction_is_pooled_afterwards(
    run: Run, tmp_path: Path, model: str, weights: dict[str, str]
) -> None:
    given = {"model": model, "checkpoint": weights[model]}
    run(**given, out=tmp_path / "whole")
    run(**given, pool="1x2")
    names = ("layer2.visual", "layer3.visual")
    materialize(tmp_path / "whole", Reduction(pool="1x2"), Silent(), out=tmp_path / "after", arrays=names)
    with open_store(tmp_path / "store") as here, open_store(tmp_path / "after") as there:
        assert set(here.kinds["video"]) == set(there.kinds["video"])
        same(here, there, "video")
        assert here.recipe.fields["shrink"] == {"pool": "1x2"}
    with open_store(tmp_path / "store") as here, open_store(tmp_path / "whole") as there:
        same(here, there, "prompted")
    if model == "video-llava":
        with open_store(tmp_path / "store") as here:
            (spec, _) = here.kinds["video"]
            assert (spec.shape, spec.layout) == ((4, 3, 32), "frame-major, cls first in frame, grid 1x2")
    with pytest.raises(RecipeMismatch, match="shrink"):
        run(**given)


@pytest.mark.parametrize("fit", ["no mean", "mean", "0.1"])
def test_a_projection_is_fitted_once_on_the_first_videos_by_hash(
    run: Run, tmp_path: Path, clips: Path, fit: str
) -> None:
    run(dtype="fp32", out=tmp_path / "whole")
    given: dict[str, Any] = {"dtype": "fp32", "project": "pca:8", "fit_records": 4}
    given |= {"mean": {"project_mean": True}, "0.1": {"project_fit": "0.1"}}.get(fit, {})
    first = run(**given)
    assert first.done == 12
    names = [path.relative_to(clips).as_posix() for path in clips.rglob("*.mp4")]
    chosen = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())[:4]
    with open_store(tmp_path / "whole") as whole, open_store(tmp_path / "store") as here:
        for kind, array in (("video", "layer3.visual"), ("prompted", "layer3.text")):
            keys = whole.keys(kind)
            rows = np.concatenate([whole.read(key, array).reshape(-1, 32) for key in keys if key.name in chosen])
            mean = rows.mean(axis=0, dtype=np.float64) * (fit != "no mean")
            _, _, directions = np.linalg.svd(rows - mean, full_matrices=False)
            found = load_projection(tmp_path / "store", array)
            assert found is not None
            assert found.about["rows"] == len(rows)
            largest = np.abs(found.basis).argmax(axis=0)
            assert (found.basis[largest, np.arange(8)] > 0).all()
            for key in keys:
                values, projected = whole.read(key, array), here.read(key, array)
                expected = (values - mean) @ directions[:8].T
                # Which way a direction points is free, but one and the same for all records.
                signs = np.sign((expected * projected).reshape(-1, 8).sum(axis=0))
                np.testing.assert_allclose(projected, expected * signs, rtol=0, atol=1e-4)
        recipe = {"project": "pca:8", "fit_records": 4, "seed": 0}
        if fit != "0.1":
            recipe |= {"mean": "none" if fit == "no mean" else "subtracted", "fitted_on": "all"}
        assert here.recipe.fields["shrink"] == recipe
        assert here.spec("prompted", "layer3.text").shape == (None, 8)
    assert run(**given).done == 0


def test_a_pca_is_fitted_on_training_videos_where_a_split_is_known(run: Run, tmp_path: Path, clips: Path) -> None:
    rows = [
        f"{path.relative_to(clips).as_posix()},{'test' if i else 'train'}"
        for i, path in enumerate(clips.rglob("*.mp4"))
    ]
    (tmp_path / "list.csv").write_text("\n".join(["path,split", *rows]) + "\n")
    given: dict[str, Any] = {"videos": tmp_path / "list.csv", "root": clips, "project": "pca:4", "dtype": "fp32"}
    run(**given)
    found = load_projection(tmp_path / "store", "layer3.visual")
    assert found is not None
    assert found.about["rows"] == 4 * 5, "one video of four frames with five tokens each"
    with open_store(tmp_path / "store") as store:
        assert store.recipe.fields["shrink"]["fitted_on"] == "train"  # type: ignore[index,call-overload]
    with pytest.raises(RecipeMismatch, match=r'shrink.fitted_on: "train" there, "all" asked'):
        run(**given, project_fit="all")
    with pytest.raises(BadInput, match=r"fitted on training videos, and no video has the split train"):
        run(project="pca:4", project_fit="train", out=tmp_path / "other")
    assert run(project="pca:4", project_fit="train", dtype="fp32").failed == (), "the projection is there"


@pytest.mark.parametrize("rule", ["pca:12", "random:12"])
def test_frames_and_texts_of_one_space_get_one_basis(run: Run, tmp_path: Path, rule: str) -> None:
    given: dict[str, Any] = {
        "model": "clip",
        "checkpoint": str(clip_checkpoint(tmp_path / "tiny-clip")),
        "layer": ("1",),
        "dtype": "fp32",
    }
    texts: dict[str, Any] = {"texts": "classes", "text_layer": ("2",)}
    run(**given, **texts, out=tmp_path / "whole")
    run(**given, project=rule)
    run(**given, project=rule, **texts)
    one, other = (load_projection(tmp_path / "store", name) for name in ("frames", "embedding"))
    assert one is not None
    assert other is not None
    assert one.digest == other.digest
    assert not one.mean.any()
    with open_store(tmp_path / "whole") as whole, open_store(tmp_path / "store") as store:
        for kind, name in (("video", "frames"), ("text", "embedding")):
            for key in whole.keys(kind):
                expected = whole.read(key, name) @ one.basis
                np.testing.assert_allclose(store.read(key, name), expected, rtol=0, atol=1e-5)
        text = whole.keys("text")[0]
        assert np.array_equal(store.read(text, "layer2.text"), whole.read(text, "layer2.text"))
        frames, embedding = store.spec("video", "frames"), store.spec("text", "embedding")
        assert same_projection(store.root, frames, embedding)
        assert not same_projection(store.root, frames, store.spec("video", "layer1.visual"))
        assert store.recipe.fields["shrink"]["one_basis"] == [["embedding", "frames"]]  # type: ignore[index,call-overload]
    materialize(tmp_path / "store", Reduction(project="random:4"), Silent(), name="less", arrays=("frames",))
    with open_store(tmp_path / "store" / "derived" / "less") as less:
        assert not same_projection(less.root, less.spec("video", "frames"), embedding)


def test_ranks_and_later_prompts_take_the_projection_that_is_there(run: Run, tmp_path: Path) -> None:
    given = {"project": "random:4", "fit_records": 2, "seed": 5}
    alone = run(**given, prompt=("unknown", "unknown-temporal"), out=tmp_path / "alone")
    for rank in range(2):
        run(**given, prompt=("unknown",), rank=rank, world_size=2)
    before = {path.name: path.stat().st_ino for path in (tmp_path / "store" / "projection").iterdir()}
    assert run(**given, prompt=("unknown", "unknown-temporal")).digest == alone.digest
    assert {path.name: path.stat().st_ino for path in (tmp_path / "store" / "projection").iterdir()} == before


def test_records_whose_projection_is_lost_are_not_joined_by_others(run: Run, tmp_path: Path, clips: Path) -> None:
    given = {"project": "pca:4", "fit_records": 2}
    first = run(**given, rank=0, world_size=2).done
    (tmp_path / "store" / "projection").rename(tmp_path / "away")
    for more in ({"rank": 1, "world_size": 2}, {"prompt": ("unknown", "unknown-temporal")}):
        with pytest.raises(Damaged, match=r"went through a projection of 'layer2\.text', .* is missing\.\nCopy"):
            run(**given, **more)
    (tmp_path / "away").rename(tmp_path / "store" / "projection")
    assert 0 < run(**given).done == 12 - first


def test_what_is_kept_of_the_energy_is_said(settings: dict[str, Any]) -> None:
    said: list[str] = []

    class Saying(Silent):
        def say(self, line: str) -> None:
            said.append(line)

    extract(ExtractConfig(**settings, project="pca:31", fit_records=3), Saying())
    assert "Fitting pca:31 of layer2.visual, layer3.visual, layer2.text, layer3.text on 3 videos." in said
    (line,) = [line for line in said if line.startswith("layer3.visual: pca:31 of 32 keeps")]
    assert 99 < float(line.split("keeps ")[1].split(" %")[0]) <= 100


def test_int8_is_for_tokens_and_text_stays_bf16(run: Run, tmp_path: Path) -> None:
    run(dtype="fp32", out=tmp_path / "whole", num_frames=8)
    run(dtype="int8", num_frames=8)
    with open_store(tmp_path / "whole") as whole, open_store(tmp_path / "store") as here:
        assert {spec.dtype for spec in here.kinds["video"]} == {"int8"}
        assert {spec.dtype for spec in here.kinds["prompted"]} == {"bf16", "int64"}
        keys = whole.keys()
        for key in keys:
            name = "layer2.visual" if key.kind == "video" else "layer2.text"
            one, other = whole.read(key, name), here.read(key, name)
            assert np.linalg.norm(one - other) < 0.02 * np.linalg.norm(one)
        (key, *_) = whole.keys("video")
        largest = np.abs(whole.read(key, "layer2.visual")).reshape(-1, 32).max(axis=0)
        np.testing.assert_allclose(here.scale(key, "layer2.visual"), largest / 127, rtol=1e-6)


def test_texts_beside_int8_stay_fp16(run: Run, tmp_path: Path) -> None:
    given = {
        "model": "clip",
        "checkpoint": str(clip_checkpoint(tmp_path / "tiny-clip")),
        "keep": ("visual", "embedding", "text"),
        "texts": "classes",
        "text_layer": ("2",),
    }
    run(**given, dtype="fp32", out=tmp_path / "whole")
    assert run(**given, dtype="int8").failed == ()
    with open_store(tmp_path / "whole") as whole, open_store(tmp_path / "store") as here:
        assert {spec.dtype for spec in here.kinds["video"]} == {"int8"}
        assert {spec.name: spec.dtype for spec in here.kinds["text"] if spec.dtype != "int64"} == {
            "embedding": "fp16",
            "layer2.text": "fp16",
        }
        for key in whole.keys("text"):
            for name in ("embedding", "layer2.text"):
                one = whole.read(key, name)
                assert np.array_equal(here.read(key, name), one.astype(np.float16).astype(np.float32))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"dtype": "int8"}, r"would have 20 rows per record; int8 .* needs 32"),
        ({"pool": "3x3"}, r"'layer2.visual' cannot be pooled with '3x3': its frames have 2x2 tokens"),
        ({"pool": "big"}, r"--pool 'big' is no grid"),
        ({"project": "pca:99"}, r"'layer2.visual' has 32 dimensions; 'pca:99' asks for 99"),
        ({"project": "lda:3"}, r"--project 'lda:3' is no projection"),
        ({"fit_records": 0}, r"--fit-records is 0"),
    ],
)
def test_what_cannot_be_made_smaller_so(run: Run, tmp_path: Path, more: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        run(**more)
    assert not (tmp_path / "store").exists()


def test_vectors_of_frames_have_nothing_to_pool(run: Run, shared_data: Path) -> None:
    weights = str(shared_data / "weights" / "mobilenet_v1_1.0_224_hf")
    with pytest.raises(BadInput, match=r"--pool mean is for tokens of frames, and there are none: frames"):
        run(model="image", checkpoint=weights, layer=(), keep=("frames",), pool="mean")


def test_a_plan_counts_what_is_left(settings: dict[str, Any], run: Run, tmp_path: Path) -> None:
    dtype: Dtype = "fp16"
    told = plan(PlanConfig(**settings, pool="1x1", project="random:16", dtype=dtype, views=("three-crops",)))
    video, prompted = told.kinds
    assert (video.to_do, prompted.to_do) == (24, 24)
    assert video.record_bytes == 2 * 4 * 2 * 16 * 2
    assert not (tmp_path / "store").exists()
    run(pool="1x1", project="random:16", dtype=dtype, views=("three-crops",))
    with open_store(tmp_path / "store") as reader:
        rows = np.mean([reader.length(key, "text.ids") for key in reader.keys("prompted")])
    assert prompted.record_bytes == pytest.approx(rows * (2 * 16 * 2 + 16), rel=0.02)


# Views


def jittered(frames: Any, brightness: float, contrast: float, saturation: float) -> Any:
    """Brightness about 0, contrast about the mean luma of the clip, saturation about the luma of each pixel."""
    luma = np.array([0.299, 0.587, 0.114])
    bright = frames * brightness
    mean = (bright @ luma).mean()
    contrasted = (bright - mean) * contrast + mean
    grey = (contrasted @ luma)[..., None]
    return np.clip(np.rint((contrasted - grey) * saturation + grey), 0, 255).astype(np.uint8)


def test_every_view_is_a_record_of_its_own(run: Run, tmp_path: Path, clips: Path, weights: dict[str, str]) -> None:
    asked = ("three-crops", "clips:2", "augment:1")
    assert run(dtype="fp32", views=asked, seed=4, flip=False).done == 6 * 2 * (1 + 3 + 2 + 1)
    options = BackboneOptions(weights["video-llava"], layers=("2", "3"), num_frames=4, storage="fp32", prompts=True)
    backbone: Any = open_backbone("video-llava", options)
    backbone.load()
    name = "kick/003.mp4"
    clip, twice = (read_clip(clips / name, "tsn-centre", count) for count in (4, 8))
    with open_store(tmp_path / "store") as reader:
        keys = reader.keys()
        assert {key.view for key in keys} == {0, 1, 2, 3, 201, 202, 10001}
        assert set(reader.axes("view")) == {"1", "2", "3", "201", "202", "10001"}
        about: Any = reader.metadata(Key("video", name, 10001))
        top, left, rows, columns = about["box"]
        assert rows * columns < 24 * 32
        copy = jittered(clip.frames[:, top : top + rows, left : left + columns], *about["jitter"])
        # A frame has 24 x 32 pixels; the squares along its longer side begin at columns 0, 4 and 8.
        crops = {view: clip.frames[:, :, 4 * (view - 1) : 4 * (view - 1) + 24] for view in (1, 2, 3)}
        frames = {0: clip.frames, **crops, 201: twice.frames[:4], 202: twice.frames[4:], 10001: copy}
        for view, pixels in frames.items():
            (tensors,) = backbone.encode_videos([backbone.pixels(replace(clip, frames=pixels)).tensors])
            key = Key("video", name, view)
            tolerance = 5e-3 if view == 10001 else 0  # a grey level may round the other way
            expected = tensors["layer3.visual"].numpy()
            np.testing.assert_allclose(reader.read(key, "layer3.visual"), expected, rtol=0, atol=tolerance)
            numbers = {201: twice.indices[:4], 202: twice.indices[4:]}.get(view, clip.indices)
            assert reader.metadata(key)["indices"] == numbers.tolist()
        assert "jitter" in reader.metadata(Key("prompted", name, 10001, "unknown"))
        assert len(reader.join("video", "prompted")) == 6 * 7


def test_views_can_be_added_and_mean_one_thing(run: Run, tmp_path: Path) -> None:
    plain = run()
    added = run(views=("augment:1",))
    assert (added.done, added.skipped) == (12, 12)
    assert run(views=("augment:2",)).done == 12, "copies nest"
    assert run().digest != plain.digest
    with pytest.raises(AxisMismatch, match=r"view '10001' of .* means .*\"seed\": 0.*; asked: .*\"seed\": 1"):
        run(views=("augment:1",), seed=1)
    assert run(views=("augment:2",)).done == 0
