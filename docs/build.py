"""Build the documentation, strictly: hand-written pages, generated pages, then the site.

    .venv/bin/python docs/build.py            # the site: build/docs/site/index.html
    .venv/bin/python docs/build.py --pages    # the Markdown pages alone, without the generator

Needs the extra `docs`. Every link, every anchor and every Python name must resolve, or the build fails.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import commands
import yaml

from vfc.cli.command import first_sentence, module_file

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
ASSETS = (".md", ".svg", ".png", ".css")
COMMENT = re.compile(r"^<!-- (?:test|skip|file).*?-->\n", re.MULTILINE | re.DOTALL)
"""Comments to the tests that run the blocks of a page; readers do not need them."""
HEAD_NOTE = "This head has no page of its own yet; what follows is generated."


def head_names() -> list[str]:
    """The heads that are there, by their public names."""
    from vfc.heads import methods

    return list(methods.names())


def head_about(name: str) -> str:
    """The first sentence of a head's docstring."""
    return first_sentence(module_file(str(ROOT / "heads" / "methods"), name))


def write_pages(pages: Path) -> None:
    """Fill `pages` with every page of the site as Markdown."""
    for source in sorted(path for path in DOCS.rglob("*") if path.suffix in ASSETS):
        target = pages / source.relative_to(DOCS)
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.suffix == ".md":
            target.write_text(COMMENT.sub("", source.read_text("utf-8")), "utf-8")
        else:
            shutil.copyfile(source, target)
    for name in head_names():
        page = pages / "heads" / f"{name}.md"
        text = page.read_text("utf-8") if page.is_file() else f"# {name}\n\n{head_about(name)}\n\n{HEAD_NOTE}\n"
        page.write_text(f"{text.rstrip()}\n\n{commands.head_section(name)}", "utf-8")
    table = "".join(f"| [{name}]({name}.md) | {commands.cell(head_about(name))} |\n" for name in head_names())
    index = pages / "heads" / "index.md"
    index.write_text(f"{index.read_text('utf-8').rstrip()}\n\n| head | what it is |\n| --- | --- |\n{table}", "utf-8")
    folder = pages / "reference" / "commands"
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in commands.pages().items():
        (folder / file).write_text(text, "utf-8")
    file_map = subprocess.run([sys.executable, ROOT / ".ci" / "map"], check=True, capture_output=True, text=True).stdout
    (pages / "reference" / "files.md").write_text(file_map, "utf-8")
    for name in ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"):
        text = COMMENT.sub("", (ROOT / name).read_text("utf-8"))
        (pages / name.lower()).write_text(text.replace("](docs/", "]("), "utf-8")


def settings(pages: Path) -> dict[str, Any]:
    """The settings of the generator: docs/mkdocs.yml, with the generated pages in the navigation."""
    document: dict[str, Any] = yaml.safe_load((DOCS / "mkdocs.yml").read_text("utf-8"))
    lists = {
        "Heads": ["heads/index.md", *({name: f"heads/{name}.md"} for name in head_names())],
        "Command line": [
            {f"vfc {path.stem}": f"reference/commands/{path.name}"}
            for path in sorted((pages / "reference" / "commands").glob("*.md"))
        ],
    }
    fill_navigation(document["nav"], lists)
    document["plugins"][1]["mkdocstrings"]["handlers"]["python"]["paths"] = [str(ROOT / ".links")]
    return document


def fill_navigation(entries: list[Any], lists: dict[str, list[Any]]) -> None:
    """Put each list where the navigation says `{name: generated}`."""
    for entry in entries:
        for name, value in entry.items() if isinstance(entry, dict) else ():
            if value == "generated":
                entry[name] = lists[name]
            elif isinstance(value, list):
                fill_navigation(value, lists)


def main(arguments: list[str]) -> int:
    """Write the pages, then run the generator; its exit code."""
    work = ROOT / "build" / "docs"
    shutil.rmtree(work, ignore_errors=True)
    write_pages(work / "pages")
    (work / "mkdocs.yml").write_text(json.dumps(settings(work / "pages"), indent=1), "utf-8")
    if "--pages" in arguments:
        return 0
    subprocess.run([str(ROOT / ".ci" / "links")], check=True)
    generator = Path(sys.executable).with_name("zensical")
    code = subprocess.run([str(generator), "build", "--strict", "-f", str(work / "mkdocs.yml")], check=False).returncode
    if code == 0:
        print(f"The documentation is in {work / 'site' / 'index.html'}.")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
