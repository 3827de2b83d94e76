"""The file map: one line per source file, the first line of its docstring."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

FOLDERS = ("cache_schema", "extract", "heads", "cli", "examples", "docs", "tests")
OTHERS = {
    "pyproject.toml": "packaging, dependencies, settings of ruff, mypy and pytest",
    "constraints.txt": "the versions that the tests were run with; every installation uses them",
    ".ci/run": "all checks that a change must pass",
    ".ci/links": "makes `.links`, through which mypy and the documentation see the rooms as `vfc.<room>`",
    ".pre-commit-config.yaml": "the quick checks before a commit",
}


def first_line(file: Path) -> str:
    """The first line of a module's docstring without its full stop; empty if there is none."""
    return (ast.get_docstring(ast.parse(file.read_text("utf-8"))) or "").split("\n", 1)[0].rstrip(".")


def rows(root: Path, folder: Path) -> Iterator[tuple[str, str]]:
    """(path, text) of a folder, of its files, then of the folders in it; `__init__.py` speaks for its folder."""
    files = sorted(folder.glob("*.py"))
    if not any(folder.rglob("*.py")):
        return
    package = folder / "__init__.py"
    yield f"{folder.relative_to(root)}/", first_line(package) if package in files else ""
    for file in files:
        if file != package:
            yield str(file.relative_to(root)), first_line(file)
    for inner in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(("_", "."))):
        yield from rows(root, inner)


def page(root: Path) -> str:
    """The file map as a Markdown page, one table per top folder."""
    lines = ["# File map", "", "Every source file in one line: the first line of its docstring. Generated.", ""]
    for name in FOLDERS:
        lines += [f"## `{name}/`", "", "| file | what it does |", "| --- | --- |"]
        lines += [f"| `{path}` | {cell(text)} |" for path, text in rows(root, root / name)]
        lines.append("")
    lines += ["## Other files", "", "| file | what it is |", "| --- | --- |"]
    lines += [f"| `{path}` | {text} |" for path, text in OTHERS.items() if (root / path).exists()]
    return "\n".join(lines) + "\n"


def cell(text: str) -> str:
    """A plain text as a cell of a Markdown table; what stands in backticks stays code."""
    parts = text.replace("\n", " ").split("`")
    parts[::2] = [re.sub(r"([\[\]*<])", r"\\\1", part) for part in parts[::2]]
    return "`".join(parts).replace("|", "\\|")
