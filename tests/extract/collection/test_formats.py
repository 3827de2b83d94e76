"""Official lists as they are downloaded: own small samples by hand, and those of the shared data with their rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vfc.cache_schema.values.errors import BadInput, UnknownName
from vfc.extract.collection import Collection, ListOptions, collect, read_sources
from vfc.extract.collection.class_names import named_numbers, read_class_names
from vfc.extract.collection.document import Document
from vfc.extract.collection.formats import formats, recognise

Rows = list[tuple[str, str, str]]

# Format of the list -> (files by name, the rows: name, label, split). Ids are invented; the quirks are real: ids that
# begin with - or _, commas and quotes in names, times as floats, semicolons, carriage returns, a byte order mark.
SAMPLES: dict[str, tuple[dict[str, str], Rows]] = {
    "Something-Something V2": (
        {
            "a-train.json": json.dumps(
                [
                    {"id": "11", "label": "putting a cup, upright", "template": "Putting [something], upright"},
                    {"id": 12, "label": "x", "template": "Moving [part of something] up"},
                ]
            ),
            "a-validation.json": '[{"id": "21", "label": "y", "template": "Moving [something] up"}]',
        },
        [
            ("11.webm", "Putting something, upright", "train"),
            ("12.webm", "Moving part of something up", "train"),
            ("21.webm", "Moving something up", "val"),
        ],
    ),
    "Something-Something V1, Jester": (
        {"jester-v1-train.csv": "7;Swiping Left\r\n8;Doing other things\r\n", "jester-v1-test.csv": "9\n"},
        [("7", "Swiping Left", "train"), ("8", "Doing other things", "train")],
    ),
    "Kinetics": (
        {
            "kinetics-600_val.csv": "\ufefflabel,youtube_id,time_start,time_end,split\r\n"
            '"playing ""oud"", slowly",-_a-b_c-d_e,7.0,17.0,validate\r\nabseiling,AAAAAAAAAAA,1084,1094,validate\r\n'
        },
        [
            ("val/-_a-b_c-d_e_000007_000017.mp4", 'playing "oud", slowly', "val"),
            ("val/AAAAAAAAAAA_001084_001094.mp4", "abseiling", "val"),
        ],
    ),
    "Diving48": (
        {
            "V2_test.json": '[{"vid_name": "_x_00003", "label": 1, "start_frame": 0, "end_frame": 9}]',
            "Diving48_vocab.json": '[["Back", "15som"], ["Inward", "25som"]]',
        },
        [("_x_00003.mp4", "Inward+25som", "test")],
    ),
    "FineGym": (
        {"gym288_val_element.txt": "-aaaaaaaaaa_E_000100_000109_A_0000_0009 12\n"},
        [("-aaaaaaaaaa_E_000100_000109_A_0000_0009.mp4", "12", "val")],
    ),
    "EPIC-KITCHENS": (
        {
            "EPIC_100_train.csv": "narration_id,video_id,start_timestamp,stop_timestamp,verb,"
            "verb_class,noun,noun_class\n"
            "P01_01_0,P01_01,01:00:00.14,01:00:03.37,put-down,1,plate,2\n"
            "P01_01_1,P01_01,01:00:00.14,01:00:03.37,take,0,plate,2\n",
            "EPIC_100_verb_classes.csv": "id,key,instances\n0,take,\"['take']\"\n1,put,\"['put', 'put-down']\"\n",
        },
        [("P01_01.MP4#t=3600.14-3603.37", "put", "train")],
    ),
    "Charades": (
        {
            "Charades_v1_train.csv": "id,script,actions,length\n"
            'AAAAA,"one, two",c001 11.90 21.20;c000 0.00 12.60,24.0\nBBBBB,none,,12.0\n',
            "Charades_v1_classes.txt": "c000 Holding clothes\nc001 Putting clothes\n",
        },
        [("AAAAA.mp4#t=0-12.6", "Holding clothes", "train"), ("AAAAA.mp4#t=11.9-21.2", "Putting clothes", "train")],
    ),
    "ActivityNet, THUMOS, HACS, COIN": (
        {
            "activity_net.json": json.dumps(
                {
                    "taxonomy": [],
                    "database": {
                        "-aaaaaaaaaa": {
                            "subset": "validation",
                            "duration": 9.0,
                            "annotations": [{"segment": [0.5, 8], "label": "Archery"}],
                        },
                        "bbbbbbbbbbb": {"subset": "testing", "duration": 9.0, "annotations": []},
                    },
                }
            )
        },
        [("v_-aaaaaaaaaa.mp4#t=0.5-8", "Archery", "val")],
    ),
    "COIN": (
        {
            "COIN.json": json.dumps(
                {
                    "database": {
                        "ccccccccccc": {
                            "class": "ChangeTire",
                            "subset": "training",
                            "annotation": [{"id": "1", "segment": [3.0, 7.0], "label": "unscrew the screw"}],
                        }
                    }
                }
            )
        },
        [("ccccccccccc.mp4#t=3-7", "unscrew the screw", "train")],
    ),
    "Moments in Time": (
        {"validationSet.csv": "adult+male+singing/vid_1.mp4,adult+male+singing,3,0\n"},
        [("validation/adult+male+singing/vid_1.mp4", "adult+male+singing", "val")],
    ),
    "V-JEPA": (
        {"k400.csv": "/data/a b/one.mp4 3\n/data/a b/two.mp4 0\n"},
        [("/data/a b/one.mp4", "3", ""), ("/data/a b/two.mp4", "0", "")],
    ),
    "PySlowFast": (
        {"val.csv": "my clips/one.mp4 1\nmy clips/two.mp4 0\n", "label_map.txt": "zero\none\n"},
        [("my clips/one.mp4", "one", "val"), ("my clips/two.mp4", "zero", "val")],
    ),
    "TSN, TSM, mmaction2 frames": (
        {"val_videofolder.txt": "class a/000012 54 1\nclass a/000013 0 2\n", "category.txt": "up\ndown\n"},
        [("class a/000012", "up", "val"), ("class a/000013", "down", "val")],
    ),
    "PySlowFast frames": (
        {
            "train.csv": "original_vido_id video_id frame_id path labels\n"
            'a 0 0 a/a_000001.jpg "4"\na 0 1 a/a_000002.jpg "4"\nb 1 0 b/b_000001.jpg ""\n'
        },
        [("a", "4", "train"), ("b", "", "train")],
    ),
    "Ego4D": (
        {
            "fho_lta_val.json": json.dumps(
                {
                    "split": "val",
                    "clips": [
                        {
                            "clip_uid": "c-1",
                            "action_clip_start_sec": 4.75,
                            "action_clip_end_sec": 12.75,
                            "verb": "touch",
                            "noun": "dough",
                        }
                    ],
                }
            )
        },
        [("c-1.mp4#t=4.75-12.75", "touch", "val")],
    ),
}


def rows_of(collection: Collection) -> Rows:
    return [(video.name, video.label, video.split) for video in collection.videos]


def written(folder: Path, files: dict[str, str]) -> list[Path]:
    """The lists of a sample in a folder; its class lists lie beside them."""
    for name, text in files.items():
        (folder / name).write_bytes(text.encode())
    beside = ("vocab", "classes", "label_map", "category")
    return [folder / name for name in files if not any(word in name for word in beside)]


@pytest.mark.parametrize("kind", SAMPLES)
def test_a_list_is_recognised_by_its_content(tmp_path: Path, kind: str) -> None:
    files, rows = SAMPLES[kind]
    lists = written(tmp_path, files)
    labelled = [file for file in lists if "test.csv" not in file.name]
    collection = read_sources(labelled, must_exist=False)
    assert sorted(rows_of(collection)) == sorted(rows)
    assert {each for _, each in collection.formats} == {kind}
    assert collection.missing == tuple(video.name for video in collection.videos)


@pytest.mark.parametrize("kind", SAMPLES)
def test_one_format_alone_fits_a_list(tmp_path: Path, kind: str) -> None:
    for file in written(tmp_path, SAMPLES[kind][0]):
        document = Document(file, file.read_text("utf-8-sig"))
        fitting = [each.name for each in formats() if each.read(document) is not None]
        assert len(fitting) == 1, fitting
        assert recognise(document) is not None


@pytest.mark.parametrize(
    "folder",
    "ssv2 ssv2/labels sthv1 ucf101 hmdb51 diving48 finegym epic_kitchens_100 ego4d_lta charades moments_in_time "
    "kinetics/kinetics-400_[tv][ra]*.csv vjepa/train.csv pyslowfast/train.csv tsn/train_videofolder.txt "
    "lerobot/v2.1".split(),
)
def test_the_samples_of_the_shared_data(shared_data: Path, folder: str) -> None:
    """The rows that stand beside each sample; the answers to a test list are rows of that list too."""
    base = shared_data / "formats"
    if not base.is_dir():
        pytest.skip("the shared data has no samples of lists")
    expected_file = {"ssv2/labels": "ssv2/EXPECTED.jsonl", "lerobot/v2.1": "lerobot/EXPECTED_v2.1.jsonl"}.get(
        folder, f"{folder.split('/')[0]}/EXPECTED.jsonl"
    )
    lines = [json.loads(line) for line in (base / expected_file).read_text("utf-8").splitlines()]
    collection = read_sources([base / folder], must_exist=False)
    times = {v.name: (v.start_seconds, v.end_seconds) for v in collection.videos}
    rows = [row for row in rows_of(collection) if not (folder == "ssv2/labels" and row[2] == "test")]
    assert sorted(rows) == sorted((line["name"], line.get("label", ""), line.get("split", "")) for line in lines)
    assert all(times[line["name"]] == (line.get("start_seconds"), line.get("end_seconds")) for line in lines)


@pytest.mark.parametrize("kind", SAMPLES)
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_line_ends_and_a_byte_order_mark_change_nothing(tmp_path: Path, kind: str, line_end: str) -> None:
    files, rows = SAMPLES[kind]
    plain = {name: text.removeprefix("\ufeff").replace("\r\n", "\n") for name, text in files.items()}
    lists = written(tmp_path, {name: "\ufeff" + text.replace("\n", line_end) for name, text in plain.items()})
    labelled = [file for file in lists if "test.csv" not in file.name]
    assert sorted(rows_of(read_sources(labelled, must_exist=False))) == sorted(rows)


def test_ids_that_are_not_of_youtube_are_names_of_files(tmp_path: Path) -> None:
    """THUMOS14 in the JSON of ActionFormer: `video_test_0000004.mp4`, without the `v_` of ActivityNet."""
    segments = {"subset": "Validation", "annotations": [{"segment": [1, 2], "label": "Diving"}]}
    content = {"version": "1.3", "taxonomy": [], "database": {"video_validation_9000001": segments}}
    (tmp_path / "thumos14.json").write_text(json.dumps(content))
    collection = read_sources([tmp_path / "thumos14.json"], must_exist=False)
    assert rows_of(collection) == [("video_validation_9000001.mp4#t=1-2", "Diving", "val")]


def test_several_labels_of_a_list(tmp_path: Path) -> None:
    lists = written(tmp_path, SAMPLES["EPIC-KITCHENS"][0])
    (tmp_path / "EPIC_100_noun_classes.csv").write_text("id,key\n2,plate\n")
    labels = {}
    for label in ("verb", "noun", "action"):
        (video,) = read_sources(lists, None, ListOptions(label), must_exist=False).videos
        labels[label] = video.label
    assert labels == {"verb": "put", "noun": "plate", "action": "put plate"}
    with pytest.raises(UnknownName, match=r"no label in EPIC_100_train\.csv for --label 'nouns'\. Did you mean 'noun'"):
        read_sources(lists, None, ListOptions("nouns"), must_exist=False)


def test_a_column_is_the_label(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    table = tmp_path / "v.csv"
    table.write_text("path,label,mood\na.mp4,walk,calm\n")
    assert rows_of(collect(table, label="mood")) == [("a.mp4", "calm", "")]
    with pytest.raises(UnknownName, match=r"for --label 'moods'\. Did you mean 'mood'"):
        collect(table, label="moods")
    table.write_text("a.mp4 walk\n")
    with pytest.raises(UnknownName, match=r"(?s)Leave --label out: the list has one label"):
        collect(table.rename(tmp_path / "v.txt"), label="mood")


def test_files_are_found_wherever_they_lie(tmp_path: Path) -> None:
    """Kinetics by the 11 characters of its id; a bare id counts where only one clip of the list has it."""
    lines = "label,youtube_id,time_start,time_end,split\n"
    lines += "".join(f"x,{video},{t},{t + 10},val\n" for video, t in [("-a_aaaaaaa-", 3), ("bbbbbbbbbbb", 0)])
    lines += "x,ccccccccccc,0,10,val\nx,ccccccccccc,20,30,val\n"
    (tmp_path / "k_val.csv").write_text(lines)
    root = tmp_path / "videos"
    for name in ("val_256/x/-a_aaaaaaa-.mkv", "x y/bbbbbbbbbbb_000000_000010.mp4", "x/ccccccccccc.mp4"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    collection = collect(tmp_path / "k_val.csv", root=root)
    assert [name for name, _, _ in rows_of(collection) if name not in collection.missing] == [
        "val_256/x/-a_aaaaaaa-.mkv",
        "x y/bbbbbbbbbbb_000000_000010.mp4",
    ]
    assert collection.missing == ("val/ccccccccccc_000000_000010.mp4", "val/ccccccccccc_000020_000030.mp4")


def test_absolute_paths_of_another_machine_are_looked_up_below_the_root(tmp_path: Path) -> None:
    (tmp_path / "k400/train").mkdir(parents=True)
    (tmp_path / "k400/train/one.mp4").touch()
    (tmp_path / "l.csv").write_text("/cluster/k400/train/one.mp4 3\n")
    assert rows_of(collect(tmp_path / "l.csv", root=tmp_path / "k400")) == [("train/one.mp4", "3", "")]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("up\ndown\n", {"0": "up", "1": "down"}),
        ("1 up\n2 down\n", {"1": "up", "2": "down"}),
        ("up,0\ndown,1\n", {"0": "up", "1": "down"}),
        ("id,key,instances\n0,up,\"['up', 'rise']\"\n1,down,x\n", {"0": "up", "1": "down"}),
        ('{"up": "0", "down": "1"}', {"0": "up", "1": "down"}),
        ('["up", ["a", "b"]]', {"0": "up", "1": "a+b"}),
        ("\ufeffc000 up, slowly\r\nc001 down\r\n", {"c000": "up, slowly", "c001": "down"}),
    ],
)
def test_names_of_numbered_classes(tmp_path: Path, text: str, names: dict[str, str]) -> None:
    (tmp_path / "classes").write_bytes(text.encode())
    assert dict(read_class_names(tmp_path / "classes")) == names


def test_numbers_from_one_in_a_class_list_without_numbers() -> None:
    names = {"0": "up", "1": "down"}
    assert named_numbers(["1", "2"], names) == {"1": "up", "2": "down"}
    assert named_numbers(["0", "1"], names) == {"0": "up", "1": "down"}
    assert named_numbers(["01"], names) == {"01": "down"}


def test_a_class_list_of_the_user_names_every_number(tmp_path: Path) -> None:
    lists = written(tmp_path, SAMPLES["FineGym"][0])
    names = tmp_path / "names"
    names.write_text("".join(f"move {i}\n" for i in range(20)))
    (video,) = read_sources(lists, None, ListOptions("", names), must_exist=False).videos
    assert video.label == "move 12"
    names.write_text("only\n")
    with pytest.raises(BadInput, match=r"names has no name for the class 12 \(1 of 1 have none\)"):
        read_sources(lists, None, ListOptions("", names), must_exist=False)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "v.txt",
            "AAAAA 0.0 6.9##a person opens the door.\n",
            r"sentences of Charades-STA.*\n.*path,label,start_seconds",
        ),
        ("v_train.csv", "a.mp4,0,122,169\n", r"has 3 classes \(Multi-Moments in Time\)"),
        ("v.json", '{"x": {"E_000100_000109": {"segments": null}}}', r"times of FineGym's events"),
        ("v.json", '{"up": "0"}', r"v\.json is JSON\.\nGive .*Something-Something V2.*begins '{\"up\": \"0\"}'"),
        ("v.tar", "", r"a WebDataset shard.*\nUnpack"),
        ("v.txt", "no list at all\n", r"'no list at all' is no line of a list.*\n.*Kinetics"),
    ],
)
def test_files_that_are_known_and_not_read(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(BadInput, match=f"(?s){message}"):
        read_sources([tmp_path / name], must_exist=False)


def test_folders_of_splits(tmp_path: Path) -> None:
    for name in ("train/hug/a.mp4", "val_256/hug/a.mp4", "val_256/b.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    by_split = collect(tmp_path)
    assert rows_of(by_split) == [
        ("train/hug/a.mp4", "hug", "train"),
        ("val_256/b.mp4", "", "val"),
        ("val_256/hug/a.mp4", "hug", "val"),
    ]
    assert any("folders on top are the splits (train: train 1, val_256: val 2 videos)" in n for n in by_split.notes)
    as_names = collect(tmp_path, split_folders=False)
    assert rows_of(as_names)[1] == ("val_256/b.mp4", "val_256", "")
    assert not as_names.notes
    # One folder on top that is no split: all of them are classes.
    (tmp_path / "bus").mkdir()
    (tmp_path / "bus/c.mp4").touch()
    assert {split for _, _, split in rows_of(collect(tmp_path))} == {""}


def test_folders_of_numbered_pictures_are_videos(tmp_path: Path) -> None:
    for name in ("hug/0001/img_00001.jpg", "hug/0001/img_00002.jpg", "hug/0001/flow_x_00001.jpg", "hug/b.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for name in ("posters/cover.jpg", "posters/back.jpg", "one/1.png", "hug/thumb_1.jpg", "hug/thumb_2.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    collection = collect(tmp_path)
    assert rows_of(collection) == [("hug/0001", "hug", ""), ("hug/b.mp4", "hug", "")]
    assert any("1 folders of numbered pictures are videos: hug/0001" in note for note in collection.notes)
    assert collection.skipped == {".jpg": 5, ".png": 1}
    (tmp_path / "l.txt").write_text("0001 2 7\n0002 9 7\n")
    listed = collect(tmp_path / "l.txt")
    assert rows_of(listed) == [("0002", "7", ""), ("hug/0001", "7", "")]
    assert listed.missing == ("0002",)
