"""The pages that docs/build.py writes: every command and every head, with a page of its own or without."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import pytest

from docs.pages import ROOT
from vfc.cli.app import COMMANDS
from vfc.heads import methods


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch) -> Any:
    """docs/build.py as a module."""
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    spec = importlib.util.spec_from_file_location("docs_build", ROOT / "docs" / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_command_and_every_head_has_a_page(build: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pages = tmp_path / "docs"
    shutil.copytree(ROOT / "docs", pages, ignore=shutil.ignore_patterns("__pycache__"))
    (pages / "heads" / "trx.md").unlink()
    monkeypatch.setattr(build, "DOCS", pages)
    site = tmp_path / "site"
    build.write_pages(site)
    assert {path.stem for path in (site / "reference" / "commands").glob("*.md")} == set(COMMANDS)
    for name in methods.names():
        text = (site / "heads" / f"{name}.md").read_text("utf-8")
        assert text.count("## Settings of the model") == 1
        assert (build.HEAD_NOTE in text) == (name == "trx")
        assert f"[{name}]({name}.md)" in (site / "heads" / "index.md").read_text("utf-8")
    assert not [path for path in site.rglob("*.md") if "\n<!-- " in path.read_text("utf-8")]
    navigation = str(build.settings(site)["nav"])
    assert "generated" not in navigation
    assert "heads/trx.md" in navigation


def test_flags_in_a_table_keep_what_markdown_would_read_as_its_own(build: Any) -> None:
    assert build.commands.cell("[a|b] <x> `c|d` *e*") == r"\[a\|b\] &lt;x> `c\|d` \*e\*"
