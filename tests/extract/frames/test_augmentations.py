"""Published views: frames and crops of tests by slow formulas, boxes counted out, pictures against slow convolution."""

from __future__ import annotations

import colorsys
from fractions import Fraction
from math import exp, floor, log

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vfc.cache_schema.values.errors import BadInput
from vfc.extract.decode import Clip
from vfc.extract.decode.sampling import fixed_count, frame_indices
from vfc.extract.frames.augmentations import (
    AREA,
    RATIO,
    SCALES,
    SIDE,
    msta,
    random_box,
    recoloured,
    scaled_box,
    vidprism,
    view_generator,
)
from vfc.extract.frames.views import View, views


def by_number(*asked: str, pipeline: str = "plain", **more: int) -> dict[int, View]:
    return {view.number: view for view in views(asked, pipeline=pipeline, **more)[1:]}  # type: ignore[arg-type]


def clip_of(frames: int = 2, height: int = 36, width: int = 64, seed: int = 0) -> Clip:
    """The same smooth picture in every frame."""
    rows, columns = np.arange(height)[:, None, None], np.arange(width)[None, :, None]
    wave = 127 + 120 * np.sin(rows / 5 + np.array([0, 1, 2]) + seed) * np.cos(columns / 7 - np.array([0, 2, 1]))
    pixels = np.repeat(wave.astype(np.uint8)[None], frames, axis=0)
    return Clip(pixels, np.arange(frames) / 25, np.arange(frames), 25.0, frames)


@given(st.integers(1, 40), st.integers(0, 400), st.integers(1, 8))
def test_clips_in_time_start_at_even_offsets(n: int, more: int, clips: int) -> None:
    total = n + more
    segment = Fraction(total, n)
    for clip in range(clips):
        offset = (segment - 1) * clip / (clips - 1) if clips > 1 else Fraction(0)
        slow = [floor(offset + k * segment) for k in range(n)]
        found = frame_indices(f"shifted:{clip + 1}/{clips}", n, total, 25.0)
        assert found.tolist() == slow
        assert found[-1] < total
    # The published words, in floats: fractions may fall on either side of a whole number only where they touch it.
    floats = np.linspace(0, total / n - 1, clips)[-1] + np.arange(n) * (total / n)
    assert np.abs(frame_indices(f"shifted:{clips}/{clips}", n, total, 25.0) - floats.astype(int)).max() <= 1


def test_the_rule_of_a_clip() -> None:
    assert fixed_count("shifted:2/4")
    assert frame_indices("shifted:1/1", 4, 10, 25.0).tolist() == frame_indices("hf-arange", 4, 10, 25.0).tolist()
    assert frame_indices("shifted:1/2", 4, 2, 25.0).tolist() == [0, 1, 1, 1]
    for rule in ("shifted", "shifted:0/4", "shifted:5/4", "shifted:2", "shifted:a/b"):
        with pytest.raises(BadInput, match=r"needs a clip and how many there are\.\nshifted:2/4 takes clip 2 of 4"):
            frame_indices(rule, 4, 10, 25.0)


def test_numbers_of_published_views() -> None:
    found = by_number("test:4x3", pipeline="vidprism")
    assert list(found) == [1_004_000 + 10 * clip + crop for clip in (1, 2, 3, 4) for crop in (1, 2, 3)]
    assert [found[1_004_020 + crop].rule for crop in (1, 2, 3)] == ["shifted:2/4"] * 3
    assert list(by_number("test:4x3")) == list(found), "a plain test is VidPrism's"
    drawn = by_number("test:4x3", pipeline="msta", seed=5)
    assert list(drawn) == [number + 1_000_000 for number in found]
    assert {view.rule for view in drawn.values()} == {"tsn-random"}
    assert len({view.seed for view in drawn.values()}) == 4, "three crops of one draw of frames"
    assert list(by_number("test:1x1", "test:10x1", "test:1x3")) == [
        1_001_010,
        1_001_011,
        1_001_012,
        1_001_013,
        *(1_010_000 + 10 * clip for clip in range(1, 11)),
    ]
    assert list(by_number("augment:2", pipeline="vidprism")) == [1_100_001, 1_100_002]
    assert list(by_number("augment:2", pipeline="msta")) == [2_100_001, 2_100_002]
    everything = ["test:99x3", "test:99x1", "test:1x3", "augment:99", "three-crops", "clips:99"]
    numbers = [n for p in ("plain", "vidprism", "msta") for n in by_number(*everything, pipeline=p)]
    meanings = {
        n: str(v.meaning) for p in ("plain", "vidprism", "msta") for n, v in by_number(*everything, pipeline=p).items()
    }
    assert len(set(meanings.values())) == len(set(numbers))


@pytest.mark.parametrize(("height", "width"), [(6, 11), (11, 6), (8, 8)])
def test_three_crops_of_a_test(height: int, width: int) -> None:
    pixels = np.zeros((1, height, width, 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = np.arange(height)[:, None], np.arange(width)
    clip = Clip(pixels, np.zeros(1), np.zeros(1, np.int64), 25.0, 1)
    for pipeline in ("vidprism", "msta"):
        made = [view.change(clip, "a") for view in by_number("test:1x3", pipeline=pipeline).values()]
        edge, room = min(height, width), max(height, width) - min(height, width)
        axis = 0 if height > width else 1
        assert [int(one.frames[0, 0, 0, axis]) for one in made] == [0, room, room // 2], "left, right, middle"
        assert {one.frames.shape for one in made} == {(1, edge, edge, 3)}


def test_the_single_view_of_a_test() -> None:
    clip = clip_of(1, 256, 400)
    (plain,) = by_number("test:1x1", pipeline="vidprism").values()
    (zoomed,) = by_number("test:1x1", pipeline="msta").values()
    assert plain.rule == "shifted:1/1"
    assert zoomed.rule == "tsn-centre"
    assert np.array_equal(plain.change(clip, "a").frames, clip.frames[:, :, 72:328])
    assert np.array_equal(zoomed.change(clip, "a").frames, clip.frames[:, 16:240, 88:312]), "224 of a short side of 256"


@given(st.integers(20, 600), st.integers(20, 600), st.integers(0, 10_000))
def test_random_boxes(width: int, height: int, seed: int) -> None:
    left, top, w, h = random_box(width, height, view_generator(seed, "a", 1))
    assert 0 <= left <= width - w
    assert 0 <= top <= height - h
    assert RATIO[0] * (1 - 1.1 / min(w, h)) <= w / h <= RATIO[1] * (1 + 1.1 / min(w, h))
    if RATIO[0] <= width / height <= RATIO[1]:
        assert AREA[0] * 0.8 <= w * h / (width * height) <= 1.0


def test_a_random_box_tries_ten_times_and_then_takes_the_largest() -> None:
    class Told:
        """Draws that are known beforehand."""

        def __init__(self, *values: float) -> None:
            self.values = list(values)

        def uniform(self, low: float, high: float) -> float:
            value = self.values.pop(0)
            assert low <= value <= high
            return value

        def integers(self, count: int) -> int:
            return count - 1

    square = Told(0.25, log(1.0))
    assert random_box(100, 100, square) == (50, 50, 50, 50)  # type: ignore[arg-type]
    wide = Told(1.0, log(4 / 3), 0.48, log(4 / 3))  # 115 x 87 does not fit, 80 x 60 does
    assert random_box(100, 100, wide) == (20, 40, 80, 60)  # type: ignore[arg-type]
    assert random_box(5120, 256, view_generator(0, "a", 1)) == ((5120 - 341) // 2, 0, 341, 256)
    assert random_box(100, 10_000, view_generator(0, "a", 1)) == (0, (10_000 - 133) // 2, 100, 133)


def test_random_boxes_spread_as_they_should() -> None:
    boxes = [random_box(300, 300, view_generator(i, "a", 1)) for i in range(3000)]
    area = np.array([w * h / 90_000 for _, _, w, h in boxes])
    ratio = np.log([w / h for _, _, w, h in boxes])
    small = area < 0.5  # every ratio fits there
    assert np.histogram(area[small], 3, (0.08, 0.5))[0] == pytest.approx(small.sum() / 3, rel=0.15)
    assert np.histogram(ratio[small], 3, (log(3 / 4), log(4 / 3)))[0] == pytest.approx(small.sum() / 3, rel=0.15)
    assert exp(ratio.min()) < 0.78
    assert exp(ratio.max()) > 1.29


def test_multi_scale_boxes_enumerated() -> None:
    wanted = set()
    sides = [int(256 * scale) for scale in SCALES]
    for i in range(4):
        for j in range(4):
            if abs(i - j) <= 1:
                w, h = sides[i], sides[j]
                for x, y in ((0, 0), (4, 0), (0, 4), (4, 4), (2, 2)):
                    wanted.add((x * ((340 - w) // 4), y * ((256 - h) // 4), w, h))
    found = [scaled_box(340, 256, view_generator(i, "a", 1)) for i in range(3000)]
    assert set(found) == wanted
    assert all(0 <= left <= 340 - w and 0 <= top <= 256 - h for left, top, w, h in found)


def convolved(values: npt.NDArray[np.float64], size: int, reach: float, kernel: str) -> npt.NDArray[np.float64]:
    """Rows `[n, ...]` resampled to `size` by a kernel that widens as it shrinks, each weight worked out by itself."""
    count = len(values)
    scale = count / size
    wide = max(scale, 1.0)
    out = np.zeros((size, *values.shape[1:]))
    for i in range(size):
        centre = (i + 0.5) * scale
        weights = np.zeros(count)
        for j in range(max(0, int(centre - reach * wide + 0.5)), min(count, int(centre + reach * wide + 0.5))):
            x = abs((j - centre + 0.5) / wide)
            if kernel == "linear":
                weights[j] = max(0.0, 1 - x)
            else:  # cubic, a = -0.5
                weights[j] = (
                    (1.5 * x - 2.5) * x * x + 1 if x < 1 else ((-0.5 * x + 2.5) * x - 4) * x + 2 if x < 2 else 0.0
                )
        out[i] = np.tensordot(weights / weights.sum(), values, 1)
    return out


def resized(image: npt.NDArray[np.float64], height: int, width: int, kernel: str) -> npt.NDArray[np.float64]:
    reach = 1.0 if kernel == "linear" else 2.0
    across = convolved(image.transpose(1, 0, 2), width, reach, kernel).transpose(1, 0, 2)
    return np.clip(np.rint(convolved(np.clip(np.rint(across), 0, 255), height, reach, kernel)), 0, 255)


@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_a_copy_by_vidprism_step_by_step(name: str) -> None:
    clip = clip_of()
    made = vidprism(clip, name, number=1_100_001, seed=3, flip=True)
    assert made.frames.shape == (2, SIDE, SIDE, 3)
    assert np.array_equal(made.frames[0], made.frames[1]), "one draw for all frames"
    top, left, rows, columns = np.array(made.notes["box"]).tolist()
    assert made.notes["of"] == [455, 256]
    whole = resized(clip.frames[0].astype(float), 256, 455, "cubic")
    wanted = resized(whole[top : top + rows, left : left + columns], SIDE, SIDE, "linear")
    wanted = wanted[:, ::-1] if made.notes["flipped"] else wanted
    if made.notes["grey"]:
        wanted = np.repeat((wanted @ [0.299, 0.587, 0.114])[..., None], 3, axis=2)
    assert np.abs(made.frames[0] - wanted).max() <= 2


def blended(
    image: npt.NDArray[np.float64], other: float | npt.NDArray[np.float64], factor: float
) -> npt.NDArray[np.float64]:
    return np.clip(other + factor * (image - other), 0, 255)


def test_colours_worked_by_hand() -> None:
    pixels = clip_of(1, 12, 16).frames[0]
    image = Image.fromarray(pixels)
    values = pixels.astype(float)
    luma = values @ [0.299, 0.587, 0.114]
    same = (1.0, 1.0, 1.0, 0.0)
    assert np.abs(np.asarray(recoloured(image, same, [0, 1, 2, 3])) - values).max() <= 6, "through hue and back"
    for place, wanted in (
        (0, blended(values, 0.0, 0.7)),
        (1, blended(values, round(luma.mean()), 0.7)),
        (2, blended(values, luma[..., None], 0.7)),
    ):
        factors = [*same[:place], 0.7, *same[place + 1 :]]
        assert np.abs(np.asarray(recoloured(image, factors, [place])) - wanted).max() <= 1.5
    turned = np.asarray(recoloured(image, (1.0, 1.0, 1.0, 0.1), [3])).astype(float)
    for row, column in ((0, 0), (3, 7), (11, 15), (6, 2)):
        h, s, v = colorsys.rgb_to_hsv(*(values[row, column] / 255))
        wanted = np.array(colorsys.hsv_to_rgb((h + 0.1) % 1, s, v)) * 255
        assert np.abs(turned[row, column] - wanted).max() <= 6
    one = np.asarray(recoloured(image, (1.4, 0.6, 0.8, 0.05), [0, 1, 2, 3]))
    assert not np.array_equal(one, np.asarray(recoloured(image, (1.4, 0.6, 0.8, 0.05), [1, 0, 3, 2]))), "order counts"


@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_a_copy_by_msta_step_by_step(name: str) -> None:
    clip = clip_of(3)
    made = msta(clip, name, number=2_100_001, seed=1, flip=True)
    top, left, rows, columns = np.array(made.notes["box"]).tolist()
    whole = resized(clip.frames[0].astype(float), 256, 455, "linear")
    wanted = resized(whole[top : top + rows, left : left + columns], SIDE, SIDE, "linear")
    wanted = wanted[:, ::-1] if made.notes["flipped"] else wanted
    jitter = made.notes["jitter"]
    if jitter is False and not made.notes["grey"]:
        assert np.abs(made.frames[0] - wanted).max() <= 2
    elif not made.notes["grey"]:
        assert len({frame.tobytes() for frame in made.frames}) == 3, "colours are drawn frame by frame"
    else:
        assert np.array_equal(made.frames[..., 0], made.frames[..., 2])


@pytest.mark.parametrize("change", [vidprism, msta])
def test_copies_are_functions_of_seed_name_and_number(change: object) -> None:
    assert callable(change)
    clip = clip_of(1)
    one = change(clip, "a", number=7, seed=0, flip=True)
    assert np.array_equal(one.frames, change(clip, "a", number=7, seed=0, flip=True).frames)
    told = [
        str(change(clip, name, number=number, seed=seed, flip=True).notes)
        for name, number, seed in (("a", 7, 0), ("b", 7, 0), ("a", 8, 0), ("a", 7, 1))
    ]
    assert len(set(told)) == 4
    notes = [change(clip, str(i), number=1, seed=0, flip=True).notes for i in range(80)]
    for what, share in (("flipped", 0.5), ("grey", 0.2), *((("jitter", 0.8),) if change is msta else ())):
        found = sum(bool(note[what]) for note in notes) / 80
        assert abs(found - share) < 0.16, what
    unmirrored = [change(clip, str(i), number=1, seed=0, flip=False).notes for i in range(20)]
    assert unmirrored == [{**note, "flipped": False} for note in notes[:20]], "all else is drawn as with --flip"


@pytest.mark.parametrize(
    ("asked", "more", "message"),
    [
        ("test", {}, r"'' is no number of clips by 1 or 3 crops\.\nGive test:1x1 or test:4x3"),
        ("test:4", {}, r"'4' is no number of clips"),
        ("test:4x2", {}, r"'4x2' is no number of clips"),
        ("test:0x3", {}, r"needs a number from 1 to 99"),
        ("test:4x3", {"counted": False}, r"--views test:4x3 needs a frame rule that takes a number of frames"),
        ("augment:2", {"counted": False, "pipeline": "msta"}, r"--views augment:2 needs a frame rule"),
    ],
)
def test_invalid_published_views(asked: str, more: dict[str, object], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        views((asked,), **more)  # type: ignore[arg-type]


def test_meanings_of_training_and_test_views_differ() -> None:
    """Heads draw what has a copy, and test what has a crop or a clip."""
    for pipeline in ("plain", "vidprism", "msta"):
        for view in by_number("augment:2", pipeline=pipeline).values():
            assert "copy" in view.meaning
            assert not {"crop", "clip"} & set(view.meaning)
        for view in by_number("test:2x3", "test:2x1", pipeline=pipeline).values():
            assert {"crop", "clip"} <= set(view.meaning)
            assert "copy" not in view.meaning
