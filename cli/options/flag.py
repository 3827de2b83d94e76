"""Flag: one field of a settings dataclass as an option of the command line, with its type, name and allowed values.

A field may be bool, int, float, str, Path, a Literal, a tuple of those, any of them or None, or another frozen
dataclass, whose fields are laid out flat. Its metadata may hold: `help` (one line), `panel`, `choices` (names, or a
function that lists them), `argument` (positional), `flag` (another name than the field's), `metavar`, `commas`
(False: a tuple is given by repeating the flag only, for values that hold commas themselves), `values` (a tuple of so
many is given at once: `--flag A B`), `one_way` (True: a bool that can only be switched on), `renamed_from` (earlier
names of the flag: they still work, on the command line with a notice, and as keys of a config file).
"""

from __future__ import annotations

import dataclasses
import json
import keyword
import types
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, dataclass
from pathlib import Path
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from vfc.cache_schema.values.errors import BadInput, unknown_name

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
        """The name of the argument that typer hands over; a keyword of Python gets an underscore."""
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
        """Whether a value is split at its commas."""
        return self.metadata.get("commas", True) and not {"argument", "values"} & set(self.metadata)

    def choices(self) -> tuple[str, ...]:
        """The allowed values as text; empty where any value goes."""
        choices = self.metadata.get("choices", self.literal)
        return tuple(str(value) for value in (choices() if callable(choices) else choices))

    @property
    def metavar(self) -> str:
        """The placeholder of the value in the help."""
        if "metavar" in self.metadata:
            return str(self.metadata["metavar"])
        if self.metadata.get("argument"):
            return self.name.upper()
        allowed = self.choices()
        one = f"[{'|'.join(allowed)}]" if allowed else SCALARS[self.scalar]
        return f"{one},..." if self.many and self.metadata.get("commas", True) else one

    def parse(self, text: str) -> Any:
        """One value typed by a user.

        Raises:
            BadInput: not a number where one is needed.
            UnknownName: outside the allowed values, with a suggestion.
        """
        allowed = self.choices()
        # The default may be a name that only another version or an extra knows; the room that reads it checks it.
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
        """A value that is accepted."""
        return str(self.default) if isinstance(self.default, int | float) else "1"

    def typed(self, value: Any) -> Any:
        """The field's value for what typer hands over: a bool, a text, or a list of texts."""
        if isinstance(value, bool):
            return value
        if not self.many:
            return self.parse(str(value))
        pieces = [str(item) for item in value]
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
        kind = f"a list of {kind}" if self.many else kind
        return BadInput(
            f"{where}: {self.name!r} is {json.dumps(value)}, not {kind}.",
            "Correct that value, or remove it from the file and give the flag.",
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
    listed: list[Flag] = []
    hints = get_type_hints(config)
    for field in dataclasses.fields(config):
        inner = hints[field.name]
        if dataclasses.is_dataclass(inner):
            listed += flags(cast("type", inner), (*path, field.name), _default(field, outer))
        else:
            listed.append(_flag(field, inner, path, _default(field, outer)))
    names = [name for flag in listed for name in (flag.name, *flag.earlier_names)]
    doubled = {name for name in names if names.count(name) > 1}
    if doubled:
        raise TypeError(f"{config.__name__} has more than one field for the flags {sorted(doubled)}.")
    return listed
