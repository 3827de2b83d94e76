"""The settings of the classification task, and how its heads are trained where they say nothing themselves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from vfc.cache_schema.values.settings import setting
from vfc.heads.contract.ranges import BELOW_ONE, NOT_NEGATIVE, check_range
from vfc.heads.contract.train_config import TrainConfig
from vfc.heads.data.placement import Resident
from vfc.heads.data.serving import ServingSettings

TRAIN: Final = TrainConfig(epochs=30, least_steps=200, batch=32, select="last")

PROTOCOLS: Final = ("all", "base-to-novel", "zero-shot")


@dataclass(frozen=True)
class Config(ServingSettings):
    """What is trained on, what is tested, and how."""

    cache: Path = setting(Path("./store"), "The store to read.", "Input")
    annotations: str = setting("default", "Labels and splits: a name in the store, or a .jsonl file.", "Input")
    array: str = setting("", "Name of the array; default: frames, else the only array.", "Input")
    layer: str = setting("", "Layer of the array: 7, norm.", "Input")
    template: tuple[str, ...] = setting(
        (),
        "Templates of the class texts, by id or text; several: their mean; all: of all; default: the only template.",
        "Input",
        commas=False,
    )
    class_list: Path | None = setting(
        None, "File with the ordered class names, one per line; default: sorted.", "Input"
    )
    train_list: Path | None = setting(None, "Published list of the training videos, with --test-list.", "Input")
    test_list: Path | None = setting(None, "Published list of the test videos.", "Input")
    test_cache: Path | None = setting(None, "Store to test on, if it is a different one.", "Input")
    test_annotations: str = setting("", "Annotations in --test-cache; default: those named by --annotations.", "Input")
    protocol: Literal["all", "base-to-novel", "zero-shot"] = setting(
        "all",
        "base-to-novel: train on the frequent half of the classes, test on both; zero-shot: on others.",
        "Protocol",
        choices=PROTOCOLS,
    )
    shots: int = setting(0, "Training videos per class; 0: all.", "Protocol")
    shot_seed: int | None = setting(None, "Seed of the list of shots; default: --seed.", "Protocol")
    allow_fewer: bool = setting(False, "Accept classes with fewer videos than --shots.", "Protocol")
    fold: str = setting("", "Test on this fold of the annotations, train on the others.", "Protocol")
    split_seed: int = setting(0, "Seed of a split where none is given, apart from --seed.", "Protocol")
    val_fraction: float = setting(0.0, "Share of each class's training videos held out, for --select val.", "Protocol")
    train_views: str = setting(
        "auto", "Views drawn in training: auto (clean, augmented), all, or 0,10001-10004.", "Protocol"
    )
    test_views: str = setting(
        "0",
        "Views that are tested and averaged: 0, 401-404, 4x3 (clips x crops), or all (except augmented).",
        "Protocol",
    )
    leave_out_incomplete: bool | None = setting(
        None, "Leave out test videos that lack some of the averaged views, instead of refusing them.", "Protocol"
    )
    view_sum: Literal["logits", "probabilities"] = setting(
        "logits", "What is averaged over the views of a clip.", "Protocol", choices=("logits", "probabilities")
    )
    shuffle_frames: bool = setting(
        False, "Control experiment: random order of frames, new for each clip and epoch, also at test.", "Protocol"
    )
    resident: Resident = setting(
        "auto", "Where the training clips are kept; auto: in memory if they fit; off: on disk.", "Performance"
    )

    def __post_init__(self) -> None:
        check_range(self, NOT_NEGATIVE, "shots", "shot_seed", "split_seed")
        check_range(self, BELOW_ONE, "val_fraction")
