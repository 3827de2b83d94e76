"""Blocks of code in the pages of the documentation, and how one is run in a test.

A shell block is a list of `vfc` lines; a Python block is run as it stands. HTML comments before a block, which the
built pages leave out, may say:

    <!-- skip: reason -->    the block cannot run in a test
    <!-- file: path -->      the block is the content of this file, see `test_contributing.py`
    <!-- test: exit 3 -->    the lines end with this exit code
    <!-- test: needs cv2 -->  the block runs only where this module is installed
"""

from __future__ import annotations

import glob
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_BLOCK = re.compile(r"(?P<comments>(?:<!--(?:(?!-->).)*-->\n)*)```(?P<language>\w+)\n(?P<code>.*?)^```$", re.M | re.S)
_COMMENT = re.compile(r"<!-- (skip|test|file): (.*?) -->", re.S)

SMALL: dict[str, str] = {
    "demo": "--clips-per-class 6 --steps 2 --tasks 20",
    "episodes": "--way 2 --tasks 20",
    "eval": "--tasks 20",
    "probe-layers": "--tasks 20",
    "extract": "--device cpu --decode-workers 1 --threads 1",
    "plan": "--device cpu --decode-workers 1 --threads 1",
    "predict": "--device cpu",
    "train-head": "--device cpu",
    "train-head prototype": "--way 2 --steps 2 --batch 2 --tasks 20 --val-tasks 5 --width 16",
    "train-head trx": "--way 2 --steps 2 --batch 2 --tasks 20 --val-tasks 5 --width 16",
    "train-head fsar": "--way 2 --steps 2 --batch 2 --tasks 20 --val-tasks 5 --dim 16 --down-hidden 12 --ffn-dim 20 "
    "--attention-heads 2",
    "train-head attentive-probe": "--epochs 1 --least-steps 2",
    "train-head linear-probe": "--epochs 1 --least-steps 2",
    "train-head mean-pool": "--epochs 1 --least-steps 2",
    "train-head mote": "--epochs 1 --least-steps 2 --warmup-epochs 0 --layers 1",
    "train-head vidprism": "--epochs 1 --least-steps 2 --warmup-epochs 0",
    "train-head msta": "--epochs 1 --warmup-epochs 0 --dim 8",
    "train-head futr": "--epochs 1 --warmup-epochs 0 --train-ratios 0.3 --width 16 --attention-heads 2",
    "train-head frame-classifier": "--steps 10",
    "train-head actionllm": "--epochs 1 --warmup-epochs 0 --train-ratios 0.3 --offsets 1 --cmib-width 8",
}
"""What is added to a line so that it runs in a second: few tasks, few updates, narrow layers, one core."""


@dataclass(frozen=True)
class Block:
    """One block of code: its language, its text, and what the comments before it say."""

    language: str
    code: str
    skip: str = ""
    exit_code: int = 0
    needs: str = ""
    file: str = ""

    def lines(self) -> list[str]:
        """The command lines of a shell block: comments and blank lines left out, continued lines joined."""
        joined = self.code.replace("\\\n", " ")
        return [line for line in map(str.strip, joined.splitlines()) if line and not line.startswith("#")]


def pages() -> list[Path]:
    """Every hand-written page."""
    found = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    return sorted(found)


def name_of(page: Path) -> str:
    """A page as the tests call it: its path below the repository."""
    return str(page.relative_to(ROOT))


def blocks(text: str) -> Iterator[Block]:
    """The shell and Python blocks of a page, in order."""
    for match in _BLOCK.finditer(text):
        if match["language"] not in ("sh", "bash", "python"):
            continue
        skip, exit_code, needs, file = "", 0, "", ""
        for kind, said in _COMMENT.findall(match["comments"]):
            word, _, value = said.partition(" ")
            if kind == "skip":
                skip = " ".join(said.split())
            elif kind == "file":
                file = word
            elif word == "exit":
                exit_code = int(value)
            else:
                needs = value
        yield Block(match["language"], match["code"], skip, exit_code, needs, file)


def words_of(line: str) -> list[str]:
    """A line as the shell would hand it over: comments cut, quotes taken off, patterns expanded."""
    words = shlex.split(line, comments=True)
    return [path for word in words for path in (sorted(glob.glob(word)) if "*" in word else [word]) or [word]]


def small(words: list[str]) -> list[str]:
    """The line with what makes it small at its end, where the last value of a flag counts."""
    command = "train-head" if words[0] == "sweep" else words[0]  # a sweep takes the flags of a training
    extra = SMALL.get(command, "") + " " + SMALL.get(" ".join((command, *words[1:2])), "")
    if words[0] in ("eval", "probe-layers") and "--episodes" not in words:
        extra += " --way 2"
    added = extra.split()
    return [*words, *added]
