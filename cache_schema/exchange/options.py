"""The settings of an import of features that other programs made."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vfc.cache_schema.values.errors import BadInput
from vfc.cache_schema.values.settings import setting


@dataclass(frozen=True)
class ImportOptions:
    """How the features are read and stored.

    Raises:
        BadInput: a rate, a stride or a window that is not above 0; a window without a stride.
    """

    form: Literal["auto", "ms-tcn", "hdf5", "files", "lmdb", "matlab", "export"] = setting(
        "auto", "Format of SOURCE", "Input", flag="format"
    )
    dataset: str = setting("", "Array to import, if a file holds several", "Input")
    time: Literal["auto", "first", "last"] = setting(
        "auto", "Time axis; auto: last in MS-TCN folders, else first", "Input"
    )
    labels: Path | None = setting(
        None, "CSV or JSONL with name,label,split,fold, or the JSON of ActionFormer and OpenTAD", "Input"
    )
    fps: float | None = setting(
        None, "Steps per second, with --stride frames per second; adds the array seconds", "Input"
    )
    stride: int | None = setting(None, "Frames from one step to the next, as 4 or 16", "Input")
    window: int | None = setting(None, "Frames of a step, whose middle is its time; default: the stride", "Input")
    resample_labels: bool = setting(
        False, "Give every step the label of its time, where features have another rate", "Input", one_way=True
    )
    made_by: str = setting(
        "", "How the features were made, for the recipe; default: the first file identifies them", "Input"
    )
    array: str = setting("frames", "Name of the array in the store", "Output")
    layout: Literal["auto", "steps", "frame-major", "vector", "crops"] = setting(
        "auto",
        "steps: [T, D], T varies; frame-major: one shape; vector: [D]; crops: [T, crops, D], every crop a view",
        "Output",
    )
    dtype: Literal["fp32", "fp16", "bf16", "int8"] | None = setting(
        None, "Storage dtype; default fp16, of an export its own", "Output"
    )
    replace: bool = setting(False, "Import anew into a store that holds an earlier import", "Output", one_way=True)
    verify: bool = setting(True, "Read back what was written and compare checksums", "Output")

    def __post_init__(self) -> None:
        if self.fps is not None and not 0 < self.fps < math.inf:
            raise BadInput(f"--fps is {self.fps:g}.", "--fps takes more than 0, such as 15.")
        for flag, frames in (("stride", self.stride), ("window", self.window)):
            if frames is not None and frames < 1:
                raise BadInput(f"--{flag} is {frames}.", f"--{flag} takes frames, 1 or more.")
        if self.window is not None and self.stride is None:
            raise BadInput("--window is given without --stride.", "Say both in frames, as --stride 16 --window 32.")
