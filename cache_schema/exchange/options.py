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
        BadInput: a rate that is not above 0.
    """

    form: Literal["auto", "ms-tcn", "hdf5", "files", "export"] = setting(
        "auto", "Format of SOURCE", "Input", flag="format"
    )
    dataset: str = setting("", "Array to import, if a file holds several", "Input")
    time: Literal["auto", "first", "last"] = setting(
        "auto", "Time axis; auto: last in MS-TCN folders, else first", "Input"
    )
    labels: Path | None = setting(None, "CSV or JSONL with name,label,split,fold", "Input")
    fps: float | None = setting(None, "Steps per second; adds the array seconds", "Input")
    made_by: str = setting(
        "", "How the features were made, for the recipe; default: the first file identifies them", "Input"
    )
    array: str = setting("frames", "Name of the array in the store", "Output")
    layout: Literal["auto", "steps", "frame-major", "vector"] = setting(
        "auto", "steps: [T, D], T varies; frame-major: one shape; vector: [D]", "Output"
    )
    dtype: Literal["fp32", "fp16", "bf16", "int8"] | None = setting(
        None, "Storage dtype; default fp16, of an export its own", "Output"
    )
    verify: bool = setting(True, "Read back what was written and compare checksums", "Output")

    def __post_init__(self) -> None:
        if self.fps is not None and not 0 < self.fps < math.inf:
            raise BadInput(f"--fps is {self.fps:g}.", "--fps takes more than 0, such as 15.")
