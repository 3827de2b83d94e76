"""The demo's clips: the same from the same seed, real videos, and classes that only time tells apart."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from vfc.cache_schema.values.errors import BadInput, UnknownName
from vfc.extract.collection import collect
from vfc.extract.decode import read_clip
from vfc.extract.synthetic import CLASSES, REVERSED, SPLIT_OF, motion, render, render_clip, render_collection

SOME = ("grow", "move-left", "move-up", "swing")


class Recorded:
    def __init__(self) -> None:
        self.total = self.done = 0

    def begin(self, label: str, total: int | None, unit: str = "records") -> None:
        self.total = total or 0

    def advance(self, amount: int = 1, note: str = "") -> None:
        self.done += amount

    def say(self, line: str) -> None:
        raise AssertionError(line)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_splits_are_wide_enough_and_hold_pairs_together() -> None:
    counts = Counter(SPLIT_OF.values())
    assert counts["train"] >= 9
    assert min(counts["val"], counts["test"]) >= 5
    assert set(SPLIT_OF) == set(CLASSES)
    assert all(SPLIT_OF[label] == SPLIT_OF[other] for label, other in REVERSED.items())
    assert all(REVERSED[REVERSED[label]] == label for label in REVERSED)


def test_a_collection_of_real_videos(tmp_path: Path) -> None:
    progress = Recorded()
    table = render_collection(tmp_path, classes=SOME, clips_per_class=2, size=64, num_frames=16, progress=progress)
    assert (progress.total, progress.done) == (8, 8)
    collection = collect(table)
    assert {(video.label, video.split) for video in collection.videos} == {(label, SPLIT_OF[label]) for label in SOME}
    assert [video.name for video in collection.videos] == [f"{label}/00{i}.mp4" for label in SOME for i in (0, 1)]
    tree = collect(tmp_path)
    assert [(v.name, v.label) for v in tree.videos] == [(v.name, v.label) for v in collection.videos]
    for video in collection.videos:
        clip = read_clip(video.path, "all", 0)
        drawn = render_clip(video.label, int(video.path.stem), size=64, num_frames=16)
        assert clip.frames.shape == drawn.shape == (16, 64, 64, 3)
        assert clip.fps == 10
        assert clip.metadata()["codec"] == "h264"
        # Colours are stored at half the resolution, so edges differ; on the whole the picture is the one drawn.
        assert np.abs(clip.frames.astype(int) - drawn).mean() < 6


def test_the_same_seed_gives_the_same_bytes_and_more_clips_only_add(tmp_path: Path) -> None:
    for name, clips in (("one", 2), ("two", 2), ("more", 3)):
        render_collection(tmp_path / name, classes=SOME[:2], clips_per_class=clips, size=32, num_frames=5)
    one, two, more = (contents(tmp_path / name) for name in ("one", "two", "more"))
    assert one == two
    assert {k: v for k, v in one.items() if k.endswith("mp4")}.items() <= more.items()
    films = [render_clip("grow", i, seed=s, size=32, num_frames=5) for i, s in ((0, 0), (1, 0), (0, 1))]
    assert not any(np.array_equal(a, b) for i, a in enumerate(films) for b in films[:i])


def test_encoding_gives_the_same_bytes_whatever_memory_held_before(tmp_path: Path) -> None:
    # On a CPU with AVX-512, x264 as it is gave 2 to 5 different files here.
    clips = [render_clip(label, index, seed=0, size=80, num_frames=20) for label, index in (("grow", 2), ("grow", 8))]
    for frames in clips:
        files = set()
        for index in range(40):
            ballast = np.full(9973 * (index + 1), index, np.uint8)
            render.encode(tmp_path / "clip.mp4", frames)
            files.add((tmp_path / "clip.mp4").read_bytes())
            del ballast
        assert len(files) == 1


def test_an_interrupted_rendering_goes_on(tmp_path: Path) -> None:
    whole = contents(render_collection(tmp_path, classes=SOME, clips_per_class=2, size=32, num_frames=5).parent)
    (tmp_path / "grow/001.mp4").unlink()
    (tmp_path / "videos.csv").unlink()
    before = (tmp_path / "grow/000.mp4").stat().st_mtime_ns
    render_collection(tmp_path, classes=SOME, clips_per_class=2, size=32, num_frames=5)
    assert contents(tmp_path) == whole
    assert (tmp_path / "grow/000.mp4").stat().st_mtime_ns == before


@pytest.mark.parametrize("label", sorted(label for label in REVERSED if not label.startswith("zigzag")))
def test_a_pair_is_the_same_film_played_backwards(label: str) -> None:
    """With the same draws, the track of one class is the other's in reverse: same frames, other order."""

    def run(name: str) -> list[npt.NDArray[np.float64]]:
        still = np.ones(21)
        start = motion.Track(
            np.linspace(-0.5, 0.5, 21), 0.5 * still, 0.4 * still, 0.15 * still, still, still, np.random.default_rng(3)
        )
        track = motion.MOTIONS[SPLIT_OF[name]][name](start)
        return [track.x, track.y, track.radius, track.angle, track.strength]

    forwards, backwards = run(label), run(REVERSED[label])
    for here, there in zip(forwards, backwards, strict=True):
        assert np.allclose(here, there[::-1])
    assert any(not np.allclose(here, there) for here, there in zip(forwards, backwards, strict=True))


def centre_of_shape(frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """[T, 2] x and y of what differs from the background, which the corners and edges show."""
    image = frames.astype(float)
    rim = np.concatenate([image[:, 0], image[:, -1], image[:, :, 0], image[:, :, -1]], axis=1)
    weight = np.abs(image - np.median(rim, axis=(0, 1))).sum(-1)
    weight = np.where(weight > weight.max(axis=(1, 2), keepdims=True) * 0.6, weight, 0)
    middles = np.arange(image.shape[1])
    total = weight.sum((1, 2))
    return np.stack([(weight.sum(1) * middles).sum(1) / total, (weight.sum(2) * middles).sum(1) / total], axis=1)


@pytest.mark.parametrize(
    ("label", "axis", "way"), [("move-left", 0, -1), ("move-right", 0, 1), ("move-up", 1, -1), ("move-down", 1, 1)]
)
def test_directions_of_motion(label: str, axis: int, way: int) -> None:
    went = []
    for i in range(20):
        places = centre_of_shape(render_clip(label, i, num_frames=12))
        went.append(np.sign(places[-3:, axis].mean() - places[:3, axis].mean()) == way)
    assert np.mean(went) >= 0.9


def test_a_single_frame_does_not_show_the_class() -> None:
    """The nearest neighbour by the shape in one frame (place, size, contrast) is of the same class about by chance."""
    seen, labels = [], []
    for label in CLASSES:
        for i in range(16):
            frame = render_clip(label, i, size=32, num_frames=9)[np.random.default_rng(i).integers(9)].astype(float)
            away = np.abs(frame - np.median(frame, axis=(0, 1))).sum(-1)
            seen.append((away / (away.sum() + 1e-6)).reshape(8, 4, 8, 4).sum((1, 3)).ravel())
            labels.append(label)
    images, names = np.array(seen), np.array(labels)
    distance = np.square(images[:, None] - images[None]).sum(-1)
    np.fill_diagonal(distance, np.inf)
    assert (names[distance.argmin(1)] == names).mean() < 2.5 / len(CLASSES)


def test_invalid_render_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownName, match=r"no class of motion 'move-lft'\. Did you mean 'move-left'"):
        render_collection(tmp_path, classes=["move-lft"])
    with pytest.raises(UnknownName, match="no class of motion 'jump'"):
        render_clip("jump", 0)
    with pytest.raises(BadInput, match=r"(?s)33 x 33 pixels cannot be rendered.*even size"):
        render_collection(tmp_path, size=33)
    render_collection(tmp_path, classes=["grow"], clips_per_class=1, size=32, num_frames=3)
    with pytest.raises(
        BadInput, match=r"(?s)holds clips rendered with \{'seed': 0.*asked for: \{'seed': 1.*another folder"
    ):
        render_collection(tmp_path, classes=["grow"], seed=1, size=32, num_frames=3)
    monkeypatch.setattr(render.av, "codecs_available", {"mpeg4"})
    with pytest.raises(BadInput, match=r"cannot encode H\.264\.\nInstall it from its wheels"):
        render_collection(tmp_path / "other", classes=["grow"], clips_per_class=1, size=32, num_frames=3)
