"""What every command has in common, on a command made for the purpose: streams, documents, exit codes."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import pytest
import torch

from vfc.cache_schema.values.errors import Damaged, Refused
from vfc.cache_schema.values.progress import Progress
from vfc.cli import app
from vfc.cli.command import Command, Outcome, human_bytes, table
from vfc.cli.options import to_json


@dataclass(frozen=True)
class Greeting:
    name: str = field(metadata={"argument": True, "help": "Who is greeted"})
    times: int = field(default=1, metadata={"help": "How often"})


def greet(config: Greeting, progress: Progress) -> Outcome:
    progress.begin("greet", config.times, "greetings")
    progress.advance(config.times)
    progress.say("a word on the side")
    return Outcome({"greeted": config.name}, "\n".join([f"Hello {config.name}"] * config.times), 3)


@dataclass(frozen=True)
class Renamed:
    prompt_batching: str = field(default="serial", metadata={"renamed_from": ("plan",)})
    verify: bool = field(default=True, metadata={"renamed_from": ("check-bytes",)})


@pytest.mark.parametrize(
    ("arguments", "settings", "notices"),
    [
        (["--plan", "packed"], {"prompt_batching": "packed", "verify": True}, 1),
        (["--plan=packed", "--no-check-bytes"], {"prompt_batching": "packed", "verify": False}, 2),
        (["--prompt-batching", "packed", "--check-bytes"], {"prompt_batching": "packed", "verify": True}, 1),
        (["--config", "FILE"], {"prompt_batching": "batched", "verify": False}, 0),
    ],
)
def test_a_renamed_flag_works_under_its_old_name_with_a_notice_of_one_line(
    arguments: list[str],
    settings: dict[str, object],
    notices: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"config": {"plan": "batched", "check_bytes": False}}))
    command = Command("rename", "Rename.", Renamed, lambda config, progress: Outcome(to_json(config), ""), "vfc rename")
    root = app.root()
    root.commands["rename"] = app.Lazy("rename", "Rename.", None, command.build)
    monkeypatch.setattr(app, "root", lambda: root)
    assert app.run(["rename", "--json", *(str(file) if word == "FILE" else word for word in arguments)]) == 0
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert {name: document[name] for name in settings} == settings
    assert len(err.splitlines()) == notices
    if "--plan" in arguments:
        assert err == "--plan is now called --prompt-batching; the old name still works.\n"


def use(monkeypatch: pytest.MonkeyPatch, work: Callable[[Greeting, Progress], Outcome]) -> None:
    """Make `vfc greet` call `work`."""
    command = Command("greet", "Greet somebody.", Greeting, work, "vfc greet World", "At length, [if] need be.")
    root = app.root()
    root.commands["greet"] = app.Lazy("greet", "Greet somebody.", None, command.build)
    monkeypatch.setattr(app, "root", lambda: root)


def raising(error: BaseException) -> Callable[[Greeting, Progress], NoReturn]:
    def work(config: Greeting, progress: Progress) -> NoReturn:
        raise error

    return work


def test_data_goes_to_stdout_and_talk_to_stderr(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use(monkeypatch, greet)
    assert app.run(["greet", "World", "--times", "2"]) == 3
    out, err = capsys.readouterr()
    assert out == "Hello World\nHello World\n"
    assert "a word on the side" in err
    assert "greet: 2/2 greetings" in err


def test_json_is_exactly_one_document(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    use(monkeypatch, greet)
    assert app.run(["greet", "World", "--json", "--progress", "none"]) == 3
    out, err = capsys.readouterr()
    assert json.loads(out) == {"schema": "vfc.greet/1", "ok": False, "exit_code": 3, "greeted": "World"}
    assert err == ""


def test_progress_as_json_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    use(monkeypatch, greet)
    app.run(["greet", "World", "--progress", "jsonl"])
    events = [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()]
    assert events == ["begin", "say", "end"]


def test_settings_can_be_printed_and_given_back(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    use(monkeypatch, greet)
    assert app.run(["greet", "World", "--times", "3", "--print-config"]) == 0
    printed = capsys.readouterr().out
    assert json.loads(printed) == {"name": "World", "times": 3}
    (tmp_path / "config.json").write_text(printed)
    app.run(["greet", "Moon", "--config", str(tmp_path / "config.json")])
    assert capsys.readouterr().out == "Hello Moon\n" * 3


def test_help_has_an_example_and_every_flag(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use(monkeypatch, greet)
    assert app.run(["greet", "--help"]) == 0
    output = capsys.readouterr().out
    for part in (
        "Example: vfc greet World",
        "Who is greeted",
        "--times",
        "--json",
        "--config",
        "At length, [if] need be.",
    ):
        assert part in output


@pytest.mark.parametrize(
    ("error", "code", "problem"),
    [
        (Damaged("Part p0 is damaged.", "Run vfc store repair."), 4, "Part p0 is damaged."),
        (Refused("Too big.", "Store less."), 6, "Too big."),
        (OSError(errno.ENOSPC, "No space left on device", "/x/part"), 6, "The disk is full (/x/part)."),
        (OSError(errno.EROFS, "Read-only file system", "/x"), 2, "Read-only file system (/x)."),
        (OSError(errno.EISDIR, "Is a directory", "/x/.list.1a", None, "/x/list"), 2, "Is a directory (/x/list)."),
        (OSError(errno.ENOTDIR, "Not a directory", "/x/file/store"), 2, "Not a directory (/x/file/store)."),
        (OSError(errno.EEXIST, "File exists", "/x/file"), 2, "File exists (/x/file)."),
        (KeyboardInterrupt(), 130, "Interrupted."),
        (SystemExit(143), 143, "Terminated."),
    ],
)
def test_errors_are_two_lines_and_an_exit_code(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    problem: str,
) -> None:
    use(monkeypatch, raising(error))
    assert app.run(["greet", "World", "--json"]) == code
    out, err = capsys.readouterr()
    assert len(err.splitlines()) == 2
    assert err.splitlines()[0] == problem
    document = json.loads(out)
    assert (document["ok"], document["exit_code"], document["problem"]) == (False, code, problem)


def test_an_interrupt_while_a_command_is_imported_is_told_like_any_other(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load() -> NoReturn:
        raise KeyboardInterrupt

    root = app.root()
    root.commands["slow"] = app.Lazy("slow", "Import for long.", None, load)
    monkeypatch.setattr(app, "root", lambda: root)
    assert app.run(["slow", "--json"]) == 130
    out, err = capsys.readouterr()
    assert err.splitlines()[0] == "Interrupted."
    assert (json.loads(out)["error"], json.loads(out)["exit_code"]) == ("Interrupted", 130)


def test_a_bug_shows_its_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    use(monkeypatch, raising(ZeroDivisionError("one over nothing")))
    assert app.run(["greet", "World", "--json"]) == 1
    out, err = capsys.readouterr()
    assert "Traceback (most recent call last)" in err
    assert "This is a bug in vfc: ZeroDivisionError('one over nothing')." in err
    assert json.loads(out)["error"] == "Bug"


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: 8 bytes"),
        RuntimeError("CUDA error: out of memory\nCompile with TORCH_USE_CUDA_DSA"),
        MemoryError(),
    ],
)
def test_too_little_memory_is_no_bug(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    use(monkeypatch, raising(error))
    assert app.run(["greet", "World", "--json"]) == 6
    out, err = capsys.readouterr()
    assert len(err.splitlines()) == 2
    assert err.startswith("Out of memory: ")
    assert json.loads(out)["error"] == "Refused"


GPU = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.mark.parametrize("command", [*app._LESS_MEMORY])
def test_the_flags_named_where_memory_runs_out_are_flags_of_the_command(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    remedy = app._of_memory(GPU, [command])
    assert remedy is not None
    line = {"train-head": [command, "prototype"], "sweep": [command, "prototype"], "bench": [command, "efficiency"]}
    assert app.run([*line.get(command, [command]), "--help"]) == 0
    help_text = capsys.readouterr().out
    named = re.findall(r"--[a-z-]+", remedy.remedy.replace("materialize --pool", ""))
    assert "--device" in named
    assert all(flag in help_text for flag in named)


@pytest.mark.parametrize(
    ("error", "line", "named"),
    [
        (GPU, "train-head fsar --batch 2", "--device cpu"),
        (GPU, "train-head fsar --device cpu --resident=off", "--accumulate"),
        (MemoryError(), "eval --cache s", "--layer"),
        (GPU, "store verify s", "Close other programs"),
    ],
)
def test_what_is_so_already_is_not_advised(error: Exception, line: str, named: str) -> None:
    refused = app._of_memory(error, line.split())
    assert refused is not None
    assert named in refused.remedy
    for flag in ("--device cpu", "--resident off"):
        assert flag not in refused.remedy or flag not in line.replace("=", " ")
    if isinstance(error, MemoryError):
        assert "--device cpu" not in refused.remedy


@pytest.mark.parametrize(
    ("arguments", "problem", "remedy"),
    [
        (["greet"], "Missing argument 'NAME'.", "See vfc greet --help."),
        (["greet", "W", "--tmes", "2"], "No such option: --tmes (Possible options: --times)", "See vfc greet --help."),
        (["greet", "W", "--times", "x"], "--times takes a whole number; got 'x'.", "Write for example --times 1."),
        (["greet", "W", "--times"], "Option '--times' requires an argument.", "See vfc greet --help."),
        (["great"], "No such command 'great'. Did you mean 'greet'?", "Known: "),
        (["--frob"], "No such option: --frob", "See vfc --help."),
    ],
)
def test_usage_errors_are_two_lines_and_exit_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], problem: str, remedy: str
) -> None:
    use(monkeypatch, greet)
    assert app.run(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[0].startswith(problem)
    assert err.splitlines()[1].startswith(remedy)


def test_nothing_typed_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run([]) == 0
    assert "Usage: vfc" in capsys.readouterr().out


def test_version_names_what_the_numbers_depend_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["--version"]) == 0
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines()] == ["vfc", "python", "torch", "transformers", "zarr", "av"]


def test_a_reader_that_leaves_is_no_error() -> None:
    code = (
        "import sys\n"
        "from vfc.cli import app\n"
        "from vfc.cli.command import Command, Outcome\n"
        "from dataclasses import dataclass\n"
        "@dataclass(frozen=True)\n"
        "class Nothing: pass\n"
        "command = Command('flood', 'Write much.', Nothing, lambda c, p: Outcome({}, 'x\\n' * 200000), 'vfc flood')\n"
        "known = app.root()\n"
        "known.commands['flood'] = app.Lazy('flood', 'Write much.', None, command.build)\n"
        "app.root = lambda: known\n"
        "sys.argv = ['vfc', 'flood']\n"
        "app.main()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == b"x\n"
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(timeout=60) == 141
    process.stderr.close()


def test_sigterm_ends_the_work_in_good_order(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tidied: list[str] = []

    def work(config: Greeting, progress: Progress) -> Outcome:
        try:
            threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM)).start()
            time.sleep(30)
        finally:
            tidied.append("committed")
        return Outcome({}, "")

    use(monkeypatch, work)
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(sys, "argv", ["vfc", "greet", "World"])
    try:
        with pytest.raises(SystemExit) as stopped:
            app.main()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert stopped.value.code == 143
    assert tidied == ["committed"]
    assert "Terminated." in capsys.readouterr().err


def test_tables_align_numbers_to_the_right() -> None:
    assert table(["name", "n"], [["a", 5], ["long", 12]]).splitlines() == [
        "name   n",
        "----  --",
        "a      5",
        "long  12",
    ]


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2.5e9, "2.5 GB"), (1.234e15, "1234 TB")]
)
def test_bytes_for_people(count: float, text: str) -> None:
    assert human_bytes(count) == text
