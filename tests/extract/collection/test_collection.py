"""Collections: real folders and published lists, every format by hand, and what cannot be used."""

from __future__ import annotations

import json
import os
import tarfile
import unicodedata
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from vfc.cache_schema.annotations import class_list, source
from vfc.cache_schema.values.errors import BadInput, MissingPath, UnknownName
from vfc.extract.collection import Collection, collect
from vfc.extract.collection.listing import split_in_name


def make(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


def listed(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def names(collection: Collection) -> list[str]:
    return [video.name for video in collection.videos]


def labelled(collection: Collection) -> dict[str, tuple[str, str]]:
    return {video.name: (video.label, video.split) for video in collection.videos}


# --- folders ---------------------------------------------------------------------------------------------------------


def test_a_folder_tree(tmp_path: Path) -> None:
    root = make(
        tmp_path, "top.mp4", "walk/a.MP4", "walk/b.gif", "walk/a.txt", "run/deep/er/a.webm", "run/x.avi", "walk/noise",
        "walk/._a.mp4", ".cache/z.mp4",
    )  # fmt: skip
    collection = collect(root)
    assert labelled(collection) == {
        "run/deep/er/a.webm": ("er", ""),
        "run/x.avi": ("run", ""),
        "top.mp4": ("", ""),
        "walk/a.MP4": ("walk", ""),
        "walk/b.gif": ("walk", ""),
    }
    assert names(collection) == sorted(names(collection), key=str.encode)
    assert collection.skipped == {".txt": 1, "": 1, "hidden": 1}
    assert all(video.path.read_bytes().decode() == video.name for video in collection.videos)
    assert [row.label for row in collection.annotations().rows] == ["er", "run", "", "walk", "walk"]


def test_the_real_clips(shared_data: Path) -> None:
    collection = collect(shared_data / "clips")
    assert len(collection.videos) == 121
    assert collection.skipped == {".csv": 8, ".json": 3, ".pt": 3}
    labels = Counter(video.label for video in collection.videos)
    assert labels["handshake"] == 10
    assert labels["Fall"] == 3
    assert "gmdcsa24/Subject 1/Fall/13.mp4" in names(collection)


def test_include_and_exclude(shared_data: Path) -> None:
    clips = shared_data / "clips/ut_interaction_set1"
    assert len(collect(clips).videos) == 67
    assert len(collect(clips, exclude=["background"]).videos) == 60
    some = collect(clips, include=["hug", "kick", "push"], exclude=["kick"])
    assert {video.label for video in some.videos} == {"hug", "push"}
    with pytest.raises(
        UnknownName, match=r"(?s)no class 'handshak'\. Did you mean 'handshake'\?.*background, handshake"
    ):
        collect(clips, exclude=["handshak"])
    with pytest.raises(BadInput, match=r"(?s)leave no class.*The classes are: background"):
        collect(clips, include=["hug"], exclude=["hug"])


def test_a_root_above_the_folder_names_from_there(tmp_path: Path) -> None:
    make(tmp_path, "data/hmdb/wave/a.avi", "data/hmdb/wave/b.avi")
    collection = collect(tmp_path / "data/hmdb/wave", root=tmp_path / "data")
    assert labelled(collection) == {"hmdb/wave/a.avi": ("wave", ""), "hmdb/wave/b.avi": ("wave", "")}
    with pytest.raises(BadInput, match=r"does not lie in the --root"):
        collect(tmp_path / "data", root=tmp_path / "data/hmdb")


def test_one_video(tmp_path: Path) -> None:
    make(tmp_path, "a.mp4", "b.mp4")
    assert names(collect(tmp_path / "a.mp4")) == ["a.mp4"]
    assert labelled(collect(tmp_path / "*.mp4")) == {"a.mp4": ("", ""), "b.mp4": ("", "")}


def test_videos_by_a_pattern_are_named_as_in_their_folder(tmp_path: Path) -> None:
    make(tmp_path, "walk/0.mp4", "run/0.mp4", "run/1.mp4")
    whole = labelled(collect(tmp_path))
    assert labelled(collect(tmp_path / "*/0.mp4")) == {name: whole[name] for name in ("run/0.mp4", "walk/0.mp4")}
    assert labelled(collect(tmp_path / "run/*.mp4", root=tmp_path)) == {n: whole[n] for n in ("run/0.mp4", "run/1.mp4")}
    assert labelled(collect(tmp_path / "run/1.mp4", root=tmp_path)) == {"run/1.mp4": ("run", "")}
    with pytest.raises(BadInput, match=r"run/1\.mp4 does not lie in the --root .*walk\.\nLeave --root out"):
        collect(tmp_path / "run/1.mp4", root=tmp_path / "walk")


def test_equal_stems_never_collide(tmp_path: Path) -> None:
    make(tmp_path, "a/1.mp4", "b/1.mp4", "a/1.avi", "a/1.mp4.avi", "A/1.mp4")
    assert names(collect(tmp_path)) == ["A/1.mp4", "a/1.avi", "a/1.mp4", "a/1.mp4.avi", "b/1.mp4"]


def test_links_loops_and_duplicate_links(tmp_path: Path) -> None:
    root = make(tmp_path / "videos", "walk/a.mp4", "run/b.mp4")
    make(tmp_path / "elsewhere", "jump/c.mp4")
    (root / "jump").symlink_to(tmp_path / "elsewhere/jump")  # a class that lies on another disk
    (root / "walk/again.mp4").symlink_to(root / "walk/a.mp4")  # the same video in the same class
    (root / "run/also.mp4").symlink_to(root / "walk/a.mp4")  # the same video in another class
    (root / "walk/up").symlink_to(root)  # a loop
    (root / "run/broken.mp4").symlink_to(tmp_path / "gone.mp4")
    collection = collect(root)
    assert names(collection) == ["jump/c.mp4", "run/also.mp4", "run/b.mp4", "run/broken.mp4", "walk/a.mp4"]
    assert collection.notes == ("1 links to videos of the same class are left out: walk/again.mp4.",)


def test_names_are_the_same_on_every_file_system(tmp_path: Path) -> None:
    composed, apart = (unicodedata.normalize(form, "café/é.mp4") for form in ("NFC", "NFD"))
    make(tmp_path / "mac", apart)
    make(tmp_path / "linux", composed)
    mac, linux = collect(tmp_path / "mac"), collect(tmp_path / "linux")
    assert names(mac) == names(linux) == [composed]
    assert mac.annotations().digest == linux.annotations().digest
    assert mac.videos[0].path.exists()
    make(tmp_path / "mac", composed)
    with pytest.raises(BadInput, match=r"spelled with different Unicode"):
        collect(tmp_path / "mac")


def test_a_name_that_is_no_unicode(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path / "walk") + b"/caf\xe9.mp4"
    (tmp_path / "walk").mkdir()
    with open(path, "wb"):
        pass
    collection = collect(tmp_path)
    assert names(collection) == ["walk/caf\\xe9.mp4"]
    assert collection.videos[0].path.exists()
    assert len(collection.annotations().digest) == 64


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "empty/inside").mkdir(parents=True)
    make(tmp_path / "pictures", "a.jpg", "b.jpg", "c")
    with pytest.raises(
        MissingPath, match=r"(?s)no folder or file .*/pictuers\. Did you mean 'pictures'\?.*Give a folder"
    ):
        collect(tmp_path / "pictuers")
    with pytest.raises(BadInput, match=r"(?s)/empty is empty\.\nGive a folder with videos"):
        collect(tmp_path / "empty")
    with pytest.raises(BadInput, match=r"(?s)no video in .*pictures: 1 without suffix, 2 \.jpg\.\nVideos are: .*\.mp4"):
        collect(tmp_path / "pictures")
    with pytest.raises(MissingPath, match=r"no folder .*nowhere to look for listed videos"):
        collect(tmp_path, root=tmp_path / "nowhere")
    listed(tmp_path / "lists/trainlist01.txt", "a/b")
    with pytest.raises(BadInput, match=r"(?s)holds lists \(trainlist01\.txt\), but no video.*Say with --root"):
        collect(tmp_path / "lists")


# --- tables ----------------------------------------------------------------------------------------------------------


def test_a_csv(tmp_path: Path) -> None:
    make(tmp_path, "walk/a.mp4", "walk/b, c.mp4", "x.mp4")
    table = tmp_path / "videos.csv"
    table.write_text(
        "path,label,split,start_seconds,end_seconds\n"
        "walk/a.mp4,walking,train,,\n"
        "walk/a.mp4,turning,validation,0.4,4\n"
        "walk/a.mp4,turning,test,2.50,\n"
        '"walk/b, c.mp4",,,,\n'
        "\n"
        "x.mp4,,,,1.25\n"
    )
    collection = collect(table)
    assert labelled(collection) == {
        "walk/a.mp4": ("walking", "train"),
        "walk/a.mp4#t=0.4-4": ("turning", "val"),
        "walk/a.mp4#t=2.5-": ("turning", "test"),
        "walk/b, c.mp4": ("walk", ""),
        "x.mp4#t=0-1.25": ("", ""),
    }
    rows = {row.name: row for row in collection.annotations().rows}
    assert (rows["walk/a.mp4#t=0.4-4"].start_seconds, rows["walk/a.mp4#t=0.4-4"].end_seconds) == (0.4, 4.0)
    assert source("walk/a.mp4#t=0.4-4") == "walk/a.mp4"
    assert all(video.path.exists() for video in collection.videos)
    assert any("videos.csv read as 'CSV'" in note for note in collection.notes)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_csv_from_a_spreadsheet(tmp_path: Path, separator: str) -> None:
    make(tmp_path, "a.mp4")
    table = tmp_path / "v.csv"
    text = "Label,Path,frames\r\nwalk,a.mp4,3\r\n".replace(",", separator)
    table.write_bytes(b"\xef\xbb\xbf" + text.encode())
    collection = collect(table)
    assert labelled(collection) == {"a.mp4": ("walk", "")}
    assert any("not read: frames" in note for note in collection.notes)


def test_jsonl_and_a_root(tmp_path: Path) -> None:
    make(tmp_path / "data", "a.mp4", "b.mp4")
    table = tmp_path / "lists/v.jsonl"
    listed(
        table,
        json.dumps({"path": "a.mp4", "label": 3, "start_seconds": 1, "end_seconds": 2.5}),
        "",
        json.dumps({"path": str(tmp_path / "data/b.mp4"), "split": "train", "width": 5}),
    )
    collection = collect(table, root=tmp_path / "data")
    assert labelled(collection) == {"a.mp4#t=1-2.5": ("3", ""), "b.mp4": ("", "train")}


def test_a_group_column_reaches_the_annotations(tmp_path: Path) -> None:
    make(tmp_path, "a.mp4", "b.mp4")
    table = collect(listed(tmp_path / "v.csv", "path,label,group", "a.mp4,x,park 3", "b.mp4,x,"))
    assert [(row.name, row.group) for row in table.annotations().rows] == [("a.mp4", "park 3"), ("b.mp4", "")]
    assert not any("not read" in note for note in table.notes)
    lines = collect(listed(tmp_path / "v.jsonl", '{"path": "a.mp4", "group": 7}'))
    assert lines.annotations().rows[0].group == "7"


def test_nearly_equal_classes_are_named_pair_by_pair(tmp_path: Path) -> None:
    make(tmp_path, "Grow/a.mp4", "grow/b.mp4", "hand_shake/c.mp4", "hand shake/d.mp4", "walk/e.mp4")
    warning = "'Grow' and 'grow'; 'hand shake' and 'hand_shake'."
    assert any(note.endswith(warning) and "nearly equal" in note for note in collect(tmp_path).notes)
    assert not any("nearly equal" in note for note in collect(tmp_path, exclude=["Grow", "hand shake"]).notes)


@pytest.mark.parametrize(
    ("word", "split"),
    [("Val", "val"), ("validation", "val"), ("DEV", "val"), (" Training ", "train"), ("eval", "test")],
)
def test_splits_of_a_table_are_read_in_their_usual_spellings(tmp_path: Path, word: str, split: str) -> None:
    make(tmp_path, "a.mp4")
    assert labelled(collect(listed(tmp_path / "v.csv", "path,label,split", f"a.mp4,x,{word}"))) == {
        "a.mp4": ("x", split)
    }
    with pytest.raises(BadInput, match=r"v\.csv, line 2: There is no split 'holdout'\.\nA split is one of: train"):
        collect(listed(tmp_path / "v.csv", "path,label,split", "a.mp4,x,holdout"))


def test_the_same_lines_as_csv_and_jsonl(tmp_path: Path) -> None:
    make(tmp_path, "walk/a.mp4", "run/b.mp4")
    one = listed(tmp_path / "v.csv", "path,label,split", "walk/a.mp4,w,train", "run/b.mp4,r,test")
    other = listed(
        tmp_path / "v.jsonl",
        '{"path": "run/b.mp4", "label": "r", "split": "test"}',
        '{"path": "walk/a.mp4", "label": "w", "split": "train"}',
    )
    assert collect(one).annotations() == collect(other).annotations()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.mp4,walk\n", r"v\.csv, line 1: the header 'a\.mp4,walk' names no column 'path'"),
        ("path,lable\na.mp4,x\n", r"v\.csv, line 1: there is no column 'lable'\. Did you mean 'label'\?"),
        ("path,class\na.mp4,x\n", r"v\.csv, line 1: there is no column 'class'\. Did you mean 'label'\?"),
        ("path,label,Label\na.mp4,x,y\n", r"v\.csv, line 1: there are 2 columns 'label'"),
        ("path,label\na.mp4,x\na.mp4,x,y\n", r"v\.csv, line 3: 3 values for 2 columns"),
        ("path,label\na.mp4\n", r"v\.csv, line 2: 1 values for 2 columns"),
        ("path,start_seconds\na.mp4,-1\n", r"v\.csv, line 2: start_seconds is '-1', not a number of seconds from 0 up"),
        ("path,start_seconds\na.mp4,soon\n", r"v\.csv, line 2: start_seconds is 'soon'"),
        ("path,start_seconds\na.mp4,nan\n", r"v\.csv, line 2: start_seconds is 'nan'"),
        ("path,start_seconds,end_seconds\na.mp4,4,3\n", r"v\.csv, line 2: it ends at 3 s, not after its start at 4 s"),
        ("path,label\n,x\n", r"v\.csv, line 2: the path is empty"),
        ('path,label\n"a.mp4,x\n', r"v\.csv, line 2: unexpected end of data"),
        ("path,label\n../a.mp4,x\n", r"v\.csv, line 2: '\.\./a\.mp4' lies outside of .*--root above all"),
        ("path,label\n/etc/a.mp4,x\n", r"v\.csv, line 2: '/etc/a\.mp4' lies outside of"),
        ("path,label\na.mp4,x\na.mp4,y\n", r"'a\.mp4' is listed twice: as x \(.*line 2\) and as y \(.*line 3\)"),
        ("path,label\nb.mp4,x\n", r"None of the 1 listed videos is below .*: no b\.mp4\..*Say with --root"),
        ("path,label\n", r"v\.csv lists no video"),
    ],
)
def test_a_csv_that_cannot_be_used(tmp_path: Path, text: str, message: str) -> None:
    make(tmp_path, "a.mp4")
    (tmp_path / "v.csv").write_text(text)
    with pytest.raises(BadInput, match=f"(?s){message}"):
        collect(tmp_path / "v.csv")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"v\.jsonl, line 2: not JSON \("),
        ("[1]", r"v\.jsonl, line 2: not a JSON object"),
        ('{"path": ["a.mp4"]}', r"v\.jsonl, line 2: path is \['a\.mp4'\], not text"),
        ('{"label": "x"}', r"v\.jsonl, line 2: the path is empty"),
        ('{"path": "a.mp4", "end_second": 2}', r"line 2: there is no column 'end_second'\. Did you mean 'end_seconds'"),
        ('{"path": "a.mp4", "end_seconds": true}', r"line 2: end_seconds is True, not a number"),
    ],
)
def test_jsonl_that_cannot_be_used(tmp_path: Path, line: str, message: str) -> None:
    make(tmp_path, "a.mp4")
    with pytest.raises(BadInput, match=message):
        collect(listed(tmp_path / "v.jsonl", '{"path": "a.mp4"}', line))


def test_other_files_that_are_no_lists(tmp_path: Path) -> None:
    make(tmp_path, "a.mp4")
    (tmp_path / "v.json").write_text("[]")
    (tmp_path / "v.txt").write_bytes(b"caf\xe9/a.mp4\n")
    with pytest.raises(BadInput, match=r"v\.json is JSON\.\nGive a JSONL"):
        collect(tmp_path / "v.json")
    with pytest.raises(BadInput, match=r"v\.txt is not UTF-8 text \(byte 3\)"):
        collect(tmp_path / "v.txt")


def test_missing_files_are_kept_counted_and_named(tmp_path: Path) -> None:
    make(tmp_path, "a.mp4")
    table = listed(tmp_path / "v.csv", "path,label", "a.mp4,x", *[f"gone{i}.mp4,x" for i in range(5)])
    collection = collect(table)
    assert len(collection.videos) == 6
    assert collection.missing == tuple(f"gone{i}.mp4" for i in range(5))
    assert "5 of 6 listed videos are missing and will fail: gone0.mp4, gone1.mp4, gone2.mp4 ..." in " ".join(
        collection.notes
    )
    assert not next(video for video in collection.videos if video.name == "gone3.mp4").path.exists()
    # A table names files; a file of the same name in another folder is another video.
    make(tmp_path, "other/gone3.mp4")
    assert len(collect(table).missing) == 5


# --- published lists -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    for archive in ("trx_few_shot", "vidprism_lists"):
        with tarfile.open(shared_data / f"splits/{archive}.tar.xz") as file:
            file.extractall(folder, filter="data")
    return folder


def test_trx_lists_against_the_published_counts(published: Path, shared_data: Path) -> None:
    """Class/stem lists of UCF101 and HMDB51; the few clips that are here are found, the rest is kept as missing."""
    for folder, data, here in (("ucf_ARN", "ucf101", 5), ("hmdb_ARN", "hmdb51", 3)):
        counts = json.loads((shared_data / f"splits/fewshot_classes/{data}_arn.json").read_text())
        collection = collect(published / "trx_few_shot" / folder, root=shared_data / "clips" / data)
        split_of = {name: split for split in ("train", "val", "test") for name in counts[split]}
        assert Counter(video.split for video in collection.videos) == counts["videos"]
        assert all(split_of[video.label] == video.split for video in collection.videos)
        found = [video for video in collection.videos if video.name not in collection.missing]
        assert len(found) == here
        assert all(video.path.is_file() and video.path.parent.name == video.label for video in found)


def test_published_ucf_and_hmdb_lists_with_numbers(published: Path, shared_data: Path) -> None:
    ucf = published / "vidprism_lists/ucf101"
    with pytest.raises(
        BadInput, match=r"(?s)lists of several splits: \*list01-1\.txt, \*list02-1\.txt.*--videos '.*\*list01-1"
    ):
        collect(ucf, root=shared_data / "clips/ucf101")
    collection = collect(ucf / "*list01-1.txt", root=shared_data / "clips/ucf101")
    assert Counter(video.split for video in collection.videos) == {"train": 9537, "test": 3783}
    assert len({video.label for video in collection.videos}) == 101
    assert labelled(collection)["ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi"] == ("ApplyEyeMakeup", "train")
    hmdb = collect(published / "vidprism_lists/hmdb51/vallist_split2.txt", root=shared_data / "clips/hmdb51")
    assert Counter((video.split, video.label) for video in hmdb.videos)["val", "wave"] == 30
    assert len(hmdb.videos) - len(hmdb.missing) >= 1


def test_official_ucf_lists(tmp_path: Path) -> None:
    """Numbers from 1 in the training list, none in the test list, and a list of classes beside them."""
    make(tmp_path / "data", "Archery/v_Archery_g08_c01.avi", "Biking/v_Biking_g01_c02.avi")
    listed(tmp_path / "lists/trainlist01.txt", "Archery/v_Archery_g08_c01.avi 1", "Biking/v_Biking_g08_c01.avi 2 ")
    listed(tmp_path / "lists/testlist01.txt", "Archery/v_Archery_g01_c01.avi", "Biking/v_Biking_g01_c02.avi")
    listed(tmp_path / "lists/classInd.txt", "1 Archery", "2 Biking")
    collection = collect(tmp_path / "lists", root=tmp_path / "data")
    assert labelled(collection) == {
        "Archery/v_Archery_g01_c01.avi": ("Archery", "test"),
        "Archery/v_Archery_g08_c01.avi": ("Archery", "train"),
        "Biking/v_Biking_g01_c02.avi": ("Biking", "test"),
        "Biking/v_Biking_g08_c01.avi": ("Biking", "train"),
    }
    assert len(collection.missing) == 2


def test_official_hmdb_lists(tmp_path: Path) -> None:
    make(tmp_path / "data", "clap/#20_Rhythm_clap_u_nm_np1_fr_goo_0.avi", "draw_sword/a_draw_sword_1.avi")
    lists = tmp_path / "lists"
    listed(lists / "clap_test_split1.txt", "#20_Rhythm_clap_u_nm_np1_fr_goo_0.avi 1 ", "b_clap.avi 2", "c_clap.avi 0")
    listed(lists / "draw_sword_test_split1.txt", "a_draw_sword_1.avi 2")
    listed(lists / "carnival_test_split1.txt", "v.avi 1")
    collection = collect(lists, root=tmp_path / "data")
    assert labelled(collection) == {
        "carnival/v.avi": ("carnival", "train"),
        "clap/#20_Rhythm_clap_u_nm_np1_fr_goo_0.avi": ("clap", "train"),
        "clap/b_clap.avi": ("clap", "test"),
        "clap/c_clap.avi": ("clap", ""),
        "draw_sword/a_draw_sword_1.avi": ("draw_sword", "test"),
    }
    assert any("clap_test_split1.txt: 1 videos are in neither split of this fold" in note for note in collection.notes)
    listed(lists / "clap_test_split2.txt", "b_clap.avi 1")
    with pytest.raises(BadInput, match=r"several splits: \*split1\.txt, \*split2\.txt"):
        collect(lists, root=tmp_path / "data")
    assert len(collect(lists / "*split1.txt", root=tmp_path / "data").videos) == 5


def test_alibaba_lists(tmp_path: Path) -> None:
    make(tmp_path, "brush_hair/April_09 (a).avi", "20bn/12345.webm")
    collection = collect(
        listed(tmp_path / "l/list.txt", "train0//brush_hair/April_09 (a).avi", "test7//clap/x.avi"), root=tmp_path
    )
    assert labelled(collection) == {
        "brush_hair/April_09 (a).avi": ("brush_hair", "train"),
        "clap/x.avi": ("clap", "test"),
    }
    flat = collect(listed(tmp_path / "l/flat.txt", "train3//12345.webm"), root=tmp_path / "20bn")
    assert labelled(flat) == {"12345.webm": ("train3", "train")}


def test_something_something_without_folders_and_with_numbered_classes(published: Path, tmp_path: Path) -> None:
    make(tmp_path, "78687.webm", "42326.webm", "195025.webm")
    lists = published / "trx_few_shot/ssv2_OTAM"
    plain = collect(lists / "testlist07.txt", root=tmp_path)
    assert labelled(plain)["195025.webm"] == ("test18", "test")
    named = collect(lists, root=tmp_path, classes="ssv2-otam")
    assert len(named.videos) == 67013 + 1926 + 2857
    assert labelled(named)["78687.webm"] == (class_list("ssv2-otam")["train"][8], "train")
    assert labelled(named)["195025.webm"] == (class_list("ssv2-otam")["test"][18], "test")


def test_class_stem_lines_with_special_characters(tmp_path: Path) -> None:
    twisting = "Twisting (wringing) something wet, until water comes out"
    make(tmp_path, f"{twisting}/88644.mp4", "cartwheel/(Rad)Schlag_die_Bank!_f_0.avi", "blasting sand/-kYzxMKp514.mp4")
    make(tmp_path, "Air_Drumming/-VtLx-mcPds_000012_000022.mkv", "Air_Drumming/my clip.mkv")
    lines = listed(
        tmp_path / "l/vallist.txt",
        f"{twisting}/88644",
        "cartwheel/(Rad)Schlag_die_Bank!_f_0",
        "blasting sand/-kYzxMKp514_000086_000096",  # saved under the id alone
        "air drumming/-VtLx-mcPds_000012_000022",  # a folder spelled in another way
        "air drumming/my_clip",
    )
    collection = collect(lines, root=tmp_path)
    assert not collection.missing
    assert labelled(collection) == {
        "Air_Drumming/-VtLx-mcPds_000012_000022.mkv": ("air drumming", "val"),
        "Air_Drumming/my clip.mkv": ("air drumming", "val"),
        f"{twisting}/88644.mp4": (twisting, "val"),
        "blasting sand/-kYzxMKp514.mp4": ("blasting sand", "val"),
        "cartwheel/(Rad)Schlag_die_Bank!_f_0.avi": ("cartwheel", "val"),
    }


def test_another_segment_of_a_kinetics_video_is_another_clip(tmp_path: Path) -> None:
    make(tmp_path, "golf/-kYzxMKp514_000010_000020.mp4", "golf/abcdefghijk_12_22.mp4")
    lines = listed(tmp_path / "l/list.txt", "golf/-kYzxMKp514_000086_000096", "golf/abcdefghijk_000012_000022")
    collection = collect(lines, root=tmp_path)
    assert collection.missing == ("golf/-kYzxMKp514_000086_000096",)
    assert names(collection) == ["golf/-kYzxMKp514_000086_000096", "golf/abcdefghijk_12_22.mp4"]


def test_a_stem_of_another_listed_class_is_another_video(tmp_path: Path) -> None:
    make(tmp_path, "golf/001.mp4", "golf/002.mp4")
    lines = listed(tmp_path / "l/list.txt", "golf/001", "golf/002", "fencing/001")
    assert collect(lines, root=tmp_path).missing == ("fencing/001",)


def test_a_stem_that_fits_several_files(tmp_path: Path) -> None:
    make(tmp_path, "walk/a.mp4", "walk/a.avi")
    with pytest.raises(BadInput, match=r"(?s)list\.txt, line 1: 'walk/a' fits several files: walk/a\.avi, walk/a\.mp4"):
        collect(listed(tmp_path / "l/list.txt", "walk/a"), root=tmp_path)


def test_a_listed_suffix_that_is_another_on_disk(tmp_path: Path) -> None:
    make(tmp_path, "walk/a.mp4", "run/b.mp4")
    lines = listed(tmp_path / "l/list.txt", "walk/a.avi", "run/b.avi", "jump/b.avi")
    collection = collect(lines, root=tmp_path)
    assert names(collection) == ["jump/b.avi", "run/b.mp4", "walk/a.mp4"]
    assert collection.missing == ("jump/b.avi",)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["v/a.mp4 running fast", "v/b c.mp4,jumping"], {"v/a.mp4": "running fast", "v/b c.mp4": "jumping"}),
        (["v/a.mp4 3", "v/b c.mp4\t12"], {"v/a.mp4": "3", "v/b c.mp4": "12"}),  # one folder, two classes
        (["x/d.mp4 0", "v/a.mp4 1", "v/b c.mp4 1"], {"x/d.mp4": "x", "v/a.mp4": "v", "v/b c.mp4": "v"}),
        (["v/a.mp4", "x/d.mp4"], {"v/a.mp4": "v", "x/d.mp4": "x"}),
        (["v\\a.mp4 1", "x\\d.mp4 2"], {"v/a.mp4": "v", "x/d.mp4": "x"}),  # written on Windows
        (["e.mp4 4"], {"e.mp4": "4"}),
    ],
)
def test_path_label_lines(tmp_path: Path, lines: list[str], expected: dict[str, str]) -> None:
    make(tmp_path, "v/a.mp4", "v/b c.mp4", "x/d.mp4", "e.mp4")
    collection = collect(listed(tmp_path / "some.txt", *lines))
    assert {video.name: video.label for video in collection.videos} == expected
    assert not collection.missing


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["a.mp4 x", "nonsense"], r"line 2: 'nonsense' is no line of a list of videos, the lines before"),
        (["nonsense"], r"list\.txt, line 1: 'nonsense' is no line of a list of videos\.\nA line is 'class/stem'"),
        (["a.mp4 x", "", "a.mp4"], r"list\.txt, line 3: 'a\.mp4' is a line 'path', the lines before are 'path label'"),
        (["walk/a", "walk/a.mp4"], r"line 2: 'walk/a\.mp4' is a line 'path', the lines before are 'class/stem'"),
        (["train0//a.mp4", "a.mp4"], r"line 2: .* is a line 'path', the lines before are 'split//path'"),
        (["../a.mp4"], r"line 1: '\.\./a\.mp4' lies outside of"),
        ([""], r"list\.txt lists no video"),
    ],
)  # fmt: skip
def test_lines_that_cannot_be_used(tmp_path: Path, lines: list[str], message: str) -> None:
    make(tmp_path, "a.mp4", "walk/a.mp4")
    with pytest.raises(BadInput, match=f"(?s){message}"):
        collect(listed(tmp_path / "list.txt", *lines))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["a.mp4 20 0"], r"line 1: a\.mp4 20 0 is a path with the class '20 0', or a path and 2 columns \('20', '0'\)"),
        (["a.mp4 x", "b.mp4 64 walking"], r"line 2: .* the class '64 walking', or a path and 2 columns"),
        (["a.mp4 walking 3"], r"the class 'walking 3', or a path and 2 columns"),
        (["a.mp4 0.5 2.5 walk"], r"the class '0\.5 2\.5 walk', or a path and 3 columns"),
        (["a.mp4\twalk\tindoors"], r"the class 'walk\\tindoors', or a path and 2 columns"),
        (["a.mp4,walk,indoors"], r"the class 'walk,indoors', or a path and 2 columns \('walk', 'indoors'\)"),
        (["a.mp4 b.mp4"], r"the class 'b\.mp4', or one path with a blank, or two paths \('a\.mp4' and 'b\.mp4'\)"),
        (["a.mp4 train", "b.mp4 validation"], r"the class 'train', or a path, and the split 'train'"),
        (["a.mp4 walk test", "b.mp4 run Train"], r"the class 'walk test', or a path, a label, and the split 'test'"),
        ([f"v/{i}.mp4 {n}" for i, n in enumerate((97, 120, 64, 233, 81))], r"the number of its frames \(97\)"),
        (["walk/a 120 3", "walk/b"], r"1: walk/a 120 3 is the video 'a 120 3' of the class 'walk', or a path 'a' and"),
        (["v/a.mp4;walk"], r"is the video 'a\.mp4;walk' of the class 'v', or a path 'a\.mp4' and columns"),
    ],
)  # fmt: skip
def test_lines_with_two_readings_are_refused_with_both(tmp_path: Path, lines: list[str], message: str) -> None:
    make(tmp_path, "a.mp4", "b.mp4", "v/a.mp4", "walk/a.mp4", *(f"v/{i}.mp4" for i in range(5)))
    with pytest.raises(BadInput, match=f"{message}.*\n.*a CSV with a header such as path,label"):
        collect(listed(tmp_path / "list.txt", *lines))


@pytest.mark.parametrize(
    ("line", "name", "label"),
    [
        ('a b.mp4 "20 0"', "a b.mp4", "20 0"),
        ('"v/a b.mp4" walking fast', "v/a b.mp4", "walking fast"),
        ('"v/a b.mp4","jumping, high"', "v/a b.mp4", "jumping, high"),
        ("a b.mp4 golf, 18 holes deep", "a b.mp4", "golf, 18 holes deep"),
        ("a b.mp4 train the dog", "a b.mp4", "train the dog"),
    ],
)
def test_lines_with_one_reading(tmp_path: Path, line: str, name: str, label: str) -> None:
    make(tmp_path, "a b.mp4", "v/a b.mp4")
    assert labelled(collect(listed(tmp_path / "list.txt", line))) == {name: (label, "")}


def test_quoted_values_of_a_csv_may_follow_a_blank(tmp_path: Path) -> None:
    make(tmp_path, "a, b.mp4")
    assert labelled(collect(listed(tmp_path / "v.csv", "label, path", '"walk, fast", "a, b.mp4"'))) == {
        "a, b.mp4": ("walk, fast", "")
    }


def test_what_the_numbers_of_a_list_were_taken_for_is_said(tmp_path: Path) -> None:
    make(tmp_path, "v/a.mp4", "v/b.mp4", "x/c.mp4")
    by_folder = collect(listed(tmp_path / "l.txt", "v/a.mp4 1", "v/b.mp4 1", "x/c.mp4 0"))
    assert "The numbers behind the paths stand for the folders: 0 is 'x'." in by_folder.notes
    by_number = collect(listed(tmp_path / "l.txt", "v/a.mp4 1", "v/b.mp4 2", "x/c.mp4 1"))
    assert any("numbers behind the paths are the class names" in note for note in by_number.notes)
    assert labelled(by_number) == {"v/a.mp4": ("1", ""), "v/b.mp4": ("2", ""), "x/c.mp4": ("1", "")}


def test_a_video_in_two_splits_is_refused_and_repeated_lines_count_once(tmp_path: Path) -> None:
    make(tmp_path / "data", "walk/a.mp4", "walk/b.mp4")
    listed(tmp_path / "lists/train.txt", "walk/a", "walk/b", "walk/a")
    assert any("1 lines repeat others" in note for note in collect(tmp_path / "lists", root=tmp_path / "data").notes)
    listed(tmp_path / "lists/test.txt", "walk/b")
    with pytest.raises(
        BadInput, match=r"'walk/b\.mp4' is listed twice: as walk, .* \(.*test\.txt, line 1\) and .*train\.txt"
    ):
        collect(tmp_path / "lists", root=tmp_path / "data")


def test_split_words_in_file_names_whatever_their_case(tmp_path: Path) -> None:
    make(tmp_path / "data", "walk/a.mp4", "walk/b.mp4", "walk/c.mp4")
    for word, name in (("Train", "a"), ("DEV", "b"), ("Evaluation", "c")):
        listed(tmp_path / f"lists/{word}_01.txt", f"walk/{name}")
    assert labelled(collect(tmp_path / "lists", root=tmp_path / "data")) == {
        "walk/a.mp4": ("walk", "train"), "walk/b.mp4": ("walk", "val"), "walk/c.mp4": ("walk", "test"),
    }  # fmt: skip


def test_tables_per_split(tmp_path: Path) -> None:
    make(tmp_path / "data", "a.mp4", "b.mp4")
    listed(tmp_path / "l/train.csv", "path,label", "a.mp4,x")
    listed(tmp_path / "l/validation.csv", "path,label", "b.mp4,y")
    assert labelled(collect(tmp_path / "l", root=tmp_path / "data")) == {"a.mp4": ("x", "train"), "b.mp4": ("y", "val")}
    # A table alone tells splits in its rows, whatever it is called.
    assert labelled(collect(tmp_path / "l/train.csv", root=tmp_path / "data")) == {"a.mp4": ("x", "")}


@pytest.mark.parametrize(
    ("stem", "split"),
    [
        ("trainlist03", "train"), ("vallist03", "val"), ("testlist01-1", "test"), ("trainlist_split1", "train"),
        ("kinetics_val", "val"), ("UCF101-validation", "val"), ("my_test", "test"), ("latest", ""), ("carnival", ""),
        ("train_val", ""), ("values", ""), ("videos", ""), ("valid", "val"), ("Training", "train"),
        ("devlist01", "val"), ("my-DEV", "val"), ("devices", ""), ("eval", "test"), ("evaluation_1", "test"),
        ("medieval", ""),
    ],
)  # fmt: skip
def test_splits_in_file_names(stem: str, split: str) -> None:
    assert split_in_name(stem) == split


# --- built-in class lists --------------------------------------------------------------------------------------------


def test_a_built_in_class_list_sets_splits_and_selects_classes(tmp_path: Path) -> None:
    """Spelled as the copy on disk spells it; classes outside of the list are left out, and that is said."""
    lists = class_list("hmdb51-arn")
    train, test = lists["train"][0], lists["test"][0]
    loose = train.replace("_", " ").title()
    make(tmp_path, f"{loose}/a.avi", f"{test}/b.avi", "juggling torches/c.avi")
    collection = collect(tmp_path, classes="hmdb51-arn")
    assert labelled(collection) == {f"{loose}/a.avi": (loose, "train"), f"{test}/b.avi": (test, "test")}
    assert any("1 of 3 videos are of classes outside of hmdb51-arn" in note for note in collection.notes)
    with pytest.raises(UnknownName, match=r"no class list 'hmdb51'.*Did you mean 'hmdb51-arn'"):
        collect(tmp_path, classes="hmdb51")
    with pytest.raises(BadInput, match="No class of the collection is in the list kinetics-cmn: "):
        collect(tmp_path, classes="kinetics-cmn")


@given(
    st.sets(
        st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/\\"), min_size=1, max_size=12),
        min_size=1,
        max_size=6,
    )
)
def test_any_class_and_stem_is_read_back(tmp_path_factory: pytest.TempPathFactory, parts: set[str]) -> None:
    """Whatever a class is called, a class/stem line gives it back, and finds the file of that name."""
    root = tmp_path_factory.mktemp("any")
    classes = {p.strip() for p in parts if p.strip() not in ("", ".", "..") and len(p.encode()) < 200}
    classes = {p for p in classes if not p.startswith(".") and p == unicodedata.normalize("NFC", p)}
    assume(classes)
    make(root, *[f"{name}/clip.mp4" for name in classes])
    collection = collect(listed(root / "l.txt", *[f"{name}/clip" for name in sorted(classes)]))
    assert {video.name: video.label for video in collection.videos} == {f"{c}/clip.mp4": c for c in classes}
