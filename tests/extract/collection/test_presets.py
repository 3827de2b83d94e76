"""Presets: their lists are those of the shared data, row by row; what is missing on disk is told exactly."""

from __future__ import annotations

import hashlib
import json
import lzma
import statistics
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from vfc.cache_schema.annotations import class_list
from vfc.cache_schema.values.errors import BadInput, MissingPath, UnknownName
from vfc.cli import app
from vfc.extract.collection.presets import (
    PRESETS,
    Member,
    Preset,
    check,
    find,
    listed_members,
    members_digest,
    preset_collection,
)
from vfc.extract.collection.video import Collection
from vfc.extract.config import ExtractConfig

FEW_SHOT = [each.name for each in PRESETS if each.task == "few-shot"]

# Of the README of the lists: split -> videos, classes, fewest, median and most videos of a class.
TABLE = {
    "hmdb51-arn": [(4280, 31, 102, 116, 548), (1194, 10, 102, 117.5, 143), (1292, 10, 103, 118, 232)],
    "ucf101-arn": [(9154, 70, 100, 131, 164), (1421, 10, 114, 147, 167), (2745, 21, 109, 126, 166)],
    "kinetics-cmn": [(6400, 64, 100, 100, 100), (1200, 12, 100, 100, 100), (2400, 24, 100, 100, 100)],
    "kinetics-cmn-hyrsm": [(6400, 64, 100, 100, 100), (1200, 12, 100, 100, 100), (2400, 24, 100, 100, 100)],
    "ssv2-cmn": [(6400, 64, 100, 100, 100), (1200, 12, 100, 100, 100), (2400, 24, 100, 100, 100)],
    "ssv2-otam": [(67013, 64, 156, 905.5, 3170), (1926, 12, 56, 116, 360), (2857, 24, 17, 95.5, 272)],
    "ucf101-tsl": [(5891, 64, 72, 89, 121), (443, 12, 28, 34.5, 49), (971, 24, 28, 42, 49)],
    "diving48v2-kp": [(10919, 35, 42, 237, 920), (857, 6, 49, 82, 426), (2798, 6, 75, 499, 978)],
    "gym99-kp": [(15571, 73, 40, 136, 1153), (2490, 13, 71, 120, 501), (4430, 13, 79, 193, 1018)],
}
# The digests as they were when the lists were packaged: results name them, so they must not change.
DIGESTS = {
    "hmdb51-arn": "2597194590f9",
    "ssv2-otam": "cf1820ae4671",
    "ucf101-split1": "a35411d1fcca",
    "breakfast-split1": "228820de0e0f",
}


@pytest.mark.parametrize("name", FEW_SHOT)
def test_counts_per_split(name: str) -> None:
    members = listed_members(find(name))
    for split, (videos, classes, least, middle, most) in zip(("train", "val", "test"), TABLE[name], strict=True):
        counts = Counter(member.label for member in members if member.split == split)
        own = sorted(counts.values())
        assert (sum(own), len(own), own[0], statistics.median(own), own[-1]) == (videos, classes, least, middle, most)


@pytest.mark.parametrize("name", FEW_SHOT)
def test_every_row_is_that_of_the_shared_list(name: str, shared_data: Path) -> None:
    folder = shared_data / "splits/fewshot_videos" / name
    if not folder.is_dir():
        pytest.skip("the shared data has no few-shot lists")
    numbered = folder / "classes.tsv"
    names = dict(line.split("\t") for line in numbered.read_text().splitlines()) if numbered.is_file() else {}
    expected = set()
    for split in ("train", "val", "test"):
        text = lzma.decompress((folder / f"{split}.txt.xz").read_bytes()).decode()
        for line in text.splitlines():
            label, _, video = line.partition("\t")
            expected.add((split, names.get(label, label), video))
    assert set(listed_members(find(name))) == expected


@pytest.mark.parametrize("name", ["hmdb51-arn", "ucf101-arn", "kinetics-cmn", "ssv2-cmn", "ssv2-otam"])
def test_classes_are_those_of_the_built_in_list(name: str) -> None:
    members = listed_members(find(name))
    for split, classes in class_list(name).items():
        assert {member.label for member in members if member.split == split} == set(classes)


@pytest.mark.parametrize("fold", [1, 2, 3])
def test_ucf101_is_split_by_its_groups(fold: int) -> None:
    """Groups 1-7, 8-14, 15-21 are tested in the splits 1, 2, 3: the rule that the official lists follow."""
    members = listed_members(find(f"ucf101-split{fold}"))
    assert len(members) == 13320
    for member in members:
        group = int(member.id.split("_g")[1][:2])
        assert member.split == ("test" if 7 * fold - 6 <= group <= 7 * fold else "train")


@pytest.mark.parametrize("fold", [1, 2, 3])
def test_hmdb51_has_70_and_30_videos_of_every_class(fold: int) -> None:
    counts = Counter((member.label, member.split) for member in listed_members(find(f"hmdb51-split{fold}")))
    assert len(counts) == 102
    assert all(count == {"train": 70, "test": 30}[split] for (_, split), count in counts.items())


@pytest.mark.parametrize(("data_set", "folds"), [("50salads", 5), ("breakfast", 4)])
def test_long_videos_by_their_bundles(data_set: str, folds: int, shared_data: Path) -> None:
    for fold in range(1, folds + 1):
        members = listed_members(find(f"{data_set}-split{fold}"))
        for split in ("train", "test"):
            bundle = shared_data / "labels" / data_set / "splits" / f"{split}.split{fold}.bundle"
            names = {line.removesuffix(".txt") for line in bundle.read_text().split()}
            assert {member.id for member in members if member.split == split} == names


def test_digests_do_not_change() -> None:
    for name, digest in DIGESTS.items():
        assert members_digest(listed_members(find(name)))[:12] == digest
    members = [Member("train", "a", "2"), Member("test", "b", "1")]
    text = "test\tb\t1\ntrain\ta\t2\n"
    assert members_digest(members) == hashlib.sha256(text.encode()).hexdigest() == members_digest(reversed(members))


def laid_out(root: Path, preset: Preset, missing: set[str]) -> None:
    """Empty files of a preset, but those that are missing, in class folders and with other suffixes here and there."""
    for i, member in enumerate(listed_members(preset)):
        if member.id not in missing:
            folder = root / member.label.replace(" ", "_")
            folder.mkdir(parents=True, exist_ok=True)
            (folder / (member.id + (".avi", ".mp4")[i % 2])).touch()


def test_three_of_a_hundred_missing_are_told_exactly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    preset = find("ucf101-tsl")
    members = listed_members(preset)
    drawn = np.random.default_rng(0).choice(len(members), round(0.03 * len(members)), replace=False)
    missing = {members[i].id for i in drawn}
    laid_out(tmp_path / "u", preset, missing)
    assert app.run(["datasets", "check", "ucf101-tsl", "--root", str(tmp_path / "u"), "--json"]) == 3
    document = json.loads(capsys.readouterr().out)
    assert {row["id"] for row in document["missing"]} == missing
    assert (document["listed"], document["there"]) == (len(members), len(members) - len(missing))
    for row in document["counts"]:
        own = [m for m in members if (m.split, m.label) == (row["split"], row["label"])]
        assert (row["listed"], row["there"]) == (len(own), sum(m.id not in missing for m in own))
    there = [m for m in members if m.id not in missing]
    assert (document["digest"], document["digest_there"]) == (members_digest(members), members_digest(there))
    assert app.run(["datasets", "check", "ucf101-tsl", "--root", str(tmp_path / "u")]) == 3
    text = capsys.readouterr().out
    assert f"Missing: {len(missing)} of {len(members):,}" in text
    assert f"{members_digest(there)[:12]} of the videos that are there" in text


def collected(preset: Preset, root: Path, **more: object) -> dict[str, tuple[str, str]]:
    collection: Collection = preset_collection(preset, root, **more)  # type: ignore[arg-type]
    return {v.name: (v.label, v.split) for v in collection.videos if v.name not in collection.missing}


def touched(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def test_files_are_found_by_their_ids(tmp_path: Path) -> None:
    """HandstandPushups/v_HandStandPushups; ids of Kinetics that begin with -; bare ids of HyRSM's list."""
    ucf = touched(tmp_path / "u", "UCF-101/HandstandPushups/v_HandStandPushups_g01_c01.avi")
    assert list(collected(find("ucf101-split1"), ucf).values()) == [("HandstandPushups", "test")]
    dashed = next(m for m in listed_members(find("kinetics-cmn")) if m.id.startswith("-"))
    kinetics = touched(tmp_path / "k", f"train_256/x/{dashed.id[:11]}.mkv")
    assert list(collected(find("kinetics-cmn"), kinetics).values()) == [(dashed.label, dashed.split)]
    bare = next(m for m in listed_members(find("kinetics-cmn-hyrsm")) if len(m.id) == 11)
    kinetics = touched(tmp_path / "h", f"val/{bare.id}_000003_000013.mp4")
    assert list(collected(find("kinetics-cmn-hyrsm"), kinetics).values()) == [(bare.label, bare.split)]
    salads = touched(tmp_path / "s", "rgb/rgb-01-1.avi")
    assert list(collected(find("50salads-split1"), salads).values()) == [("", "test")]


def test_breakfast_in_its_folders(tmp_path: Path) -> None:
    files = ("P03/cam01/P03_cereals.avi", "P03/stereo/P03_cereals_ch0.avi", "P16/cam01/P16_tea.avi")
    rows = collected(find("breakfast-split1"), touched(tmp_path, *files))
    assert sorted(rows) == list(files)
    assert {rows[name][0] for name in files[:2]} == {"cereals"}
    assert check(find("breakfast-split1"), tmp_path).counts()[0][0] == "train"


def test_official_lists_are_given(tmp_path: Path) -> None:
    """SSv2 is tested on its validation list."""
    with pytest.raises(BadInput, match=r"come with the data set and not with vfc\.\nGive them.*v2-train\.json"):
        preset_collection(find("ssv2"), tmp_path)
    for split, video in (("train", "1"), ("validation", "2")):
        entries = [{"id": video, "label": "x", "template": "Moving [something] up"}]
        (tmp_path / f"something-something-v2-{split}.json").write_text(json.dumps(entries))
    (tmp_path / "something-something-v2-test.json").write_text('[{"id": "3"}]')
    root = touched(tmp_path / "v", "1.webm", "2.mp4")
    for lists in ([tmp_path], sorted(tmp_path.glob("*train*")) + sorted(tmp_path.glob("*validation*"))):
        rows = collected(find("ssv2"), root, lists=lists)
        assert rows == {"1.webm": ("Moving something up", "train"), "2.mp4": ("Moving something up", "test")}
    with pytest.raises(BadInput, match=r"hmdb51-arn has its list already"):
        preset_collection(find("hmdb51-arn"), root, [tmp_path])


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match=r"no preset of a data set 'ssv2-smal-cmn'\. Did you mean 'ssv2-small-cmn'"):
        find("ssv2-smal-cmn")
    assert find("ssv2-small-cmn") is find("ssv2-cmn")
    with pytest.raises(MissingPath, match=r"no folder .*none"):
        check(find("hmdb51-arn"), tmp_path / "none")
    with pytest.raises(BadInput, match=r"without --root"):
        preset_collection(find("hmdb51-arn"), None)
    with pytest.raises(BadInput, match=r"None of the 6766 listed videos is below"):
        preset_collection(find("hmdb51-arn"), tmp_path)


def test_settings_of_an_extraction() -> None:
    config = ExtractConfig(dataset="ucf101-split1", root=Path("u"))
    assert (config.frames, config.num_frames, config.views, config.pipeline) == (
        "tsn-centre",
        None,
        ("test:5x3",),
        "msta",
    )
    assert ExtractConfig(dataset="ucf101-split1", dataset_views=False).views == ()
    assert ExtractConfig(dataset="ucf101-split1", views=("three-crops",)).pipeline == "plain"
    assert ExtractConfig(dataset="50salads-split1").frames == "all"
    assert ExtractConfig(dataset="50salads-split1", frames="fps:15").frames == "fps:15"
    assert ExtractConfig(dataset="diving48", num_frames=16).num_frames == 16
    with pytest.raises(BadInput, match=r"--videos v and --dataset ssv2-cmn are both given"):
        ExtractConfig(dataset="ssv2-cmn", videos=Path("v"))
    with pytest.raises(BadInput, match=r"--dataset-list is given without --dataset"):
        ExtractConfig(dataset_list=(Path("x"),))
    with pytest.raises(UnknownName):
        ExtractConfig(dataset="nothing")


def test_an_extraction_is_planned_without_a_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No folder `videos` is asked for, and the splits and labels are those of the preset."""
    from vfc.cache_schema.values.progress import Silent
    from vfc.extract.pipeline.inputs import read_inputs

    monkeypatch.chdir(tmp_path)
    files = ("x/v_YoYo_g01_c01.avi", "x/v_YoYo_g08_c01.avi", "x/v_Typing_g25_c01.avi")
    touched(tmp_path / "u", *files)
    config = ExtractConfig(dataset="ucf101-split1", root=Path("u"), include=("YoYo",), out=Path("s"))
    inputs = read_inputs(config, Silent())
    rows = {row.name: (row.label, row.split) for row in inputs.annotations.rows}
    assert {files[0]: ("YoYo", "test"), files[1]: ("YoYo", "train")}.items() <= rows.items()
    assert {label for label, _ in rows.values()} == {"YoYo"}
    assert len(inputs.views) == 1 + 15
    assert app.run(["extract", "--dataset", "ucf101-split1", "--print-config"]) == 0
    assert json.loads(capsys.readouterr().out)["views"] == ["test:5x3"]
    assert app.run(["extract", "--dataset", "ucf101-split1", "--model", "clip", "--out", "s"]) == 2
    assert "is given without --root" in capsys.readouterr().err


def test_show_and_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["datasets", "list", "--json"]) == 0
    assert [each["name"] for each in json.loads(capsys.readouterr().out)["presets"]] == [each.name for each in PRESETS]
    assert app.run(["datasets", "show", "ucf101-arn", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["splits"][1] == {
        "split": "val",
        "videos": 1421,
        "classes": 10,
        "least": 114,
        "median": 147,
        "most": 167,
    }
    assert app.run(["datasets", "show", "ssv2"]) == 0
    assert "something-something-v2-validation.json" in capsys.readouterr().out
