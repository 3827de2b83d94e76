"""The settings of the classification task, and how its heads are trained where they say nothing themselves."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from vfc.heads.contract.ranges import BELOW_ONE, NOT_NEGATIVE, check_range
from vfc.heads.contract.train_config import TrainConfig
from vfc.heads.data.placement import Resident

TRAIN: Final = TrainConfig(epochs=30, least_steps=200, batch=32, select="last")

PROTOCOLS: Final = ("all", "base-to-novel", "zero-shot")


@dataclass(frozen=True)
class Config:
    """What is trained on, what is tested, and how."""

    cache: Path = field(default=Path("./store"), metadata={"help": "The store to read.", "panel": "Input"})
    annotations: str = field(
        default="default",
        metadata={"help": "Labels and splits: a name in the store, or a .jsonl file.", "panel": "Input"},
    )
    array: str = field(
        default="", metadata={"help": "Name of the array; default: frames, else the only array.", "panel": "Input"}
    )
    layer: str = field(default="", metadata={"help": "Layer of the array: 7, norm.", "panel": "Input"})
    template: tuple[str, ...] = field(
        default=(),
        metadata={
            "help": "Class texts of these templates, by id or by text; default: all templates.",
            "panel": "Input",
            "commas": False,
        },
    )
    class_list: Path | None = field(
        default=None,
        metadata={"help": "File with the ordered class names, one per line; default: sorted.", "panel": "Input"},
    )
    train_list: Path | None = field(
        default=None, metadata={"help": "Published list of the training videos, with --test-list.", "panel": "Input"}
    )
    test_list: Path | None = field(
        default=None, metadata={"help": "Published list of the test videos.", "panel": "Input"}
    )
    test_cache: Path | None = field(
        default=None, metadata={"help": "Store to test on, if it is a different one.", "panel": "Input"}
    )
    test_annotations: str = field(
        default="",
        metadata={"help": "Annotations in --test-cache; default: those named by --annotations.", "panel": "Input"},
    )
    protocol: Literal["all", "base-to-novel", "zero-shot"] = field(
        default="all",
        metadata={
            "help": "base-to-novel: train on the frequent half of the classes, test on both; zero-shot: on others.",
            "panel": "Protocol",
            "choices": PROTOCOLS,
        },
    )
    shots: int = field(default=0, metadata={"help": "Training videos per class; 0: all.", "panel": "Protocol"})
    shot_seed: int | None = field(
        default=None, metadata={"help": "Seed of the list of shots; default: --seed.", "panel": "Protocol"}
    )
    allow_fewer: bool = field(
        default=False, metadata={"help": "Accept classes with fewer videos than --shots.", "panel": "Protocol"}
    )
    fold: str = field(
        default="", metadata={"help": "Test on this fold of the annotations, train on the others.", "panel": "Protocol"}
    )
    split_seed: int = field(
        default=0, metadata={"help": "Seed of a split where none is given, apart from --seed.", "panel": "Protocol"}
    )
    val_fraction: float = field(
        default=0.0,
        metadata={"help": "Share of each class's training videos held out, for --select val.", "panel": "Protocol"},
    )
    train_views: str = field(
        default="auto",
        metadata={
            "help": "Views drawn in training: auto (clean, augmented), all, or 0,10001-10004.",
            "panel": "Protocol",
        },
    )
    test_views: str = field(
        default="0",
        metadata={
            "help": "Views that are tested and averaged: 0, 401-404, 4x3 (clips x crops), or all (except augmented).",
            "panel": "Protocol",
        },
    )
    view_sum: Literal["logits", "probabilities"] = field(
        default="logits",
        metadata={
            "help": "What is averaged over the views of a clip.",
            "panel": "Protocol",
            "choices": ("logits", "probabilities"),
        },
    )
    shuffle_frames: bool = field(
        default=False,
        metadata={
            "help": "Control experiment: random order of frames, new for each clip and epoch, also at test.",
            "panel": "Protocol",
        },
    )
    resident: Resident = field(
        default="auto",
        metadata={
            "help": "Where the training clips are kept; auto: in memory if they fit; off: on disk.",
            "panel": "Performance",
        },
    )

    def __post_init__(self) -> None:
        check_range(self, NOT_NEGATIVE, "shots", "shot_seed", "split_seed")
        check_range(self, BELOW_ONE, "val_fraction")
