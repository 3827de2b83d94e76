"""Dataclass to flags and back: every way a value can come, and what each mistake is told."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
import typer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from vfc.cache_schema.values.errors import BadInput, MissingPath, UnknownName, VfcError
from vfc.cli.options import build, flags, parameter, to_json


@dataclass(frozen=True)
class Model:
    layers: tuple[str, ...] = field(default=(), metadata={"flag": "layer", "help": "Taps of [T, N, D] tokens"})
    num_frames: int = 8
    storage: Literal["fp16", "bf16"] | None = None


@dataclass(frozen=True)
class Work:
    store: Path = field(metadata={"argument": True, "help": "The store"})
    way: int = field(metadata={"help": "Classes per episode"})
    model: Model = Model(num_frames=16)
    metric: str = field(default="otam", metadata={"choices": lambda: ("otam", "bi-mhm")})
    lr: float = 1e-3
    verify: bool = True
    videos: Path | None = None
    exclude: tuple[str, ...] = field(default=(), metadata={"commas": False})
    seeds: tuple[int, ...] = (0,)


def typed(arguments: list[str], config: type = Work, file: Path | None = None) -> Any:
    """What a user gets who types these arguments, through typer itself."""
    caught: list[Any] = []

    def call(**values: Any) -> None:
        caught.append(build(config, values, file))

    call.__dict__["__signature__"] = inspect.Signature([parameter(flag) for flag in flags(config)])
    app = typer.Typer(add_completion=False)
    app.command()(call)
    result = CliRunner().invoke(app, arguments, catch_exceptions=True)
    if isinstance(result.exception, VfcError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return caught[0] if caught else result.output


def test_defaults_come_from_the_dataclass_and_from_the_one_around_it() -> None:
    got = typed(["s", "--way", "5"])
    assert got == Work(store=Path("s"), way=5)
    assert got.model.num_frames == 16


def test_every_kind_of_field_is_read() -> None:
    got = typed(
        [
            *"s --way 5 --layer 0,31 --layer norm --num-frames 4 --storage bf16 --metric bi-mhm".split(),
            *["--lr", "3e-4", "--no-verify", "--videos", "a b", "--seeds", "1, 2"],
            *["--exclude", "eat, drink", "--exclude", "run"],
        ]
    )
    model = Model(layers=("0", "31", "norm"), num_frames=4, storage="bf16")
    assert got == Work(
        store=Path("s"),
        way=5,
        model=model,
        metric="bi-mhm",
        lr=3e-4,
        verify=False,
        videos=Path("a b"),
        exclude=("eat, drink", "run"),
        seeds=(1, 2),
    )


def test_the_command_line_beats_the_file_and_the_file_beats_the_dataclass(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"way": 7, "lr": 1, "verify": False, "model": {"num_frames": 2}, "layer": ["3"]}))
    got = typed(["s", "--lr", "0.5", "--verify"], file=file)
    assert (got.way, got.lr, got.verify) == (7, 0.5, True)
    assert got.model == Model(layers=("3",), num_frames=2)


names = (
    st.text(st.characters(codec="utf-8", exclude_characters=",\0"), min_size=1, max_size=8).map(str.strip).filter(bool)
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.builds(
        Work,
        store=names.map(Path),
        way=st.integers(),
        model=st.builds(
            Model,
            layers=st.lists(names, max_size=3).map(tuple),
            num_frames=st.integers(),
            storage=st.sampled_from([None, "fp16", "bf16"]),
        ),
        metric=st.sampled_from(["otam", "bi-mhm"]),
        lr=st.floats(allow_nan=False, allow_infinity=False),
        verify=st.booleans(),
        videos=st.none() | names.map(Path),
        exclude=st.lists(names, max_size=3).map(tuple),
        seeds=st.lists(st.integers(), max_size=3).map(tuple),
    )
)
def test_what_is_written_comes_back(tmp_path: Path, config: Work) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"command": "train-head", "config": to_json(config)}), "utf-8")
    assert build(Work, {}, file) == config


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (["s"], BadInput, "--way is missing.\nGive --way: Classes per episode."),
        (["s", "--way", "five"], BadInput, "--way takes a whole number; got 'five'.\nWrite for example --way 1."),
        (
            ["s", "--way", "5", "--lr", "fast"],
            BadInput,
            "--lr takes a number; got 'fast'.\nWrite for example --lr 0.001.",
        ),
        (
            ["s", "--way", "5", "--metric", "otm"],
            UnknownName,
            "There is no metric 'otm'. Did you mean 'otam'?\nKnown: bi-mhm, otam.",
        ),
        (
            ["s", "--way", "5", "--storage", "fp8"],
            UnknownName,
            "There is no storage 'fp8'. Did you mean 'fp16'?\nKnown: bf16, fp16.",
        ),
        (
            ["s", "--way", "5", "--seeds", "1,x"],
            BadInput,
            "--seeds takes a whole number; got 'x'.\nWrite for example --seeds 1.",
        ),
    ],
)
def test_mistakes_on_the_command_line(arguments: list[str], kind: type[VfcError], message: str) -> None:
    with pytest.raises(kind) as caught:
        typed(arguments)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        (
            '{"wey": 5}',
            UnknownName,
            "There is no setting in FILE: 'wey'. Did you mean 'way'?\nKnown: exclude, layer, lr, ",
        ),
        ('{"way": "5"}', BadInput, "FILE: 'way' is \"5\", not int.\nCorrect that value, or remove it"),
        ('{"way": true}', BadInput, "FILE: 'way' is true, not int.\n"),
        ('{"verify": 1}', BadInput, "FILE: 'verify' is 1, not true or false.\n"),
        ('{"layer": "3"}', BadInput, "FILE: 'layer' is \"3\", not a list of str.\n"),
        ('{"seeds": [1, null]}', BadInput, "FILE: 'seeds' is null, not a list of int.\n"),
        ("[]", BadInput, "FILE holds no JSON object.\nGive the config.json of an earlier run."),
        ("{", BadInput, "FILE is not JSON: "),
        (None, MissingPath, "There is no config file FILE.\nGive the config.json of an earlier run."),
    ],
)
def test_mistakes_in_the_file(tmp_path: Path, text: str | None, kind: type[VfcError], message: str) -> None:
    file = tmp_path / "config.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(kind) as caught:
        build(Work, {"store": "s"}, file)
    assert str(caught.value).replace(str(file), "FILE").startswith(message)


@dataclass(frozen=True)
class Settingless:
    """A head without settings of its own, as the linear probe."""


@dataclass(frozen=True)
class Training:
    head: Settingless = Settingless()
    model: Model = Model()


def test_a_part_without_settings_comes_back_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"config": {"head": {}, "model": {"num_frames": 4}}}))
    assert build(Training, {}, file) == Training(model=Model(num_frames=4))


def test_a_folder_in_place_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"cannot be read: Is a directory\.\nGive the config\.json of an earlier run\."):
        build(Work, {"store": "s"}, tmp_path)


def test_help_shows_meaning_default_and_square_brackets() -> None:
    output = " ".join(str(typed(["--help"])).split())
    assert "Taps of [T, N, D] tokens" in output
    assert "[default: 16]" in output
    assert "Classes per episode [required]" in output
    assert "[otam|bi-mhm]" in output


def _same_flag_twice() -> type:
    @dataclass(frozen=True)
    class Twice:
        layer: int = 0
        model: Model = Model()

    # The annotations of a local class cannot be looked up by name.
    Twice.__annotations__ = {"layer": int, "model": Model}
    return Twice


def _not_a_flag() -> type:
    @dataclass(frozen=True)
    class Mapped:
        table: dict[str, int]

    return Mapped


@pytest.mark.parametrize(
    ("make", "message"),
    [(_same_flag_twice, "more than one field for the flags"), (_not_a_flag, "which cannot be a flag")],
)
def test_dataclasses_that_cannot_be_read_aloud(make: Callable[[], type], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        flags(make())


@dataclass(frozen=True)
class Pairs:
    both: tuple[Path, ...] = field(default=(), metadata={"values": 2})
    strength: float = field(default=1.0, metadata={"flag": "lambda"})


def test_two_values_at_once_and_a_flag_that_python_keeps_for_itself() -> None:
    got = typed(["--both", "a,b.json", "c.json", "--lambda", "0.5"], Pairs)
    assert got == Pairs((Path("a,b.json"), Path("c.json")), 0.5)
    assert typed([], Pairs) == Pairs()
    assert to_json(got) == {"both": ["a,b.json", "c.json"], "lambda": 0.5}
