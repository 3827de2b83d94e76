"""Rows of a store after a collection was read again: splits, moved files, files that are gone."""

from __future__ import annotations

from vfc.cache_schema.annotations import Annotation, Annotations, update_rows


def rows(*values: tuple[str, str, str]) -> Annotations:
    return Annotations(tuple(Annotation(*each) for each in values))


SPLIT_1 = rows(("a/1.avi", "a", "train"), ("a/2.avi", "a", "test"), ("a/3.avi", "a", "train"))
SPLIT_2 = rows(("a/1.avi", "a", "test"), ("a/2.avi", "a", "train"))


def test_a_split_list_replaces_the_splits_of_all_rows_of_its_collection() -> None:
    update = update_rows(SPLIT_1, SPLIT_2, has_file=lambda path: True)
    assert update.annotations == rows(("a/1.avi", "a", "test"), ("a/2.avi", "a", "train"), ("a/3.avi", "a", ""))
    assert (update.unsplit, update.gone, update.moved) == (("a/3.avi",), (), ())


def test_more_videos_of_the_same_list_change_no_split() -> None:
    update = update_rows(SPLIT_1, rows(("b/9.avi", "b", "test")), has_file=lambda path: True)
    assert update.annotations.rows == (*SPLIT_1.rows, Annotation("b/9.avi", "b", "test"))
    assert update.unsplit == ()


def test_rows_whose_file_is_gone_are_counted_and_taken_out_on_request() -> None:
    before = Annotations((*SPLIT_1.rows, Annotation("z.avi#t=1-2", "a", "train", "", 1, 2)))
    present = {"a/1.avi", "a/2.avi"}
    update = update_rows(before, SPLIT_2, has_file=present.__contains__)
    assert update.gone == ("a/3.avi", "z.avi#t=1-2")
    assert len(update.annotations) == 4
    pruned = update_rows(before, SPLIT_2, has_file=present.__contains__, prune=True)
    assert pruned.annotations == SPLIT_2
    assert pruned.gone == ("a/3.avi", "z.avi#t=1-2")


def test_a_clip_that_was_moved_to_another_class_counts_in_one() -> None:
    moved = rows(("a/1.avi", "a", "train"), ("a/2.avi", "a", "test"), ("b/3.avi", "b", "train"))
    present = {row.name for row in moved.rows}
    update = update_rows(SPLIT_1, moved, present.__contains__)
    assert update.annotations == Annotations((*moved.rows, Annotation("a/3.avi")))
    assert (update.moved, update.gone) == ((("a/3.avi", "b/3.avi"),), ("a/3.avi",))
    assert update_rows(SPLIT_1, moved, present.__contains__, prune=True).annotations == moved


def test_a_file_of_the_same_name_that_was_there_before_is_another_clip() -> None:
    after = rows(("a/1.avi", "a", "train"), ("b/3.avi", "b", "train"))
    before = Annotations((*SPLIT_1.rows, Annotation("b/3.avi", "b", "train")))
    assert update_rows(before, after, {"a/1.avi", "b/3.avi"}.__contains__).gone == ("a/2.avi", "a/3.avi")


def test_a_collection_without_splits_is_no_split_list() -> None:
    update = update_rows(SPLIT_1, rows(("a/1.avi", "a", "")), has_file=lambda path: True)
    assert update.unsplit == ()
    assert [row.split for row in update.annotations.rows] == ["", "test", "train"]
