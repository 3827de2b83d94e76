"""The settings of the anticipation task."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vfc.cache_schema.values.errors import MissingPath
from vfc.cache_schema.values.settings import setting
from vfc.heads.contract.ranges import BETWEEN, NOT_NEGATIVE, UP_TO_HALF, ZERO_TO_ONE, check_range
from vfc.heads.data.placement import Resident

from .contract import Sampling
from .decoding import Rule

Rate = Literal["full", "subsampled"]


@dataclass(frozen=True)
class SequenceSettings:
    """Settings that choose the sequences and their split."""

    cache: Path = setting(Path("./store"), "The store to read.", "Input")
    array: str = setting("", "Array of features; default: the only one with a row per time step.", "Input")
    fold: int = setting(1, "Official split: reads annotations 'split<n>'.", "Input")
    annotations: str = setting("", "Other annotations with train and test, instead of --fold.", "Input")
    labels: Path | None = setting(
        None, "Labels, if the store has none: a folder with groundTruth/, mapping.txt and splits/.", "Input"
    )
    resident: Resident = setting(
        "auto", "Where features are kept; auto: in memory if they fit; off: on disk.", "Performance"
    )

    @property
    def split_name(self) -> str:
        """Name (or file) of the annotations."""
        return self.annotations or f"split{self.fold}"


@dataclass(frozen=True)
class Config(SequenceSettings):
    """The windows that are trained on and tested, and how they are scored."""

    told: str = setting(
        "predicted",
        "Observed labels for heads that read them: predicted (by frame-classifier), truth, or a store.",
        "Input",
        flag="observed_labels",
        renamed_from=("told",),
    )
    """The observed labels; run folders call this setting `told`."""

    told_noise: float = setting(
        0.0,
        "In training: share of observed segments whose label is replaced by a random class.",
        "Training",
        flag="observed_labels_noise",
        renamed_from=("told_noise",),
    )
    stride: int = setting(0, "One label frame in so many is a step; 0: the method's.", "Protocol")
    train_ratios: tuple[float, ...] = setting((), "Shares observed in training; none: the method's.", "Protocol")
    offsets: int = setting(0, "Training windows per ratio, each a step later; 0: the method's.", "Protocol")
    phases: int = setting(
        0,
        "Training windows draw where in a stride their steps lie, out of so many places; 0: the method's.",
        "Protocol",
    )
    observe: tuple[float, ...] = setting((0.2, 0.3), "Shares of a video observed at test.", "Protocol")
    predict: tuple[float, ...] = setting(
        (0.1, 0.2, 0.3, 0.5), "Shares of a video predicted at test, 0.5 at most.", "Protocol"
    )
    rate: Rate = setting(
        "full", "full: every label frame counts; subsampled: one in --stride, as ActionLLM's code does.", "Protocol"
    )
    decoding: Rule = setting(
        "extend", "Queries to frames: extend (last segment takes what rounding leaves), or as released.", "Protocol"
    )
    report_best_on_test: bool = setting(
        False,
        "Also measure the test videos at every validation and show the best: chosen on test, no result.",
        "Protocol",
    )

    def __post_init__(self) -> None:
        check_range(self, BETWEEN, "observe", "train_ratios")
        check_range(self, UP_TO_HALF, "predict")
        check_range(self, ZERO_TO_ONE, "told_noise")
        check_range(self, NOT_NEGATIVE, "stride", "offsets")
        if self.told not in ("predicted", "truth") and not Path(self.told).exists():
            raise MissingPath(
                f"--observed-labels {self.told} does not exist.", "Give predicted, truth, or a store of labels."
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
