"""Views by hand: what three crops cover, how a video is divided, what an augmented copy is a function of."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfc.cache_schema.values.errors import BadInput, UnknownName
from vfc.extract.decode import Clip
from vfc.extract.frames.views import AUGMENTED_FROM, CLIPS_RULE, View, augmented, jittered, part, square, views


def clip_of(frames: int = 4, height: int = 6, width: int = 10, repeated: int = 0) -> Clip:
    """Every pixel tells where it is: red the row, green the column, blue the frame."""
    pixels = np.zeros((frames, height, width, 3), np.uint8)
    pixels[..., 0] = np.arange(height)[:, None]
    pixels[..., 1] = np.arange(width)
    pixels[..., 2] = np.arange(frames)[:, None, None]
    indices = np.minimum(np.arange(frames), frames - 1 - repeated) * 5
    return Clip(pixels, indices / 25, indices, 25.0, 100, {"repeated": repeated, "codec": "none"})


def boxed(clip: Clip) -> tuple[int, int, int, int]:
    top, left, rows, columns = np.array(clip.notes["box"]).tolist()
    return top, left, rows, columns


def by_number(asked: Sequence[str], **more: Any) -> dict[int, View]:
    return {view.number: view for view in views(asked, **more)}


def test_view_numbers() -> None:
    assert [view.number for view in views(())] == [0]
    assert [view.number for view in views(("centre",))] == [0]
    found = by_number(("augment:2", "three-crops", "clips:3"))
    assert list(found) == [0, 1, 2, 3, 301, 302, 303, 10001, 10002]
    assert found[10001].meaning == {"copy": 1, "seed": 0, "flip": True, "area": [0.5, 1.0], "jitter": 0.2}
    assert [found[number].clips for number in (0, 1, 303, 10001)] == [1, 1, 3, 1]
    meanings = [str(view.meaning) for view in found.values()]
    assert len(set(meanings)) == len(meanings)


def test_the_clean_view_changes_nothing() -> None:
    clip = clip_of()
    assert views(())[0].change(clip, "a") is clip


@pytest.mark.parametrize(("height", "width", "axis"), [(6, 11, 1), (11, 6, 0)])
def test_three_crops_cover_first_middle_and_last(height: int, width: int, axis: int) -> None:
    clip = clip_of(2, height, width)
    starts = []
    for number, view in list(by_number(("three-crops",)).items())[1:]:
        crop = view.change(clip, "a")
        assert crop.frames.shape == (2, 6, 6, 3)
        assert np.array_equal(crop.frames, square(clip, position=number - 1).frames)
        place = crop.frames[0, 0, 0, axis]
        starts.append(int(place))
        assert boxed(crop) == (place if axis == 0 else 0, place if axis == 1 else 0, 6, 6)
        assert crop.metadata()["height"] == 6
    assert starts == [0, 2, 5], "5 places are left beside a square of 6 in 11: none, half rounded down, all"


def test_clips_in_time_are_equal_runs() -> None:
    clip = clip_of(6)
    parts = [part(clip, i=i, count=3) for i in range(3)]
    assert np.array_equal(np.concatenate([one.frames for one in parts]), clip.frames)
    assert [one.indices.tolist() for one in parts] == [[0, 5], [10, 15], [20, 25]]
    assert [(one.notes["repeated"], one.notes["overlap"]) for one in parts] == [(0, 0)] * 3
    assert parts[1].seconds.tolist() == clip.seconds[2:4].tolist()
    assert views(("clips:3",))[2].change(clip, "a").frames.tolist() == parts[1].frames.tolist()


def test_clips_of_a_short_video_overlap_and_repeat_only_what_it_lacks() -> None:
    """Worked by hand: 3 clips of 4 frames from videos of 8, 4 and 2 frames."""

    def runs(frames: int) -> list[tuple[list[int], object, object]]:
        clip = clip_of(12, repeated=12 - frames)
        parts = [part(clip, i=i, count=3) for i in range(3)]
        return [((one.indices // 5).tolist(), one.notes["repeated"], one.notes["overlap"]) for one in parts]

    assert runs(8) == [([0, 1, 2, 3], 0, 2), ([2, 3, 4, 5], 0, 2), ([4, 5, 6, 7], 0, 2)]
    assert runs(5) == [([0, 1, 2, 3], 0, 4), ([0, 1, 2, 3], 0, 4), ([1, 2, 3, 4], 0, 3)]
    assert runs(4) == [([0, 1, 2, 3], 0, 4)] * 3
    assert runs(2) == [([0, 1, 1, 1], 2, 4)] * 3


@given(st.integers(2, 9), st.integers(1, 12), st.integers(1, 120))
def test_clips_in_time_cover_the_video_and_no_clip_stands_still(count: int, length: int, frames: int) -> None:
    size = count * length
    indices = np.minimum(np.arange(size), frames - 1)
    repeated = max(0, size - frames)
    clip = Clip(np.zeros((size, 1, 1, 3), np.uint8), indices / 25, indices, 25.0, frames, {"repeated": repeated})
    parts = [part(clip, i=i, count=count) for i in range(count)]
    assert all(len(one.indices) == length for one in parts)
    assert {int(i) for one in parts for i in one.indices} == set(indices.tolist())
    assert all(len(set(one.indices.tolist())) == min(length, frames) for one in parts)
    assert all(one.notes["repeated"] == max(0, length - frames) for one in parts)
    for before, after in itertools.pairwise(parts):
        shared = len(set(before.indices.tolist()) & set(after.indices.tolist()))
        assert min(length, frames, int(str(after.notes["overlap"]))) == shared


def test_the_rule_of_clips_is_not_that_of_version_0_1() -> None:
    meaning = by_number(("clips:3",))[302].meaning
    assert meaning == {"clip": 2, "of": 3, "rule": CLIPS_RULE}
    assert meaning["rule"] != "equal parts of count x frames by the rule"


@given(st.integers(0, 50), st.text(max_size=8), st.integers(1, 9))
def test_augmented_copies_are_functions_of_seed_name_and_number(seed: int, name: str, number: int) -> None:
    clip = clip_of(3, 20, 30)
    one, same = (augmented(clip, name, number, seed=seed, flip=True) for _ in range(2))
    assert np.array_equal(one.frames, same.frames)
    assert one.notes == same.notes
    top, left, rows, columns = boxed(one)
    assert 0 <= top <= 20 - rows
    assert 0 <= left <= 30 - columns
    assert 0.45 <= rows * columns / 600 <= 1
    assert one.frames.shape == (3, rows, columns, 3)
    plain = augmented(clip, name, number, seed=seed, flip=False)
    assert plain.notes == {**one.notes, "flipped": False}
    mirrored = plain.frames[:, :, ::-1] if one.notes["flipped"] else plain.frames
    assert np.array_equal(one.frames, mirrored)


def test_other_seeds_names_and_numbers_are_other_copies() -> None:
    clip = clip_of(1, 40, 60)
    draws = [("a", 1, 0), ("b", 1, 0), ("a", 2, 0), ("a", 1, 1)]
    notes = [str(augmented(clip, name, number, seed=seed, flip=True).notes) for name, number, seed in draws]
    assert len(set(notes)) == 4
    flips = [augmented(clip, str(i), 1, seed=0, flip=True).notes["flipped"] for i in range(200)]
    assert 70 < sum(map(bool, flips)) < 130
    assert not any(augmented(clip, str(i), 1, seed=0, flip=False).notes["flipped"] for i in range(50))
    view = by_number(("augment:1",), seed=3, flip=False)[AUGMENTED_FROM + 1]
    wanted = augmented(clip, "a", AUGMENTED_FROM + 1, seed=3, flip=False)
    assert np.array_equal(view.change(clip, "a").frames, wanted.frames)


def test_colours_worked_by_hand() -> None:
    frames = np.array([[[[100, 50, 200], [0, 0, 0]]]], np.uint8)
    assert np.array_equal(jittered(frames, 1.0, 1.0, 1.0), frames)
    assert jittered(frames, 1.1, 1.0, 1.0).ravel().tolist() == [110, 55, 220, 0, 0, 0]
    assert jittered(frames, 2.0, 1.0, 1.0).ravel().tolist() == [200, 100, 255, 0, 0, 0]
    luma = 0.299 * 100 + 0.587 * 50 + 0.114 * 200
    assert jittered(frames, 1.0, 1.0, 0.0).ravel().tolist() == [round(luma)] * 3 + [0] * 3
    assert jittered(frames, 1.0, 0.0, 1.0).ravel().tolist() == [round(luma / 2)] * 6


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        ("tree-crops", UnknownName, r"no view 'tree-crops'. Did you mean 'three-crops'"),
        ("three-crops:2", BadInput, r"three-crops takes no number"),
        ("clips", BadInput, r"'clips' needs a number from 2 to 99"),
        ("clips:1", BadInput, r"'clips:1' needs a number from 2 to 99"),
        ("augment:x", BadInput, r"'augment:x' needs a number from 1 to 99.\nGive it behind a colon"),
    ],
)
def test_unknown_views(asked: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        views((asked,))


def test_clips_in_time_need_a_number_of_frames() -> None:
    with pytest.raises(BadInput, match=r"--views clips:2 needs a frame rule that takes a number of frames"):
        views(("clips:2",), counted=False)
