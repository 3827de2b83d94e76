"""Preset: one protocol on one data set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Preset:
    """Which videos of a data set are in which split, and how papers look at them.

    `title`: the data set and whose split it is. `table`, `column`: the packaged list (see `members`); where `table` is
    empty, the official `files` are given by the user. `suffix`: of the files as the data set has them. `path`: where a
    file is expected below the root, by `{label}` and `{id}`. `frames`, `num_frames`, `views`, `pipeline`: settings of
    `vfc extract`; `num_frames` None: 8, or as many as the model takes. `source`: where the list comes from. `train`:
    the command that follows, with its flags. `extract`: more flags of the extraction. `alias`: another name.
    """

    name: str
    title: str
    task: Literal["few-shot", "classification", "anticipation"]
    source: str
    train: str
    table: str = ""
    column: str = ""
    files: tuple[str, ...] = ()
    suffix: str = ".mp4"
    path: str = "{id}"
    frames: str = "tsn-centre"
    num_frames: int | None = None
    views: tuple[str, ...] = ()
    pipeline: Literal["plain", "vidprism", "msta"] = "plain"
    extract: str = ""
    alias: str = ""

    def line(self) -> str:
        """The command line that extracts this preset."""
        lists = "" if self.table else " --dataset-list LISTS"
        more = self.extract or "--model clip"
        return f"vfc extract --dataset {self.name} --root DIR{lists} {more} --out ./{self.name}"
