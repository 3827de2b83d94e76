"""The settings of the anticipation task."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from vfc.heads.data.placement import Resident

from .contract import Sampling
from .decoding import Rule

Rate = Literal["full", "subsampled"]


@dataclass(frozen=True)
class SequenceSettings:
    """Settings that choose the sequences and their split."""

    cache: Path = field(default=Path("./store"), metadata={"help": "The store to read.", "panel": "Input"})
    array: str = field(
        default="",
        metadata={"help": "Array of features; default: the only one with a row per time step.", "panel": "Input"},
    )
    fold: int = field(default=1, metadata={"help": "Official split: reads annotations 'split<n>'.", "panel": "Input"})
    annotations: str = field(
        default="", metadata={"help": "Other annotations with train and test, instead of --fold.", "panel": "Input"}
    )
    labels: Path | None = field(
        default=None,
        metadata={
            "help": "Labels, if the store has none: a folder with groundTruth/, mapping.txt and splits/.",
            "panel": "Input",
        },
    )
    resident: Resident = field(
        default="auto",
        metadata={
            "help": "Where features are kept; auto: in memory if they fit; off: on disk.",
            "panel": "Performance",
        },
    )

    @property
    def split_name(self) -> str:
        """Name (or file) of the annotations."""
        return self.annotations or f"split{self.fold}"


@dataclass(frozen=True)
class Config(SequenceSettings):
    """The windows that are trained on and tested, and how they are scored."""

    told: str = field(
        default="predicted",
        metadata={
            "help": "Observed labels for heads that read them: predicted (by frame-classifier), truth, or a store.",
            "flag": "observed_labels",
            "renamed_from": ("told",),
            "panel": "Input",
        },
    )
    """The observed labels; run folders call this setting `told`."""

    told_noise: float = field(
        default=0.0,
        metadata={
            "help": "In training: share of observed segments whose label is replaced by a random class.",
            "flag": "observed_labels_noise",
            "renamed_from": ("told_noise",),
            "panel": "Training",
        },
    )
    stride: int = field(
        default=0, metadata={"help": "One label frame in so many is a step; 0: the method's.", "panel": "Protocol"}
    )
    train_ratios: tuple[float, ...] = field(
        default=(), metadata={"help": "Shares observed in training; none: the method's.", "panel": "Protocol"}
    )
    offsets: int = field(
        default=0,
        metadata={
            "help": "Training windows per ratio, each a step later; 0: the method's.",
            "panel": "Protocol",
        },
    )
    phases: int = field(
        default=0,
        metadata={
            "help": "Training windows draw where in a stride their steps lie, out of so many places; 0: the method's.",
            "panel": "Protocol",
        },
    )
    observe: tuple[float, ...] = field(
        default=(0.2, 0.3), metadata={"help": "Shares of a video observed at test.", "panel": "Protocol"}
    )
    predict: tuple[float, ...] = field(
        default=(0.1, 0.2, 0.3, 0.5),
        metadata={"help": "Shares of a video predicted at test, 0.5 at most.", "panel": "Protocol"},
    )
    rate: Rate = field(
        default="full",
        metadata={
            "help": "full: every label frame counts; subsampled: one in --stride, as ActionLLM's code does.",
            "panel": "Protocol",
        },
    )
    decoding: Rule = field(
        default="extend",
        metadata={
            "help": "Queries to frames: extend (last segment takes what rounding leaves), or as released.",
            "panel": "Protocol",
        },
    )
    report_best_on_test: bool = field(
        default=False,
        metadata={
            "help": "Also measure the test videos at every validation and show the best: chosen on test, no result.",
            "panel": "Protocol",
        },
    )

    @property
    def full_rate(self) -> bool:
        """Whether every label frame is scored."""
        return self.rate == "full"

    def sampling(self, own: Sampling) -> Sampling:
        """The settings given, else those of the method."""
        return Sampling(
            self.stride or own.stride,
            tuple(self.train_ratios) or tuple(own.ratios),
            self.offsets or own.offsets,
            self.phases or own.phases,
        )
