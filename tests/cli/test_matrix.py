"""The table of heads and backbones: read from code, so what is added to either appears in it by itself."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from vfc.cli import app, matrix
from vfc.cli.matrix import Offer, answer, lines
from vfc.heads.lookup import find, task_of

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.fixture(scope="module")
def answers() -> dict[str, dict[str, str]]:
    return matrix.matrix()


@pytest.mark.parametrize(
    ("head", "model", "begins"),
    [
        ("prototype", "image", "yes"),
        ("prototype", "qwen2-vl", "yes"),
        ("fsar", "video-llava", "yes"),
        ("fsar", "clip", matrix.VISUAL_ONLY),
        ("text-zero-shot", "clip", "yes"),
        ("text-zero-shot", "videomae", "no: the head reads embeddings of the class names"),
        ("msta", "viclip", "yes"),
        ("msta", "clip", "no: the head adapts the upper blocks"),
        ("futr", "i3d", "yes"),
        ("futr", "video-llava", "no: the head reads long videos"),
        ("linear-probe", "i3d", "yes"),
    ],
)
def test_what_fits_what(answers: dict[str, dict[str, str]], head: str, model: str, begins: str) -> None:
    assert answers[head][model].startswith(begins)


class NewBackbone:
    """A family as a newcomer writes it: no text tower, no long videos."""


def build(options: object) -> NewBackbone:
    """As `Family.build`."""
    return NewBackbone()


def test_a_new_backbone_and_a_new_head_need_no_entry_anywhere() -> None:
    offer = Offer.of(SimpleNamespace(build=build, DEFAULT_CHECKPOINT=None))
    assert offer == Offer(long=False, texts=False, prompts=False, tail=False)
    linear = find("linear-probe")
    assert answer(linear, task_of(linear), offer) == "yes"

    @dataclass(frozen=True)
    class Config:
        strength: float = 1.0

    head = SimpleNamespace(TASK="fewshot", Config=Config, Head=find("prototype").Head)
    assert answer(head, task_of(find("prototype")), offer) == "yes"


def rows_of_tables(page: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """(head, model -> cell) of every row of a table of heads by models on a page."""
    models: list[str] = []
    for line in page.read_text("utf-8").splitlines():
        cells = [cell.strip().strip("`") for cell in line.strip().strip("|").split("|")] if line[:1] == "|" else []
        if cells[:1] == ["head"] and "clip" in cells:
            models = cells[1:]
        elif cells and models and not set(cells[0]) <= set("-: "):
            yield cells[0], dict(zip(models, cells[1:], strict=True))
        elif not cells:
            models = []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_rows_that_a_page_shows_are_current(answers: dict[str, dict[str, str]], page: Path) -> None:
    rows = list(rows_of_tables(page))
    assert rows or page.name != "README.md"
    for head, cells in rows:
        on_page = {model: re.sub(r" \(\d+\)", "", cell) for model, cell in cells.items()}
        current = {model: re.split("[:,]", answers[head][model])[0] for model in on_page}
        assert on_page == current, f"{page.name}, {head}: print the table anew with vfc models matrix --format markdown"


def test_the_readme_has_every_head_every_family_and_every_reason(answers: dict[str, dict[str, str]]) -> None:
    assert lines(answers, markdown=True) in (ROOT / "README.md").read_text("utf-8"), (
        "vfc models matrix --format markdown"
    )


def test_both_forms_of_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    small = {"one": {"a": "yes", "b": "no: a reason"}, "two": {"a": "yes, with a limit", "b": "no: a reason"}}
    assert lines(small, markdown=False).splitlines() == [
        "head  a        b",
        "----  -------  ------",
        "one   yes      no (1)",
        "two   yes (2)  no (1)",
        "",
        "(1) no: a reason.",
        "(2) yes, with a limit.",
    ]
    assert lines(small, markdown=True).splitlines() == [
        "| head | a | b |",
        "| --- | --- | --- |",
        "| one | yes | no (1) |",
        "| two | yes (2) | no (1) |",
        "",
        "(1) no: a reason.  ",
        "(2) yes, with a limit.",
    ]
    assert app.run(["models", "matrix"]) == 0
    assert capsys.readouterr().out.startswith("head ")
