"""The settings of an import of features that other programs made."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from vfc.cache_schema.values.errors import BadInput


@dataclass(frozen=True)
class ImportOptions:
    """How the features are read and stored.

    Raises:
        BadInput: a rate that is not above 0.
    """

    form: Literal["auto", "ms-tcn", "hdf5", "files", "export"] = field(
        default="auto", metadata={"help": "Format of SOURCE", "flag": "format", "panel": "Input"}
    )
    dataset: str = field(default="", metadata={"help": "Array to import, if a file holds several", "panel": "Input"})
    time: Literal["auto", "first", "last"] = field(
        default="auto", metadata={"help": "Time axis; auto: last in MS-TCN folders, else first", "panel": "Input"}
    )
    labels: Path | None = field(
        default=None, metadata={"help": "CSV or JSONL with name,label,split,fold", "panel": "Input"}
    )
    fps: float | None = field(
        default=None, metadata={"help": "Steps per second; adds the array seconds", "panel": "Input"}
    )
    made_by: str = field(
        default="",
        metadata={
            "help": "How the features were made, for the recipe; default: the first file identifies them",
            "panel": "Input",
        },
    )
    array: str = field(default="frames", metadata={"help": "Name of the array in the store", "panel": "Output"})
    layout: Literal["auto", "steps", "frame-major", "vector"] = field(
        default="auto",
        metadata={"help": "steps: [T, D], T varies; frame-major: one shape; vector: [D]", "panel": "Output"},
    )
    dtype: Literal["fp32", "fp16", "bf16", "int8"] | None = field(
        default=None,
        metadata={"help": "Storage dtype; default fp16, of an export its own", "panel": "Output"},
    )
    verify: bool = field(
        default=True, metadata={"help": "Read back what was written and compare checksums", "panel": "Output"}
    )

    def __post_init__(self) -> None:
        if self.fps is not None and not 0 < self.fps < math.inf:
            raise BadInput(f"--fps is {self.fps:g}.", "--fps takes more than 0, such as 15.")
