"""Spellings of splits, and class names that are nearly equal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vfc.cache_schema import BadInput
from vfc.cache_schema.annotations import (
    Annotation,
    load,
    near_equal_labels,
    near_equal_warning,
    read_annotations,
    require_split,
)
from vfc.cache_schema.exchange.labels import read_labels


@pytest.mark.parametrize(
    ("word", "split"),
    [
        *[(word, "train") for word in ("train", "Train", "TRAINING", " training ")],
        *[(word, "val") for word in ("val", "Val", "valid", "validation", "Validation", "dev")],
        *[(word, "test") for word in ("test", "Testing", "eval", "evaluation")],
        ("", ""),
    ],
)
def test_splits_are_read_in_their_usual_spellings(word: str, split: str) -> None:
    assert require_split(word) == split
    assert Annotation("a", split=word.strip()).split == split


def test_another_split_of_a_users_file_is_refused_with_the_allowed_words(tmp_path: Path) -> None:
    rule = r"There is no split 'holdout'\.\nA split is one of: train \(training\); val \(valid, validation, dev"
    with pytest.raises(BadInput, match=rule):
        require_split("holdout")
    (tmp_path / "a.jsonl").write_text(json.dumps({"name": "a", "split": "holdout"}))
    (tmp_path / "a.csv").write_text("name,label,split\na,x,Validation\nb,x,holdout\n")
    for read in (read_labels, lambda path: load(tmp_path, str(path))):
        with pytest.raises(BadInput, match=r"a\.jsonl, line 1: There is no split 'holdout'"):
            read(tmp_path / "a.jsonl")
    with pytest.raises(BadInput, match=r"a\.csv, line 3: There is no split 'holdout'"):
        read_labels(tmp_path / "a.csv")
    (tmp_path / "b.csv").write_text("name,label,split\na,x,Validation\n")
    assert [row.split for row in read_labels(tmp_path / "b.csv")] == ["val"]
    # Stores of earlier versions hold other words.
    assert read_annotations(tmp_path / "a.jsonl").splits() == ["holdout"]


def test_nearly_equal_labels_are_named_pair_by_pair() -> None:
    labels = ["grow", "Grow", "brush hair", "brush_hair", "brush-hair", "catch", "", "catch"]
    assert near_equal_labels(labels) == [
        ("Grow", "grow"),
        ("brush hair", "brush-hair"),
        ("brush hair", "brush_hair"),
        ("brush-hair", "brush_hair"),
    ]
    assert near_equal_warning(labels).startswith("Class names that are nearly equal count as different classes: 'Grow'")
    assert near_equal_warning(["catch", "throw"]) == ""
