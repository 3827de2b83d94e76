import csv
import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfc.cache_schema.annotations import (
    Annotation,
    Annotations,
    class_list,
    class_lists,
    load,
    read_annotations,
    segment,
    source,
    with_class_split,
    with_video_split,
    write_annotations,
)
from vfc.cache_schema.annotations.lists import matching_lists, spelling
from vfc.cache_schema.values.errors import BadInput, MissingPath, UnknownName


def videos(classes: dict[str, int], split: str = "") -> Annotations:
    return Annotations(
        tuple(Annotation(f"{label}/{v:03}.mp4", label, split) for label, n in classes.items() for v in range(n))
    )


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
rows = st.builds(
    Annotation,
    name=texts.filter(bool),
    label=texts,
    split=st.sampled_from(["", "train", "val", "test", "validation 2"]),
    fold=texts,
    start_seconds=st.none() | st.floats(0, 10),
    end_seconds=st.none() | st.floats(11, 1e6),
)
annotations = st.lists(rows, max_size=8, unique_by=lambda row: row.name).map(lambda r: Annotations(tuple(r)))


@given(annotations)
def test_what_is_written_is_read_again(tmp_path_factory: pytest.TempPathFactory, given_rows: Annotations) -> None:
    root = tmp_path_factory.mktemp("store")
    path = write_annotations(root, "default", given_rows)
    assert path == root / "annotations" / "default.jsonl"
    found = load(root)
    assert found == given_rows
    assert found.digest == given_rows.digest
    assert [p.name for p in path.parent.iterdir()] == ["default.jsonl"]


def test_digest_by_hand() -> None:
    rows = (Annotation("b", "x", start_seconds=1, end_seconds=2.5), Annotation("ä"), Annotation("a"))
    told = (
        '{"end_seconds":null,"fold":"","label":"","name":"a","split":"","start_seconds":null}\n'
        '{"end_seconds":2.5,"fold":"","label":"x","name":"b","split":"","start_seconds":1.0}\n'
        '{"end_seconds":null,"fold":"","label":"","name":"ä","split":"","start_seconds":null}\n'
    )
    assert Annotations(rows).digest == hashlib.sha256(told.encode()).hexdigest()
    assert Annotations(rows[::-1]).digest == Annotations(rows).digest


@given(annotations, st.data())
def test_any_other_value_is_another_digest(given_rows: Annotations, data: st.DataObject) -> None:
    if not given_rows.rows:
        return
    i = data.draw(st.integers(0, len(given_rows) - 1))
    other = data.draw(rows.filter(lambda row: row not in given_rows.rows))
    kept = [row for k, row in enumerate(given_rows.rows) if k != i and row.name != other.name]
    assert Annotations((*kept, other)).digest != given_rows.digest


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ('{"name": "a"}\n{"name": "b"', r"set\.jsonl, line 2: not JSON \(.*column \d+\)"),
        ('{"name": "a"}\n\n["b"]', r"set\.jsonl, line 3: not a JSON object with a name"),
        ('{"label": "a"}', r"line 1: not a JSON object with a name"),
        (
            '{"name": "a", "lable": "x"}',
            r"line 1: There is no field 'lable'\. Did you mean 'label'\?\nKnown: end_seconds, ",
        ),
        ('{"name": "a"}\n{"name": "b"}\n{"name": "a"}', r"line 3: 'a' stands already in line 1"),
        ('{"name": ""}', r"line 1: .*its name is empty"),
        ('{"name": "a", "label": 3}', r"line 1: .*label is 3, not a string"),
        ('{"name": "a", "start_seconds": -1}', r"line 1: .*start_seconds is -1, not a number of seconds"),
        ('{"name": "a", "end_seconds": true}', r"line 1: .*end_seconds is True"),
        ('{"name": "a", "end_seconds": NaN}', r"line 1: .*end_seconds is nan"),
        (
            '{"name": "a", "start_seconds": 2, "end_seconds": 2}',
            r"line 1: .*it ends at 2 s, not after its start at 2 s",
        ),
        ('{"name": "a\\ud800"}', r"line 1: .*not valid Unicode"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, lines: str, told: str) -> None:
    path = tmp_path / "set.jsonl"
    path.write_text(lines)
    with pytest.raises(BadInput, match=told) as caught:
        read_annotations(path)
    assert str(caught.value).count("\n") == 1


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(MissingPath, match=r"no annotations file .*none\.jsonl"):
        read_annotations(tmp_path / "none.jsonl")
    (tmp_path / "latin.jsonl").write_bytes('{"name": "é"}'.encode("latin-1"))
    with pytest.raises(BadInput, match=r"latin\.jsonl is not UTF-8 text \(byte 10\)"):
        read_annotations(tmp_path / "latin.jsonl")
    write_annotations(tmp_path, "default", videos({"a": 1}))
    with pytest.raises(UnknownName, match=r"no set of annotations 'defualt'\. Did you mean 'default'"):
        load(tmp_path, "defualt")
    with pytest.raises(BadInput, match=r"'\.\./x' cannot name a set"):
        write_annotations(tmp_path, "../x", videos({"a": 1}))
    with pytest.raises(BadInput, match=r"'a' is annotated twice"):
        Annotations((Annotation("a"), Annotation("a", "x")))
    assert load(tmp_path, str(tmp_path / "annotations/default.jsonl")) == videos({"a": 1})


def test_a_store_in_a_folder_called_derived_does_not_take_what_lies_beside_it_for_its_own(tmp_path: Path) -> None:
    write_annotations(tmp_path, "default", videos({"a": 1}))
    (tmp_path / "derived" / "s").mkdir(parents=True)
    with pytest.raises(UnknownName, match="no set of annotations 'default'"):
        load(tmp_path / "derived" / "s")
    (tmp_path / "zarr.json").touch()
    assert load(tmp_path / "derived" / "s") == videos({"a": 1})
    (tmp_path / "derived" / "s" / "zarr.json").touch()
    assert load(tmp_path / "derived" / "s" / "derived" / "t") == videos({"a": 1})


def test_splits_and_labels() -> None:
    rows = Annotations(
        (Annotation("1", "b", "val"), Annotation("2", "a", "extra"), Annotation("3", "b"), Annotation("4"))
    )
    assert rows.splits() == ["val", "extra"]
    assert rows.labels() == ["a", "b"]
    assert rows.by_label() == {"a": ["2"], "b": ["1", "3"]}
    assert [row.name for row in rows.of_split("extra").rows] == ["2"]
    assert rows.of_split("all") is rows
    with pytest.raises(UnknownName, match=r"no split 'vla'\. Did you mean 'val'\?\nKnown: all, extra, val"):
        rows.of_split("vla")


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("a/b.mp4", "a/b.mp4"),
        ("a/b.mp4#t=0-1.5", "a/b.mp4"),
        ("a/b.mp4#t=3-", "a/b.mp4"),
        ("odd#t=1-2.mp4", "odd#t=1-2.mp4"),
        ("odd#t=1-2.mp4#t=0.25-4", "odd#t=1-2.mp4"),
        ("#t=1-2", "#t=1-2"),
    ],
)
def test_the_file_of_a_segment(name: str, file: str) -> None:
    assert source(name) == file


@given(st.floats(0, 1e5), st.none() | st.floats(0, 1e5), texts.filter(bool))
def test_segments_lead_back_to_their_file(start: float, end: float | None, path: str) -> None:
    name = segment("x" + path, start, end)
    assert source(name) == "x" + path or "\n" in path
    assert segment("a.mp4", 12345.678901, 20.0) == "a.mp4#t=12345.678901-20"
    assert segment("a.mp4", 0, None) == "a.mp4#t=0-"


# ---- class lists: the published counts, the shared copy, and the spellings that real label files use


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("hmdb51-arn", (31, 10, 10)),
        ("ucf101-arn", (70, 10, 21)),
        ("kinetics-cmn", (64, 12, 24)),
        ("ssv2-cmn", (64, 12, 24)),
        ("ssv2-otam", (64, 12, 24)),
    ],
)
def test_class_lists_have_the_published_sizes(name: str, counts: tuple[int, int, int], shared_data: Path) -> None:
    found = class_list(name)
    assert tuple(len(found[split]) for split in ("train", "val", "test")) == counts
    names = [label for split in found.values() for label in split]
    assert len({spelling(label) for label in names}) == sum(counts)
    there = json.loads((shared_data / f"splits/fewshot_classes/{name.replace('-', '_')}.json").read_text())
    assert found == {split: there[split] for split in ("train", "val", "test")}


@pytest.mark.parametrize(
    ("file", "name"),
    [("hmdb51_labels", "hmdb51-arn"), ("ucf_labels", "ucf101-arn"), ("kinetics_400_labels", "kinetics-cmn")],
)
def test_label_files_of_other_authors_match(file: str, name: str, shared_data: Path) -> None:
    with open(shared_data / f"splits/labels/{file}.csv") as lines:
        labels = {spelling(row["name"]): row["name"] for row in csv.DictReader(lines)}
    wanted = [label for split in class_list(name).values() for label in split]
    theirs = [labels[spelling(label)] for label in wanted]
    assert matching_lists(theirs) == [name]
    assert matching_lists([*theirs, "sewing on Mars"]) == []


def test_spellings() -> None:
    assert spelling("Apply Eye Makeup") == spelling("apply_eye_makeup") == spelling("ApplyEyeMakeup")
    assert spelling("Closing [something]") == spelling("Closing something")
    assert spelling("hurling (sport)") != spelling("hurling sport")
    with pytest.raises(UnknownName, match=r"no class list 'hmdb51_arn'\. Did you mean 'hmdb51-arn'"):
        class_list("hmdb51_arn")
    assert class_lists() == ["hmdb51-arn", "kinetics-cmn", "ssv2-cmn", "ssv2-otam", "ucf101-arn"]


# ---- splits


def test_a_matching_list_splits_the_classes() -> None:
    given_rows = videos({"Brush Hair": 2, "cartwheel": 3, "kick_ball": 4, "run": 1})
    split, line = with_class_split(given_rows, None, seed=0, way=1)
    assert {row.label: row.split for row in split.rows} == {
        "Brush Hair": "train",
        "cartwheel": "val",
        "kick_ball": "test",
        "run": "test",
    }
    assert line == (
        "Classes split by the built-in list hmdb51-arn: train 1 classes, 2 videos; val 1 classes, 3 videos; "
        f"test 2 classes, 5 videos (annotations {split.digest[:12]})."
    )
    assert with_class_split(given_rows, "hmdb51-arn", seed=5, way=1)[0] == split
    with pytest.raises(UnknownName, match=r"no class list 'seedd'\. Did you mean 'seeded'\?\nKnown: hmdb51-arn, "):
        with_class_split(given_rows, "seedd", seed=0, way=1)
    with pytest.raises(BadInput, match=r"possible way is 1; give .* nothing trained: vfc eval --split all"):
        with_class_split(given_rows, None, seed=0, way=2)


def test_a_seeded_split_is_60_20_20_of_the_classes() -> None:
    given_rows = videos({f"move {c:02}": 2 for c in range(25)})
    split, line = with_class_split(given_rows, None, seed=3, way=5)
    assert line.startswith("Classes split 60/20/20 at random (seed 3): train 15 classes, 30 videos; val 5 classes, 10 ")
    assert split == with_class_split(given_rows, None, seed=3, way=5)[0]
    assert split != with_class_split(given_rows, None, seed=4, way=5)[0]
    assert [len(split.of_split(s).labels()) for s in ("train", "val", "test")] == [15, 5, 5]
    # Another class order in, the same split out: only the names and the seed count.
    assert with_class_split(Annotations(given_rows.rows[::-1]), None, seed=3, way=5)[0] == split


@pytest.mark.parametrize(
    ("classes", "sizes"),
    [
        (1, (1, 0, 0)),
        (2, (1, 0, 1)),
        (3, (1, 1, 1)),
        (5, (3, 1, 1)),
        (8, (4, 2, 2)),
        (15, (9, 3, 3)),
        (51, (31, 10, 10)),
    ],
)
def test_sizes_of_small_splits(classes: int, sizes: tuple[int, int, int]) -> None:
    split, _ = with_class_split(videos({f"c{c}": 1 for c in range(classes)}), None, seed=0, way=0)
    assert tuple(sum(row.split == s for row in split.rows) for s in ("train", "val", "test")) == sizes


def test_too_wide_a_task_is_refused_with_the_largest_way() -> None:
    given_rows = videos({f"move {c:02}": 2 for c in range(15)})
    with pytest.raises(
        BadInput,
        match=r"--way 5 needs 5 classes in every split; .*train 9, val 3, test 3\.\nThe largest possible way is 3",
    ):
        with_class_split(given_rows, None, seed=0, way=5)
    with_class_split(given_rows, None, seed=0, way=9, splits=("train",))
    with pytest.raises(BadInput, match=r"splits as given there are: val 1\.\nThe largest possible way is 1"):
        with_class_split(videos({"a": 2}, "val"), None, seed=0, way=2)


def test_given_splits_are_kept_and_must_not_share_classes() -> None:
    given_rows = Annotations((*videos({"a": 1, "b": 1}, "train").rows, *videos({"c": 2}, "test").rows))
    kept, line = with_class_split(given_rows, None, seed=0, way=1)
    assert kept is given_rows
    assert line.startswith("Splits as given: train 2 classes, 2 videos; test 1 classes, 2 videos (")
    shared = Annotations((Annotation("1", "a", "train"), Annotation("2", "a", "test"), Annotation("3", "b", "test")))
    with pytest.raises(BadInput, match=r"1 classes stand in more than one split: 'a'\. .*\n.*--classes seeded"):
        with_class_split(shared, None, seed=0, way=1)
    again, line = with_class_split(shared, "seeded", seed=0, way=1, splits=("train", "test"))
    assert line.startswith("Classes split 60/20/20")
    assert {row.split for row in again.rows if row.label == "a"} in ({"train"}, {"test"})


def test_lists_that_do_not_fit() -> None:
    with pytest.raises(BadInput, match=r"1 of 2 classes are not in the list hmdb51-arn: 'handshake'"):
        with_class_split(videos({"hug": 1, "handshake": 1}), "hmdb51-arn", seed=0, way=1)
    both = videos({"Squeezing something": 1, "Twisting something": 1})
    with pytest.raises(BadInput, match=r"The 2 classes are in several built-in lists: ssv2-cmn, ssv2-otam"):
        with_class_split(both, None, seed=0, way=0)
    # `fencing` and `punch` are in HMDB51 and, spelt otherwise, in UCF101: the spelling decides.
    assert "list hmdb51-arn" in with_class_split(videos({"fencing": 1, "punch": 1}), None, seed=0, way=0)[1]
    assert "list ucf101-arn" in with_class_split(videos({"Fencing": 1, "Punch": 1}), None, seed=0, way=0)[1]
    for draw in (with_video_split, lambda rows, seed: with_class_split(rows, "seeded", seed=seed, way=0)):
        with pytest.raises(BadInput, match=r"cannot be drawn with the seed -1\.\nSeeds start at 0"):
            draw(both, seed=-1)
    with pytest.raises(UnknownName, match=r"no class list 'sseded'"):
        with_class_split(both, "sseded", seed=0, way=0)


def test_videos_without_a_label_are_in_no_split() -> None:
    rows = Annotations((*videos({"move a": 1, "move b": 1, "move c": 1}).rows, Annotation("unlabelled.mp4")))
    split, line = with_class_split(rows, None, seed=0, way=1)
    assert "1 videos in no split" in line
    assert [row.name for row in split.rows if not row.split] == ["unlabelled.mp4"]


@given(st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 12), min_size=1), st.integers(0, 99))
def test_video_split_is_per_class_and_keeps_files_whole(sizes: dict[str, int], seed: int) -> None:
    rows = [
        Annotation(segment(f"{label}{v}.mp4", 2 * s, 2 * s + 1), label)
        for label, n in sizes.items()
        for v in range(n)
        for s in range(2)
    ]
    split, line = with_video_split(Annotations(tuple(rows)), seed=seed)
    assert line.startswith(f"Videos of every class split 60/20/20 at random (seed {seed}): train ")
    split_of: dict[str, set[str]] = {}
    for row in split.rows:
        split_of.setdefault(source(row.name), set()).add(row.split)
    assert all(len(found) == 1 for found in split_of.values())
    for label, n in sizes.items():
        got = [next(iter(split_of[f"{label}{v}.mp4"])) for v in range(n)]
        fifth = 0 if n < 3 else max(1, int(n / 5 + 0.5))
        assert got.count("val") == fifth
        assert got.count("test") == (fifth if n > 2 else n // 2)
        # A class is split by itself: what else is in the data set does not matter.
        alone, _ = with_video_split(Annotations(tuple(row for row in rows if row.label == label)), seed=seed)
        assert {row for row in split.rows if row.label == label} == set(alone.rows)


def test_a_file_with_several_labels_stays_in_one_split() -> None:
    rows = [Annotation(segment(f"{v}.mp4", s, s + 1), "ab"[s]) for v in range(10) for s in range(2)]
    split, _ = with_video_split(Annotations((*rows, Annotation("bare.mp4"))), seed=1)
    assert len({(source(row.name), row.split) for row in split.rows}) == 11
    assert with_video_split(split, seed=2) == (split, with_video_split(split, seed=2)[1])
    assert with_video_split(split, seed=2)[1].startswith("Splits as given")
