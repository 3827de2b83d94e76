"""Groups: recognised by UCF101's names, by file, by content and by a column, and kept together by a random split."""

from __future__ import annotations

from pathlib import Path

import pytest

from vfc.cache_schema.annotations import (
    Annotation,
    Annotations,
    group_of,
    groups,
    read_annotations,
    segment,
    with_video_split,
    write_annotations,
)


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi", "v_ApplyEyeMakeup_g08"),
        ("v_ApplyEyeMakeup_g08_c02.mp4#t=1-2", "v_ApplyEyeMakeup_g08"),
        ("v_Punch_g25_c07", "v_Punch_g25"),
        ("a/film.mp4#t=0.5-2", "a/film.mp4"),
        ("a/film.mp4#t=3-", "a/film.mp4"),
        ("a/film.mp4", "a/film.mp4"),
        ("logo_g2/clip_c1.mp4", "logo_g2/clip_c1.mp4"),
    ],
)
def test_the_group_of_a_name(name: str, group: str) -> None:
    assert group_of(name) == group
    assert group_of(name, "park 3") == "park 3"


def ucf(classes: int = 3, sources: int = 10, clips: int = 4) -> Annotations:
    return Annotations(
        tuple(
            Annotation(f"C{c}/v_C{c}_g{g + 1:02}_c{k + 1:02}.avi", f"C{c}")
            for c in range(classes)
            for g in range(sources)
            for k in range(clips)
        )
    )


@pytest.mark.parametrize("seed", range(5))
def test_a_random_split_keeps_the_groups_of_ucf101_together(seed: int) -> None:
    split, line = with_video_split(ucf(), seed=seed)
    splits = {row.name.rpartition("_c")[0]: set[str]() for row in split.rows}
    for row in split.rows:
        splits[row.name.rpartition("_c")[0]].add(row.split)
    assert all(len(found) == 1 for found in splits.values())
    assert [sum(row.split == name for row in split.rows) for name in ("train", "val", "test")] == [72, 24, 24]
    assert line.endswith("120 of 120 videos are in 30 groups that stay together (UCF101 groups 120).")


def test_a_column_content_and_files_join_groups_across_each_other() -> None:
    rows = (
        Annotation("a.mp4", "x", group="park"),
        Annotation("b.mp4", "x", group="park"),
        Annotation("copy of b.mp4", "x"),
        Annotation(segment("c.mp4", 0, 1), "x"),
        Annotation(segment("c.mp4", 1, 2), "y"),
        Annotation("d.mp4", "x"),
    )
    grouping = groups(rows, {"b.mp4": "11", "copy of b.mp4": "11", "d.mp4": "22", "a.mp4": "33"})
    assert grouping.of == {
        "a.mp4": "park",
        "b.mp4": "park",
        "copy of b.mp4": "park",
        "c.mp4#t=0-1": "c.mp4",
        "c.mp4#t=1-2": "c.mp4",
        "d.mp4": "d.mp4",
    }
    assert grouping.reasons == {"identical content": 2, "segments of one file": 2, "the group column": 2}
    assert grouping.line().startswith("5 of 6 videos are in 2 groups that stay together (identical content 2, ")
    assert groups(rows[:1]).line() == ""
    many = [Annotation(f"{i}.mp4", "x") for i in range(20)]
    split, line = with_video_split(
        Annotations(tuple(many)), seed=0, content={row.name: str(i // 2) for i, row in enumerate(many)}
    )
    assert all(split.rows[i].split for i in range(20))
    by_name = {row.name: row.split for row in split.rows}
    assert all(by_name[f"{i}.mp4"] == by_name[f"{i + 1}.mp4"] for i in range(0, 20, 2))
    assert "identical content 20" in line


def test_segments_of_one_file_with_equal_checksums_are_no_copies() -> None:
    rows = [Annotation(segment("c.mp4", s, s + 1), "x") for s in range(3)]
    assert groups(rows, {row.name: "1" for row in rows}).reasons == {"segments of one file": 3}


def test_splits_and_digests_without_groups_are_those_of_version_0_1() -> None:
    """Figures taken from the code before there were groups."""
    rows = Annotations(tuple(Annotation(f"{label}/{v:03}.mp4", label) for label in "abc" for v in range(9)))
    assert rows.digest == "0c1b1bc56957671c96bfec11b0c7f04faaf58631f21f872bc24acbbfd4d52342"
    assert with_video_split(rows, seed=4)[0].digest.startswith("181f8e717abdfbe068ad7285bdffc6696d")
    segments = Annotations(
        tuple(
            Annotation(segment(f"{label}{v}.mp4", s, s + 1), label, start_seconds=s, end_seconds=s + 1)
            for label in "ab"
            for v in range(7)
            for s in range(2)
        )
    )
    assert (
        with_video_split(segments, seed=0)[0].digest
        == "ccdfc7cc420763ea27929091734b73749346701c51b165f240ffce12f7327b1a"
    )


def test_a_group_is_written_read_and_part_of_the_digest(tmp_path: Path) -> None:
    plain, grouped = (Annotations((Annotation("a.mp4", "x", group=group),)) for group in ("", "park"))
    assert plain.digest != grouped.digest
    assert read_annotations(write_annotations(tmp_path, "default", grouped)) == grouped
    assert "group" not in write_annotations(tmp_path, "default", plain).read_text()
