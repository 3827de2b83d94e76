"""The rules of the source tree, checked on the syntax trees: imports, names, lengths, docstrings, packaging."""

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
from types import ModuleType

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
    "heads/results/figures.py": {"matplotlib"},
    "cache_schema/exchange/archives.py": {"torch"},
    "cache_schema/exchange/matlab.py": {"scipy"},
    "cache_schema/exchange/rulstm.py": {"lmdb"},
    "cache_schema/values/devices.py": {"torch"},
    "extract/backbones/i3d/flow.py": {"cv2"},
    "heads/methods/actionllm/checkpoint.py": {"transformers"},
}
# What a library is called where it is installed, if that differs from its import name.
DISTRIBUTIONS = {"PIL": "pillow", "cv2": "opencv-python-headless", "google_crc32c": "google-crc32c"}
EMPTY_WORDS = {"utils", "util", "common", "helpers", "helper", "base", "manager", "misc", "handler"}
LINES = 330
DOCSTRING = 120
# Python files that lie directly in a room; all others lie in its sub-rooms.
TOP_FILES = {"cache_schema": 6, "extract": 5, "heads": 3, "cli": 11}
# Words that do not say what a variable holds, and in how many functions of each room they are still variables.
# A number may only fall: who removes one lowers it here.
VAGUE_NAMES = {"found", "told", "made", "held", "wanted", "said", "there", "whole", "known"}
VAGUE = {"cache_schema": 3, "extract": 0, "heads": 0, "cli": 0}
NOT_IMPORTED = {"dev", "docs"}
"""Extras that hold tools instead of libraries that the code imports."""


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


ALL = sources(*ROOMS, "tests", "examples")


def is_module(name: str) -> bool:
    """Whether an absolute name is a module or a package of this repository."""
    path = ROOT.joinpath(*name.split(".")[1:])
    return name.startswith("vfc.") and (path.with_suffix(".py").is_file() or path.is_dir())


def imported_modules(path: Path) -> Iterator[tuple[int, str]]:
    """(line, absolute module name) of every import in a file, those inside functions included."""
    package = ["vfc", *path.relative_to(ROOT).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                submodule = f"{module}.{alias.name}"
                yield node.lineno, submodule if module == "vfc" or is_module(submodule) else module


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
    named = [path.relative_to(ROOT) for path in ALL]
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


def libraries(path: Path) -> Iterator[str]:
    """The libraries that a file imports, or looks for by name with `find_spec` because another library imports them."""
    yield from (top for _, top in third_party(path))
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("find_spec"):
            yield from (str(each.value) for each in node.args if isinstance(each, ast.Constant))


def import_layers(room: str) -> list[list[str]]:
    """The sub-rooms and top files of a room, lowest first: each layer imports from the layers before it only.

    What is left over because it imports itself in a circle is the last layer, with its imports.
    """
    uses: dict[str, set[str]] = {}
    for path in sources(room):
        part = path.relative_to(ROOT / room).parts[0].removesuffix(".py")
        uses.setdefault(part, set())
        for _, module in imported_modules(path):
            above = module.split(".")
            if above[:2] == ["vfc", room] and len(above) > 2 and above[2] != part:
                uses[part].add(above[2])
    layers: list[list[str]] = []
    while uses:
        lowest = sorted(part for part, others in uses.items() if not others & uses.keys())
        if not lowest:
            return [
                *layers,
                [f"circle: {part} imports {sorted(others & uses.keys())}" for part, others in uses.items()],
            ]
        layers.append(lowest)
        for part in lowest:
            del uses[part]
    return layers


@pytest.mark.parametrize("room", ROOMS)
def test_sub_rooms_import_in_one_direction(room: str) -> None:
    layers = import_layers(room)
    listing = "\n".join(f"{number}: {', '.join(layer)}" for number, layer in enumerate(layers, 1))
    assert not [part for part in layers[-1] if part.startswith("circle")], f"layers of {room}:\n{listing}"


@pytest.mark.parametrize("room", ROOMS)
def test_few_files_lie_directly_in_a_room(room: str) -> None:
    files = sorted(path.name for path in (ROOT / room).glob("*.py"))
    assert len(files) <= TOP_FILES[room], f"put new files of {room} into a sub-room: {files}"


def vague_names(path: Path) -> Iterator[tuple[int, str]]:
    """(line, name) for every function that uses one of the vague names as a variable or a parameter."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            inner = list(ast.walk(node))
            names = {each.id for each in inner if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)}
            names |= {each.arg for each in inner if isinstance(each, ast.arg)}
            for name in sorted(names & VAGUE_NAMES):
                yield node.lineno, name


@pytest.mark.parametrize("room", ROOMS)
def test_variables_say_what_they_hold(room: str) -> None:
    uses = [f"{path.relative_to(ROOT)}:{line} {name}" for path in sources(room) for line, name in vague_names(path)]
    assert len(uses) <= VAGUE[room], f"{len(uses)} vague names; name the thing instead: {uses}"


def file_map() -> ModuleType:
    """The generator of the file map that the documentation shows."""
    loader = SourceFileLoader("file_map", str(ROOT / ".ci/map"))
    spec = importlib.util.spec_from_loader("file_map", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def test_every_module_says_in_one_line_what_it_is() -> None:
    docstrings = {
        path: ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "" for path in sources(*ROOMS, "examples")
    }
    offences = {
        str(path.relative_to(ROOT)): text.split("\n")[0]
        for path, text in docstrings.items()
        if not 0 < len(text.split("\n")[0]) <= DOCSTRING
    }
    assert not offences, offences


def test_the_generated_file_map_lists_every_file() -> None:
    listed = {path for path, _ in file_map().entries()}
    assert {str(path.relative_to(ROOT)) for path in ALL} <= listed
    page = file_map().markdown()
    assert all(f"`{path.name}`" in page for path in ALL if path.name != "__init__.py")


def test_every_extra_is_imported_somewhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    used = {DISTRIBUTIONS.get(top, top).lower() for path in sources(*ROOMS) for top in libraries(path)}
    unused = {
        extra: lines
        for extra, lines in project["optional-dependencies"].items()
        if extra not in NOT_IMPORTED and not {re.split(r"[<>=!~ \[]", line)[0].lower() for line in lines} & used
    }
    assert not unused, f"extras that no code imports: {unused}"


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
