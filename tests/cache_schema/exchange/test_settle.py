"""Axes and rates of an archive are settled over many files; a wrong first import blocks nothing."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from vfc.cache_schema import BadInput, Key, RecipeMismatch, open_store
from vfc.cache_schema.annotations import load, write_annotations
from vfc.cache_schema.annotations.rows import Annotation, Annotations
from vfc.cache_schema.exchange import ImportOptions, ImportReport, import_features
from vfc.cache_schema.values.progress import Silent

Array = npt.NDArray[Any]
D = 6


def bring(place: Path, out: Path, **options: object) -> ImportReport:
    return import_features(place, out, ImportOptions(**options), Silent())  # type: ignore[arg-type]


def steps(count: int) -> Array:
    """`[count, D]`, the number of the step in all of its values."""
    return np.repeat(np.arange(count, dtype=np.float32)[:, None], D, axis=1)


def folder_of(folder: Path, arrays: dict[str, Array]) -> Path:
    folder.mkdir()
    for name, values in arrays.items():
        np.save(folder / name, values)
    return folder


def mstcn_of(folder: Path, lengths: list[tuple[int, int]]) -> Path:
    """An MS-TCN folder: steps of features `[D, T]` and lines of labels of every video; line i is class i % 3."""
    for name in ("features", "groundTruth"):
        (folder / name).mkdir(parents=True)
    (folder / "mapping.txt").write_text("0 a\n1 b\n2 c\n")
    for i, (features, labels) in enumerate(lengths):
        np.save(folder / "features" / f"v{i}.npy", steps(features).T)
        (folder / "groundTruth" / f"v{i}.txt").write_text("".join("abc"[n % 3] + "\n" for n in range(labels)))
    return folder


def lengths_of(out: Path) -> dict[str, int]:
    reader = open_store(out)
    return {key.name: len(reader.read(key, "frames")) for key in reader.keys("video")}


def test_time_is_the_axis_whose_length_varies(tmp_path: Path) -> None:
    arrays = {name: steps(count).T for name, count in [("a", 9), ("b", 4), ("c", 7)]}
    place = folder_of(tmp_path / "in", arrays)
    done = bring(place, tmp_path / "s")
    assert (done.failed, lengths_of(tmp_path / "s")) == ((), {"a": 9, "b": 4, "c": 7})
    assert open_store(tmp_path / "s").read(Key("video", "c"), "frames").tolist() == steps(7).tolist()
    assert "Time is the last axis: the other one has the same length in most of 3 files." in done.notes
    # What was settled is what a user would have asked for: the store takes both lines.
    assert bring(place, tmp_path / "s", time="last").present == 3


def test_one_file_that_is_turned_does_not_decide(tmp_path: Path) -> None:
    arrays = {"a": steps(9).T, "b": steps(4), "c": steps(7), "d": steps(11)}
    done = bring(folder_of(tmp_path / "in", arrays), tmp_path / "s")
    assert [name for name, _ in done.failed] == ["a"]
    assert lengths_of(tmp_path / "s") == {"b": 4, "c": 7, "d": 11}
    assert open_store(tmp_path / "s").recipe.fields["imported"]["told_by"] == "b"


def test_axes_that_fit_few_files_begin_no_store(tmp_path: Path) -> None:
    """The corrected line needs no other store, and no --replace."""
    arrays = {name: steps(count).T for name, count in [("a", 9), ("b", 4), ("c", 7)]}
    place = folder_of(tmp_path / "in", arrays)
    with pytest.raises(
        BadInput, match=r"(?s)time as the first axis .* widths: \[6, 9\], \[6, 4\], .*\nGive --time last"
    ):
        bring(place, tmp_path / "s", time="first")
    with pytest.raises(BadInput, match=r"different shapes \(\[6, 9\], .*\n--layout steps takes"):
        bring(place, tmp_path / "s", layout="frame-major")
    assert not (tmp_path / "s").exists()
    assert bring(place, tmp_path / "s").added == 3
    tokens = folder_of(tmp_path / "tokens", {name: np.ones((n, 4, 3)) for name, n in [("a", 7), ("b", 5)]})
    with pytest.raises(BadInput, match=r"(?s)different shapes .*--layout crops \[T, crops, D\]"):
        bring(tokens, tmp_path / "t")
    assert bring(tokens, tmp_path / "t", layout="crops").added == 8
    mixed = folder_of(tmp_path / "mixed", {name: np.ones((n, n + 1)) for name, n in [("a", 7), ("b", 5), ("c", 3)]})
    with pytest.raises(BadInput, match=r"Give one folder per kind of features"):
        bring(mixed, tmp_path / "u")


def test_one_labelled_file_by_its_labels(tmp_path: Path) -> None:
    place = mstcn_of(tmp_path / "in", [(30, 30)])
    np.save(place / "features/v0.npy", steps(30))
    assert bring(place, tmp_path / "s").failed == ()
    assert lengths_of(tmp_path / "s") == {"v0": 30}


def test_files_of_one_shape_are_said_to_be(tmp_path: Path) -> None:
    place = folder_of(tmp_path / "in", {name: steps(8) for name in "abc"})
    notes = bring(place, tmp_path / "s").notes
    reading = "read as steps [T, D]; --layout frame-major for T frames of every video"
    assert notes == (f"All files looked at have the shape [8, {D}], {reading}.",)
    assert bring(place, tmp_path / "t", layout="frame-major").notes == ()
    np.save(place / "d.npy", steps(9))
    assert bring(place, tmp_path / "u").notes == ()


def test_rows_that_repeat_are_said_to(tmp_path: Path) -> None:
    """AntGPT keeps a row per frame, of which one in thirty was computed."""
    place = folder_of(tmp_path / "in", {"a": steps(3).repeat(30, axis=0), "b": steps(2).repeat(30, axis=0)})
    assert bring(place, tmp_path / "s").notes == (
        "87 of the 90 rows of the first file repeat the row before; all of them are kept.",
    )
    assert lengths_of(tmp_path / "s") == {"a": 90, "b": 60}


@pytest.mark.parametrize(
    ("lengths", "words"),
    [
        ([(80, 40), (60, 30), (31, 15)], "2 steps of features to 1 of labels"),
        ([(40, 80), (30, 60), (15, 31)], "1 step of features to 2 of labels"),
        # 25 against 24 frames per second, which a limit of a tenth would let pass.
        ([(2500, 2400), (500, 480), (126, 121), (1000, 959)], "25 steps of features to 24 of labels"),
        ([(250, 240)] * 2 + [(1000, 960)], "25 steps of features to 24 of labels"),
    ],
)
def test_a_constant_ratio_is_named_and_refused(tmp_path: Path, lengths: list[tuple[int, int]], words: str) -> None:
    place = mstcn_of(tmp_path / "in", lengths)
    with pytest.raises(BadInput) as error:
        bring(place, tmp_path / "s")
    first = f"(v0: {lengths[0][0]} and {lengths[0][1]})"
    assert error.value.problem == f"Features and labels are of different rates: {words} in all videos {first}."
    assert "--resample-labels" in error.value.remedy
    assert not (tmp_path / "s").exists()


def test_labels_of_another_rate_at_their_times(tmp_path: Path) -> None:
    """Slowly: the label whose stretch of the video holds the middle of the step."""
    lengths = [(80, 40), (60, 30), (31, 15)]
    place = mstcn_of(tmp_path / "in", lengths)
    done = bring(place, tmp_path / "s", resample_labels=True)
    assert (done.failed, done.trimmed) == ((), ())
    for i, (count, lines) in enumerate(lengths):
        expected = []
        for step in range(count):
            middle = (Fraction(step) + Fraction(1, 2)) / 2  # in labels
            expected.append(next((n for n in range(lines) if n <= middle < n + 1), lines - 1) % 3)
        assert open_store(tmp_path / "s").read(Key("video", f"v{i}"), "labels").tolist() == expected
    assert "Every step has the label of its time: 2 steps of features to 1 of labels." in done.notes
    assert open_store(tmp_path / "s").recipe.fields["imported"]["steps_per_label"] == "2"


def test_a_few_frames_are_trimmed_in_absolute_terms(tmp_path: Path) -> None:
    """As many lost at every length are no other rate; more than sixteen fail, however long the video."""
    place = mstcn_of(tmp_path / "in", [(92, 100), (192, 200), (1992, 2000), (3000, 3017), (50, 50)])
    done = bring(place, tmp_path / "s")
    assert [name for name, _ in done.failed] == ["v3"]
    assert done.trimmed == (("v0", 92, 100), ("v1", 192, 200), ("v2", 1992, 2000))
    assert bring(place, tmp_path / "t", resample_labels=True).trimmed == done.trimmed


def test_an_import_of_nothing_leaves_nothing(tmp_path: Path) -> None:
    place = folder_of(tmp_path / "in", {name: np.full((n, D), 1e6, np.float32) for name, n in [("a", 3), ("b", 5)]})
    with pytest.raises(BadInput, match=r"None of the 2 items of .* could be imported; nothing was written"):
        bring(place, tmp_path / "s")
    assert not (tmp_path / "s").exists()
    assert bring(place, tmp_path / "s", dtype="bf16").added == 2


def test_a_wrong_import_is_replaced(tmp_path: Path) -> None:
    place, out = folder_of(tmp_path / "in", {name: steps(8).T for name in "ab"}), tmp_path / "s"
    bring(place, out)
    assert lengths_of(out) == {"a": D, "b": D}
    write_annotations(out, "default", Annotations((Annotation("a", "walk"), Annotation("b"))))
    write_annotations(out, "mine", Annotations((Annotation("a", "x"),)))
    with pytest.raises(RecipeMismatch, match=r"To import anew in its place: --replace\."):
        bring(place, out, time="last")
    done = bring(place, out, time="last", replace=True)
    assert (done.path, done.added, lengths_of(out)) == (str(out), 2, {"a": 8, "b": 8})
    assert [(row.name, row.label) for row in load(out).rows] == [("a", "walk"), ("b", "")]
    assert load(out, "mine").rows == (Annotation("a", "x"),)
    assert [path.name for path in tmp_path.iterdir()].count("s.before") == 0
    # A failed one leaves the store as it is.
    with pytest.raises(BadInput, match="does not fit"):
        bring(place, out, layout="vector", replace=True)
    assert lengths_of(out) == {"a": 8, "b": 8}


def test_what_is_no_import_is_not_replaced(tmp_path: Path) -> None:
    place, out = folder_of(tmp_path / "in", {name: steps(8) for name in "ab"}), tmp_path / "s"
    bring(place, out)
    (out / "derived" / "mean").mkdir(parents=True)
    with pytest.raises(BadInput, match=r"--replace is given, and .* holds more than an import"):
        bring(place, out, replace=True)
    (out / "derived" / "mean").rmdir()
    (out / "derived").rmdir()
    root = json.loads((out / "zarr.json").read_text())
    assert root["attributes"]
    assert bring(place, out, replace=True).added == 2
