"""The commands that are there: each can be listed, read about, and given its settings back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.core import TyperGroup

from vfc.cache_schema.values.errors import VfcError
from vfc.cli import app


def commands(group: TyperGroup, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The words of every command below a group."""
    for name, command in group.commands.items():
        loaded = command.load() if isinstance(command, app.Lazy) else command
        if isinstance(loaded, TyperGroup):
            yield from commands(loaded, (*path, name))
        else:
            yield (*path, name)


ALL = sorted(commands(app.root()))
NEEDS_MORE = ("store", "models", "predict", "describe", "videos", "datasets")
"""Commands that cannot do without a store, a model or a run being named."""


def test_the_commands_of_this_issue_are_there() -> None:
    expected = "extract plan eval episodes demo".split()
    expected += [
        f"store {verb}" for verb in "inspect verify repair compact merge convert materialize compare export".split()
    ]
    expected += ["models list", "models show", "train-head prototype"]
    assert {" ".join(words) for words in ALL} >= set(expected)


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_every_command_has_help_with_an_example_of_itself(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.run([*words, "--help"]) == 0
    output = " ".join(capsys.readouterr().out.split())
    assert f"Example: vfc {' '.join(words)}" in output
    assert "--json" in output


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_every_line_of_a_list_of_commands_says_something(words: tuple[str, ...]) -> None:
    group: TyperGroup = app.root()
    for word in words[:-1]:
        command = group.commands[word]
        assert isinstance(command, app.Lazy)
        inner = command.load()
        assert isinstance(inner, TyperGroup)
        group = inner
    line = group.commands[words[-1]].help or ""
    assert line[:1].isupper()
    assert line.endswith(".")


@pytest.mark.parametrize("words", [w for w in ALL if w[0] not in NEEDS_MORE], ids=" ".join)
def test_printed_settings_are_taken_back(
    words: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.run([*words, "--print-config"]) == 0
    first = capsys.readouterr().out
    file = tmp_path / "config.json"
    file.write_text(first)
    assert app.run([*words, "--config", str(file), "--print-config"]) == 0
    assert capsys.readouterr().out == first
    assert isinstance(json.loads(first), dict)


@pytest.mark.parametrize(
    ("arguments", "code", "lines"),
    [
        (["extract", "--model", "clipp"], 2, ["There is no model 'clipp'. Did you mean 'clip'?", "Known: "]),
        (
            ["eval", "--metric", "otm"],
            2,
            ["There is no metric 'otm'. Did you mean 'otam'?", "hausdorff, "],
        ),
        (["eval", "--cache", "{tmp}/none"], 2, ["none", ""]),
        (["store", "verify", "{tmp}"], 2, ["", ""]),
        (["models", "show", "imag"], 2, ["There is no model 'imag'. Did you mean 'image'?", "Known: "]),
        (["train-head", "protoype"], 2, ["No such command 'protoype'. Did you mean 'prototype'?", "Known: "]),
        (["stor"], 2, ["No such command 'stor'. Did you mean 'store'?", "Known: "]),
    ],
)
def test_bad_input_is_two_lines_with_its_exit_code(
    arguments: list[str], code: int, lines: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.run([argument.format(tmp=tmp_path) for argument in arguments]) == code
    out, err = capsys.readouterr()
    answer = err.splitlines()
    assert out == ""
    assert len(answer) == 2
    assert lines[0] in answer[0]
    assert lines[1] in answer[1]


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("vfc ex", ["extract"]),
        ("vfc extract --model cl", ["clip"]),
        ("vfc train-head prot", ["prototype"]),
        ("vfc eval --metric h", ["hausdorff"]),
        ("vfc store mer", ["merge"]),
    ],
)
def test_a_shell_completes_commands_and_names(
    typed: str, offered: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("_VFC_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", typed)
    monkeypatch.setenv("COMP_CWORD", str(len(typed.split()) - 1))
    assert app.run([]) == 0
    assert capsys.readouterr().out.split() == offered


def test_every_error_has_an_exit_code_of_the_house() -> None:
    def below(kind: type[VfcError]) -> Iterator[type[VfcError]]:
        yield kind
        for inner in kind.__subclasses__():
            yield from below(inner)

    assert {kind.exit_code for kind in below(VfcError)} <= {2, 3, 4, 5, 6}
