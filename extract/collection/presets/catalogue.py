"""The presets, by name."""

from __future__ import annotations

from typing import Final

from vfc.cache_schema.values.errors import unknown_name

from .preset import Preset

_TRX: Final = "tobyperrett/few-shot-action-recognition 3687f3a (MIT)"
_HYRSM: Final = "alibaba-mmai-research/HyRSM 82100b6 (Apache-2.0)"
_XIAN: Final = "xianyongqin/few-shot-video-classification 7fab764 (MIT)"
_KP: Final = "OldStone0124/Knowledge-Prompting-for-FSAR c361159"
_MSTCN: Final = "splits of MS-TCN (yabufarha/ms-tcn 33ed91c)"
_FSAR: Final = "vfc train-head fsar --cache ./{} --way 5 --shot 1"
_CLIP_HEAD: Final = "vfc train-head vidprism --cache ./{} --shots 4  (2, 8, 16; --protocol base-to-novel)"
_I3D: Final = "--model i3d --window 21 --stride 1 --border repeat"


def _few_shot(name: str, title: str, source: str, table: str, column: str, suffix: str, alias: str = "") -> Preset:
    """8 frames, or as many as the model takes, each the middle of a segment: HyRSM's rule without its random draw."""
    in_folders = "{id}" if suffix == ".webm" else "{label}/{id}"
    return Preset(
        name, title, "few-shot", source, _FSAR.format(name), table, column, suffix=suffix, path=in_folders, alias=alias
    )


def _classified(data_set: str, title: str, fold: int, source: str, views: str) -> Preset:
    """8 frames, or as many as the model takes, and the test views of MSTA (clips in time x crops)."""
    return Preset(
        f"{data_set}-split{fold}",
        f"{title}, official split {fold}",
        "classification",
        source,
        _CLIP_HEAD.format(f"{data_set}-split{fold}"),
        data_set,
        f"split{fold}",
        suffix=".avi",
        path="{label}/{id}",
        views=(views,),
        pipeline="msta",
    )


def _anticipated(data_set: str, title: str, fold: int, path: str, preset: str) -> Preset:
    name = f"{data_set}-split{fold}"
    return Preset(
        name,
        f"{title}, split {fold}",
        "anticipation",
        _MSTCN,
        f"vfc train-head futr --cache ./{name} --labels LABELS --fold {fold} --preset {preset}",
        data_set,
        f"split{fold}",
        suffix=".avi",
        path=path,
        frames="all",
        extract=_I3D,
    )


def _by_lists(
    name: str, title: str, files: tuple[str, ...], source: str, views: str, frames: int | None = None
) -> Preset:
    """A data set whose official lists are not packaged: the user gives them."""
    return Preset(
        name,
        title,
        "classification",
        source,
        _CLIP_HEAD.format(name),
        files=files,
        num_frames=frames,
        views=(views,),
        pipeline="plain" if frames else "msta",
    )


PRESETS: Final[tuple[Preset, ...]] = (
    _few_shot("hmdb51-arn", "HMDB51, split of ARN", _TRX, "hmdb51", "arn", ".avi"),
    _few_shot("ucf101-arn", "UCF101, split of ARN", _TRX, "ucf101", "arn", ".avi"),
    _few_shot("ucf101-tsl", "UCF101, split of TSL (another 64/12/24 classes)", _XIAN, "ucf101", "tsl", ".avi"),
    _few_shot("kinetics-cmn", "Kinetics-100, list of CMN", _XIAN, "kinetics", "cmn", ".mp4", "kinetics100-cmn"),
    _few_shot(
        "kinetics-cmn-hyrsm",
        "Kinetics-100, list of HyRSM and CLIP-FSAR (3 % other videos)",
        _HYRSM,
        "kinetics",
        "hyrsm",
        ".mp4",
        "kinetics100-hyrsm",
    ),
    _few_shot("ssv2-cmn", "SSv2 Small (Something-Something V2), CMN", _HYRSM, "ssv2", "cmn", ".webm", "ssv2-small-cmn"),
    _few_shot("ssv2-otam", "SSv2 Full (Something-Something V2), OTAM", _TRX, "ssv2", "otam", ".webm", "ssv2-full-otam"),
    _few_shot("diving48v2-kp", "Diving48 V2, split of Knowledge Prompting", _KP, "diving48", "kp", ".mp4"),
    _few_shot("gym99-kp", "FineGym Gym99, split of Knowledge Prompting", _KP, "gym99", "kp", ".mp4"),
    *(_classified("hmdb51", "HMDB51", fold, "HMDB51's own lists", "test:10x3") for fold in (1, 2, 3)),
    *(_classified("ucf101", "UCF101", fold, "UCF101's own lists", "test:5x3") for fold in (1, 2, 3)),
    _by_lists(
        "ssv2",
        "Something-Something V2",
        ("something-something-v2-train.json", "something-something-v2-validation.json"),
        "20BN / Qualcomm, with the videos",
        "test:2x3",
    ),
    _by_lists(
        "k400",
        "Kinetics-400",
        ("kinetics-400_train.csv", "kinetics-400_val.csv"),
        "cvdfoundation/kinetics-dataset",
        "test:4x3",
    ),
    _by_lists(
        "diving48",
        "Diving48 V2",
        ("Diving48_V2_train.json", "Diving48_V2_test.json", "Diving48_vocab.json"),
        "Diving48's page",
        "test:4x3",
        frames=32,
    ),
    *(_anticipated("50salads", "50 Salads", fold, "{id}", "50salads") for fold in (1, 2, 3, 4, 5)),
    *(_anticipated("breakfast", "Breakfast", fold, "{id}", "breakfast") for fold in (1, 2, 3, 4)),
)


def find(name: str) -> Preset:
    """The preset of a name or alias; raises UnknownName."""
    names = {each.name: each for each in PRESETS} | {each.alias: each for each in PRESETS if each.alias}
    if name not in names:
        raise unknown_name("preset of a data set", name, names)
    return names[name]
