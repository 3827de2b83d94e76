"""The model and the head of CONTRIBUTING pass their suites in a copy of the repository, with nothing else edited."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from docs import pages

ROOMS = ("cache_schema", "extract", "heads", "cli")


def test_the_model_and_the_head_pass_their_suites(tmp_path: Path) -> None:
    for name in (*ROOMS, "tests"):
        shutil.copytree(pages.ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(pages.ROOT / "pyproject.toml", tmp_path)
    written = []
    for block in pages.blocks((pages.ROOT / "CONTRIBUTING.md").read_text("utf-8")):
        if block.file:
            assert not (tmp_path / block.file).exists()
            (tmp_path / block.file).write_text(block.code, "utf-8")
            written.append(block.file)
    assert len(written) == 4
    (tmp_path / ".links" / "vfc").mkdir(parents=True)
    for room in ROOMS:
        (tmp_path / ".links" / "vfc" / room).symlink_to(tmp_path / room)
    tests = [name for name in written if name.startswith("tests/")]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *tests],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / ".links")},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "failed" not in done.stdout
    assert "passed" in done.stdout or "100%" in done.stdout
