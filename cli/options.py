"""One field, one flag: a frozen dataclass of another room, read aloud.

A field may be bool, int, float, str, Path, a Literal, a tuple of those, any of them or None, or another frozen
dataclass, whose fields are laid out flat. Its metadata may hold: `help` (one line), `panel`, `choices` (names, or a
function that lists them), `argument` (positional), `flag` (another name than the field's), `metavar`, `commas`
(False: a tuple is given by repeating the flag only, for values that hold commas themselves), `values` (a tuple of so
many is given at once: `--flag A B`), `one_way` (True: a bool that can only be switched on), `renamed_from` (earlier
names of the flag: they still work, on the command line with a notice, and as keys of a config file).

A value comes from the command line, else from the `--config` file, else from the dataclass.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import keyword
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import typer

from vfc.cache_schema.values.errors import BadInput, MissingPath, unknown_name

Config = TypeVar("Config")
SCALARS: dict[type, str] = {int: "INT", float: "FLOAT", str: "TEXT", Path: "PATH", bool: ""}


@dataclass(frozen=True)
class Flag:
    """One field of a dataclass as a flag: where it lies, what it takes, what it means.

    `path` are the field names that lead to it; `scalar` is the type of one value; `many` marks a tuple.
    """

    path: tuple[str, ...]
    name: str
    scalar: type
    literal: tuple[Any, ...]
    many: bool
    optional: bool
    default: Any
    metadata: Mapping[str, Any]

    @property
    def spelled(self) -> str:
        """As a user types it: `--layer`, or `STORE` for a positional one."""
        return self.metavar if self.metadata.get("argument") else f"--{self.name.replace('_', '-')}"

    @property
    def earlier_names(self) -> tuple[str, ...]:
        """The names that the flag had before, written as `name` is."""
        return tuple(name.replace("-", "_") for name in self.metadata.get("renamed_from", ()))

    @property
    def parameter(self) -> str:
        """The name of the argument that typer hands over; a word of Python's own gets a stroke."""
        return f"{self.name}_" if keyword.iskeyword(self.name) else self.name

    def renamings(self) -> Iterator[tuple[str, str]]:
        """Each earlier name and the present one, as typed: `--plan` and `--prompt-batching`."""
        for name in self.earlier_names:
            old = f"--{name.replace('_', '-')}"
            yield old, self.spelled
            if self.scalar is bool and not self.metadata.get("one_way"):
                yield f"--no-{old[2:]}", f"--no-{self.spelled[2:]}"

    @property
    def required(self) -> bool:
        """Whether nothing but the user can give the value."""
        return self.default is MISSING

    @property
    def splits(self) -> bool:
        """Whether a value is cut at its commas."""
        return self.metadata.get("commas", True) and not {"argument", "values"} & set(self.metadata)

    def choices(self) -> tuple[str, ...]:
        """The allowed values as text; empty where any value goes."""
        given = self.metadata.get("choices", self.literal)
        return tuple(str(value) for value in (given() if callable(given) else given))

    @property
    def metavar(self) -> str:
        """What stands for the value in the help."""
        if "metavar" in self.metadata:
            return str(self.metadata["metavar"])
        if self.metadata.get("argument"):
            return self.name.upper()
        allowed = self.choices()
        shown = f"[{'|'.join(allowed)}]" if allowed else SCALARS[self.scalar]
        return f"{shown},..." if self.many and self.metadata.get("commas", True) else shown

    def parse(self, text: str) -> Any:
        """One value typed by a user.

        Raises:
            BadInput: not a number where one is needed.
            UnknownName: outside the allowed values, with a suggestion.
        """
        allowed = self.choices()
        # The default may name what another version or an extra brings; the room that takes it says so.
        if allowed and text not in allowed and text != str(self.default):
            raise unknown_name(self.name.replace("_", " "), text, allowed)
        if self.literal:
            return next(value for value in self.literal if str(value) == text)
        try:
            return self.scalar(text)
        except ValueError:
            kind = "whole number" if self.scalar is int else "number"
            raise BadInput(
                f"{self.spelled} takes a {kind}; got {text!r}.", f"Write for example {self.spelled} {self.example()}."
            ) from None

    def example(self) -> str:
        """A value that would be taken."""
        return str(self.default) if isinstance(self.default, int | float) else "1"

    def typed(self, given: Any) -> Any:
        """The field's value for what typer hands over: a bool, a text, or a list of texts."""
        if isinstance(given, bool):
            return given
        if not self.many:
            return self.parse(str(given))
        pieces = [str(item) for item in given]
        if self.splits:
            pieces = [piece.strip() for item in pieces for piece in item.split(",") if piece.strip()]
        return tuple(self.parse(piece) for piece in pieces)

    def loaded(self, value: Any, where: str) -> Any:
        """The field's value for what stands in a config file.

        Raises:
            BadInput: of another type than the field.
        """
        if value is None and self.optional:
            return None
        if self.many and isinstance(value, list):
            return tuple(self._loaded_one(item, where) for item in value)
        if not self.many:
            return self._loaded_one(value, where)
        raise self._wrong(value, where)

    def _loaded_one(self, value: Any, where: str) -> Any:
        if self.scalar is bool or isinstance(value, bool):
            if self.scalar is bool and isinstance(value, bool):
                return value
            raise self._wrong(value, where)
        accepted: dict[type, tuple[type, ...]] = {int: (int,), float: (int, float), str: (str,), Path: (str,)}
        if not isinstance(value, accepted[self.scalar]):
            raise self._wrong(value, where)
        return self.parse(str(value))

    def _wrong(self, value: Any, where: str) -> BadInput:
        kind = "true or false" if self.scalar is bool else self.scalar.__name__
        wanted = f"a list of {kind}" if self.many else kind
        return BadInput(
            f"{where}: {self.name!r} is {json.dumps(value)}, not {wanted}.",
            "Mend that value, or drop it from the file and give the flag.",
        )


def _default(field: Field[Any], outer: Any) -> Any:
    """The default of a field: what the default of the dataclass around it holds, else its own, else MISSING."""
    if outer is not MISSING:
        return getattr(outer, field.name)
    return field.default_factory() if callable(field.default_factory) else field.default


def _flag(field: Field[Any], annotation: Any, path: tuple[str, ...], default: Any) -> Flag:
    arguments = [part for part in get_args(annotation) if part is not type(None)]
    optional = get_origin(annotation) in (Union, types.UnionType)
    if optional and len(arguments) == 1:
        annotation = arguments[0]
    many = get_origin(annotation) is tuple
    if many:
        annotation = get_args(annotation)[0]
    literal = get_args(annotation) if get_origin(annotation) is Literal else ()
    scalar = type(literal[0]) if literal else annotation
    if scalar not in SCALARS:
        raise TypeError(f"Field {field.name!r} has the type {annotation}, which cannot be a flag.")
    name = str(field.metadata.get("flag", field.name)).lstrip("-").replace("-", "_")
    return Flag((*path, field.name), name, scalar, literal, many, optional, default, field.metadata)


def flags(config: type, path: tuple[str, ...] = (), outer: Any = MISSING) -> list[Flag]:
    """The flags of a dataclass in field order, nested dataclasses laid out flat.

    `path` and `outer` are for the recursion: the names that lead to a nested dataclass, and the value that the
    dataclass around it has for it by default.

    Raises:
        TypeError: a field's type cannot be a flag, or two fields would share one.
    """
    found: list[Flag] = []
    hints = get_type_hints(config)
    for field in dataclasses.fields(config):
        inner = hints[field.name]
        if dataclasses.is_dataclass(inner):
            found += flags(cast("type", inner), (*path, field.name), _default(field, outer))
        else:
            found.append(_flag(field, inner, path, _default(field, outer)))
    names = [name for flag in found for name in (flag.name, *flag.earlier_names)]
    doubled = {name for name in names if names.count(name) > 1}
    if doubled:
        raise TypeError(f"{config.__name__} has more than one field for the flags {sorted(doubled)}.")
    return found


def _assemble(config: type[Config], values: Mapping[tuple[str, ...], Any], path: tuple[str, ...] = ()) -> Config:
    """The dataclass whose flags have these values, by path; every flag has one."""
    hints = get_type_hints(config)
    chosen: dict[str, Any] = {}
    for field in dataclasses.fields(cast("Any", config)):
        here, inner = (*path, field.name), hints[field.name]
        nested = isinstance(inner, type) and dataclasses.is_dataclass(inner)
        chosen[field.name] = _assemble(inner, values, here) if nested else values[here]
    return config(**chosen)


def build(config: type[Config], given: Mapping[str, Any], file: Path | None = None) -> Config:
    """The dataclass from what was typed (`given`, by parameter name; None or empty: not typed) and a config file.

    Raises:
        BadInput: a value of the wrong type, or one that nothing gives.
        UnknownName: a name outside a closed set, or an unknown key in the file.
    """
    known = flags(config)
    values = dict(_from_file(known, file)) if file else {}
    for flag in known:
        typed = given.get(flag.parameter)
        if typed is not None and typed != [] and typed != ():
            values[flag.path] = flag.typed(typed)
        elif flag.path not in values:
            if flag.required:
                raise BadInput(f"{flag.spelled} is missing.", f"It means: {flag.metadata.get('help', flag.name)}.")
            values[flag.path] = flag.default
    return _assemble(config, values)


def _from_file(known: Sequence[Flag], file: Path) -> Iterator[tuple[tuple[str, ...], Any]]:
    try:
        document = json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        raise MissingPath(f"There is no config file {file}.", "Give the config.json of an earlier run.") from None
    except OSError as error:
        raise BadInput(
            f"The config file {file} cannot be read: {error.strerror}.", "Give the config.json of an earlier run."
        ) from None
    except ValueError as error:
        raise BadInput(f"{file} is not JSON: {error}.", "Give the config.json of an earlier run.") from None
    if isinstance(document, dict) and isinstance(document.get("config"), dict):
        document = document["config"]
    if not isinstance(document, dict):
        raise BadInput(f"{file} holds no JSON object.", "Give the config.json of an earlier run.")
    by_path = {flag.path: flag for flag in known}
    by_name = {name: flag for flag in known for name in (flag.name, *flag.earlier_names)}
    groups = {flag.path[:depth] for flag in known for depth in range(1, len(flag.path))}

    def walk(values: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
        for key, value in values.items():
            here = (*path, key)
            if isinstance(value, dict) and (here in groups or not value):  # a part may have no settings of its own
                yield from walk(value, here)
                continue
            flag = by_path.get(here) or by_name.get(key)
            if flag is None:
                raise unknown_name(f"setting in {file}:", key, [flag.name for flag in by_path.values()])
            yield flag.path, flag.loaded(value, str(file))

    return walk(document, ())


def to_json(config: Any) -> dict[str, Any]:
    """A config dataclass as plain JSON, by flag name; `build` with this in a file gives the same dataclass back."""

    def plain(value: Any, scalar: type) -> Any:
        if isinstance(value, tuple):
            return [plain(item, scalar) for item in value]
        if scalar is float and isinstance(value, int):
            return float(value)  # as it is read back
        return str(value) if isinstance(value, Path) else value

    def value_at(path: tuple[str, ...]) -> Any:
        value = config
        for name in path:
            value = getattr(value, name)
        return value

    return {flag.name: plain(value_at(flag.path), flag.scalar) for flag in flags(type(config))}


def _help(flag: Flag) -> str:
    """The help line, with the default, in typer's markup (where a square bracket would open a tag)."""
    default = flag.default
    if isinstance(default, tuple):
        default = ",".join(map(str, default)) or None
    if flag.required:
        default = None if flag.metadata.get("argument") else "required"
    elif isinstance(default, bool):
        default = "default: yes" if default else None
    elif default is not None and default != "":
        default = f"default: {default}"
    text = str(flag.metadata.get("help", ""))
    text = text if text.endswith("...") else text.rstrip(".")
    return f"{text} [{default}]".replace("[", r"\[") if default else text.replace("[", r"\[")


def parameter(flag: Flag) -> inspect.Parameter:
    """The flag as typer reads it. Its default is always None, which means: not typed."""
    annotation: Any = bool if flag.scalar is bool else Path if flag.scalar is Path else str
    if flag.many:
        together = flag.metadata.get("values")
        annotation = tuple[(annotation,) * together] if together else list[annotation]  # type: ignore[misc]
    completion: Callable[[], list[str]] | None = (lambda: list(flag.choices())) if flag.choices() else None
    common: dict[str, Any] = {
        "help": _help(flag),
        "show_default": False,
        "rich_help_panel": flag.metadata.get("panel"),
        "autocompletion": completion,
    }
    default: Any = None
    if flag.metadata.get("argument"):
        info: Any = typer.Argument(metavar=flag.metavar, **common)
        default = inspect.Parameter.empty if flag.required else None
    elif flag.scalar is bool:
        both = "" if flag.metadata.get("one_way") else f"/--no-{flag.spelled[2:]}"
        info = typer.Option(flag.spelled + both, **common)
    else:
        info = typer.Option(flag.spelled, metavar=flag.metavar, **common)
    if default is None:
        annotation = annotation | None
    return inspect.Parameter(
        flag.parameter, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[annotation, info]
    )
