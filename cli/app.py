"""The command `vfc`: a table of commands, each imported when it is called; errors as two lines and an exit code."""

from __future__ import annotations

import errno
import importlib
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import Annotated, Any, Final

import typer
from typer.core import TyperCommand, TyperGroup
from typer.exceptions import TyperException
from typer.main import get_command

from vfc.cache_schema.values.errors import BadInput, ReadOnlyTarget, Refused, VfcError, first_line, is_out_of_memory

from .command import HELP, print_document
from .options.paths import check_words

_INTERRUPTED: Final = 128 + signal.SIGINT
_HANG_UP: Final = getattr(signal, "SIGHUP", None)
_STOPPED: Final = (_INTERRUPTED, *(128 + number for number in (signal.SIGTERM, _HANG_UP) if number))

# name -> (module of this folder : function that builds the command, panel, one line).
COMMANDS: dict[str, tuple[str, str, str]] = {
    "demo": (
        "demo:demo",
        "Start here",
        "Render clips, extract features, train a head and test it: one minute, no downloads.",
    ),
    "extract": (
        "extract:extract",
        "From videos to a store",
        "Run a frozen model over videos and keep its hidden states.",
    ),
    "videos": (
        "videos:videos",
        "From videos to a store",
        "Show how a list or a folder of videos is understood.",
    ),
    "datasets": (
        "datasets:datasets",
        "From videos to a store",
        "Presets of data sets: lists, splits, and what is missing on disk.",
    ),
    "plan": ("extract:plan", "From videos to a store", "Estimate what extract would do: records, bytes, time."),
    "store": ("store:store", "The store", "Inspect, verify, repair, compact, merge, convert, compare ..."),
    "models": (
        "models:models",
        "From videos to a store",
        "The families of models, what they give, and which heads read it.",
    ),
    "episodes": ("heads:episodes", "From a store to a score", "Write a fixed list of few-shot tasks, with its hash."),
    "eval": ("heads:evaluate", "From a store to a score", "Evaluate a training-free metric on few-shot tasks."),
    "probe-layers": ("heads:probe_layers", "From a store to a score", "Evaluate training-free metrics on every layer."),
    "predict": (
        "predict:predict",
        "From a store to a score",
        "Name new videos with a trained head, or predict their segments.",
    ),
    "report": ("heads:report", "From a store to a score", "Compare runs over seeds and item by item."),
    "train-head": ("heads:train_head", "From a store to a score", "Train a head on a store and test it once."),
    "sweep": (
        "sweep:sweep",
        "From a store to a score",
        "Train a head under many settings, choose on validation, test the winner once.",
    ),
    "bench": ("bench:bench", "From a store to a score", "Measure what heads cost: parameters, FLOPs, time, memory."),
    "describe": (
        "describe:describe",
        "From a store to a score",
        "Let a local language model write sentences about each class.",
    ),
}
# What takes less memory, per command, as flags and in words; extract says it by itself.
_LESS_MEMORY: Final[dict[str, tuple[str, ...]]] = {
    "train-head": ("a smaller --batch with a larger --accumulate", "--resident off", "--device cpu"),
    "sweep": ("fewer trials", "a smaller --batch", "--resident off", "--device cpu"),
    "predict": ("fewer clips per call", "--device cpu"),
    "eval": ("a single --layer", "--device cpu"),
    "probe-layers": ("fewer layers with --layer", "--device cpu"),
    "plan": ("a smaller --batch", "fewer frames with --num-frames", "--device cpu"),
    "bench": ("a smaller --batch", "--no-online", "--device cpu"),
    "describe": ("a smaller model", "--device cpu"),
}
_POOLED: Final = "use a store with fewer tokens: vfc store materialize --pool"
_READS_STORE: Final = ("train-head", "sweep", "eval", "probe-layers")
_SLOW: Final = {"episodes", "eval", "probe-layers"}


class Lazy(TyperCommand):
    """A command of which only the name and one line of help are loaded until it is called.

    `slow`: its flags are defined beside code that imports torch, so the paths on the line are checked before.
    """

    def __init__(
        self, name: str, line: str, panel: str | None, load: Callable[[], TyperCommand | TyperGroup], slow: bool = False
    ) -> None:
        super().__init__(name=name, callback=None, params=[], help=line, rich_help_panel=panel)
        self.load, self.slow = load, slow


class LazyGroup(TyperGroup):
    """A group that imports a command when it is called, not to list it."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Import the command that is called."""
        name, command, rest = super().resolve_command(ctx, args)
        if isinstance(command, Lazy) and command.slow and not ctx.resilient_parsing:
            check_words(rest)
        try:
            return name, command.load() if isinstance(command, Lazy) else command, rest
        except KeyboardInterrupt:
            # typer would end Ctrl-C during these imports without a message or a JSON document.
            raise SystemExit(_INTERRUPTED) from None

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Show the help of a group that is called without a command."""
        return super().parse_args(ctx, args or ["--help"])


def _imported(target: str) -> Callable[[], TyperCommand | TyperGroup]:
    def load() -> TyperCommand | TyperGroup:
        module, function = target.split(":")
        built = getattr(importlib.import_module(f"vfc.cli.{module}"), function)()
        assert isinstance(built, TyperCommand | TyperGroup)
        return built

    return load


def _print_version(show: bool) -> None:
    if not show:
        return
    from importlib.metadata import PackageNotFoundError, version

    print(f"vfc {version('vfc')}")
    print(f"python {sys.version.split()[0]}")
    for library in ("torch", "transformers", "zarr", "av"):
        try:
            print(f"{library} {version(library)}")
        except PackageNotFoundError:
            print(f"{library} is not installed")
    raise typer.Exit


def group(name: str, line: str, entries: Mapping[str, Lazy], epilog: str = "") -> LazyGroup:
    """A command with sub-commands."""
    app = typer.Typer(
        name=name,
        cls=LazyGroup,
        help=line,
        epilog=epilog,
        rich_markup_mode="rich",
        add_completion=False,
        context_settings=HELP,
    )
    app.callback()(lambda: None)
    built = get_command(app)
    assert isinstance(built, LazyGroup)
    built.commands.update(entries)
    return built


def root() -> LazyGroup:
    """The command `vfc`."""
    app = typer.Typer(
        name="vfc",
        cls=LazyGroup,
        help="Run a frozen video model once over a collection, keep its hidden states, train small heads from them.",
        epilog="Example: vfc demo",
        rich_markup_mode="rich",
        context_settings=HELP,
    )

    @app.callback()
    def _(
        version: Annotated[
            bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show versions and exit.")
        ] = False,
    ) -> None:
        return

    built = get_command(app)
    assert isinstance(built, LazyGroup)
    for name, (target, panel, line) in COMMANDS.items():
        built.commands[name] = Lazy(name, line, panel, _imported(target), slow=name in _SLOW)
    return built


def _fail(error: str, problem: str, remedy: str, exit_code: int, *, json: bool) -> int:
    # Messages of libraries, quoted in an error, may hold line breaks.
    problem, remedy = (" ".join(text.split()) for text in (problem, remedy))
    print(f"{problem}\n{remedy}", file=sys.stderr)
    if json:
        print_document("error", exit_code, {"error": error, "problem": problem, "remedy": remedy})
    return exit_code


def _stopped(exit_code: int, *, json: bool) -> int:
    how = "Interrupted" if exit_code == _INTERRUPTED else "Terminated"
    return _fail(how, f"{how}.", "What was committed is kept; the same command continues.", exit_code, json=json)


def _usage(error: TyperException, json: bool) -> int:
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "vfc"
    problem = " ".join(error.format_message().split())
    commands = getattr(getattr(context, "command", None), "commands", ())
    remedy = f"Known: {', '.join(commands)}." if "No such command" in problem else f"See {path} --help."
    return _fail("UsageError", problem, remedy, 2, json=json)


def _of_system(error: OSError) -> VfcError | None:
    """The two-line error for a full disk, a read-only disk or an impossible path; None for other errors."""
    where = f" ({error.filename2 or error.filename})" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Refused(f"The disk is full{where}.", "Free some space and run the same command again.")
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return ReadOnlyTarget(f"{error.strerror}{where}.", "Give another path, or change its permissions.")
    if error.errno in (errno.EEXIST, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG):
        return BadInput(f"{error.strerror}{where}.", "Check which paths must be files and which folders.")
    return None


def _of_memory(error: Exception, argv: Sequence[str]) -> VfcError | None:
    """The two-line error where memory ran out, with the flags of the command that help; None for other errors."""
    if not is_out_of_memory(error):
        return None
    command = next((word for word in argv if word in COMMANDS), "")
    given = f" {' '.join(argv).replace('=', ' ')} "
    # A flag that is there already helps no more, nor does the CPU where it is the one that has no memory left.
    on_cpu = isinstance(error, MemoryError) or "CPU" in str(error)
    helps = [one for one in _LESS_MEMORY.get(command, ()) if f" {one} " not in given]
    helps = [one for one in helps if not (on_cpu and one == "--device cpu")]
    advice = f"Give {', or '.join(helps)}" if helps else "Close other programs"
    pooled = f"; or {_POOLED}" if command in _READS_STORE or not helps else ""
    return Refused(f"Out of memory: {first_line(error)}", f"{advice}{pooled}.")


def _terminate(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def run(argv: Sequence[str]) -> int:
    """Run one command line and return its exit code."""
    json = "--json" in argv
    try:
        code = root().main(list(argv), prog_name="vfc", standalone_mode=False)
        sys.stdout.flush()
        return int(code or 0)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
        return _stopped(code, json=json) if code in _STOPPED else code
    except VfcError as error:
        return _fail(type(error).__name__, error.problem, error.remedy, error.exit_code, json=json)
    except TyperException as error:
        return _usage(error, json)
    except Exception as error:
        vfc_error = _of_system(error) if isinstance(error, OSError) else _of_memory(error, argv)
        if vfc_error is not None:
            return _fail(type(vfc_error).__name__, vfc_error.problem, vfc_error.remedy, vfc_error.exit_code, json=json)
        traceback.print_exc()
        return _fail("Bug", f"This is a bug in vfc: {error!r}.", "Please report the lines above.", 1, json=json)


def main() -> None:
    """The entry point of the script `vfc`."""
    signal.signal(signal.SIGTERM, _terminate)
    if _HANG_UP and signal.getsignal(_HANG_UP) != signal.SIG_IGN:  # nohup ignores it
        signal.signal(_HANG_UP, _terminate)
    sys.exit(run(sys.argv[1:]))
