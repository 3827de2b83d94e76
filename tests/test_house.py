"""The rules of the house, read off the syntax trees: who may import whom, names, lengths, packaging."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("cache_schema", "extract", "heads", "cli")
MAY_USE = {
    "cache_schema": set(),
    "extract": {"cache_schema"},
    "heads": {"cache_schema"},
    "cli": {"cache_schema", "extract", "heads"},
}
LIBRARIES = {
    "cache_schema": {"numpy", "zarr", "h5py", "safetensors", "google_crc32c"},
    "extract": {"numpy", "torch", "transformers", "av", "PIL", "safetensors", "huggingface_hub"},
    "heads": {"numpy", "torch", "accelerate", "safetensors"},
    "cli": {"typer", "rich"},
}
# A library that one room may use in some of its files only.
LIBRARIES_OF_FILES = {
    "heads/results/tables.py": {"matplotlib"},
    "cache_schema/exchange/archives.py": {"torch"},
    "extract/backbones/i3d/flow.py": {"cv2"},
    "heads/methods/actionllm/checkpoint.py": {"transformers"},
}
# What a library is called where it is installed, if that differs from its import name.
DISTRIBUTIONS = {"PIL": "pillow", "cv2": "opencv-python-headless", "google_crc32c": "google-crc32c"}
EMPTY_WORDS = {"utils", "util", "common", "helpers", "helper", "base", "manager", "misc", "handler"}
LINES = 330


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0]


def imported_modules(path: Path) -> Iterator[tuple[int, str]]:
    """(line, absolute module name) of every import in a file, those inside functions included."""
    package = ["vfc", *path.relative_to(ROOT).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                above = package[: len(package) - node.level + 1]
                names = [node.module] if node.module else [alias.name for alias in node.names]
                for name in names:
                    yield node.lineno, ".".join([*above, name])
            elif node.module == "vfc":
                for alias in node.names:
                    yield node.lineno, f"vfc.{alias.name}"
            else:
                yield node.lineno, node.module or ""


def third_party(path: Path) -> Iterator[tuple[int, str]]:
    for line, module in imported_modules(path):
        top = module.split(".")[0]
        if top not in sys.stdlib_module_names and top != "vfc":
            yield line, top


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_downwards_only(room: str) -> None:
    allowed = MAY_USE[room] | {room}
    offences = []
    for path in sources(room):
        for line, module in imported_modules(path):
            parts = module.split(".")
            if parts[0] == "vfc" and (len(parts) < 2 or parts[1] not in allowed):
                offences.append(f"{path.relative_to(ROOT)}:{line} imports {module}")
    assert not offences, offences


@pytest.mark.parametrize("room", ROOMS)
def test_libraries_belong_to_rooms(room: str) -> None:
    offences = []
    for path in sources(room):
        name = str(path.relative_to(ROOT))
        allowed = LIBRARIES[room] | LIBRARIES_OF_FILES.get(name, set())
        offences += [f"{name}:{line} imports {top}" for line, top in third_party(path) if top not in allowed]
    assert not offences, offences


def test_every_imported_library_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    declared = {re.split(r"[<>=!~ \[]", line)[0].lower() for line in project["dependencies"]}
    for lines in project["optional-dependencies"].values():
        declared |= {re.split(r"[<>=!~ \[]", line)[0].lower() for line in lines}
    used = {top for path in sources(*ROOMS) for _, top in third_party(path)}
    assert {DISTRIBUTIONS.get(top, top).lower() for top in used} <= declared


def test_no_file_or_folder_has_an_empty_name() -> None:
    named = [path.relative_to(ROOT) for path in sources(*ROOMS, "tests", "examples")]
    offences = [
        str(path) for path in named for part in path.parts if EMPTY_WORDS & set(part.removesuffix(".py").split("_"))
    ]
    assert not offences, offences


def test_files_stay_short() -> None:
    lengths = {path: len(path.read_text("utf-8").splitlines()) for path in sources(*ROOMS)}
    assert not {str(path.relative_to(ROOT)): n for path, n in lengths.items() if n > LINES}


def test_packages_are_the_folders_with_an_init() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    folders = {
        ".".join(["vfc", *path.parent.relative_to(ROOT).parts])
        for path in sources(*ROOMS)
        if path.name == "__init__.py"
    }
    assert set(settings["packages"]) == folders
    holding = {".".join(["vfc", *path.parent.relative_to(ROOT).parts]) for path in sources(*ROOMS)}
    assert holding == folders, "a folder with Python files lacks its __init__.py"
    assert not (ROOT / "__init__.py").exists(), "vfc is a namespace package"


def test_the_readme_ends_in_a_map_of_every_file() -> None:
    loader = SourceFileLoader("file_map", str(ROOT / ".ci/map"))
    spec = importlib.util.spec_from_loader("file_map", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    end = (ROOT / "README.md").read_text("utf-8").rsplit(module.HEADING, 1)[1]
    assert end.strip("\n") == module.file_map().strip("\n"), "run .ci/map --write"


def test_help_loads_neither_torch_nor_transformers_nor_zarr() -> None:
    code = (
        "import sys, json\n"
        "from vfc.cli.app import run\n"
        "code = run(['--help'])\n"
        "print(json.dumps([code, sorted({name.split('.')[0] for name in sys.modules})]), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    code_of_help, loaded = json.loads(done.stderr.splitlines()[-1])
    assert code_of_help == 0
    assert "train-head" in done.stdout
    assert not {"torch", "transformers", "zarr", "h5py", "av", "accelerate", "matplotlib"} & set(loaded)
