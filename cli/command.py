"""A command of `vfc`: a settings dataclass, a function and an example; and the options that all commands share.

Results go to stdout, messages to stderr. With `--json` stdout is exactly one document, also on failure.
"""

from __future__ import annotations

import ast
import inspect
import json
import os
import signal
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

import typer
from typer.core import TyperCommand
from typer.exceptions import TyperException
from typer.main import get_command

from vfc.cache_schema.values.progress import Progress
from vfc.cache_schema.values.settings import setting

from .options import build, flags, parameter, to_json
from .progress import Style, show

if TYPE_CHECKING:
    from vfc.heads.results.tables import Table

Config = TypeVar("Config")
HELP: Final = {"help_option_names": ["-h", "--help"]}


@dataclass(frozen=True)
class CommonOptions:
    """The options of every command."""

    json: bool = setting(False, "Print one JSON document on stdout, also on failure", "Common options", one_way=True)
    progress: Style = setting("auto", "How to show progress on stderr", "Common options")
    config: Path | None = setting(None, "Settings from an earlier run's config.json; flags win", "Common options")
    print_config: bool = setting(
        False, "Print the settings as JSON and do nothing else", "Common options", one_way=True
    )


class FlagCommand(TyperCommand):
    """A command that accepts renamed flags under their earlier names, and whose usage errors know its help.

    `renamed`: an earlier name to the present one, both as typed (`--plan` to `--prompt-batching`).
    """

    renamed: Mapping[str, str] = {}

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments; an earlier name of a flag is replaced by the present one, with a notice on stderr."""
        options = args[: args.index("--")] if "--" in args else args
        for position, (name, equals, value) in enumerate(argument.partition("=") for argument in options):
            if name in self.renamed:
                print(f"{name} is now called {self.renamed[name]}; the old name still works.", file=sys.stderr)
                args = [*args[:position], self.renamed[name] + equals + value, *args[position + 1 :]]
        try:
            return super().parse_args(ctx, args)
        except TyperException as error:
            error.ctx = getattr(error, "ctx", None) or ctx  # type: ignore[attr-defined]
            raise


@dataclass(frozen=True)
class Outcome:
    """The result of a command: a JSON document, the same as text, an exit code."""

    document: Mapping[str, Any]
    text: str
    exit_code: int = 0


@dataclass(frozen=True)
class Command(Generic[Config]):
    """Name as typed (`store verify`), one line of help, settings, the function to run, an example that works."""

    name: str
    help: str
    config: type[Config]
    run: Callable[[Config, Progress], Outcome]
    example: str
    more: str = ""
    check: Callable[[Config, frozenset[str]], None] = lambda config, typed: None
    """Refuses settings that do not go together; `typed` are those of the command line."""

    def build(self) -> TyperCommand:
        """The command for typer, with one option per field of the dataclasses."""

        def call(**typed: Any) -> int:
            try:
                return self._execute(typed)
            except KeyboardInterrupt:
                raise SystemExit(128 + signal.SIGINT) from None
            except BrokenPipeError:
                # The reader of the pipe has closed it, as `head` does: nothing may be written at exit either.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                return 128 + signal.SIGPIPE

        listed = [*flags(self.config), *flags(CommonOptions)]
        # Positional ones first: Python's signatures and typer's usage line both require it.
        listed.sort(key=lambda flag: not flag.metadata.get("argument"))
        call.__dict__["__signature__"] = inspect.Signature([parameter(flag) for flag in listed])
        app = typer.Typer(add_completion=False, rich_markup_mode="rich", context_settings=HELP)
        text = "\n\n".join(part for part in (self.help, self.more) if part).replace("[", r"\[")
        example = self.example.replace("[", r"\[")
        name, end = self.name.split()[-1], f"Example: {example}"
        app.command(name, cls=FlagCommand, help=text, short_help=self.help, epilog=end)(call)
        built = get_command(app)
        assert isinstance(built, FlagCommand)
        built.renamed = {old: new for flag in listed for old, new in flag.renamings()}
        return built

    def _execute(self, typed: Mapping[str, Any]) -> int:
        common = build(CommonOptions, typed)
        config = build(self.config, typed, common.config, paths=not common.print_config)
        if common.print_config:
            print(json.dumps(to_json(config), indent=2, ensure_ascii=False))
            return 0
        self.check(config, frozenset(name for name, value in typed.items() if value not in (None, [], ())))
        progress = show(common.progress)
        try:
            outcome = self.run(config, progress)
        finally:
            progress.close()
        if common.json:
            print_document(self.name, outcome.exit_code, outcome.document)
        elif outcome.text:
            print(outcome.text)
        sys.stdout.flush()
        return outcome.exit_code


def print_document(command: str, exit_code: int, content: Mapping[str, Any]) -> None:
    """Print the JSON document of a command on stdout: versioned, with its exit code."""
    schema = f"vfc.{command.replace(' ', '.')}/1"
    document = {"schema": schema, "ok": exit_code == 0, "exit_code": exit_code, **content}
    print(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False))


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Aligned text columns, under their names if they have any; numbers to the right."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(line[i]) for line in [list(columns), *cells]) for i in range(len(columns))]
    numeric = [all(isinstance(row[i], int | float) for row in rows) and bool(rows) for i in range(len(columns))]

    def line(row: Sequence[str]) -> str:
        padded = (
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        )
        return "  ".join(padded).rstrip()

    header = [line(columns), line(["-" * width for width in widths])] if any(columns) else []
    return "\n".join([*header, *map(line, cells)])


def tables_text(tables: Iterable[Table]) -> str:
    """The tables of a report as text, each with its title."""
    return "\n\n".join(f"{each.title}\n{table(each.columns, each.rows)}" for each in tables)


def module_file(folder: str, name: str) -> Path:
    """The file that defines a family or a method: `name.py`, or `name/__init__.py` where it has a folder."""
    stem = Path(folder) / name.replace("-", "_")
    package = stem / "__init__.py"
    return package if package.is_file() else stem.with_suffix(".py")


def first_sentence(file: Path) -> str:
    """The first line of the docstring of a module, read without importing it."""
    return (ast.get_docstring(ast.parse(file.read_text("utf-8"))) or "").split("\n", 1)[0]


def human_bytes(count: float) -> str:
    """1.5 GB for 1_500_000_000; decimal units, three figures."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}" if unit != "B" else f"{count:.0f} B"
        count /= 1000
    return f"{count:.4g} TB"
